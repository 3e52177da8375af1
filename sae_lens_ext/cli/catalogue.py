"""`list`, `describe` and `cite`: what architectures there are."""

import argparse
from typing import Any

from sae_lens_ext.architectures.catalogue import cite, describe, facts, list_architectures, summary
from sae_lens_ext.cli.answer import give, say
from sae_lens_ext.cli.verb_parser import add_verb

RUNS_IN_RANKS = True
_NAME_HELP = "a name that `sae-lens-ext list` prints"


def add_parsers(verbs: Any) -> None:
    """Add the verbs to the command's parser."""
    list_parser = add_verb(
        verbs,
        "list",
        _list,
        help="list the architectures",
        description="List the architectures of this package: a line each, name and summary.",
        examples=("sae-lens-ext list", 'sae-lens-ext list "*topk*"'),
    )
    list_parser.add_argument(
        "pattern", nargs="?", default="*", help='names to list, such as "*topk*" (default: all)'
    )
    describe_parser = add_verb(
        verbs,
        "describe",
        _describe,
        help="an architecture's classes, fields, saved form, paper",
        description="Describe an architecture: its classes, how it is saved, its paper, and the\n"
        "fields of its configuration with their defaults and meaning.",
        examples=("sae-lens-ext describe kron",),
    )
    describe_parser.add_argument("name", help=_NAME_HELP)
    cite_parser = add_verb(
        verbs,
        "cite",
        _cite,
        help="the BibTeX of an architecture's paper",
        description="Print the BibTeX entry of an architecture's paper.",
        examples=("sae-lens-ext cite kron",),
    )
    cite_parser.add_argument("name", help=_NAME_HELP)


def _list(options: argparse.Namespace) -> None:
    summaries = {name: summary(name) for name in list_architectures(options.pattern)}
    for name, line in summaries.items():
        say(options, f"{name:<20}{line}")
    give(options, {"architectures": [{"name": name, "summary": line} for name, line in summaries.items()]})


def _describe(options: argparse.Namespace) -> None:
    say(options, describe(options.name))
    give(options, facts(options.name))


def _cite(options: argparse.Namespace) -> None:
    say(options, cite(options.name))
    give(options, {"name": options.name, "bibtex": cite(options.name)})
