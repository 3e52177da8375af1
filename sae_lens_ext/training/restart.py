"""Where a job that `torchrun` started anew finds the checkpoints of its first start."""

import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch.distributed as dist
from sae_lens.constants import RUNNER_CFG_FILENAME

from sae_lens_ext.checkpoints import latest_checkpoint
from sae_lens_ext.files import is_json, make_folder, write_whole
from sae_lens_ext.json_file import read_json
from sae_lens_ext.ranks import Ranks

# These do not decide what is trained, or differ from start to start.
_VOLATILE = ("checkpoint_path", "output_path", "resume_from_checkpoint", "logger", "metadata")


def checkpoint_folder(
    given: Path, cfg: Mapping[str, Any], ranks: Ranks, saes: Iterable[str] = (".",)
) -> tuple[Path, Path | None]:
    """Find where this job's checkpoints go, and the one to go on from if torchrun has started the job anew.

    SAELens gives every process a folder of another name; here all ranks use the first one's. The first start notes it beside the
    folder, where a restart, which torchrun counts, finds it by the job's id (`torchrun --rdzv-id`). A job without an id of its own is known by
    its launcher, a process of the first rank's machine.

    Args:
        given: SAELens' folder for this process, in the folder that the user named.
        cfg: What is trained, as SAELens writes it into a checkpoint.
        ranks: Who trains; they must see the same files.
        saes: Subfolders of a checkpoint, one for each SAE; a run of a single SAE has none.

    Returns:
        The folder, and in a restart the last whole checkpoint in it, if there is one.

    Raises:
        ValueError: In a restart: the last checkpoint is one of another training.
    """
    folder, start = given, None
    if ranks.is_first and dist.is_torchelastic_launched():
        note = given.parent / f".job_{_job()}.json"
        if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0 and (name := _noted_folder(note)):
            folder = given.parent / name
            start = latest_checkpoint(folder, saes)
        else:
            make_folder(note.parent)
            write_whole(note, json.dumps({"folder": given.name}))
    folder, start = ranks.tell.from_first((folder, start), "finding the job's checkpoints")
    if start is not None:
        _require_same(cfg, start)
    return folder, start


def _noted_folder(note: Path) -> str | None:
    content = read_json(note) if is_json(note) else None
    name = content.get("folder") if isinstance(content, dict) else None
    return name if isinstance(name, str) else None


def _job() -> str:
    name = quote(os.environ["TORCHELASTIC_RUN_ID"], safe="")  # it may have slashes in it
    return name if name not in ("", "none") else f"of_{platform.node()}_{os.getppid()}"


def _require_same(cfg: Mapping[str, Any], start: Path) -> None:
    saved = read_json(start / RUNNER_CFG_FILENAME)
    now, then = _decisive(json.loads(json.dumps(cfg, default=str))), _decisive(saved)
    differing = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    if differing:
        raise ValueError(
            f"torchrun has started this job anew, but its last checkpoint, {start}, is one of a training with another {', '.join(differing)}. Give "
            "jobs that share a checkpoint_path ids of their own (torchrun --rdzv-id), or another checkpoint_path."
        )


def _decisive(content: Any) -> Any:
    """Give what decides what is trained, of a configuration as JSON has it."""
    if not isinstance(content, dict):
        return content
    return {
        name: _decisive(value)
        for name, value in content.items()
        if name not in _VOLATILE and not name.endswith("device")
    }
