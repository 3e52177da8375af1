"""Which SAEs the folders on a command line hold, and which of them belong together."""

import re
from collections.abc import Sequence
from pathlib import Path

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.sae_folders import saes_in

_SEED = re.compile(r"[_-]?seed[_-]?\d+$")
ALL = "stability"  # what a group is called whose SAEs have no common name


def groups_of(folders: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """Find the SAEs in folders, and group those that differ in their seed only.

    A folder is an SAE or holds SAEs, as `train --seeds` leaves them. `topk_seed_0`, `topk_seed_1` are one group, "topk", and
    `kron_seed_0`, `kron_seed_1` another, each below one folder; SAEs without a seed in their names are all one group.

    Args:
        folders: The folders.

    Returns:
        Folders of SAEs by name, by group.

    Raises:
        CommandError: A folder does not exist or holds no SAE, one is named twice, or a group has fewer than two.
    """
    found: list[Path] = []
    for folder in folders:
        found += saes_in(folder)
    resolved = [path.resolve() for path in found]
    if len(set(resolved)) < len(resolved):
        twice = next(path for path in found if resolved.count(path.resolve()) > 1)
        raise CommandError(f"The SAE {twice} is named twice. Name each once.")
    by_key: dict[tuple[Path | None, str], list[Path]] = {}
    for path in found:
        seeded = _SEED.search(path.name)
        parent = path.resolve().parent
        key = (parent, path.name[: seeded.start()] or parent.name) if seeded else (None, ALL)
        by_key.setdefault(key, []).append(path)
    names = [name for _, name in by_key]
    groups: dict[str, dict[str, Path]] = {}
    for (parent, name), paths in by_key.items():
        unique = (
            name if names.count(name) == 1 or parent is None else f"{parent.parent.name}_{parent.name}_{name}"
        )
        labels = [path.name for path in paths]
        groups[unique] = {path.name if labels.count(path.name) == 1 else str(path): path for path in paths}
    for name, members in groups.items():
        if len(members) < 2:
            raise CommandError(
                f"There is one SAE only of the group {name!r}, {next(iter(members.values()))}. Stability is what several SAEs have in common: name two "
                "or more."
            )
    return groups
