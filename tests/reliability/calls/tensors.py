"""What may stand in the place of a valid tensor or number, each by name and with what is then expected.

A variant changes one valid argument. `same`: it holds the same numbers in another guise, and the result is
that of the plain tensor, exactly. `right`: other numbers or another precision; the result is right, or the
call is refused. `refused`: nothing a result could be right for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import hypothesis.strategies as st
import numpy as np
import torch
from torch import Tensor, nn

Expectation = Literal["same", "right", "refused"]


@dataclass(frozen=True)
class Variant:
    """One way to spoil or disguise an argument: `make` gives it from the valid one.

    `finite` is False if the argument made holds NaN or infinity, so that a result may too.
    """

    name: str
    make: Callable[[Any], Any]
    expects: Expectation = "right"
    finite: bool = True

    def __str__(self) -> str:
        return self.name


def _with_one(value: float) -> Callable[[Tensor], Tensor]:
    """Replace the first number of a tensor; tensors of whole numbers have no such value and stay."""

    def make(x: Tensor) -> Tensor:
        spoiled = x.detach().clone()
        if spoiled.numel() and spoiled.is_floating_point():
            spoiled.view(-1)[0] = value
        return spoiled

    return make


def _zero_row(x: Tensor) -> Tensor:
    spoiled = x.detach().clone()
    if len(spoiled):
        spoiled[0] = 0
    return spoiled


def transposed_storage(x: Tensor) -> Tensor:
    """The same numbers with the last dimension stored first: not contiguous where there are two dimensions."""
    return x.movedim(-1, 0).contiguous().movedim(0, -1)


def strided(x: Tensor) -> Tensor:
    """The same numbers, every second one of a tensor twice as wide."""
    wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])
    wide[..., ::2] = x
    return wide[..., ::2]


def with_offset(x: Tensor) -> Tensor:
    """The same numbers, as a view into a longer storage."""
    return torch.cat([x[:1], x])[1:]


def broadcast_rows(x: Tensor) -> Tensor:
    """The first row, as often as there are rows, with stride 0."""
    return x[:1].expand(x.shape)


def _leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def _not_a_leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_() * 1


def _made_in_inference_mode(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


def _frozen(x: Tensor) -> Tensor:
    return nn.Parameter(x.detach().clone(), requires_grad=False)


def _to(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda x: x.detach().to(dtype)


DISGUISES = (
    Variant("transposed storage", transposed_storage, "same"),
    Variant("strided", strided, "same"),
    Variant("view with an offset", with_offset, "same"),
    Variant("broadcast rows", broadcast_rows, "same"),
    Variant("inference-mode", _made_in_inference_mode, "same"),
)
GRADIENTS = (
    Variant("requires grad", _leaf, "same"),
    Variant("result that requires grad", _not_a_leaf, "same"),
    Variant("frozen parameter", _frozen, "same"),
)
DTYPES = (
    *(
        Variant(str(dtype).removeprefix("torch."), _to(dtype))
        for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool)
    ),
    Variant("complex64", _to(torch.complex64), "refused"),
)
VALUES = (
    Variant("no rows", lambda x: x[:0].clone()),
    Variant("one row", lambda x: x[:1].clone()),
    Variant("a row of zeros", _zero_row),
    Variant("all zeros", lambda x: torch.zeros_like(x)),
    Variant("one NaN", _with_one(math.nan), finite=False),
    Variant("one inf", _with_one(math.inf), finite=False),
    Variant("one -inf", _with_one(-math.inf), finite=False),
)
WRONG_SHAPES = (
    Variant("no dimensions", lambda x: x.flatten()[:1].reshape(()).clone(), "refused"),
    Variant("one dimension", lambda x: x[0].clone() if x.ndim > 1 else x),
    Variant("one dimension more", lambda x: x.unsqueeze(0).clone()),
    Variant("one column more", lambda x: torch.cat([x, x[..., :1]], dim=-1)),
    Variant("no columns", lambda x: x[..., :0].clone()),
)
NO_TENSORS = (
    Variant("numpy array", lambda x: x.detach().numpy()),
    Variant("list", lambda x: x.tolist()),
    Variant("None", lambda _: None),
    Variant("string", lambda _: "activations", "refused"),
    Variant("on meta", lambda x: x.to("meta"), "refused"),
)
TENSOR_VARIANTS = (*DISGUISES, *GRADIENTS, *DTYPES, *VALUES, *WRONG_SHAPES, *NO_TENSORS)

NUMBER_VARIANTS = (
    Variant("0", lambda _: 0),
    Variant("-1", lambda _: -1),
    Variant("True", lambda _: True),
    Variant("0.5", lambda _: 0.5),
    Variant("NaN", lambda _: math.nan, finite=False),
    Variant("inf", lambda _: math.inf, finite=False),
    Variant("numpy integer", lambda _: np.int64(2)),
    Variant("numpy float", lambda _: np.float32(0.5)),
    Variant("numpy number", lambda n: np.asarray(n)[()]),
    Variant("tensor of one", lambda n: torch.tensor(n)),
    Variant("huge", lambda _: 10**30),
    Variant("string", lambda _: "2", "refused"),
    Variant("None", lambda _: None),
    Variant("list", lambda n: [n]),
)


def tensor_variants() -> st.SearchStrategy[Variant]:
    """Draw one of `TENSOR_VARIANTS`."""
    return st.sampled_from(TENSOR_VARIANTS)


def number_variants() -> st.SearchStrategy[Variant]:
    """Draw one of `NUMBER_VARIANTS`."""
    return st.sampled_from(NUMBER_VARIANTS)
