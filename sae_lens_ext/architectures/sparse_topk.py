"""TopK whose training step keeps no number for latents that are not kept: what HierarchicalTopK is built on, and what others may be.

    z = σ(W_enc x + b_enc), the k largest of each token kept          x̂ = b_dec + Σ_{kept} z_f e_f          L = ‖x − x̂‖²

The numbers are SAELens' TopK's, and so is what is saved; between equal latents the lower index is kept. A further architecture inherits
the encoder, the dead-latent loss and the bookkeeping, and says what its loss is (`reconstruction_loss`). See docs/extending.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAEConfig, TopKSAEConfig, TopKTrainingSAEConfig
from torch import nn
from typing_extensions import override

from sae_lens_ext.architectures.ranked_latents import (
    LowestIndexTopK,
    RankedLatents,
    encode_ranked,
    input_bias,
)
from sae_lens_ext.architectures.ranked_training import DeadLatents, RankedTrainingSAE
from sae_lens_ext.architectures.validation import (
    FOLDABLE_NORMALIZATIONS,
    RefusesUnknownFields,
    require_normalization,
    require_positive_int,
)
from sae_lens_ext.ops import topk_encode


@dataclass
class SparseTopKTrainingSAEConfig(RefusesUnknownFields, TopKTrainingSAEConfig):
    """Configuration of a SparseTopKTrainingSAE: TopK's, checked.

    It has no name in the registry; a subclass gives its own as `architecture()`.

    Raises:
        ValueError: A field is unknown; d_in, d_sae or k is out of range; or `normalize_activations` rescales each token by itself.
    """

    @override
    def __post_init__(self) -> None:
        owner = type(self).__name__
        require_positive_int(owner, "d_in", self.d_in)
        require_positive_int(owner, "d_sae", self.d_sae)
        require_positive_int(owner, "k", self.k, self.d_sae, "d_sae")
        require_normalization(
            self,
            FOLDABLE_NORMALIZATIONS,
            "A scale per token would have to be undone in every one of the step's reconstructions.",
        )
        self.check_own_fields()
        super().__post_init__()

    def check_own_fields(self) -> None:
        """Check and complete the fields that a subclass adds: when the inherited ones are known to be right, before SAELens notes them all.

        Raises:
            ValueError: One of them is wrong.
        """

    @property
    def levels(self) -> tuple[int, ...]:
        """The budgets that are trained: k alone."""
        return (self.k,)

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return TopKSAEConfig

    @override
    def get_inference_sae_cfg_dict(self) -> dict[str, Any]:
        """Save with the largest budget that was trained as k."""
        return {**super().get_inference_sae_cfg_dict(), "k": self.levels[-1]}


class SparseTopKTrainingSAE(RankedTrainingSAE):
    """A TopK training SAE that works on (values, indices), saved as an ordinary `topk` (see the module)."""

    cfg: Any

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        self.W_enc = nn.Parameter(_by_columns(self.W_enc.data))

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_loading(state_dict)
        state_dict["W_enc"] = _by_columns(state_dict["W_enc"])

    @override
    def process_state_dict_for_saving(self, state_dict: dict[str, Any]) -> None:
        super().process_state_dict_for_saving(state_dict)
        state_dict["W_enc"] = state_dict["W_enc"].contiguous()

    @override
    def get_activation_fn(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return LowestIndexTopK(self.cfg.levels[-1], use_sparse_activations=self.cfg.use_sparse_activations)

    def encode_sparse(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode to the k latents that are kept, largest first.

        Args:
            x: Activations, shape [..., d_in].

        Returns:
            Values and their flat latent indices, each [..., k], sorted by value, descending; between
            equals the lower index comes first. With fewer than k positive latents the unused slots have
            value 0, as have those beyond the largest of the budgets.
        """
        return encode_ranked(self, x, self._rank)

    @override
    def _rank(self, x: torch.Tensor, k: int) -> RankedLatents:
        norms = self._norms()
        weights, indices = topk_encode(x, self.W_enc, self.b_enc, k, b_in=input_bias(self), rank_scale=norms)
        # Ranked by z ‖e‖ and decoded with e/‖e‖: the norms cancel, so the raw rows are weighted with z.
        acts = weights if norms is None else weights * norms[indices]
        return RankedLatents(acts, weights, indices)

    @override
    def _ranked_from_dense(self, acts: torch.Tensor, indices: torch.Tensor) -> RankedLatents:
        norms = self.W_dec.norm(dim=-1) if self.cfg.rescale_acts_by_decoder_norm else None
        return RankedLatents(acts, acts if norms is None else acts / norms[indices], indices)

    @override
    def _dead_latents(self, latents: torch.Tensor) -> DeadLatents:
        def pre_activations(
            x: torch.Tensor, W: torch.Tensor, b: torch.Tensor, *b_in: torch.Tensor
        ) -> torch.Tensor:
            return (x - b_in[0] if b_in else x) @ W + b

        b_in, norms = input_bias(self), self._norms()
        return DeadLatents(
            activations=pre_activations,
            parameters=(
                self.W_enc.T.index_select(0, latents).T,  # by rows, as its other gradient comes
                self.b_enc[latents],
                *(() if b_in is None else (b_in,)),
            ),
            rows=self.W_dec.index_select(0, latents),
            rank_scale=None if norms is None else norms[latents],
        )

    def _norms(self) -> torch.Tensor | None:
        """Give what latents are ranked by beside their activation, shape [d_sae], or None."""
        return self.W_dec.detach().norm(dim=-1) if self.cfg.rescale_acts_by_decoder_norm else None


def _by_columns(W_enc: torch.Tensor) -> torch.Tensor:
    """Lay a [d_in, d_sae] matrix out with each encoder vector in one piece.

    Its gradient is found latent by latent, and would otherwise be transposed in memory every step.
    """
    return W_enc.T.contiguous().T
