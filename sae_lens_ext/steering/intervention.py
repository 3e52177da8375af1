"""What every intervention can do: name its hooks, be added to others, be multiplied, give hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any

import numpy as np
import torch

from sae_lens_ext.language_model import Site
from sae_lens_ext.number_checks import require_number
from sae_lens_ext.steering.effects import Effect
from sae_lens_ext.steering.token_selection import PHASES, TokenSelection

Hook = Callable[..., "torch.Tensor | None"]


class Intervention(ABC):
    """A change of a model's activations, given to `steer`.

    `a + b` does both; both are computed from the activations as they are without either, and added, so the order does not matter.
    `2 * a` adds twice the change, `a / 2` half of it; `-a` takes it away, and `a - b` is `a + (-b)`.
    """

    __array_ufunc__ = None
    """NumPy's numbers leave multiplying to this class."""

    @property
    @abstractmethod
    def parts(self) -> tuple[SingleIntervention, ...]:
        """The interventions this one is the sum of; of one that is no sum, itself."""

    @abstractmethod
    def __mul__(self, factor: float) -> Intervention:
        """Scale the change that is added."""

    @property
    def hook_names(self) -> tuple[str, ...]:
        """The hooks it acts at, each once, in the order of the parts."""
        return tuple(dict.fromkeys(part.site.hook_name for part in self.parts))

    def __add__(self, other: Any) -> Intervention:
        if isinstance(other, Intervention):
            return InterventionSum((*self.parts, *other.parts))
        return NotImplemented

    def __radd__(self, other: Any) -> Intervention:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # sum() starts with 0

    def __sub__(self, other: Any) -> Intervention:
        return self + -other if isinstance(other, Intervention) else NotImplemented

    def __rmul__(self, factor: float) -> Intervention:
        return self * factor

    def __truediv__(self, divisor: float) -> Intervention:
        number = require_number(type(self).__name__, "a divisor", divisor)
        if number == 0:
            raise ValueError(
                f"{type(self).__name__} was divided by 0. Give another number, or multiply by 0 to change nothing."
            )
        return self * (1 / number)

    def __neg__(self) -> Intervention:
        return self * -1.0

    def hooks(self, model: Any = None) -> list[tuple[str, Hook]]:
        """Give hook functions for one forward pass over whole sequences: `model.run_with_hooks(tokens, fwd_hooks=a.hooks(model))`.

        The pass must begin at the first token, without padding, and all of it counts as prompt; to generate, or to go on from a
        key-value cache, use `steer`.

        Args:
            model: The model they are for. The names are then those that its `run_with_hooks` honours; without it they are
                as the interventions have them, and nothing is checked.

        Returns:
            Hook names and functions of (activations, hook), one for each hook.

        Raises:
            ValueError: The model has no such hook, or its `run_with_hooks` cannot reach it.
        """
        from sae_lens_ext.steering.hook_list import hook_list

        return hook_list(self.parts, model)


class SingleIntervention(Intervention):
    """An intervention that is no sum: one change at one site."""

    @property
    def parts(self) -> tuple[SingleIntervention, ...]:
        """Itself."""
        return (self,)

    @property
    @abstractmethod
    def site(self) -> Site:
        """The hook, and the head if it is of one."""

    @property
    @abstractmethod
    def tokens(self) -> TokenSelection:
        """Which tokens it acts on."""

    @abstractmethod
    def effect(self) -> Effect:
        """Give what it adds, checked and ready to be computed."""

    def _factor(self, factor: Any) -> float:
        return require_number(type(self).__name__, "a factor", factor)

    def _shown(self, *first: str, always: Sequence[str] = ()) -> str:
        """Give a repr: the first fields as written here, and of the others those that have no default, another value, or are named."""
        subclass: Any = self
        shown = list(first)
        for field in fields(subclass)[len(first) :]:
            value = getattr(self, field.name)
            if field.name in always or not _is_default(field, value):
                shown.append(f"{field.name}={_written(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _is_default(field: Field[Any], value: Any) -> bool:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return False
    if field.name == "phases":
        return set(value) == set(PHASES)
    return value is field.default or (value is not None and value == field.default)


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, torch.Tensor) and value.ndim == 2:
        return f"mask {list(value.shape)}"
    return repr(value)


@dataclass(frozen=True, eq=False, repr=False)
class InterventionSum(Intervention):
    """Several interventions as one. Made by `+`, or from a sequence: `InterventionSum([a, b, c])`."""

    interventions: Sequence[Intervention]
    """At least one; sums among them are taken apart."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "interventions", tuple(flattened("InterventionSum", self.interventions)))

    @property
    def parts(self) -> tuple[SingleIntervention, ...]:
        """The interventions, none of them a sum."""
        return tuple(flattened("InterventionSum", self.interventions))

    def __iter__(self) -> Iterator[SingleIntervention]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))

    def __mul__(self, factor: float) -> Intervention:
        return InterventionSum([part for whole in self.parts for part in (whole * factor).parts])


def flattened(caller: str, interventions: Any) -> list[SingleIntervention]:
    """Give the parts of some interventions.

    Raises:
        ValueError: There is none, or something is no intervention.
    """
    parts: list[SingleIntervention] = []
    several: Any = interventions if isinstance(interventions, Iterable) else [interventions]
    if isinstance(interventions, SingleIntervention) or isinstance(several, (str, bytes, torch.Tensor)):
        several = [interventions]
    for intervention in several:
        if not isinstance(intervention, Intervention):
            raise ValueError(
                f"{caller} was given {type(intervention).__name__} as an intervention. Give AddVector, AddFeature, ScaleFeature, ClampFeature, "
                "AblateFeature, or sums of them."
            )
        parts.extend(intervention.parts)
    if not parts:
        raise ValueError(f"{caller} was given no intervention. Give at least one.")
    return parts
