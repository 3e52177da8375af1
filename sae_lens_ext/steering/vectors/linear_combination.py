"""Sums and multiples of steering vectors, layer by layer, and where they come from."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from typing_extensions import Self

from sae_lens_ext.number_checks import require_number

COMBINATION = "linear combination"


class LinearCombination:
    """What `+`, `-`, `*`, `/` and `sum` do; a layer that one of two lacks counts as zero.

    The provenance of the outcome has the key `terms`: each provenance that went in, `of`, with its `factor`. Terms of equal provenance
    are one, with the sum of their factors.

    A subclass is a dataclass of these two fields, in this order.
    """

    vectors: Mapping[int, torch.Tensor]
    provenance: Mapping[str, Any]

    __array_ufunc__ = None
    """NumPy's numbers leave multiplying to this class."""

    def __add__(self, other: Any) -> Self:
        if not isinstance(other, type(self)):
            return NotImplemented
        widths = [len(next(iter(one.vectors.values()))) for one in (self, other)]
        if widths[0] != widths[1]:
            raise ValueError(
                f"{type(self).__name__} of the widths {widths[0]} and {widths[1]} cannot be added. Give vectors of one model."
            )
        zero = torch.zeros(widths[0])
        total = {
            layer: self.vectors.get(layer, zero) + other.vectors.get(layer, zero)
            for layer in {*self.vectors, *other.vectors}
        }
        return self._made(total, [*_terms(self.provenance), *_terms(other.provenance)])

    def __radd__(self, other: Any) -> Self:
        if isinstance(other, int) and other == 0:  # sum() starts with 0
            return self
        return NotImplemented

    def __sub__(self, other: Any) -> Self:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self + -other

    def __mul__(self, factor: Any) -> Self:
        if isinstance(factor, LinearCombination):
            return NotImplemented
        number = require_number(type(self).__name__, "a factor", factor)
        multiplied = {layer: vector * number for layer, vector in self.vectors.items()}
        return self._made(multiplied, [(number * factor, of) for factor, of in _terms(self.provenance)])

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Self:
        if isinstance(divisor, LinearCombination):
            return NotImplemented
        number = require_number(type(self).__name__, "a divisor", divisor)
        if number == 0:
            raise ValueError(f"{type(self).__name__} was divided by 0. Give another number.")
        divided = {layer: vector / number for layer, vector in self.vectors.items()}
        return self._made(divided, [(factor / number, of) for factor, of in _terms(self.provenance)])

    def __neg__(self) -> Self:
        multiplied = {layer: -vector for layer, vector in self.vectors.items()}
        return self._made(multiplied, [(-factor, of) for factor, of in _terms(self.provenance)])

    def _made(
        self, vectors: Mapping[int, torch.Tensor], terms: Iterable[tuple[float, dict[str, Any]]]
    ) -> Self:
        merged: dict[str, dict[str, Any]] = {}
        for factor, of in terms:
            term = merged.setdefault(json.dumps(of, sort_keys=True), {"factor": 0.0, "of": of})
            term["factor"] += factor
        make: Any = type(self)
        return make(vectors, {"made_by": COMBINATION, "terms": list(merged.values())})


def _terms(provenance: Mapping[str, Any]) -> list[tuple[float, dict[str, Any]]]:
    if provenance.get("made_by") == COMBINATION and "terms" in provenance:
        return [(term["factor"], term["of"]) for term in provenance["terms"]]
    return [(1.0, dict(provenance))]
