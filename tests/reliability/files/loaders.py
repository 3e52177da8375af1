"""Every reader of files in the package: how to make one small valid thing, and how to read it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import sae_lens_ext as ext
from sae_lens_ext.architectures.saving import save_sae
from sae_lens_ext.checkpoints import latest_checkpoint, tokens_trained
from sae_lens_ext.checksum import write_checksums
from sae_lens_ext.cli.task_file import read_tasks
from sae_lens_ext.embedded.manifest import fault, write_manifest
from sae_lens_ext.lime import LimeRouters
from sae_lens_ext.lime.training.checkpoint import Checkpoint as LimeCheckpoint
from sae_lens_ext.run_folder import RunFolder
from sae_lens_ext.steering.training import TrainingLog
from sae_lens_ext.steering.training.checkpoint import Checkpoint as SteeringCheckpoint
from sae_lens_ext.steering.vectors import SteeringVectors
from tests.architectures.bases import base_sae, residual_for
from tests.reliability.files.results import saved_results


class RefusedError(ValueError):
    """Stands for what a reader that does not raise gives for a file that it does not use."""


@dataclass(frozen=True)
class Loader:
    """One reader."""

    name: str
    """What it is called in tables."""
    make: Callable[[Path], object]
    """Writes the file or the folder at a path."""
    load: Callable[[Path], Any]
    """Reads it."""
    ending: str = ""
    """What the path ends in; a folder ends in nothing."""
    sealed: bool = True
    """A change of any bit is found; otherwise, as in other people's formats, only what is no such thing at all."""


def _run_folder(path: Path) -> None:
    run = RunFolder(path, {"d_sae": 12, "lr": 0.5}, "`made up`")
    run.claim()
    run.mark_trained("first", {"seconds": 2.5})
    with run.timed("first"):
        pass


def _read_run_folder(path: Path) -> Any:
    run = RunFolder(path, {"d_sae": 12, "lr": 0.5}, "`made up`")
    if not run.is_trained("first"):
        raise RefusedError(f"{path} is trained anew. Give its time.")
    return run.trained_record("first"), run.training_seconds("first") >= 0, run.plan


def _checkpoints(path: Path) -> None:
    for tokens in (64, 128):
        folder = path / str(tokens)
        residual_for(base_sae("standard")).save_model(folder)
        torch.save({"n_training_samples": tokens, "moments": torch.ones(3)}, folder / "trainer_state.pt")
        (folder / "runner_cfg.json").write_text('{"seed": 0}')
        write_checksums(folder)


def _read_checkpoints(path: Path) -> Any:
    found = latest_checkpoint(path)
    if found is None or found.name != "128":
        raise RefusedError(f"{path} goes on from an earlier checkpoint. Give it its time.")
    return tokens_trained(found)


def _tokens_of(path: Path) -> Any:
    return tokens_trained(path)


def _one_state(path: Path) -> None:
    path.mkdir()
    torch.save({"n_training_samples": 128, "moments": torch.ones(3)}, path / "trainer_state.pt")


def _cached(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text('{"a": 1}')
    (path / "model.safetensors").write_bytes(bytes(2000))
    write_manifest(path, "key")


def _read_cached(path: Path) -> Any:
    wrong = fault(path, "key")
    if wrong:
        raise RefusedError(f"{path}: {wrong}. Make it anew.")
    return (path / "config.json").read_text()


def _tasks(path: Path) -> None:
    lines = [json.dumps({"prompt": f"{i} + 3 =", "answer": i + 3, "level": [1, {"a": 2}]}) for i in range(4)]
    path.write_text("\n".join(lines) + "\n")


def _log(path: Path) -> None:
    lines = [json.dumps({"step": i, "reward": 0.5, "vector_norm": {"0": 1.5}}) for i in range(1, 5)]
    path.write_text("\n".join(lines) + "\n")


def _biases(path: Path) -> None:
    save_file({f"model.layers.{i}.mlp.down_proj.bias": torch.full((4,), i + 0.5) for i in range(2)}, path)


def _sharded(path: Path) -> None:
    path.mkdir()
    _biases(path / "model-1.safetensors")
    names = {f"model.layers.{i}.mlp.down_proj.bias": "model-1.safetensors" for i in range(2)}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def _torch_biases(path: Path) -> None:
    torch.save({f"model.layers.{i}.mlp.down_proj.bias": torch.full((4,), i + 0.5) for i in range(2)}, path)


def _routers(path: Path) -> None:
    LimeRouters(3, 2, initial="random", seed=3).save(path)


def _lime_state(path: Path) -> None:
    moments = {"step": {"a": torch.ones(())}, "exp_avg": {"a": torch.ones(3)}}
    LimeCheckpoint(2, {"a": torch.arange(3.0)}, moments, {"losses": torch.tensor([2.0, 1.0]).double()}).save(
        path
    )


def _steering_state(path: Path) -> None:
    moments = {"step": {0: torch.ones(())}, "exp_avg": {0: torch.ones(3)}}
    SteeringCheckpoint(2, [0.5, 0.25], {0: torch.arange(3.0)}, moments).save(path)


def _stack(path: Path) -> None:
    base = base_sae("standard")
    ext.ResidualStackSAE.from_saes(base, {"code": residual_for(base)}).save_model(path)


def _saes() -> list[Loader]:
    kron = ext.KronSAEConfig(d_in=6, d_sae=24, k=4, base_dim=2, extension_dim=3)
    levels = ext.HierarchicalTopKTrainingSAEConfig(d_in=6, d_sae=24, k=4)
    made: dict[str, Callable[[Path], object]] = {
        "kron": lambda path: ext.KronSAE(kron).save_model(path),
        "hierarchical_topk": lambda path: save_sae(ext.HierarchicalTopKTrainingSAE(levels), path),
        "residual": lambda path: residual_for(base_sae("standard")).save_inference_model(path),
        "residual_stack": _stack,
        "gated, sealed": lambda path: save_sae(base_sae("gated"), path),
    }
    theirs = ("standard", "gated", "jumprelu", "topk")
    return [
        *(Loader(f"load_sae ({name})", make, ext.load_sae) for name, make in made.items()),
        *(
            Loader(
                f"load_sae (SAELens' {kind})",
                lambda path, kind=kind: base_sae(kind).save_model(path),
                ext.load_sae,
                sealed=False,
            )
            for kind in theirs
        ),
    ]


@cache
def loaders() -> tuple[Loader, ...]:
    """Give all of them."""
    results = [
        Loader(type(result).__name__, result.save, type(result).load, ".json") for result in saved_results()
    ]
    biases = SteeringVectors.from_bias_checkpoint
    return (
        *results,
        *_saes(),
        Loader(
            "SteeringVectors",
            SteeringVectors({0: torch.arange(4.0), 2: torch.ones(4)}, {"made_by": "hand"}).save,
            SteeringVectors.load,
            ".safetensors",
        ),
        Loader("from_bias_checkpoint (.safetensors)", _biases, biases, ".safetensors", sealed=False),
        Loader("from_bias_checkpoint (.pt)", _torch_biases, biases, ".pt", sealed=False),
        Loader("from_bias_checkpoint (folder)", _sharded, biases, sealed=False),
        Loader("LimeRouters", _routers, LimeRouters.load, ".safetensors"),
        Loader("state of train_language_model", _lime_state, LimeCheckpoint.load, ".safetensors"),
        Loader("state of train_steering_vectors", _steering_state, SteeringCheckpoint.load, ".safetensors"),
        Loader("TrainingLog", _log, TrainingLog.load, ".jsonl", sealed=False),
        Loader("RunFolder", _run_folder, _read_run_folder, sealed=False),
        Loader("latest_checkpoint", _checkpoints, _read_checkpoints),
        Loader("tokens_trained", _one_state, _tokens_of, sealed=False),
        Loader("task file", _tasks, lambda path: read_tasks(path, None), ".jsonl", sealed=False),
        Loader("embedded cache", _cached, _read_cached),
    )
