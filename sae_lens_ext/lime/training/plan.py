"""What decides the numbers of a training of a language model, and whose folder it is though training changes the weights."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sae_lens_ext.json_file import read_json
from sae_lens_ext.language_model.weights_hash import weights_hash
from sae_lens_ext.lime.training.result import RESULT_FILE
from sae_lens_ext.lime.training.settings import CALLER
from sae_lens_ext.lime.training.token_groups import TokenGroup, groups_hash
from sae_lens_ext.lime.training.trainer import LanguageModelTrainer
from sae_lens_ext.run_folder import PLAN_FILE

_BEGINNING = "before_training"


def training_plan(
    model: Any,
    routers: Any,
    trainer: LanguageModelTrainer,
    groups: Sequence[TokenGroup],
    held_out: Sequence[TokenGroup],
) -> dict[str, Any]:
    """Give what decides the numbers, as JSON knows it."""
    return {
        "made_by": CALLER,
        "model_name": getattr(getattr(model, "cfg", None), "model_name", None),
        _BEGINNING: weights_hashes(model, routers),
        "trained_tensors": len(trainer.named),
        "sequences": [list(group.tokens.shape) for group in groups],
        "predictions": sum(int(group.counts.sum()) for group in groups),
        "tokens_sha256": groups_hash(groups),
        "validation_sha256": groups_hash(held_out) if held_out else None,
        "steps": trainer.steps,
        **trainer.settings.to_dict(),
    }


def weights_hashes(model: Any, routers: Any) -> dict[str, Any]:
    """Give hashes that tell apart the weights of a model and of routers."""
    if routers is None:
        return {"model": weights_hash(model), "routers": None}
    digest = hashlib.sha256()
    for layer, weight in sorted(routers.weights.items()):
        digest.update(f"{layer} {list(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return {"model": weights_hash(model), "routers": digest.hexdigest()[:16]}


def with_own_beginning(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Give the plan, with the weights that the folder's training began with, if those in memory are the ones that it ended with.

    Raises:
        ValueError: The folder holds this very training, but it began with other weights.
    """
    saved, done = _json(folder / PLAN_FILE), _json(folder / RESULT_FILE).get("provenance", {})
    if _without_beginning(saved) != _without_beginning(plan) or saved.get(_BEGINNING) == plan[_BEGINNING]:
        return plan  # RunFolder has the last word
    if done.get("after") == plan[_BEGINNING]:
        return plan | {_BEGINNING: saved[_BEGINNING]}
    raise ValueError(
        f"{folder} holds this training, but it began with other weights than the model or the routers have now. If it was interrupted in this process, they are "
        "half trained: build both anew, as they were at its beginning, and call again. Or give another folder."
    )


def _without_beginning(plan: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in plan.items() if name != _BEGINNING}


def _json(path: Path) -> dict[str, Any]:
    """Give what a file holds; nothing, if it is not there or no JSON object."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
