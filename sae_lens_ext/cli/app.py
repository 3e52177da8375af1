"""Parse the command line, run a verb, turn errors into one sentence and an exit status."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from sae_lens.training._interruption import InterruptedException
from safetensors import SafetensorError

from sae_lens_ext.cli import (
    augment,
    catalogue,
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
)
from sae_lens_ext.cli.errors import CommandError

VERBS = (
    quickstart,
    augment,
    train,
    stability,
    flow,
    steer,
    train_vectors,
    lens,
    train_lime,
    collapse,
    catalogue,
    embedded,
)
TRACEBACK_VARIABLE = "SAE_LENS_EXT_TRACEBACK"

# What bad input raises. Anything else is a bug of ours and keeps its traceback.
USER_ERRORS = (CommandError, ValueError, OSError, ImportError, NotImplementedError, SafetensorError)

DESCRIPTION = "New SAE architectures for SAELens, trained and measured from the command line."
EPILOG = f"""\
examples:
  sae-lens-ext list
  sae-lens-ext describe kron
  sae-lens-ext install-embedded
  sae-lens-ext quickstart
  sae-lens-ext augment my_sae --domain python=embedded:python_source --out python_run
  sae-lens-ext train --architecture kron --sae.base_dim 4 --sae.extension_dim 4 --help
  sae-lens-ext stability my_seeds --out my_stability
  sae-lens-ext flow my_saes --start 6/res/123 --text embedded:encyclopedia --out my_flow
  sae-lens-ext steer my_saes/blocks.6.hook_out --index 123 --prompt "The town of"
  sae-lens-ext train-vectors sums.jsonl --reward last_number --out my_vectors --chat
  sae-lens-ext lens my_vectors/vectors.safetensors --model embedded --layers 28,29
  sae-lens-ext train-lime --text embedded:encyclopedia --out my_routers --autocast
  sae-lens-ext collapse --text embedded:encyclopedia --out collapse.json --per-word 200

Each verb has its own --help. Set {TRACEBACK_VARIABLE}=1 to see where an error came from.
Exit status: 0 done, 1 error, 2 wrong command line, 130 interrupted.
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="sae-lens-ext",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for module in VERBS:
        module.add_parsers(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The words after `sae-lens-ext`; None for those of the process.

    Returns:
        The exit status: 0 done, 1 error, 130 interrupted. (A wrong command line exits with 2.)
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["train"]:  # SAELens' own parser reads everything after the verb
            train.run(words[1:])
        else:
            options = build_parser().parse_args(words)
            options.run(options)
    except (KeyboardInterrupt, InterruptedException):
        print("sae-lens-ext: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except USER_ERRORS as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        print(f"sae-lens-ext: error: {error}", file=sys.stderr)
        return 1
    return 0
