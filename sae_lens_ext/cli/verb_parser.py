"""One shape for the parsers of all verbs: a line for the list of verbs, what comes out, examples, and `--json`."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from sae_lens_ext.cli.answer import add_json_flag


def add_verb(
    verbs: Any,
    name: str,
    run: Callable[[argparse.Namespace], None],
    *,
    help: str,
    description: str,
    examples: Sequence[str],
) -> argparse.ArgumentParser:
    """Add a verb to the command's parser.

    Args:
        verbs: What `add_subparsers` gave.
        name: The verb.
        run: Carries it out.
        help: What it does, for the list of verbs: at most 60 characters.
        description: What it does and what comes out, in lines of at most 80 characters.
        examples: Command lines; a line that goes on ends in a backslash.

    Returns:
        The verb's parser, for its own arguments.
    """
    parser = verbs.add_parser(
        name,
        help=help,
        description=description,
        epilog=examples_of(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_json_flag(parser)
    parser.set_defaults(run=run, verb=name)
    return parser


def examples_of(examples: Sequence[str]) -> str:
    """Lay out examples as the end of a help text."""
    lines = [line for example in examples for line in example.splitlines()]
    return "\n".join(["examples:", *(f"  {line}" for line in lines)])


def add_flag(container: Any, flag: str, *, old: str, **settings: Any) -> argparse.Action:
    """Add a flag that once had another name, which still works but is not shown.

    Args:
        container: The parser, or a group of it.
        flag: The flag.
        old: Its old name.
        **settings: As for `add_argument`.
    """
    action = container.add_argument(flag, old, **settings)
    action.option_strings = [flag]  # what help and errors call it; the parser has noted both
    return action
