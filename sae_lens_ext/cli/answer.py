"""A command's answer on standard output, as text or as one JSON object; whatever else is printed goes to standard error."""

import argparse
import contextlib
import json
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from sae_lens_ext.cli.json_content import plain

_answers: ContextVar[TextIO | None] = ContextVar("_answers", default=None)


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--json`, which `say` and `give` read."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the answer as one JSON object, for scripts",
    )


@contextmanager
def answers_apart() -> Generator[None, None, None]:
    """Keep standard output for `say` and `give` while the block lasts: what other code prints goes to standard error."""
    token = _answers.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _answers.reset(token)


def answers() -> TextIO:
    """Give the stream that answers are written to."""
    return _answers.get() or sys.stdout


def say(options: argparse.Namespace, text: str) -> None:
    """Print a part of the answer as text; nothing if it was asked for as JSON."""
    if not options.json:
        print(text, file=answers(), flush=True)


def give(options: argparse.Namespace, content: Mapping[str, Any]) -> None:
    """Print the whole answer as JSON if it was asked for so, to be called once.

    Args:
        options: With `json` and `verb`.
        content: What was found, in what `plain` takes.
    """
    if options.json:
        answer = json.dumps(plain({"verb": options.verb, **content}), indent=1, allow_nan=False)
        print(answer, file=answers(), flush=True)
