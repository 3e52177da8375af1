"""`train`: SAELens' own training command, with our architectures and the embedded model.

Every flag SAELens has; a field of the SAE may be written `--sae.field` or, as in SAELens, `--field`.
"""

import argparse
import contextlib
import difflib
import io
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from sae_lens import LanguageModelSAERunnerConfig
from sae_lens.constants import RUNNER_CFG_FILENAME, SAE_CFG_FILENAME
from sae_lens.llm_sae_training_runner import _parse_cfg_args
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from sae_lens.training._interruption import InterruptedException

from sae_lens_ext.architectures.loading import require_readable_training_save
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.flags import take_flag
from sae_lens_ext.cli.seeds import Seeded, take_seeds, train_from_seeds
from sae_lens_ext.cli.sources import EMBEDDED_PREFIX, load_dataset, load_language_model, require_width
from sae_lens_ext.ranks import own_device
from sae_lens_ext.training.runner import DataParallelRunner
from sae_lens_ext.training.tensor_parallel import TensorParallelRunner

RUNS_IN_RANKS = True
HELP = f"""\
Train an SAE on a language model's activations with SAELens' own runner.

  sae-lens-ext train --architecture kron --sae.base_dim 4 --sae.extension_dim 4 --k 32 \\
      --d_in 576 --d_sae 4096 --model_name embedded --dataset_path {EMBEDDED_PREFIX}encyclopedia \\
      --hook_name blocks.10.hook_resid_post --training_tokens 300000 --train_batch_size_tokens 1024 \\
      --n_batches_in_buffer 64 --lr 3e-3 --log_to_wandb false --output_path my_sae

The same SAE from several seeds, to see which of its features come again (`train_seeds` in Python): add

      --seeds 0,1,2,3 --vary initialisation --output_path my_seeds

The SAEs are saved in my_seeds/seed_0, my_seeds/seed_1, …; interrupted, the same command goes on where it was. With
`--vary data_order` they differ in the order of the activations, with `--vary both` in both.

Under torchrun every rank trains the same SAE on its part of each batch (--train_batch_size_tokens is the whole
batch), or, with --seeds, its share of the SAEs:

  torchrun --nproc-per-node 8 --max-restarts 3 -m sae_lens_ext train ... --n_checkpoints 20

`--parallel tensor` divides the latents of one TopK SAE over the ranks instead of the batch, for SAEs that do not fit
one device.

`--model_name embedded` and `--dataset_path {EMBEDDED_PREFIX}NAME` need no hub; any other name is one of the hub's,
as in SAELens. Every flag of SAELens follows; those of the SAE depend on --architecture.
"""
RUNNERS = {"data": DataParallelRunner, "tensor": TensorParallelRunner}
SINGLE_LETTER_FIELDS = ("k",)  # SAELens' parser gives a field of one letter one dash


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's list; its own words are read by SAELens' parser."""
    verbs.add_parser("train", help="train an SAE: SAELens' runner, every flag it has", add_help=False)


def run(words: Sequence[str]) -> None:
    """Train as the words after `train` say.

    Raises:
        CommandError: The words are not understood, the output folder holds something else, or the SAE
            does not fit the hook.
    """
    if not words or set(words) & {"-h", "--help"}:
        print(HELP)
    words, seeded = take_seeds(list(words) or ["--help"])
    words, parallel = take_flag(words, "--parallel", f"one of {', '.join(RUNNERS)}")
    _require_parallel(parallel, seeded)
    _require_known_architecture(words)
    cfg = _parse(words)
    if seeded is not None:
        train_from_seeds(cfg, seeded)
        return
    require_output_folder(cfg.output_path)
    for start in (cfg.from_pretrained_path, cfg.resume_from_checkpoint):
        if start is not None:
            require_readable_training_save(Path(start))
    runner = RUNNERS[parallel or "data"](
        cfg,
        override_dataset=load_dataset(cfg.dataset_path),
        override_model=load_language_model(
            cfg.model_name, cfg.model_class_name, own_device(cfg.llm_device or cfg.device)
        ),
    )
    require_width(runner.model, cfg.hook_name, cfg.hook_head_index, cfg.sae.d_in, "Set --d_in to that width.")
    try:
        runner.run()
    except (KeyboardInterrupt, InterruptedException):
        if runner.interrupted_checkpoint is not None and runner.ranks.is_first:
            print(
                f"Saved. Go on with --resume_from_checkpoint {runner.interrupted_checkpoint}", file=sys.stderr
            )
        raise


def saelens_words(words: Sequence[str], runner_fields: Sequence[str]) -> list[str]:
    """Rewrite `--sae.field` to what SAELens' parser calls the field.

    Only fields that the runner has as well keep the prefix there.

    Args:
        words: The command line.
        runner_fields: Names of the fields of the runner's configuration.
    """
    rewritten: list[str] = []
    for word in words:
        flag, equals, value = word.partition("=")
        name = (
            flag.removeprefix("--sae.").removeprefix("--").replace("-", "_") if flag.startswith("--") else ""
        )
        if name in SINGLE_LETTER_FIELDS:
            flag = f"-{name}"
        elif flag.startswith("--sae.") and name not in runner_fields:
            flag = f"--{name}"
        rewritten += [flag, value] if equals else [flag]
    return rewritten


def require_output_folder(output_path: str | None) -> None:
    """Raise CommandError if `output_path` exists and holds something that is not a saved SAE."""
    if output_path is None:
        return
    path = Path(output_path)
    if path.is_file():
        raise CommandError(f"--output_path {path} is a file. Give a folder, or one that does not exist yet.")
    ours = (path / SAE_CFG_FILENAME).is_file() or (path / RUNNER_CFG_FILENAME).is_file()
    if path.is_dir() and any(path.iterdir()) and not ours:
        raise CommandError(
            f"--output_path {path} exists, is not empty and holds no saved SAE, so nothing was written there. Give "
            "another folder."
        )


def _require_parallel(parallel: str | None, seeded: Seeded | None) -> None:
    if parallel is not None and parallel not in RUNNERS:
        raise CommandError(f"--parallel {parallel!r} is not understood. Give one of {', '.join(RUNNERS)}.")
    if parallel is not None and seeded is not None:
        raise CommandError(
            f"--parallel {parallel} divides the training of one SAE, but there are --seeds, which are divided as they are. Leave one of the two out."
        )


def _require_known_architecture(words: Sequence[str]) -> None:
    for flag, value in zip(words, [*words[1:], ""], strict=True):
        flag, equals, attached = flag.partition("=")
        if flag not in ("--architecture", "--sae"):
            continue
        name = attached if equals else value
        if name not in SAE_TRAINING_CLASS_REGISTRY:
            close = difflib.get_close_matches(name, SAE_TRAINING_CLASS_REGISTRY, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise CommandError(
                f"--architecture {name!r} is not registered for training. Registered are "
                f"{', '.join(sorted(SAE_TRAINING_CLASS_REGISTRY))}.{hint}"
            )


def _parse(words: Sequence[str]) -> LanguageModelSAERunnerConfig[Any]:
    """Parse with SAELens' parser, keeping its last line, which says what is wrong, of its usage."""
    runner_fields = [field.name for field in fields(LanguageModelSAERunnerConfig)]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return _parse_cfg_args(saelens_words(words, runner_fields))
    except argparse.ArgumentError as error:  # of a flag's value; SAELens' parser raises it as it is
        raise CommandError(
            f"SAELens' parser: {error}. See the flags with: sae-lens-ext train --architecture NAME --help"
        ) from error
    except SystemExit as stop:
        if not stop.code:
            raise
        reason = complaint.getvalue().rpartition("error: ")[2].strip()
        raise CommandError(
            f"SAELens' parser: {reason}. See the flags with: sae-lens-ext train --architecture NAME --help"
        ) from stop
