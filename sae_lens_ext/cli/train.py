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
from sae_lens_ext.cli.answer import answers, give, say
from sae_lens_ext.cli.check import checked
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.flags import renamed, take_flag, take_switch
from sae_lens_ext.cli.seeds import Seeded, take_seeds, train_from_seeds
from sae_lens_ext.cli.sources import EMBEDDED_PREFIX, load_dataset, load_language_model, require_width
from sae_lens_ext.cli.verb_parser import examples_of
from sae_lens_ext.ranks import current_ranks, own_device
from sae_lens_ext.saved import check_saved
from sae_lens_ext.training.runner import DataParallelRunner
from sae_lens_ext.training.tensor_parallel import TensorParallelRunner

RUNS_IN_RANKS = True
DESCRIPTION = f"""\
Train an SAE on a language model's activations with SAELens' own runner, or the
same SAE from several seeds.

Prints where the SAE was saved: the folder --output_path, for
SAE.load_from_disk. Several are saved in its subfolders seed_0, seed_1, …. With
--json, one object says so, and whether all of it can be read.

--model_name embedded and --dataset_path {EMBEDDED_PREFIX}NAME need no hub; any
other name is one of the hub's, as in SAELens. --out, --model, --model-class,
--hook and --text are understood as the --output_path, --model_name,
--model_class_name, --hook_name and --dataset_path of SAELens.

  --seeds 0,1,2,3   one SAE from each seed, on one forward pass of the model;
                    interrupted, the same command goes on where it was
  --vary WHAT       what differs between them: initialisation (the default),
                    data_order or both
  --parallel HOW    under torchrun, what the ranks divide: data (the default),
                    each batch of --train_batch_size_tokens; tensor, the latents
                    of one TopK SAE that does not fit one device
  --json            print the answer as one JSON object on standard output

Every flag of SAELens follows in its help; those of the SAE depend on
--architecture: sae-lens-ext train --architecture kron --help
"""
EXAMPLES = (
    "sae-lens-ext train --architecture kron --sae.base_dim 4 \\\n"
    "    --sae.extension_dim 4 --k 32 --d_in 576 --d_sae 4096 \\\n"
    f"    --model_name embedded --dataset_path {EMBEDDED_PREFIX}encyclopedia \\\n"
    "    --hook_name blocks.10.hook_resid_post --training_tokens 300000 \\\n"
    "    --train_batch_size_tokens 1024 --n_batches_in_buffer 64 --lr 3e-3 \\\n"
    "    --log_to_wandb false --output_path my_sae",
    "sae-lens-ext train --architecture topk --k 32 --d_in 576 --d_sae 1024 \\\n"
    f"    --model embedded --text {EMBEDDED_PREFIX}encyclopedia \\\n"
    "    --hook blocks.10.hook_resid_post --training_tokens 300000 \\\n"
    "    --train_batch_size_tokens 1024 --n_batches_in_buffer 64 \\\n"
    "    --log_to_wandb false --seeds 0,1,2,3 --out my_seeds",
    "torchrun --nproc-per-node 8 --max-restarts 3 -m sae_lens_ext train \\\n"
    "    --architecture topk --k 32 --d_in 768 --d_sae 24576 --model gpt2 \\\n"
    "    --hook blocks.6.hook_resid_pre --text NeelNanda/pile-10k \\\n"
    "    --n_checkpoints 20 --out my_sae",
)
OUR_NAMES = {
    "out": "output_path",
    "model": "model_name",
    "model_class": "model_class_name",
    "hook": "hook_name",
    "text": "dataset_path",
}
"""What the other verbs call a flag, and what SAELens does."""
RUNNERS = {"data": DataParallelRunner, "tensor": TensorParallelRunner}
SINGLE_LETTER_FIELDS = ("k",)  # SAELens' parser gives a field of one letter one dash


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's list; its own words are read by SAELens' parser."""
    verbs.add_parser(
        "train",
        help="train an SAE: SAELens' runner, every flag it has",
        description=DESCRIPTION,
        epilog=examples_of(EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="sae-lens-ext train FLAG ...",
        add_help=False,
    )


def run(words: Sequence[str]) -> None:
    """Train as the words after `train` say.

    Raises:
        CommandError: The words are not understood, the output folder holds something else, or the SAE
            does not fit the hook.
    """
    words, as_json = take_switch(words, "--json")
    cfg, seeded, parallel = read_words(words)
    saes = _train(cfg, parallel) if seeded is None else train_from_seeds(cfg, seeded)
    options = argparse.Namespace(json=as_json, verb="train")
    for folder in saes:
        say(options, f"SAE: {folder}")
    if as_json and current_ranks().is_first:
        found = checked([saved for folder in saes for saved in check_saved(folder)])
        paths = {
            "output_path": cfg.output_path,
            "checkpoint_path": cfg.checkpoint_path if seeded is None else None,
        }
        give(options, {**paths, "saes": saes, **found})


def read_words(
    words: Sequence[str],
) -> tuple[LanguageModelSAERunnerConfig[Any], Seeded | None, str | None]:
    """Read the words after `train`, without `--json`.

    Returns:
        SAELens' configuration, what is said of seeds, and `--parallel`.

    Raises:
        CommandError: They are not understood.
        SystemExit: They ask for help, which was printed.
    """
    words = list(words) or ["--help"]
    if {"-h", "--help"} & set(words):
        print(f"{DESCRIPTION}\n{examples_of(EXAMPLES)}\n", file=answers())
    words, seeded = take_seeds(renamed(words, OUR_NAMES))
    words, parallel = take_flag(words, "--parallel", f"one of {', '.join(RUNNERS)}")
    _require_parallel(parallel, seeded)
    _require_known_architecture(words)
    return _parse(words), seeded, parallel


def _train(cfg: LanguageModelSAERunnerConfig[Any], parallel: str | None) -> list[Path]:
    """Train one SAE; gives its folder, or none if it is saved nowhere."""
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
    return [] if cfg.output_path is None else [Path(cfg.output_path)]


def saelens_words(words: Sequence[str], runner_fields: Sequence[str]) -> list[str]:
    """Rewrite `--sae.field` to what SAELens' parser calls the field.

    Only fields that the runner has as well keep the prefix there.

    Args:
        words: The command line.
        runner_fields: Names of the fields of the runner's configuration.
    """
    rewritten: list[str] = []
    for word in words:
        if not word.startswith("--"):  # a value, which may have = in it
            rewritten.append(word)
            continue
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--sae.").removeprefix("--").replace("-", "_")
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
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(answers()):  # its help
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
