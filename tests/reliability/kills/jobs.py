"""The trainings and analyses that are killed, each as a user starts it and goes on with it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sae_lens import BatchTopKTrainingSAEConfig, StandardTrainingSAEConfig
from sae_lens.saes.sae import TrainingSAEConfig

from sae_lens_ext import HierarchicalTopKTrainingSAEConfig, KronTrainingSAEConfig, ResidualTrainingSAEConfig
from sae_lens_ext.analysis.seeds import train_seeds
from sae_lens_ext.checkpoints import latest_checkpoint
from sae_lens_ext.training.divided import DividedRunner
from sae_lens_ext.training.runner import DataParallelRunner
from tests.analysis.seeds.tiny import several, single, topk
from tests.reliability.kills import world
from tests.reliability.kills.folder_jobs import FOLDER_JOBS
from tests.reliability.kills.job import Job, Work

SIZE: dict[str, Any] = {"d_in": 16, "d_sae": 32}
ARCHITECTURES: dict[str, Callable[[], TrainingSAEConfig]] = {
    "topk": topk,
    "batchtopk": lambda: BatchTopKTrainingSAEConfig(**SIZE, k=4),
    "standard": lambda: StandardTrainingSAEConfig(**SIZE, l1_coefficient=0.1),
    "hierarchical_topk": lambda: HierarchicalTopKTrainingSAEConfig(**SIZE, k=4),
    "kron": lambda: KronTrainingSAEConfig(**SIZE, k=4, base_dim=2, extension_dim=4),
    "residual": lambda: ResidualTrainingSAEConfig(**SIZE, k=4, base_path=str(world.base())),
    "topk, normalised": lambda: topk(normalize_activations="expected_average_only_in"),
    "topk, whitened": lambda: topk(normalize_activations="covariance_whitening"),
}
VARY = ("initialisation", "data_order", "both")


def last_of_any_run(checkpoints: Path, saes: Iterable[str] = (".",)) -> str | None:
    """Find the last checkpoint below a folder in which SAELens gives each run a folder of its own."""
    names = tuple(saes)
    found = [last for run in checkpoints.glob("*/") if (last := latest_checkpoint(run, names)) is not None]
    return str(max(found, key=lambda path: int(path.name))) if found else None


def _single(architecture: str) -> Work:
    def work(folder: Path) -> None:
        cfg = single(
            folder / "sae",
            ARCHITECTURES[architecture](),
            checkpoint_path=str(folder / "checkpoints"),
            resume_from_checkpoint=last_of_any_run(folder / "checkpoints"),
            n_checkpoints=3,
            seed=3,
        )
        DataParallelRunner(cfg, override_model=world.hooked(), override_dataset=world.dataset()).run()

    return work


def _seeds(vary: Any) -> Work:
    def work(folder: Path) -> None:
        cfg = single(folder, n_checkpoints=3, seed=3)
        train_seeds(cfg, [0, 1], vary=vary, override_model=world.hooked(), override_dataset=world.dataset())

    return work


def _divided(folder: Path) -> None:
    saes = {name: ARCHITECTURES[name]() for name in ("topk", "kron", "topk, normalised")}
    cfg = several(
        saes,
        folder / "saes",
        checkpoint_path=str(folder / "checkpoints"),
        resume_from_checkpoint=last_of_any_run(folder / "checkpoints", saes),
        n_checkpoints=3,
        seed=3,
    )
    DividedRunner(cfg, override_model=world.hooked(), override_dataset=world.dataset()).run()


JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        *(Job(f"one SAE: {name}", _single(name)) for name in ARCHITECTURES),
        *(Job(f"seeds: {vary}", _seeds(vary)) for vary in VARY),
        Job("divided", _divided),
        *FOLDER_JOBS,
    )
}
