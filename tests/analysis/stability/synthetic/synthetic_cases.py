"""A small ground truth, SAEs with given decoders, and what `feature_stability` says of them."""

from collections.abc import Sequence
from typing import Any

import torch
from sae_lens import SAE, LoggingConfig, StandardSAE, StandardSAEConfig
from sae_lens.config import SAETrainerConfig

from sae_lens_ext import weights_fingerprint
from sae_lens_ext.analysis.stability.report import StabilityReport
from sae_lens_ext.analysis.stability.synthetic.model import LowRankFeatureModel
from sae_lens_ext.analysis.stability.synthetic.recovery import FeatureRecovery
from tests.analysis.stability.labelled import random_rows
from tests.analysis.stability.naive import largest_cosines

MODEL = LowRankFeatureModel(d_in=24, n_independent=10, n_low_rank=12, rank=3)
B, C = MODEL.low_rank_basis, MODEL.complement_basis
TRUTH = {
    group: MODEL.features[torch.from_numpy(MODEL.groups == group)] for group in ("independent", "low_rank")
}


def sae_of(rows: torch.Tensor) -> SAE[Any]:
    """An SAE with these decoder rows, [d_sae, 24], that fire where the activation points their way; rows of zeros are dead."""
    sae = StandardSAE(StandardSAEConfig(d_in=rows.shape[1], d_sae=len(rows)))
    sae.load_state_dict({**sae.state_dict(), "W_dec": 3 * rows, "W_enc": rows.T.contiguous()})
    return sae


def report_of(rows: Sequence[torch.Tensor], threshold: float = 0.7) -> StabilityReport:
    """What `feature_stability` says of these decoders, by plain loops."""
    lists = [own.tolist() for own in rows]
    cosines = tuple(
        torch.tensor([largest_cosines(own, other) for j, other in enumerate(lists) if j != i])
        for i, own in enumerate(lists)
    )
    names = tuple(f"sae_{i}" for i in range(len(rows)))
    fingerprints = {name: weights_fingerprint(sae_of(own)) for name, own in zip(names, rows, strict=True)}
    return StabilityReport(
        names=names,
        threshold=threshold,
        max_cosines=cosines,
        null_cosines=cosines,
        included=tuple((own != 0).any(dim=1) for own in rows),
        pairs=(),
        provenance={"seed": 7, "sae_fingerprints": fingerprints},
    )


def recovery_of(
    rows: Sequence[torch.Tensor], *, with_report: bool = True, **arguments: Any
) -> FeatureRecovery:
    report = report_of(rows) if with_report else None
    return MODEL.recovery([sae_of(own) for own in rows], report, n_samples=500, **arguments)


def shuffled_truth(seed: int) -> torch.Tensor:
    order = torch.randperm(MODEL.n_features, generator=torch.Generator().manual_seed(seed))
    return MODEL.features[order]


def mixed(seed: int) -> torch.Tensor:
    """Rows of every kind: true, close to true, in the subspace, 45 and 55 % of it, anywhere, a negative, a dead one."""
    noisy = torch.nn.functional.normalize(MODEL.features[::2] + 0.15 * random_rows(11, 24, seed), dim=1)
    inside = random_rows(5, 3, seed + 1) @ B
    halves = [(share**0.5 * inside[0] + (1 - share) ** 0.5 * C[0])[None] for share in (0.45, 0.55)]
    return torch.cat(
        [
            MODEL.features[:3],
            noisy,
            inside,
            *halves,
            random_rows(6, 24, seed + 2),
            -MODEL.features[-1:],
            torch.zeros(1, 24),
        ]
    )


def trainer_config(steps: int, batch_size: int) -> SAETrainerConfig:
    """A short training of SAELens'."""
    return SAETrainerConfig(
        total_training_samples=steps * batch_size,
        train_batch_size_samples=batch_size,
        device="cpu",
        autocast=False,
        lr=1e-2,
        lr_end=1e-3,
        lr_scheduler_name="constant",
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 4,
        n_restart_cycles=1,
        adam_beta1=0.9,
        adam_beta2=0.999,
        dead_feature_window=100,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
    )
