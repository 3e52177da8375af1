"""Whether the fields of a record, as they came out of a file, are of the types that its class promises."""

import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

T = TypeVar("T")
_SHOWN = 80  # characters of a value in a message


def require_types(record: T) -> T:
    """Give a dataclass' object back; raise ValueError, naming the field, if a field is not what its annotation says.

    Looks into tuples, lists, mappings and dataclasses. What has no type at run time (`Any`, names imported for type checkers alone) passes.

    Args:
        record: The object; one of no dataclass passes.
    """
    if is_dataclass(record):
        _require_fields(record, type(record).__name__)
    return record


def _require_fields(record: Any, where: str) -> None:
    hints = _hints(type(record))
    for field in fields(record):
        _require(getattr(record, field.name), hints.get(field.name, Any), f"{where}.{field.name}")


def _hints(cls: type[Any]) -> dict[str, Any]:
    unknown: dict[str, Any] = {}
    for _ in range(50):
        try:
            return get_type_hints(cls, localns={**vars(sys.modules[cls.__module__]), **unknown})
        except NameError as error:
            unknown[str(error.name)] = Any
    raise AssertionError(f"the annotations of {cls.__name__} cannot be read")


def _require(value: Any, hint: Any, where: str) -> None:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, TypeVar) or origin is ClassVar:
        return
    if origin in (Union, types.UnionType):
        _require_one_of(value, arguments, where)
    elif origin is Literal:
        if value not in arguments:
            raise _wrong(value, " or ".join(map(repr, arguments)), where)
    elif origin is tuple:
        _require_tuple(value, arguments, where)
    elif isinstance(origin, type) and issubclass(origin, np.ndarray):
        _require_array(value, arguments, where)
    elif isinstance(origin, type):
        _require_instance(value, origin, where)
        if issubclass(origin, Mapping) and len(arguments) == 2:
            _require_each(value.keys(), arguments[0], where)
            _require_each(value.values(), arguments[1], where)
        elif issubclass(origin, (Sequence, AbstractSet)) and len(arguments) == 1:
            _require_each(value, arguments[0], where)
    elif isinstance(hint, type):
        _require_instance(value, hint, where)
        if is_dataclass(value):
            _require_fields(value, where)


def _require_each(values: Iterable[Any], hint: Any, where: str) -> None:
    for value in values:
        _require(value, hint, where)


def _require_one_of(value: Any, hints: tuple[Any, ...], where: str) -> None:
    complaints: list[ValueError] = []
    for hint in hints:
        try:
            return _require(value, hint, where)
        except ValueError as error:
            complaints += [error] if hint is not type(None) else []
    raise complaints[0] if len(complaints) == 1 else _wrong(value, " or ".join(map(_name, hints)), where)


def _require_tuple(value: Any, hints: tuple[Any, ...], where: str) -> None:
    _require_instance(value, tuple, where)
    if len(hints) == 2 and hints[1] is Ellipsis:
        return _require_each(value, hints[0], where)
    if len(value) != len(hints):
        raise _wrong(value, f"{len(hints)} values", where)
    for one, hint in zip(value, hints, strict=True):
        _require(one, hint, where)
    return None


def _require_array(value: Any, hints: tuple[Any, ...], where: str) -> None:
    _require_instance(value, np.ndarray, where)
    dtypes = [own for hint in hints for own in get_args(hint) if isinstance(own, type)]
    if dtypes and not any(value.dtype == dtype for dtype in dtypes):
        raise _wrong(value.dtype, " or ".join(map(_name, dtypes)), where)


def _require_instance(value: Any, kind: type[Any], where: str) -> None:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong(value, _name(kind), where)


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))


def _wrong(value: Any, expected: str, where: str) -> ValueError:
    return ValueError(f"{where} is {shortened(repr(value))} and not {expected}")


def shortened(text: str) -> str:
    """Give a text, or its beginning where it is long."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
