"""A repository as it is on the hub, and what of an upload is there already."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME

from sae_lens_ext.hub.errors import HubUploadError
from sae_lens_ext.hub.material import FILES, Material
from sae_lens_ext.hub.names import CARD_FILE, MAIN

_TIMEOUT = 60  # seconds until the hub says what is there
_CHUNK = 2**22  # bytes


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub."""

    sha256: str | None
    """Of its bytes, if it is stored as a large file."""
    git_sha1: str | None
    """Of its bytes as git hashes them, if it is not."""

    def is_same(self, content: bytes | Path) -> bool:
        """Tell whether bytes, or those of a file here, are the same."""
        if self.sha256 is not None:
            return _hash(content, hashlib.sha256()) == self.sha256
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        return _hash(content, hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)) == self.git_sha1


@dataclass(frozen=True)
class Remote:
    """One branch of a repository."""

    commit: str | None
    """Its last commit."""
    has_branch: bool
    """Whether there is such a branch; if not, this is the main one, from which it will be made."""
    private: bool
    """Whether the repository is."""
    files: Mapping[str, RemoteFile]
    """What is there, by path."""

    def state_of(self, sae: Material) -> str:
        """Say "missing", "unchanged" or "other": what is on the hub under an SAE's id. Where a part of it is there, the rest is missing."""
        here = {f"{sae.sae_id}/{path.name}": path for path in sae.files}
        there = {path for path in (f"{sae.sae_id}/{name}" for name in FILES) if path in self.files}
        if not there <= here.keys() or not all(self.files[path].is_same(here[path]) for path in there):
            return "other"
        return "unchanged" if there == here.keys() else "missing"

    def state_of_card(self, card: bytes) -> str:
        """Say the same of the card."""
        if CARD_FILE not in self.files:
            return "missing"
        return "unchanged" if self.files[CARD_FILE].is_same(card) else "other"

    def stale_files(self, sae: Material) -> list[str]:
        """Give the files that an SAE would be loaded with and that are not its own."""
        own = {path.name for path in sae.files}
        return [
            path
            for path in (f"{sae.sae_id}/{name}" for name in FILES if name not in own)
            if path in self.files
        ]

    def ids(self) -> set[str]:
        """Give the ids of the SAEs that are there."""
        weights = (path.removesuffix(f"/{SAE_WEIGHTS_FILENAME}") for path in self.files)
        return {sae_id for sae_id in weights if f"{sae_id}/{SAE_CFG_FILENAME}" in self.files}


def look(api: HfApi, repo_id: str, revision: str) -> Remote | None:
    """Ask the hub what is in a repository of models; None if there is none."""
    try:
        info: Any = api.model_info(repo_id, files_metadata=True, timeout=_TIMEOUT)
    except RepositoryNotFoundError:
        _require_no_other_kind(api, repo_id)
        return None
    has_branch = True
    if revision != MAIN:
        try:
            info = api.model_info(repo_id, revision=revision, files_metadata=True, timeout=_TIMEOUT)
        except RevisionNotFoundError:
            has_branch = False
    files = {
        file.rfilename: RemoteFile(
            None if file.lfs is None else file.lfs["sha256"], None if file.lfs is not None else file.blob_id
        )
        for file in info.siblings or ()
    }
    return Remote(info.sha, has_branch, bool(info.private), files)


def _require_no_other_kind(api: HfApi, repo_id: str) -> None:
    for kind, prefix in (("dataset", "datasets/"), ("space", "spaces/")):
        try:
            api.repo_info(repo_id, repo_type=kind, timeout=_TIMEOUT)
        except RepositoryNotFoundError:
            continue
        raise HubUploadError(
            f"{repo_id} is a {kind} ({prefix}{repo_id}), and SAE.from_pretrained reads repositories of models only. Give another repo_id, or create the "
            "repository of models first if it shall have the same name. Nothing was sent."
        )


def _hash(content: bytes | Path, digest: Any) -> str:
    if isinstance(content, bytes):
        digest.update(content)
        return digest.hexdigest()
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
