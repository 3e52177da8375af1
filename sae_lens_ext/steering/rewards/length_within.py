"""The reward "as long as asked for"."""

from dataclasses import dataclass
from typing import Literal

from sae_lens_ext.number_checks import whole_number

UNITS = ("words", "characters")


@dataclass(frozen=True)
class LengthWithin:
    """1.0 if a completion's length is from `minimum` to `maximum`, both included, else 0.0. The prompt is not read.

    A completion that `max_new_tokens` cut off is as long as it is: set the maximum below what the tokens allow, or endless completions earn the reward.

    Args:
        minimum: Smallest length that counts; 0 for none.
        maximum: Largest length that counts; None for none.
        unit: "words": stretches without white space; or "characters": Unicode's, without the white space around the completion.

    Raises:
        ValueError: The lengths are no whole numbers from 0 on, exclude everything or nothing, or the unit is unknown.
    """

    minimum: int
    """Smallest length, included."""
    maximum: int | None = None
    """Largest length, included; None for no limit."""
    unit: Literal["words", "characters"] = "words"
    """What is counted."""

    def __post_init__(self) -> None:
        minimum, maximum = whole_number(self.minimum), whole_number(self.maximum)
        if self.unit not in UNITS:
            raise ValueError(
                f"LengthWithin was given unit = {self.unit!r}. Give one of {', '.join(map(repr, UNITS))}."
            )
        if minimum is None or (maximum is None and self.maximum is not None):
            raise ValueError(
                f"LengthWithin was given minimum = {self.minimum!r} and maximum = {self.maximum!r}. Give whole numbers, such as 5 and 20; the maximum can be "
                "None."
            )
        if minimum < 0 or (maximum is not None and maximum < minimum):
            raise ValueError(
                f"LengthWithin was given minimum = {minimum} and maximum = {maximum}, between which no length lies. Give 0 <= minimum <= maximum."
            )
        if minimum == 0 and maximum is None:
            raise ValueError(
                "LengthWithin was given no limit, so that every completion earns the reward. Give one."
            )
        object.__setattr__(self, "minimum", minimum)
        object.__setattr__(self, "maximum", maximum)

    def __call__(self, prompt: str, completion: str) -> float:  # noqa: ARG002
        """Score a completion: 1.0 or 0.0."""
        length = len(completion.split()) if self.unit == "words" else len(completion.strip())
        return float(self.minimum <= length and (self.maximum is None or length <= self.maximum))
