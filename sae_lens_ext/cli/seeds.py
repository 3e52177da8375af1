"""`train --seeds 0,1,2`: one SAE from several seeds, by `train_seeds`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from sae_lens import LanguageModelSAERunnerConfig
from sae_lens.training._interruption import InterruptedException

from sae_lens_ext.analysis.seeds.plan import Vary, seed_plan
from sae_lens_ext.analysis.seeds.train import train_seed_folders
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.flags import flag_of, take_flag
from sae_lens_ext.cli.sources import load_dataset, load_language_model
from sae_lens_ext.ranks import current_ranks, own_device

EXAMPLE = "--seeds 0,1,2,3"


@dataclass(frozen=True)
class Seeded:
    """What the command line says of seeds."""

    seeds: tuple[int, ...]
    """`--seeds`."""
    vary: Vary
    """`--vary`."""


def take_seeds(words: Sequence[str]) -> tuple[list[str], Seeded | None]:
    """Take `--seeds` and `--vary` out of a command line, and give what is left, for SAELens' parser.

    Args:
        words: The words after `train`.

    Returns:
        The other words, and what was said of seeds, or None.

    Raises:
        CommandError: One of the two is not understood, or given twice or without its value; there is `--vary` without `--seeds`,
            or `--seeds` without `--output_path`.
    """
    words, seeds = take_flag(words, "--seeds", EXAMPLE)
    words, vary = take_flag(words, "--vary", f"one of {', '.join(get_args(Vary))}")
    if seeds is None:
        if vary is not None:
            raise CommandError(
                f"--vary {vary} says what differs between seeds, but there are no --seeds. Add them, such as {EXAMPLE}."
            )
        return words, None
    if vary is not None and vary not in get_args(Vary):
        raise CommandError(f"--vary {vary!r} is not understood. Give one of {', '.join(get_args(Vary))}.")
    if not any(flag_of(word) == "--output_path" for word in words) and not {"-h", "--help"} & set(words):
        raise CommandError(
            "--seeds needs the folder that the SAEs are saved in, each in a subfolder. Add --output_path, such as --output_path "
            "my_seeds."
        )
    return words, Seeded(_numbers(seeds), cast(Vary, vary or "initialisation"))


def train_from_seeds(cfg: LanguageModelSAERunnerConfig[Any], seeded: Seeded) -> list[Path]:
    """Train and save the SAEs; gives their folders.

    Raises:
        ValueError: See `train_seeds`.
        CommandError: The model does not come as the class asked for.
    """
    seed_plan(cfg, seeded.seeds, seeded.vary)  # what is wrong with it is said before a model is loaded
    device = own_device(cfg.llm_device or cfg.device)
    model: Any = load_language_model(cfg.model_name, cfg.model_class_name, device)
    try:
        return train_seed_folders(
            cfg,
            seeded.seeds,
            vary=seeded.vary,
            override_model=model,
            override_dataset=load_dataset(cfg.dataset_path),
        )
    except (KeyboardInterrupt, InterruptedException):
        if current_ranks().is_first:
            print("The same command goes on from the last checkpoint.", file=sys.stderr)
        raise


def _numbers(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if len(numbers) < 2 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise CommandError(
            f"--seeds {text!r} is not understood. Give two or more whole numbers from 0 up, with commas and no spaces between them, such "
            f"as {EXAMPLE}."
        )
    return tuple(map(int, numbers))
