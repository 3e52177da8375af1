"""Activations that wait for their batch, found by their numbers."""

import torch


class HeldRows:
    """Rows by number: added in rising order, taken once each, in any order.

    Args:
        empty: [0, d_in] by hook name: what is given as long as nothing was added. None where something always is.
    """

    def __init__(self, empty: dict[str, torch.Tensor] | None = None) -> None:
        self._numbers = torch.zeros(0, dtype=torch.long)
        self._taken = torch.zeros(0, dtype=torch.bool)
        self._rows: dict[str, torch.Tensor] = dict(empty or {})
        self._added: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []

    def __len__(self) -> int:
        return int((~self._taken).sum()) + sum(len(numbers) for numbers, _ in self._added)

    def add(self, numbers: torch.Tensor, rows: dict[str, torch.Tensor]) -> None:
        """Add rows [n, d_in] by hook name, with their numbers [n], which rise and are larger than any before."""
        self._added.append((numbers, rows))

    def take(self, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        """Give the rows of some numbers [n] by hook name, [n, d_in], and forget them."""
        self._settle()
        places = torch.searchsorted(self._numbers, numbers.contiguous())
        self._taken[places] = True
        return {hook: rows[places.to(rows.device)] for hook, rows in self._rows.items()}

    def _settle(self) -> None:
        """Drop what was taken and append what was added, in one copy."""
        if not self._added:
            return
        kept = (~self._taken).nonzero().flatten()
        self._numbers = torch.cat([self._numbers[kept], *(numbers for numbers, _ in self._added)])
        self._taken = torch.zeros(len(self._numbers), dtype=torch.bool)
        for hook in self._added[0][1]:
            parts = [rows[hook] for _, rows in self._added]
            if hook in self._rows:
                parts.insert(0, self._rows[hook][kept.to(parts[0].device)])
            self._rows[hook] = torch.cat(parts)
        self._added = []
