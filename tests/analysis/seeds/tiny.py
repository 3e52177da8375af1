"""Tiny runs of `train_seeds`, and what their SAEs saw."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import (
    LanguageModelSAERunnerConfig,
    LoggingConfig,
    MultiSAETrainingRunnerConfig,
    TopKTrainingSAEConfig,
    TrainingSAEConfig,
)
from sae_lens.training.sae_trainer import SAETrainer

HOOK = "blocks.0.hook_resid_post"
EVERY_VARY = ["initialisation", "data_order", "both"]
STEPS, BATCH, CONTEXT, BUFFER = 10, 64, 16, 24
"""A buffer of 24 contexts is six batches: a pool of six and one of the four that are left."""


def topk(**overrides: Any) -> TopKTrainingSAEConfig:
    return TopKTrainingSAEConfig(**{"d_in": 16, "d_sae": 32, "k": 4, **overrides})


def settings(output: Path | None, **overrides: Any) -> dict[str, Any]:
    return {
        "model_name": "tiny",
        "training_tokens": STEPS * BATCH,
        "train_batch_size_tokens": BATCH,
        "context_size": CONTEXT,
        "store_batch_size_prompts": 8,
        "n_batches_in_buffer": BUFFER,
        "n_batches_for_norm_estimate": 2,
        "lr": 3e-3,
        "model_from_pretrained_kwargs": {},
        "logger": LoggingConfig(log_to_wandb=False),
        "output_path": None if output is None else str(output),
        **overrides,
    }


def single(
    output: Path | None = None, sae: TrainingSAEConfig | None = None, **overrides: Any
) -> LanguageModelSAERunnerConfig:
    fields = {"hook_name": HOOK, "verbose": False, **settings(output, **overrides)}
    return LanguageModelSAERunnerConfig(sae=sae or topk(), **fields)


def several(
    saes: dict[str, TrainingSAEConfig], output: Path | None = None, **overrides: Any
) -> MultiSAETrainingRunnerConfig:
    return MultiSAETrainingRunnerConfig(saes=saes, **{"hook_names": HOOK, **settings(output, **overrides)})


class Seen:
    """What each SAE had as initial weights, and the batches it saw, in order; SAEs in the order they are trained."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._batches: dict[int, list[torch.Tensor]] = defaultdict(list)
        self._starts: dict[int, dict[str, torch.Tensor]] = {}
        self.scales: list[float | None] = []
        """The factor that each SAE's activations are multiplied by."""
        self._kept: list[Any] = []  # so that no other SAE gets the same id
        step = SAETrainer.step

        def noting(trainer: Any, batch: torch.Tensor) -> Any:
            if id(trainer) not in self._starts:
                self._kept.append(trainer)
                self.scales.append(trainer.activation_scaler.scaling_factor)
                self._starts[id(trainer)] = {k: v.clone() for k, v in trainer.sae.state_dict().items()}
            self._batches[id(trainer)].append(batch.clone())
            return step(trainer, batch)

        monkeypatch.setattr(SAETrainer, "step", noting)

    @property
    def starts(self) -> list[dict[str, torch.Tensor]]:
        return list(self._starts.values())

    @property
    def streams(self) -> list[torch.Tensor]:
        """[batches, B, d_in] of each SAE."""
        return [torch.stack(batches) for batches in self._batches.values()]


def rows(stream: torch.Tensor) -> list[tuple[float, ...]]:
    """The multiset of a stream's rows."""
    return sorted(map(tuple, stream.flatten(0, -2).tolist()))


def equal_weights(first: Any, second: Any) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
