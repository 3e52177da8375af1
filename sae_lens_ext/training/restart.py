"""Where a job that `torchrun` started anew finds the checkpoints of its first start."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch.distributed as dist

from sae_lens_ext.checkpoints import latest_checkpoint
from sae_lens_ext.files import is_json, write_whole
from sae_lens_ext.ranks import Ranks


def checkpoint_folder(given: Path, ranks: Ranks, saes: Iterable[str] = (".",)) -> tuple[Path, Path | None]:
    """Find where this job's checkpoints go, and the one to go on from if torchrun has started the job anew.

    SAELens gives every process a folder of another name; here all ranks use the first one's. The first start notes it beside the
    folder, under the job's id (`torchrun --rdzv-id`), where a restart, which torchrun counts, finds it.

    Args:
        given: SAELens' folder for this process, in the folder that the user named.
        ranks: Who trains; they must see the same files.
        saes: Subfolders of a checkpoint, one for each SAE; a run of a single SAE has none.

    Returns:
        The folder, and in a restart the last whole checkpoint in it, if there is one.
    """
    folder, start = given, None
    if ranks.is_first and dist.is_torchelastic_launched():
        note = given.parent / f".job_{os.environ.get('TORCHELASTIC_RUN_ID', 'none')}.json"
        if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0 and is_json(note):
            folder = given.parent / json.loads(note.read_text())["folder"]
            start = latest_checkpoint(folder, saes)
        else:
            note.parent.mkdir(parents=True, exist_ok=True)
            write_whole(note, json.dumps({"folder": given.name}))
    return ranks.tell.from_first((folder, start), "finding the job's checkpoints")
