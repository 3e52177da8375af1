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

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from sae_lens import SAEConfig, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import TopK
from typing_extensions import override

from sae_lens_ext.architectures.training_step import require_finite_activations, train_step_output
from sae_lens_ext.architectures.validation import (
    FOLDABLE_NORMALIZATIONS,
    RefusesUnknownFields,
    require_normalization,
    require_positive_int,
)
from sae_lens_ext.ops import multi_budget_loss


@dataclass
class HierarchicalTopKTrainingSAEConfig(RefusesUnknownFields, TopKTrainingSAEConfig):
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

    budgets: Literal["all"] | tuple[int, ...] = field(
        default="all",
        # How SAELens' command line reads it: `--budgets all` or `--budgets 1 8 64`.
        metadata={"custom_args": {"nargs": "*", "type": lambda word: int(word) if word.isdigit() else word}},
    )

    @override
    def __post_init__(self) -> None:
        require_positive_int(type(self).__name__, "k", self.k, self.d_sae, "d_sae")
        self.budgets = _checked_budgets(self.budgets, self.k)
        require_normalization(
            self,
            FOLDABLE_NORMALIZATIONS,
            "A scale per token would have to be undone in every one of the budgets' reconstructions.",
        )
        super().__post_init__()

    @property
    def levels(self) -> tuple[int, ...]:
        """The budgets, spelled out."""
        return tuple(range(1, self.k + 1)) if self.budgets == "all" else self.budgets

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


class HierarchicalTopKTrainingSAE(TopKTrainingSAE):
    """TopK whose `mse_loss` is the mean over budgets of the error at each (see the module).

    Example:
        >>> cfg = HierarchicalTopKTrainingSAEConfig(d_in=8, d_sae=32, k=4, budgets=(1, 2, 4))
        >>> HierarchicalTopKTrainingSAE(cfg).cfg.levels
        (1, 2, 4)
    """

    cfg: HierarchicalTopKTrainingSAEConfig  # type: ignore[assignment]

    @override
    def get_activation_fn(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return TopK(self.cfg.levels[-1], use_sparse_activations=self.cfg.use_sparse_activations)

    def encode_sparse(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode to the k latents that are kept, largest first.

        Args:
            x: Activations, shape [..., d_in].

        Returns:
            Values and their flat latent indices, each [..., k], sorted by value, descending. With
            fewer than k positive latents the unused slots have value 0.
        """
        feature_acts = self.encode(x)
        values, indices = _dense(feature_acts).topk(self.cfg.k, dim=-1, sorted=True)
        return values, indices

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Take SAELens' training step with the multi-budget loss in place of the squared error.

        Args:
            step_input: Batch of activations [B, d_in] and what the trainer knows of the step.

        Returns:
            The step's output. `losses["mse_loss"]` is summed over d_in, averaged over tokens and over
            budgets; `sae_out` is the reconstruction with the largest budget, detached.

        Raises:
            NonFiniteTrainingError: The activations or the loss hold NaN or infinity.
        """
        require_finite_activations(step_input)
        feature_acts, hidden_pre = self.encode_with_hidden_pre(step_input.sae_in)
        values, indices = _dense(feature_acts).topk(self.cfg.levels[-1], dim=-1, sorted=True)
        decoder = self.W_dec
        if self.cfg.rescale_acts_by_decoder_norm:
            decoder = decoder / decoder.norm(dim=-1, keepdim=True)
        mse_loss = multi_budget_loss(values, indices, decoder, self.b_dec, step_input.sae_in, self.cfg.levels)

        feature_acts = feature_acts.detach()
        sae_out = self.decode(feature_acts).detach()
        return train_step_output(
            step_input,
            sae_out=sae_out,
            feature_acts=feature_acts,
            hidden_pre=hidden_pre,
            mse_loss=mse_loss,
            aux_losses=self.calculate_aux_loss(step_input, feature_acts, hidden_pre, sae_out),
            metrics={
                "mse_loss_full_budget": lambda: (sae_out - step_input.sae_in).pow(2).sum(dim=-1).mean(),
            },
        )


def _dense(feature_acts: torch.Tensor) -> torch.Tensor:
    return feature_acts.to_dense() if feature_acts.is_sparse else feature_acts


def _checked_budgets(budgets: Any, k: int) -> Literal["all"] | tuple[int, ...]:
    owner = HierarchicalTopKTrainingSAEConfig.__name__
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
