"""`check`: what is saved in some folders, and whether all of it can be read."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sae_lens_ext.cli.answer import give, say
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.verb_parser import add_verb
from sae_lens_ext.saved import Saved, check_saved

DESCRIPTION = """\
Read everything that this package or SAELens saved in the paths given: SAEs,
checkpoints, results, vectors, routers, logs. Nothing is changed.

Prints a line for each, `ok` and what it is, or `BAD` and what is wrong with it;
ends with status 1 if anything cannot be read.
"""
EXAMPLES = ("sae-lens-ext check my_sae my_seeds", "sae-lens-ext check my_run --json")


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's parser."""
    parser = add_verb(
        verbs,
        "check",
        run,
        help="what is saved in a folder, and whether it is whole",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file, or a folder to search")


def run(options: argparse.Namespace) -> None:
    """Print what was found.

    Raises:
        CommandError: Something cannot be read, or there is nothing to read.
    """
    found = [saved for path in options.paths for saved in check_saved(path)]
    for saved in found:
        say(
            options,
            f"{'ok' if saved.problem is None else 'BAD':4} {saved.path}: {saved.problem or saved.kind}",
        )
    give(options, checked(found))
    broken = sum(saved.problem is not None for saved in found)
    if broken:
        raise CommandError(
            f"{broken} of {len(found)} saved things cannot be read. What is wrong with each is said above."
        )
    if not found:
        raise CommandError(
            f"Nothing that this package or SAELens saves was found in {', '.join(map(str, options.paths))}. Name the folder of an SAE or of a run."
        )


def checked(found: list[Saved]) -> dict[str, Any]:
    """Give what was found as JSON has it."""
    return {
        "broken": sum(saved.problem is not None for saved in found),
        "saved": [asdict(saved) for saved in found],
    }
