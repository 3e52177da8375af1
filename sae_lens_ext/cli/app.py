"""Parse the command line, run a verb, turn errors into one sentence and an exit status."""

import contextlib
import inspect
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sae_lens.training._interruption import InterruptedException
from safetensors import SafetensorError

from sae_lens_ext import __version__
from sae_lens_ext.cli import (
    augment,
    catalogue,
    check,
    collapse,
    embedded,
    flow,
    lens,
    quickstart,
    stability,
    steer,
    train,
    train_lime,
    train_vectors,
    upload,
)
from sae_lens_ext.cli.answer import answers_apart
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.top_help import TopParser
from sae_lens_ext.ranks import RankError, Ranks, current_ranks, one_voice

VERBS = {
    "train": (quickstart, train, augment, train_vectors, train_lime),
    "compare and trace": (stability, flow, collapse),
    "act and read": (steer, lens),
    "look up, check, share": (catalogue, check, upload),
    "set up": (embedded,),
}
"""The verbs' modules under the headings of the help."""
TRACEBACK_VARIABLE = "SAE_LENS_EXT_TRACEBACK"

# What bad input raises. Anything else is a bug of ours and keeps its traceback.
USER_ERRORS = (
    CommandError,
    ValueError,
    OSError,
    ImportError,
    NotImplementedError,
    SafetensorError,
    RankError,
)

DESCRIPTION = """\
New SAE architectures for SAELens, and analyses and steering for every SAE.
`sae-lens-ext VERB --help` says what comes out of a verb, with examples."""
EPILOG = f"""\
examples
  sae-lens-ext install-embedded
  sae-lens-ext quickstart --tiny --out first_run
  sae-lens-ext describe kron
  sae-lens-ext stability my_seeds --out my_stability
  sae-lens-ext steer my_sae --feature 123 --prompt "The town of"
  sae-lens-ext lens --sae my_sae --feature 123 --json

Every verb takes --json: one JSON object on standard output, for scripts.
Progress and warnings go to standard error. Exit status: 0 done, 1 error,
2 wrong command line, 130 interrupted. {TRACEBACK_VARIABLE}=1
shows where an error came from; --version says which version this is.
"""


def build_parser() -> TopParser:
    """Build the parser of the whole command."""
    parser = TopParser(VERBS, prog="sae-lens-ext", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Under `torchrun` every process runs it: they divide the work, and the first alone prints, warns and writes files.

    Args:
        arguments: The words after `sae-lens-ext`; None for those of the process.

    Returns:
        The exit status: 0 done, 1 error, 130 interrupted. (A wrong command line exits with 2.)
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name, ranks = "sae-lens-ext", None
    try:
        ranks = current_ranks()
        name += "" if ranks.is_first else f" [rank {ranks.rank}]"
        with one_voice(ranks):
            chosen = _chosen(words, ranks)
            with answers_apart() if ranks.is_first else contextlib.nullcontext():
                chosen()
        ranks.tell.wait("ending the command")
    except (KeyboardInterrupt, InterruptedException):
        if ranks is None or ranks.is_first:
            print(f"{name}: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if ranks is not None:
            ranks.tell.wait("ending the command")
        return 0
    except USER_ERRORS as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        print(f"{name}: error: {error}", file=sys.stderr)
        return 1
    return 0


def _chosen(words: Sequence[str], ranks: Ranks) -> Callable[[], None]:
    """Give what the words ask for; where they are wrong, or ask for help, the first rank alone says so.

    Raises:
        SystemExit: They are wrong, ask for help, or for a verb that every rank would do as a whole, into the same files.
    """
    own = contextlib.nullcontext() if ranks.is_first else contextlib.redirect_stderr(io.StringIO())
    parser = build_parser()
    try:
        with own:
            if words[:1] == ["train"]:  # SAELens' own parser reads everything after the verb
                verb, run, arguments = "train", train.run, words[1:]
            else:
                arguments = parser.parse_args(words)
                verb, run = arguments.verb, arguments.run
            if ranks.size > 1 and not _runs_in_ranks(run):
                parser.error(
                    f"{verb} was started in {ranks.size} processes and cannot divide its work among them. Leave torchrun out: sae-lens-ext {verb} … "
                    f"Under torchrun run {', '.join(_verbs_in_ranks())}."
                )
    except SystemExit:
        sys.stdout.flush()
        ranks.tell.wait("ending the command")  # lest torchrun end the first rank before it has spoken
        raise
    return partial(run, arguments)


def _runs_in_ranks(run: Callable[..., Any]) -> bool:
    """Tell whether a verb may be run by several processes at once, as its module says with `RUNS_IN_RANKS`."""
    return getattr(inspect.getmodule(run), "RUNS_IN_RANKS", False)


def _verbs_in_ranks() -> list[str]:
    return [
        name
        for name, parser in build_parser().verbs.items()
        if _runs_in_ranks(parser.get_default("run") or train.run)
    ]
