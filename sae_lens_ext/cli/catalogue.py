"""`list`, `describe` and `cite`: what architectures there are."""

import argparse
from typing import Any

from sae_lens_ext.architectures.catalogue import cite, describe, list_architectures, summary

RUNS_IN_RANKS = True


def add_parsers(verbs: Any) -> None:
    """Add the verbs to the command's parser."""
    list_parser = verbs.add_parser(
        "list", help="list the architectures", description="List the architectures."
    )
    list_parser.add_argument("pattern", nargs="?", default="*", help='names to list, such as "*topk*"')
    list_parser.set_defaults(run=_list)

    describe_parser = verbs.add_parser(
        "describe",
        help="describe an architecture: classes, fields, how it is saved, its paper",
        description="Describe an architecture.",
    )
    describe_parser.add_argument("name", help="a name that `sae-lens-ext list` prints")
    describe_parser.set_defaults(run=lambda options: print(describe(options.name)))

    cite_parser = verbs.add_parser("cite", help="print an architecture's BibTeX", description="Print BibTeX.")
    cite_parser.add_argument("name", help="a name that `sae-lens-ext list` prints")
    cite_parser.set_defaults(run=lambda options: print(cite(options.name)))


def _list(options: argparse.Namespace) -> None:
    for name in list_architectures(options.pattern):
        print(f"{name:<20}{summary(name)}")
