"""Every message that the package can raise or warn with, read from its source as a pattern: `…` stands for what is filled in.

Strings are followed through names, conditions, sums and the package's own helpers: a function that returns the error or the text, or that is
handed one. Nothing is imported or run.
"""

import ast
import builtins
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product

from tests.docs.source import Function, Module, modules, resolve

HOLE = "…"
_ALTERNATIVES = 24  # more than these, and the part is left open
_DEPTH = 6
_PARAMETER = re.compile("\0(\\w+)\0")
_PERCENT = re.compile(r"%[-#0-9.]*[a-zA-Z]")
_LEAVES = (ast.expr_context, ast.operator, ast.cmpop, ast.Constant, ast.Name)
_WARNS = ("warn", "warning")


@dataclass(frozen=True, order=True)
class Message:
    """One message and where the package says it."""

    module: str
    line: int
    text: str


@dataclass
class _Scope:
    """Where an expression stands: its module, its function, and what the function's parameters are known to be."""

    module: Module
    function: Function | None
    bound: dict[str, list[str]] = field(default_factory=dict)
    depth: int = 0


@cache
def package_messages() -> list[Message]:
    """Every message of the package, in the order of the source."""
    found: set[Message] = set()
    for module in modules().values():
        for function, node in nodes(module):
            for expression in _spoken(node):
                scope = _Scope(module, function)
                for text in _texts(expression, scope):
                    for whole in _handed(text, scope):
                        found.add(Message(module.name, expression.lineno, _tidy(whole)))
    return sorted(message for message in found if _words(message.text))


@cache
def nodes(module: Module) -> list[tuple[Function | None, ast.AST]]:
    """Every node of a module with the innermost function around it, in the order of the source."""
    found: list[tuple[Function | None, ast.AST]] = []
    left: list[tuple[Function | None, ast.AST]] = [(None, module.tree)]
    while left:
        function, node = left.pop()
        found.append((function, node))
        inner = node if isinstance(node, Function) else function
        children = [child for child in ast.iter_child_nodes(node) if not isinstance(child, _LEAVES)]
        left += [(inner, child) for child in reversed(children)]
    return found


def _spoken(node: ast.AST) -> Iterator[ast.expr]:
    """What a node raises, warns with, or notes of a damaged file."""
    if isinstance(node, ast.Raise) and node.exc is not None:
        yield node.exc
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        of_parser = node.func.attr == "error" and isinstance(node.func.value, ast.Name)
        if node.func.attr in _WARNS or of_parser:
            yield node.args[0]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Saved":
        yield from node.args[2:3]


def _texts(node: ast.expr | None, scope: _Scope) -> list[str]:
    """What a string, or an error, can read; a part that cannot be told is a hole, a parameter its name between NULs."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else [HOLE]
    if isinstance(node, ast.JoinedStr):
        return _product([_part(value, scope) for value in node.values])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _product([_texts(node.left, scope), _texts(node.right, scope)])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return [_PERCENT.sub(HOLE, text) for text in _texts(node.left, scope)]
    if isinstance(node, ast.IfExp):
        return _texts(node.body, scope) + _texts(node.orelse, scope)
    if isinstance(node, ast.BoolOp):
        return [text for value in node.values for text in _texts(value, scope)]
    if isinstance(node, ast.NamedExpr):
        return _texts(node.value, scope)
    if isinstance(node, ast.Name):
        return _named(node.id, scope)
    if isinstance(node, ast.Subscript):
        return _chosen(node, scope)
    if isinstance(node, ast.Call):
        return _called(node, scope)
    return [HOLE]


def _part(node: ast.expr, scope: _Scope) -> list[str]:
    """What a piece of an f-string can read. Short choices, as a plural or not, are left open."""
    if not isinstance(node, ast.FormattedValue):
        return _texts(node, scope)
    if node.conversion != -1:
        return [HOLE]
    found = _texts(node.value, scope)
    if len(set(found)) == 1 and (HOLE not in found[0] or _PARAMETER.fullmatch(found[0])):
        return found
    return found if any(_words(text) >= 3 for text in found) else [HOLE]


def _product(parts: list[list[str]]) -> list[str]:
    found = [""]
    for part in parts:
        found = [before + text for before in found for text in dict.fromkeys(part)]
        if len(found) > _ALTERNATIVES:
            found = [before + HOLE for before in dict.fromkeys(text[:60] for text in found)][:1]
    return found


def _named(name: str, scope: _Scope) -> list[str]:
    if name in scope.bound:
        return scope.bound[name]
    function = scope.function
    if function is not None:
        assigned = _assigned(function).get(name, [])
        if assigned and scope.depth < _DEPTH:
            deeper = _Scope(scope.module, function, scope.bound, scope.depth + 1)
            return [text for value in assigned for text in _texts(value, deeper)]
        if name in _parameters(function):
            return [f"\0{name}\0"]
    definition = resolve(name, scope.module)
    if definition is not None and isinstance(definition[0], ast.expr) and scope.depth < _DEPTH:
        return _texts(definition[0], _Scope(definition[1], None, depth=scope.depth + 1))
    return [HOLE]


@cache
def _assigned(function: Function) -> dict[str, list[ast.expr]]:
    """What a function's local names are set to."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
    return found


def _chosen(node: ast.Subscript, scope: _Scope) -> list[str]:
    """What an element of a table of texts can read."""
    table: ast.AST | None = node.value
    if isinstance(table, ast.Name):
        definition = resolve(table.id, scope.module)
        table = definition[0] if definition else None
    if isinstance(table, ast.Dict) and scope.depth < _DEPTH:
        deeper = _Scope(scope.module, scope.function, scope.bound, scope.depth + 1)
        return [text for value in table.values for text in _texts(value, deeper)]
    return [HOLE]


def _called(node: ast.Call, scope: _Scope) -> list[str]:
    callee = node.func
    if isinstance(callee, ast.Attribute) and callee.attr in ("strip", "rstrip", "removesuffix", "lstrip"):
        return _texts(callee.value, scope)
    if isinstance(callee, ast.Call) or (isinstance(callee, ast.Name) and _is_error(callee.id, scope.module)):
        return next(filter(None, ([t for t in _texts(one, scope) if _words(t)] for one in node.args)), [])
    if scope.depth >= _DEPTH:
        return [HOLE]
    found: list[str] = []
    for function, module in _callees(node, scope.module):
        bound = {
            name: _texts(value, _Scope(scope.module, scope.function, scope.bound, scope.depth + 1))
            for name, value in _arguments(node, function).items()
        }
        inner = _Scope(module, function, bound, scope.depth + 1)
        for returned in _returned(function):
            found += [_PARAMETER.sub(HOLE, text) if not bound else text for text in _texts(returned, inner)]
    return list(dict.fromkeys(found)) or [HOLE]


@cache
def _returned(function: Function) -> list[ast.expr]:
    return [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Return | ast.Yield)
        and node.value is not None
        and not (isinstance(node.value, ast.Constant) and node.value.value is None)
    ]


def _is_error(name: str, module: Module) -> bool:
    if isinstance(getattr(builtins, name, None), type):
        return issubclass(getattr(builtins, name), BaseException)
    definition = resolve(name, module)
    if definition is not None:
        return isinstance(definition[0], ast.ClassDef) and name.endswith("Error")
    return name.endswith(("Error", "Exception"))


def _callees(node: ast.Call, module: Module) -> list[tuple[Function, Module]]:
    """The functions of the package that a call may reach."""
    if isinstance(node.func, ast.Name):
        definition = resolve(node.func.id, module)
        if definition is not None and isinstance(definition[0], Function):
            return [(definition[0], definition[1])]
    elif isinstance(node.func, ast.Attribute):
        of_self = isinstance(node.func.value, ast.Name) and node.func.value.id in ("self", "cls")
        if of_self:
            return [(function, module) for function in module.methods.get(node.func.attr, [])]
    return []


def _parameters(function: Function) -> list[str]:
    arguments = function.args
    return [arg.arg for arg in arguments.posonlyargs + arguments.args + arguments.kwonlyargs]


def _arguments(node: ast.Call, function: Function) -> dict[str, ast.expr]:
    """What a call gives for each parameter, defaults included."""
    names = [arg.arg for arg in function.args.posonlyargs + function.args.args]
    defaults = dict(zip(reversed(names), reversed(function.args.defaults), strict=False))
    given: dict[str, ast.expr] = dict(defaults)
    given |= {
        arg.arg: value
        for arg, value in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
        if value is not None
    }
    if isinstance(node.func, ast.Attribute) and names[:1] in (["self"], ["cls"]):
        names = names[1:]
    given |= dict(zip(names, node.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    return given


def _handed(text: str, scope: _Scope) -> Iterator[str]:
    return iter(_by_caller(text, scope.function, scope.module, scope.depth))


@cache
def _by_caller(text: str, function: Function | None, module: Module, depth: int) -> list[str]:
    return list(dict.fromkeys(_filled(text, _Scope(module, function, {}, depth))))


def _filled(text: str, scope: _Scope) -> Iterator[str]:
    """A message that a function makes of what it is handed: one for each caller that hands in a text, and one for those that do not."""
    function, names = scope.function, set(_PARAMETER.findall(text))
    if function is None or not names or scope.depth >= _DEPTH:
        yield text
        return
    calls, n_filled = list(_calls_of(function, scope.module)), 0
    for call, caller in calls:
        given = {name: value for name, value in _arguments(call, function).items() if name in names}
        outer = _Scope(caller.module, caller.function, {}, scope.depth + 1)
        texts = {name: _texts(value, outer) for name, value in given.items()}
        if not any(_is_text(one) for choice in texts.values() for one in choice):
            continue
        n_filled += 1
        for choice in product(*texts.values()):
            chosen = dict(zip(texts, choice, strict=True))
            if any(_is_text(one) for one in choice):
                filled = _PARAMETER.sub(lambda match: chosen.get(match[1], HOLE), text)  # noqa: B023
                yield from _handed(filled, outer)
    if n_filled < len(calls) or not calls:
        yield text


def _is_text(text: str) -> bool:
    """Whether it is words of a message, or handed on from the next caller."""
    return _words(text) >= 3 or _PARAMETER.fullmatch(text) is not None


_CALLS: dict[str, list[tuple[ast.Call, _Scope]]] = {}


def _calls_of(function: Function, module: Module) -> Iterator[tuple[ast.Call, _Scope]]:
    if not _CALLS:
        for one in modules().values():
            for around, node in nodes(one):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                    name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                    _CALLS.setdefault(name, []).append((node, _Scope(one, around)))
    is_method = module.defined.get(function.name) is not function
    for call, scope in _CALLS.get(function.name, []):
        if isinstance(call.func, ast.Name):
            definition = resolve(call.func.id, scope.module)
            reached = definition is not None and definition[0] is function
        else:
            reached = is_method and (scope.module is module or not function.name.startswith("_"))
        if reached:
            yield call, scope


def _words(text: str) -> int:
    return len(re.findall(r"(?<!\S)\W*[A-Za-z]{2,}", _PARAMETER.sub(" ", text)))


def _tidy(text: str) -> str:
    text = _PERCENT.sub(HOLE, _PARAMETER.sub(HOLE, text))
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub("…[…'\"]*…", HOLE, text)
