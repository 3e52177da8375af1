"""Data parallel training: every rank holds the SAE and trains on its rows of each batch."""

from typing import Any

import torch
from sae_lens.saes.sae import TrainingSAE, TrainStepOutput
from typing_extensions import override

from sae_lens_ext.training.batch_topk import batch_topk_over_ranks
from sae_lens_ext.training.gradients import GradientAverage
from sae_lens_ext.training.trainer import ParallelTrainer

ARCHITECTURES = (
    *("standard", "gated", "jumprelu", "topk", "abstopk", "matching_pursuit"),
    *("batchtopk", "matryoshka_batchtopk"),
    *("hierarchical_topk", "kron", "residual"),
)
"""Those whose loss is a mean over rows, so that the mean over ranks of equally many rows each is the whole batch's."""


class DataParallelTrainer(ParallelTrainer):
    """Trains one SAE on every rank's part of each batch: the weights stay equal on all ranks.

    Gradients are averaged, firing counts summed; BatchTopK chooses among the latents of the whole batch. So the steps are those of one
    process with the whole batch, but for the order in which sums are rounded.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        require_mean_over_rows(self.sae.cfg.architecture(), type(self.sae), self.ranks.size)
        self.gradients = GradientAverage(self.ranks, self.sae.cfg.d_sae)

    @override
    def fit(self) -> TrainingSAE[Any]:
        with batch_topk_over_ranks(self.sae, self.ranks):
            return super().fit()

    @override
    def _fired(self, feature_acts: torch.Tensor) -> torch.Tensor:
        fired = feature_acts.bool().float().sum(-2)
        fired = fired.to_dense() if fired.is_sparse else fired
        return self.ranks.tell.reduce_(fired, "sum", "counting which latents fire")

    @override
    def _reduce_gradients(self) -> None:
        if self.ranks.size > 1:
            self.gradients({name: p.grad for name, p in self.sae.named_parameters() if p.grad is not None})

    @override
    def _clip_gradients(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.sae.parameters(), 1.0)  # SAELens' own bound

    @override
    def _reduce_losses(self, output: TrainStepOutput) -> None:
        values = [output.loss, *output.losses.values()]
        means = torch.stack([value.detach().float() for value in values])
        self.ranks.tell.reduce_(means, "sum", "averaging the losses").div_(self.ranks.size)
        for value, mean in zip(values, means, strict=True):
            value.detach().copy_(mean)


def require_mean_over_rows(architecture: str, sae_class: type[Any], n_ranks: int) -> None:
    """Raise ValueError if an SAE of an unknown architecture is to be trained by several ranks.

    A user's own training class says that its loss is a mean over rows by the attribute `loss_is_mean_over_rows = True`.
    """
    if n_ranks == 1 or architecture in ARCHITECTURES or getattr(sae_class, "loss_is_mean_over_rows", False):
        return
    raise ValueError(
        f"The architecture {architecture!r} is not known to have a loss that is a mean over the rows of a batch, so {n_ranks} ranks cannot share its "
        f"batches. If it is, set loss_is_mean_over_rows = True on {sae_class.__name__}; if not, train it in one process."
    )
