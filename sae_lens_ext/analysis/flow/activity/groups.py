"""The eight groups: which of a feature's three predecessors are active with it (arXiv 2502.03032)."""

from typing import Literal

import torch

from sae_lens_ext.analysis.flow.origins import origin_codes
from sae_lens_ext.analysis.flow.sites import KINDS, Kind

LETTERS: dict[Kind, str] = {"residual": "R", "mlp": "M", "attention": "A"}
"""The stream one layer before, this layer's MLP output, this layer's attention output."""

GROUPS: tuple[str, ...] = tuple(
    "&".join(LETTERS[kind] for bit, kind in enumerate(KINDS) if code >> bit & 1) or "from nowhere"
    for code in range(8)
)
"""By code, the sum of 1 if R is active, 2 if M is, 4 if A is: from "from nowhere" (0) to "R&M&A" (7)."""

Unit = Literal["occurrence", "feature"]


def group_name(*, residual: bool = False, mlp: bool = False, attention: bool = False) -> str:
    """Name the group of features of which these predecessors are active and the others are not."""
    return GROUPS[residual + 2 * mlp + 4 * attention]


def group_codes(active: dict[Kind, torch.Tensor]) -> torch.Tensor:
    """Give codes of groups, int8.

    Args:
        active: By kind of predecessor, bool, of any one shape; a kind that is not there is not active.
    """
    bits = [flags.to(torch.int8) << KINDS.index(kind) for kind, flags in active.items()]
    return torch.stack(bits).sum(dim=0).to(torch.int8)


def origins_by_activity(codes: torch.Tensor) -> torch.Tensor:
    """Give what the origin would be by activity, as positions in `ORIGINS`, [n], int8.

    R alone is translated, R with M or A processed, M or A without R newborn, from nowhere unexplained.

    Args:
        codes: Codes of groups, [n].
    """
    return origin_codes({kind: (codes.long() >> bit & 1).bool() for bit, kind in enumerate(KINDS)})


def require_unit(unit: str) -> None:
    """Raise ValueError unless `unit` is one."""
    if unit not in ("occurrence", "feature"):
        raise ValueError(
            f'There is no unit {unit!r}. Give "occurrence" (a feature at a token) or "feature" (each feature once in a group of a text).'
        )
