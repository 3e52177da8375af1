"""Which SAEs a folder on the command line holds."""

import re
from pathlib import Path

from sae_lens.constants import SAE_CFG_FILENAME

from sae_lens_ext.cli.errors import CommandError


def saes_in(folder: Path) -> list[Path]:
    """Find the SAEs in a folder, in the order of the numbers in their names; the folder itself if it is one.

    Raises:
        CommandError: There is no such folder, or it holds no SAE.
    """
    if not folder.is_dir():
        raise CommandError(
            f"There is no folder {str(folder)!r}. Give that of a saved SAE, or one that holds several."
        )
    if (folder / SAE_CFG_FILENAME).is_file():
        return [folder]
    inside = sorted((path.parent for path in folder.glob(f"*/{SAE_CFG_FILENAME}")), key=_by_number)
    if not inside:
        raise CommandError(
            f"The folder {str(folder)!r} holds no SAE, and no folder with one. Name folders that a training run's output_path wrote."
        )
    return inside


def _by_number(path: Path) -> list[tuple[bool, int, str]]:
    """Order seed_2 before seed_10."""
    return [
        (part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", path.name)
    ]
