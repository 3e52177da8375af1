"""Which tokens an intervention acts on: positions in the sequence, and phases of generation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sae_lens_ext.number_checks import whole_number
from sae_lens_ext.steering.token_pass import TokenPass

Phase = Literal["prompt", "generation"]
PHASES: tuple[Phase, ...] = ("prompt", "generation")
Positions = int | slice | Sequence[int] | torch.Tensor | NDArray[Any] | None
"""None for all tokens, one position, a slice, some positions (an array or tensor [n] as well), or a mask [batch, prompt] of bools."""


@dataclass(frozen=True, eq=False)
class TokenSelection:
    """Tokens by position and phase; see `steer` for how positions count."""

    owner: str
    """Name of the intervention's class, for messages."""
    positions: Positions
    """As the user gave them, in ints of Python's."""
    phases: Sequence[str]
    """As the user gave them."""

    def __post_init__(self) -> None:
        _require_phases(self.owner, self.phases)
        object.__setattr__(self, "positions", _read_positions(self.owner, self.positions))

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for selections of the same tokens."""
        positions = self.positions
        if isinstance(positions, torch.Tensor):
            where: Any = id(positions)
        elif isinstance(positions, slice):
            where = (positions.start, positions.stop, positions.step)
        elif isinstance(positions, Sequence):
            where = tuple(positions)
        else:
            where = positions
        return type(positions).__name__, where, frozenset(self.phases)

    def mask(self, tokens: TokenPass, batch: int) -> torch.Tensor:
        """Tell which tokens of a pass are selected.

        Args:
            tokens: The pass.
            batch: Its number of rows.

        Returns:
            [batch, n_tokens], bool, on the CPU.

        Raises:
            ValueError: A mask is of another batch or prompt; or positions count from an end of the prompt that is not known.
        """
        if tokens.real is not None and len(tokens.real) != batch:
            raise ValueError(
                f"The attention mask has {len(tokens.real)} rows, but the model runs {batch} sequences at once. Give the mask of these "
                "sequences; with beams or several sequences for each prompt, run the prompts one by one."
            )
        chosen = tokens.touchable() & self._in_phase(tokens) & self._at_positions(tokens, batch)
        return chosen.expand(batch, -1)

    def _in_phase(self, tokens: TokenPass) -> torch.Tensor:
        prompt = tokens.in_prompt()
        return (prompt & ("prompt" in self.phases)) | (~prompt & ("generation" in self.phases))

    def _at_positions(self, tokens: TokenPass, batch: int) -> torch.Tensor:
        wanted = self.positions
        if wanted is None:
            return torch.ones(1, tokens.n_tokens, dtype=torch.bool)
        if isinstance(wanted, torch.Tensor):
            return _from_mask(self.owner, wanted, tokens, batch)
        if isinstance(wanted, slice):
            return _in_slice(wanted, tokens)
        found = tokens.positions()
        several = (wanted,) if isinstance(wanted, int) else tuple(wanted)
        chosen = torch.isin(found, torch.tensor([p for p in several if p >= 0], dtype=torch.long))
        negative = torch.tensor([p for p in several if p < 0], dtype=torch.long)
        if len(negative):
            # Before the front of a short prompt there is nothing: no position is below 0.
            chosen = chosen | torch.isin(found - tokens.prompt_lengths(), negative) & (found >= 0)
        return chosen


def _from_mask(owner: str, mask: torch.Tensor, tokens: TokenPass, batch: int) -> torch.Tensor:
    tokens.prompt_lengths()  # raises if it is not known
    if tuple(mask.shape) != (batch, tokens.prompt):
        raise ValueError(
            f"{owner} was given positions as a mask of the shape {tuple(mask.shape)}, but the model runs {batch} sequences with a prompt "
            f"of {tokens.prompt} tokens. Give a mask [batch, prompt] = [{batch}, {tokens.prompt}]."
        )
    known = mask.cpu()[:, tokens.first : tokens.first + tokens.n_tokens]
    return torch.cat([known, known.new_zeros(batch, tokens.n_tokens - known.shape[1])], dim=1)


def _in_slice(wanted: slice, tokens: TokenPass) -> torch.Tensor:
    found = tokens.positions()

    def end(value: int) -> int | torch.Tensor:
        return value if value >= 0 else (tokens.prompt_lengths() + value).clamp(min=0)

    start = end(wanted.start or 0)
    chosen = (found >= start) & ((found - start) % (wanted.step or 1) == 0)
    return chosen if wanted.stop is None else chosen & (found < end(wanted.stop))


def _require_phases(owner: str, phases: Any) -> None:
    if isinstance(phases, str) or not isinstance(phases, Sequence) or not phases:
        raise ValueError(
            f'{owner} was given phases = {phases!r}. Give a tuple of one or both of "prompt" and "generation", such as ("prompt",).'
        )
    for phase in phases:
        if phase not in PHASES:
            raise ValueError(f'{owner} was given the phase {phase!r}. Give "prompt", "generation", or both.')


def _read_positions(owner: str, positions: Any) -> int | slice | tuple[int, ...] | torch.Tensor | None:
    """Give positions as ints of Python's, or the mask itself.

    Raises:
        ValueError: They are none.
    """
    one = whole_number(positions)
    if positions is None or one is not None:
        return one
    if isinstance(positions, slice):
        return _read_slice(owner, positions)
    if isinstance(positions, torch.Tensor) and positions.is_meta:
        raise ValueError(
            f"{owner} was given positions as a tensor on the meta device, without its numbers. Give a mask [batch, prompt] of bools, or a list of ints."
        )
    if isinstance(positions, (torch.Tensor, np.ndarray)):
        if isinstance(positions, torch.Tensor) and positions.dtype == torch.bool and positions.ndim == 2:
            return positions
        numbers: list[Any] = positions.tolist() if positions.ndim == 1 else []
        if not numbers or any(whole_number(number) is None for number in numbers):
            kind = "a tensor" if isinstance(positions, torch.Tensor) else "an array"
            raise ValueError(
                f"{owner} was given positions as {kind} of the shape {tuple(positions.shape)} and type {positions.dtype}. Give a mask "
                "as a tensor [batch, prompt] of bools, or positions as whole numbers [n]."
            )
        return tuple(numbers)
    if not isinstance(positions, Sequence) or isinstance(positions, (str, bytes)) or not positions:
        raise ValueError(
            f"{owner} was given positions = {positions!r}. Give None for all tokens, an int, a slice, a list of ints, or a mask "
            "[batch, prompt] of bools."
        )
    found: list[int] = []
    for position in positions:
        number = whole_number(position)
        if number is None:
            raise ValueError(
                f"{owner} was given the position {position!r} of type {type(position).__name__}. Positions are whole numbers; give a mask as a "
                "tensor [batch, prompt]."
            )
        found.append(number)
    return tuple(found)


def _read_slice(owner: str, given: slice) -> slice:
    ends = [None if end is None else whole_number(end) for end in (given.start, given.stop, given.step)]
    whole = all(
        found is not None or end is None
        for found, end in zip(ends, (given.start, given.stop, given.step), strict=True)
    )
    if not whole or (ends[2] is not None and ends[2] < 1):
        raise ValueError(
            f"{owner} was given positions = {given!r}. Give a slice of whole numbers with a step of at least 1, such as slice(2, None)."
        )
    return slice(*ends)
