"""The budgets that an SAE is trained for at once: the configuration field and its checks."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

Budgets = Literal["all"] | tuple[int, ...]


# For the dataclass field: how SAELens' command line reads it, `--budgets all` or `--budgets 1 8 64`.
BUDGETS_ARGUMENT = {
    "custom_args": {"nargs": "*", "type": lambda word: int(word) if word.isdigit() else word},
}


class HasLevels:
    """A configuration with `k` and `budgets`."""

    k: int
    budgets: Budgets | None

    @property
    def levels(self) -> tuple[int, ...]:
        """The budgets, spelled out; only k where there are none."""
        if self.budgets is None:
            return (self.k,)
        return tuple(range(1, self.k + 1)) if self.budgets == "all" else self.budgets

    def _check_budgets(self) -> None:
        self.budgets = None if self.budgets is None else _checked(type(self).__name__, self.budgets, self.k)


def largest_budget(cfg: Any) -> int:
    """Give the largest budget that an SAE with this configuration was trained for; k without `levels`."""
    return getattr(cfg, "levels", (cfg.k,))[-1]


def _checked(owner: str, budgets: Any, k: int) -> Budgets:
    budgets = budgets.tolist() if hasattr(budgets, "tolist") else budgets  # an array or a tensor
    remedy = f'Give "all" for every budget from 1 to k = {k}, or increasing whole numbers such as (1, {k}).'
    if budgets == "all" or budgets == ["all"] or budgets == ("all",):
        return "all"
    if isinstance(budgets, str) or not isinstance(budgets, Sequence) or len(budgets) == 0:
        raise ValueError(f"{owner}.budgets = {budgets!r} names no budgets. {remedy}")
    for budget in budgets:
        if isinstance(budget, bool) or not isinstance(budget, int):
            raise ValueError(f"{owner}.budgets = {budgets!r} holds {budget!r}, not a whole number. {remedy}")
        if not 1 <= budget <= k:
            raise ValueError(f"{owner}.budgets = {budgets!r} holds {budget}, which is outside 1..k. {remedy}")
    if any(low >= high for low, high in itertools.pairwise(budgets)):
        raise ValueError(f"{owner}.budgets = {budgets!r} is unsorted or repeats a budget. {remedy}")
    return tuple(budgets)
