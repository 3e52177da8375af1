"""Averaging gradients over ranks without sending what is zero on all of them."""

from collections.abc import Mapping

import torch

from sae_lens_ext.ranks import Ranks

MOSTLY = 0.9
"""With a larger share of its rows in use, a gradient is sent as it is: packing would cost more than it spares."""
LOOK_AGAIN = 50
"""After so many steps a gradient that was mostly in use is looked at again."""


class GradientAverage:
    """Averages the gradients of an SAE's parameters over the ranks, each over its own rows of one batch.

    A latent that no row of the whole batch uses has no gradient: its row of the decoder's and its column of the encoder's gradient are zero
    on every rank. The ranks agree which rows are in use, F bytes, and send those alone. Where nearly all are, and where a gradient has
    no axis of latents, it is sent whole. Either way the sums are the same.

    Args:
        ranks: Who averages.
        n_latents: F, the length of the axis of latents.
    """

    def __init__(self, ranks: Ranks, n_latents: int) -> None:
        self._ranks, self._n_latents = ranks, n_latents
        self._whole_for: dict[str, int] = {}
        self.used_rows: dict[str, float] = {}
        """By parameter, the share of its latents' rows that some rank used when it was last looked at."""

    @torch.no_grad()
    def __call__(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Replace each gradient by its mean over the ranks.

        Args:
            gradients: By parameter, in the same order on every rank.
        """
        for name, gradient in gradients.items():
            rows = self._rows(gradient)
            what = f"averaging the gradient of {name}"
            if rows is None or self._is_dense(name):
                self._reduce_whole(gradient, what)
                continue
            used = (rows != 0).any(dim=1).to(torch.uint8)
            kept = self._ranks.tell.reduce_(used, "max", what).nonzero().flatten()
            self.used_rows[name] = len(kept) / len(rows)
            if self.used_rows[name] > MOSTLY:
                self._whole_for[name] = LOOK_AGAIN
                self._reduce_whole(gradient, what)
            else:
                packed = self._ranks.tell.reduce_(rows[kept], "sum", what)
                rows[kept] = packed.div_(self._ranks.size)

    def _rows(self, gradient: torch.Tensor) -> torch.Tensor | None:
        """Give a view [F, d] of a gradient, or None if no axis is that of the latents."""
        if gradient.ndim != 2 or self._n_latents not in gradient.shape:
            return None
        return gradient if gradient.shape[0] == self._n_latents else gradient.T

    def _is_dense(self, name: str) -> bool:
        """Whether a gradient is taken to be in use as a whole; the answer is the same on every rank."""
        left = self._whole_for.get(name, 0)
        self._whole_for[name] = max(0, left - 1)
        return left > 0

    def _reduce_whole(self, gradient: torch.Tensor, what: str) -> None:
        if gradient.is_contiguous():
            self._ranks.tell.reduce_(gradient, "sum", what)
        elif gradient.ndim == 2 and gradient.T.is_contiguous():
            self._ranks.tell.reduce_(gradient.T, "sum", what)
        else:
            gradient.copy_(self._ranks.tell.reduce_(gradient.contiguous(), "sum", what))
        gradient.div_(self._ranks.size)
