"""`check`: what is saved in some folders, and whether all of it can be read."""

import argparse
from pathlib import Path
from typing import Any

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.saved import check_saved

HELP = "say what is saved in a folder, and whether it is whole"
DESCRIPTION = """\
Reads everything that this package or SAELens saved in the folders given: SAEs, checkpoints, results, vectors, routers, logs. Prints a line for
each, with what is wrong with it, if anything; ends with status 1 if something is.

  sae-lens-ext check my_sae my_seeds
"""


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's list."""
    parser = verbs.add_parser(
        "check", help=HELP, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file, or a folder to search")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print what was found.

    Raises:
        CommandError: Something cannot be read, or there is nothing to read.
    """
    found = [saved for path in options.paths for saved in check_saved(path)]
    for saved in found:
        print(f"{'ok' if saved.problem is None else 'BAD':4} {saved.path}: {saved.problem or saved.kind}")
    broken = sum(saved.problem is not None for saved in found)
    if broken:
        raise CommandError(
            f"{broken} of {len(found)} saved things cannot be read. What is wrong with each is said above."
        )
    if not found:
        raise CommandError(
            f"Nothing that this package or SAELens saves was found in {', '.join(map(str, options.paths))}. Name the folder of an SAE or of a run."
        )
