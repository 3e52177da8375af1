"""The package's source as trees: its modules, and what a name in one of them stands for."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "sae_lens_ext"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(eq=False)
class Module:
    """One file of the package, its top-level definitions, its methods by name, and what it imports."""

    path: Path
    tree: ast.Module
    defined: dict[str, ast.AST] = field(default_factory=dict)
    methods: dict[str, list[Function]] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.path.relative_to(PACKAGE.parent))

    @property
    def dotted(self) -> str:
        return self.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _module(path: Path) -> Module:
    module = Module(path, ast.parse(path.read_text(encoding="utf-8")))
    for node in module.tree.body:
        if isinstance(node, Function | ast.ClassDef):
            module.defined[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            module.defined[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            module.defined[node.target.id] = node.value
    for node in _statements(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sae_lens_ext"):
            for alias in node.names:
                module.imported[alias.asname or alias.name] = (node.module, alias.name)
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, Function):
                    module.methods.setdefault(member.name, []).append(member)
    return module


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every statement below a node."""
    for part in ("body", "orelse", "finalbody", "handlers"):
        for statement in getattr(node, part, ()) if not isinstance(node, ast.expr) else ():
            yield statement
            yield from _statements(statement)


@cache
def modules() -> dict[str, Module]:
    """Every module of the package by its dotted name."""
    found = (_module(path) for path in sorted(PACKAGE.rglob("*.py")))
    return {module.dotted: module for module in found}


def resolve(name: str, module: Module) -> tuple[ast.AST, Module] | None:
    """The definition that `name` stands for in `module`, followed through imports, with the module it is in."""
    for _ in range(5):
        if name in module.defined:
            return module.defined[name], module
        if name not in module.imported:
            return None
        source, name = module.imported[name]
        if source not in modules():
            return None
        module = modules()[source]
    return None
