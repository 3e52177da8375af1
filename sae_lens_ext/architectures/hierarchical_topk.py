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

from dataclasses import dataclass, field

from typing_extensions import override

from sae_lens_ext.architectures.levels import BUDGETS_ARGUMENT, Budgets, HasLevels
from sae_lens_ext.architectures.sparse_topk import SparseTopKTrainingSAE, SparseTopKTrainingSAEConfig


@dataclass
class HierarchicalTopKTrainingSAEConfig(HasLevels, SparseTopKTrainingSAEConfig):
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
    def check_own_fields(self) -> None:
        self._check_budgets()

    @override
    @classmethod
    def architecture(cls) -> str:
        return "hierarchical_topk"


class HierarchicalTopKTrainingSAE(SparseTopKTrainingSAE):
    """TopK whose `mse_loss` is the mean over budgets of the error at each (see the module).

    Example:
        >>> cfg = HierarchicalTopKTrainingSAEConfig(d_in=8, d_sae=32, k=4, budgets=(1, 2, 4))
        >>> HierarchicalTopKTrainingSAE(cfg).cfg.levels
        (1, 2, 4)
    """

    cfg: HierarchicalTopKTrainingSAEConfig  # type: ignore[assignment]
