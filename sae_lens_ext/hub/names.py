"""Names on the hub: of repositories, revisions, and of the SAEs within a repository."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from sae_lens import SAE

MAIN = "main"
CARD_FILE = "README.md"
_PART_OF_AN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]*")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")

Given = SAE[Any] | Path
"""An SAE, or the folder it is saved in."""


def require_repo_id(caller: str, repo_id: Any) -> str:
    """Return a repository's name on the hub, else raise ValueError."""
    remedy = 'Give "user/name", of letters, digits, "-", "_" and ".".'
    if not isinstance(repo_id, str) or repo_id.count("/") != 1:
        raise ValueError(
            f"{caller} was given repo_id = {repo_id!r:.100}, which is not the name of a user or an organisation, a slash and the name of a repository: "
            f"SAE.from_pretrained loads from no other. {remedy}"
        )
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            f"{caller} was given repo_id = {repo_id!r:.100}, which the hub does not allow ({str(error).rstrip('.')}). {remedy}"
        ) from error
    return repo_id


def require_revision(caller: str, revision: Any) -> str:
    """Return the name of a branch, that of the main one for None, else raise ValueError."""
    if revision is None:
        return MAIN
    if (
        not isinstance(revision, str)
        or not _REVISION.fullmatch(revision)
        or ".." in revision
        or revision.endswith(("/", ".", ".lock"))
    ):
        raise ValueError(
            f'{caller} was given revision = {revision!r:.100}, which no branch can be called. Give a name such as "v2", or None for the main branch.'
        )
    return revision


def by_id(caller: str, saes: Any) -> dict[str, Given]:
    """Give the SAEs by their ids.

    Args:
        caller: Function they were given to, for messages.
        saes: A mapping from id to SAE or folder; or one of these alone, which is called by its folder's name, its hook's or its architecture's.

    Raises:
        ValueError: It is something else or empty, or an id cannot be a folder's name in a repository.
    """
    if isinstance(saes, SAE):
        saes = {str(saes.cfg.metadata.hook_name or saes.cfg.architecture()): saes}
    elif isinstance(saes, (str, Path)):
        saes = {Path(saes).resolve().name: saes}
    if not isinstance(saes, Mapping):
        raise ValueError(
            f'{caller} was given saes of type {type(saes).__name__}. Give a mapping from id to SAE or folder, such as {{"layer_8": sae}}, or one of them.'
        )
    if not saes:
        raise ValueError(f"{caller} was given no SAEs: the mapping is empty. Give at least one.")
    found: dict[str, Given] = {}
    for sae_id, sae in saes.items():
        _require_id(caller, sae_id)
        if not isinstance(sae, (SAE, str, Path)):
            raise ValueError(
                f"{caller} was given {type(sae).__name__} under the id {sae_id!r}. Give an SAE, or the folder that one is saved in."
            )
        found[sae_id] = sae if isinstance(sae, SAE) else Path(sae)
    return found


def _require_id(caller: str, sae_id: Any) -> None:
    """Raise ValueError unless an id is a relative path that means the same on every system."""
    parts = sae_id.split("/") if isinstance(sae_id, str) else [""]
    if (
        not all(_PART_OF_AN_ID.fullmatch(part) for part in parts)
        or parts[0].casefold() == CARD_FILE.casefold()
    ):
        raise ValueError(
            f'{caller} was given the id {sae_id!r:.100}, which cannot be the name of an SAE\'s folder in a repository. Give letters, digits, "_", "-", ".", '
            '"=" and "+", with "/" between folders, no part of it empty or beginning with "." or "-", such as "blocks.8.hook_resid_post/k_32".'
        )
