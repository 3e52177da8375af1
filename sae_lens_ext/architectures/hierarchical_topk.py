"""HierarchicalTopK: one TopK dictionary trained for every sparsity budget at once.

"Train One Sparse Autoencoder Across Multiple Sparsity Budgets to Preserve Interpretability and
Accuracy", arXiv 2505.24473 (EMNLP 2025).

    z = σ(W_enc x + b_enc), ranked by value per token; e_r is the decoder row of the r-th largest
    x̂_j = b_dec + Σ_{r ≤ j} z_r e_r                    L = (1/|J|) Σ_{j in J} ‖x − x̂_j‖²

Only the loss differs from SAELens' TopK, so everything else is inherited and the trained SAE is saved
as an ordinary `topk`, which anybody loads without this package and runs at any k ≤ K. Left out: the
paper's CUDA kernels. Our reading, where the paper is silent: the dead-latent loss stays SAELens' own
and acts on the error that the full budget K leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from sae_lens import SAEConfig, TopKSAEConfig, TopKTrainingSAEConfig
from torch import nn
from typing_extensions import override

from sae_lens_ext.architectures.levels import BUDGETS_ARGUMENT, Budgets, HasLevels
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
class HierarchicalTopKTrainingSAEConfig(RefusesUnknownFields, HasLevels, TopKTrainingSAEConfig):
    """Configuration of a HierarchicalTopKTrainingSAE: TopK's, and the budgets.

    Args:
        budgets: The levels J whose reconstructions are trained: "all" for 1..k, or increasing whole
            numbers between 1 and k. `budgets=(k,)` is plain TopK. The levels weigh the same. No more
            latents than the largest of them are ever kept, so that none is decoded untrained.
        k: The largest budget K; inference may use any k up to it. Inherited from TopKTrainingSAEConfig.

    Raises:
        ValueError: k is not in 1..d_sae; budgets are empty, repeated, unsorted or outside 1..k; or
            `normalize_activations` rescales each token by itself.
    """

    budgets: Budgets = field(default="all", metadata=BUDGETS_ARGUMENT)  # type: ignore[assignment]

    @override
    def __post_init__(self) -> None:
        owner = type(self).__name__
        require_positive_int(owner, "d_in", self.d_in)
        require_positive_int(owner, "d_sae", self.d_sae)
        require_positive_int(owner, "k", self.k, self.d_sae, "d_sae")
        self._check_budgets()
        require_normalization(
            self,
            FOLDABLE_NORMALIZATIONS,
            "A scale per token would have to be undone in every one of the budgets' reconstructions.",
        )
        super().__post_init__()

    @override
    @classmethod
    def architecture(cls) -> str:
        return "hierarchical_topk"

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return TopKSAEConfig

    @override
    def get_inference_sae_cfg_dict(self) -> dict[str, Any]:
        """Save with the largest budget that was trained as k."""
        return {**super().get_inference_sae_cfg_dict(), "k": self.levels[-1]}


class HierarchicalTopKTrainingSAE(RankedTrainingSAE):
    """TopK whose `mse_loss` is the mean over budgets of the error at each (see the module).

    Example:
        >>> cfg = HierarchicalTopKTrainingSAEConfig(d_in=8, d_sae=32, k=4, budgets=(1, 2, 4))
        >>> HierarchicalTopKTrainingSAE(cfg).cfg.levels
        (1, 2, 4)
    """

    cfg: HierarchicalTopKTrainingSAEConfig  # type: ignore[assignment]

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
