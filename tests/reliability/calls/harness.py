"""Calling a public function with one argument spoiled, and judging what comes of it.

A call ends well in three ways: `same`, the result of the plain argument to the bit (or to rounding, where memory layout decides the
order of a sum); `right`, a result that is finite, of a float64 call's value and leaves everything as it was; `refused`, a sentence that
names the argument and says what to do. Anything else is `wrong`.
"""

import copy
import dataclasses
import random
import re
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import hypothesis.strategies as st
import numpy as np
import torch
from torch import nn

from .tensors import NUMBER_VARIANTS, TENSOR_VARIANTS, Variant

Ending = Literal["same", "right", "refused", "wrong", "none"]
ROUNDING = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float32: 2e-4, torch.float64: 2e-4}
"""Error of a result against float64's, relative to its largest number, by the least precise tensor among the arguments."""
COUNT = frozenset({"numpy number", "numpy integer", "tensor of one", "huge"})
"""Variants of a number that a whole number of at least 1 may take; all others must be refused."""
SEED = COUNT | {"0"}
REAL = frozenset({"0", "-1", "0.5", "numpy number", "numpy integer", "numpy float", "tensor of one", "huge"})
POSITIVE = REAL - {"0", "-1"}
SHARE = frozenset({"0", "0.5", "numpy float", "numpy number", "tensor of one"})


@dataclass(frozen=True)
class Call:
    """A public function, valid arguments for it, and what may be in their place."""

    name: str
    function: Callable[..., Any]
    valid: Callable[[], dict[str, Any]]
    """Fresh valid arguments, by name; the same each time."""
    tensors: Sequence[str] = ()
    """Arguments that are tensors."""
    numbers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Arguments that are numbers, each with the names of the variants that may be accepted."""
    others: Mapping[str, Sequence[Variant]] = field(default_factory=dict)
    """Other arguments, such as SAEs, each with its variants."""
    compare: Callable[[Any], Any] = lambda result: result
    """What of the result is compared with float64's; indices of a selection, say, are not."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What a refusal of an argument may say instead of its name, a regular expression."""
    accepts: frozenset[str] = frozenset()
    """ "argument variant": what this function may take although most do not."""
    hides: frozenset[str] = frozenset()
    """ "argument variant" or "argument": NaN or infinity in it that rightly does not show in the result, as of a latent that is off."""
    skips: frozenset[str] = frozenset()
    """ "argument variant": calls that are right and would take too long."""
    doubled: bool = True
    """Whether the function takes float64, so that a result can be compared with float64's."""

    def cases(self) -> Iterator[tuple[str, Variant]]:
        """Give every (argument, variant)."""
        yield from (case for case in self._all() if f"{case[0]} {case[1]}" not in self.skips)

    def _all(self) -> Iterator[tuple[str, Variant]]:
        for argument in self.tensors:
            yield from ((argument, variant) for variant in TENSOR_VARIANTS)
        for argument in self.numbers:
            yield from ((argument, variant) for variant in NUMBER_VARIANTS)
        for argument, variants in self.others.items():
            yield from ((argument, variant) for variant in variants)


@dataclass(frozen=True)
class Verdict:
    """How a call ended, and what was wrong with that."""

    ending: Ending
    note: str = ""


def judge(call: Call, argument: str, variant: Variant) -> Verdict:
    """Call a function with one argument made into a variant of itself."""
    arguments = call.valid()
    try:
        arguments[argument] = variant.make(arguments.get(argument))
    except (IndexError, RuntimeError, ValueError):
        return Verdict("none", "the variant does not exist for this argument")
    before, snapshot = _surroundings(), _copy_of(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            warnings.simplefilter("error", UserWarning)
            result = call.function(**arguments)
    except Exception as error:
        verdict = _of_refusal(call, argument, variant, error)
    else:
        verdict = _of_result(call, argument, variant, arguments, result)
    if verdict.ending == "wrong":
        return verdict
    if (changed := _difference(before, _surroundings())) is not None:
        return Verdict("wrong", f"changed {changed}")
    if not _equal(snapshot, _copy_of(arguments)):
        return Verdict("wrong", "changed an argument")
    return verdict


def _of_refusal(call: Call, argument: str, variant: Variant, error: Exception) -> Verdict:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = f"{type(error).__name__} at {frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}: {error}"[:300]
    if variant.expects == "same":
        return Verdict("wrong", f"refused: {said}")
    if frame.filename.endswith("_calls.py"):
        return Verdict("refused", "by a function of the caller's own")
    if not isinstance(error, (ValueError, TypeError, NotImplementedError, FileNotFoundError)):
        return Verdict("wrong", said)
    names = rf"\b{argument}\b" + (f"|{call.words[argument]}" if argument in call.words else "")
    if "sae_lens_ext" not in frame.filename or not re.search(names, str(error)):
        return Verdict("wrong", f"does not name {argument}: {said}")
    if not re.search(r"[.!?:;] \(?\S", str(error)):
        return Verdict("wrong", f"gives no remedy: {said}")
    return Verdict("refused")


def _of_result(
    call: Call, argument: str, variant: Variant, arguments: dict[str, Any], result: Any
) -> Verdict:
    given = arguments[argument]
    case = f"{argument} {variant}"
    if case in call.accepts:
        return Verdict("right")
    if variant.expects == "refused":
        return Verdict("wrong", f"accepted, and gave {_short(result)}")
    if argument in call.numbers and variant.name not in call.numbers[argument]:
        return Verdict("wrong", f"accepted, and gave {_short(result)}")
    with torch.no_grad():
        numbers = [_detached(t) for t in _tensors(call.compare(result))]
    if variant.finite and not all(torch.isfinite(t).all() for t in numbers if t.is_floating_point()):
        return Verdict("wrong", f"NaN or infinity out of finite numbers: {_short(result)}")
    if argument not in call.tensors:
        if variant.expects == "same" and not _equal(result, call.function(**call.valid())):
            return Verdict("wrong", f"another result: {_short(result)}")
        return Verdict("same" if variant.expects == "same" else "right")
    if given is None:
        return Verdict("right")
    plain = torch.as_tensor(given).detach().contiguous().clone()
    if variant.expects == "same":
        expected = call.function(**{**call.valid(), argument: plain})
        if _equal(result, expected):
            return Verdict("same")
        if _close(numbers, list(_tensors(call.compare(expected))), 1e-5):
            return Verdict("same", "to rounding")
        return Verdict("wrong", f"another result: {_short(result)} for {_short(expected)}")
    if not variant.finite:
        shown = any(not torch.isfinite(t).all() for t in numbers if t.is_floating_point())
        if not shown and not {argument, case} & call.hides and not torch.isfinite(plain).all():
            return Verdict("wrong", f"a finite result of NaN or infinity: {_short(result)}")
        return Verdict("right")
    if call.doubled:
        wide = {name: _double(value) for name, value in {**arguments, argument: plain}.items()}
        try:
            expected = list(_tensors(call.compare(call.function(**wide))))
        except Exception as error:
            return Verdict("wrong", f"taken, but refused in float64: {error}"[:300])
        least = max((ROUNDING.get(t.dtype, 0) for t in _tensors(arguments)), default=0)
        if not _close(numbers, expected, max(least, 1e-6)):
            return Verdict("wrong", f"another result than float64: {_short(numbers)} for {_short(expected)}")
    return Verdict("right")


def _double(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        whole = value.detach()
        return whole.double() if whole.is_floating_point() else whole
    if isinstance(value, tuple):
        return tuple(map(_double, value))
    return value


def _detached(t: torch.Tensor) -> torch.Tensor:
    return t.detach()


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    """Give every number in a result as tensors, in a fixed order."""
    if isinstance(value, torch.Tensor):
        yield value.to_dense() if value.is_sparse else value
    elif isinstance(value, np.ndarray):
        if value.dtype.kind in "fiub":
            yield torch.as_tensor(value)
    elif isinstance(value, float):
        yield torch.tensor(value, dtype=torch.float64)
    elif isinstance(value, nn.Module):
        yield from value.state_dict().values()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for part in dataclasses.fields(value):
            if part.name != "provenance":
                yield from _tensors(getattr(value, part.name))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def _close(a: list[torch.Tensor], b: list[torch.Tensor], relative: float) -> bool:
    if len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        return False
    for x, y in zip(a, b, strict=True):
        x, y = x.detach().double(), y.detach().double()
        if x.numel() == 0:
            continue
        scale = float(y.abs().nan_to_num(0, 0, 0).max())
        if not torch.allclose(x, y, rtol=relative, atol=relative * max(scale, 1e-12), equal_nan=True):
            return False
    return True


def _equal(a: Any, b: Any) -> bool:
    """Tell whether two results, or two snapshots of arguments, are the same to the bit."""
    mine, other = list(_tensors(a)), list(_tensors(b))
    return len(mine) == len(other) and all(
        x.shape == y.shape and x.dtype == y.dtype and (x.is_meta or _same_numbers(x, y))
        for x, y in zip(mine, other, strict=True)
    )


def _same_numbers(x: torch.Tensor, y: torch.Tensor) -> bool:
    if x.is_floating_point():
        return torch.allclose(x.detach(), y.detach(), rtol=0, atol=0, equal_nan=True)
    return torch.equal(x, y)


def _copy_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """Copy the numbers and the modes of all arguments."""
    copied: dict[str, Any] = {}
    for name, value in arguments.items():
        copied[name] = [t.detach().clone() for t in _tensors(value)]
        modules = [m for m in _parts(value) if isinstance(m, nn.Module)]
        copied[f"{name} modes"] = [
            torch.tensor([m.training, *(p.requires_grad for p in m.parameters()), _n_hooks(m)])
            for m in modules
        ]
    return copied


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    return value if isinstance(value, (list, tuple)) else [value]


def _n_hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def _surroundings() -> dict[str, Any]:
    return {
        "the state of torch's generator": torch.get_rng_state(),
        "the state of NumPy's generator": torch.as_tensor(np.random.get_state()[1].astype(np.int64)),  # type: ignore[union-attr]
        "the state of Python's generator": hash(random.getstate()),
        "whether gradients are recorded": torch.is_grad_enabled(),
        "the inference mode": torch.is_inference_mode_enabled(),
        "the default dtype": torch.get_default_dtype(),
        "the number of threads": torch.get_num_threads(),
    }


def _difference(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    for name, value in before.items():
        other = after[name]
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        if not same:
            return name
    return None


def _short(result: Any) -> str:
    return re.sub(r"\s+", " ", repr(copy.copy(result) if isinstance(result, list) else result))[:120]


def cases_of(calls: Sequence[Call]) -> st.SearchStrategy[tuple[Call, str, Variant]]:
    """Draw a call, one of its arguments and a variant of that; none of 131,072 latents, which take long."""
    every = [(call, *case) for call in calls for case in call.cases() if "131,072" not in case[1].name]
    return st.sampled_from(every)


def tally(calls: Iterable[Call]) -> dict[str, dict[str, Any]]:
    """Judge every case of some calls.

    Returns:
        By function: how many cases ended how, and the wrong ones in words.
    """
    table: dict[str, dict[str, Any]] = {}
    for call in calls:
        row: dict[str, Any] = {"cases": 0, "same": 0, "right": 0, "refused": 0, "wrong": 0, "notes": []}
        for argument, variant in call.cases():
            verdict = judge(call, argument, variant)
            if verdict.ending == "none":
                continue
            row["cases"] += 1
            row[verdict.ending] += 1
            if verdict.ending == "wrong":
                row["notes"].append(f"{argument} {variant}: {verdict.note}")
        table[call.name] = row
    return table
