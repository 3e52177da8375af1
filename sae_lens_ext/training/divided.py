"""SAELens' multi-SAE runner with its SAEs divided over the ranks of a job."""

import copy
import shutil
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from sae_lens import MultiSAETrainingRunner, MultiSAETrainingRunnerConfig, TrainingSAE
from sae_lens.config import HfDataset
from sae_lens.constants import RUNNER_CFG_FILENAME
from sae_lens.multi_sae_training_runner import MultiSAEEvaluator
from sae_lens.registry import get_sae_training_class
from sae_lens.training._interruption import InterruptedException
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.multi_sae_trainer import MultiSAETrainer
from sae_lens.util import temporary_seed
from typing_extensions import override

from sae_lens_ext.architectures.saving import save_whole
from sae_lens_ext.architectures.validation import ESTIMATED_NORMALIZATIONS
from sae_lens_ext.checkpoints import require_checkpoint, seal_checkpoint, tokens_trained
from sae_lens_ext.files import naming, require_folder, whole_folder
from sae_lens_ext.ranks import Ranks, current_ranks, one_voice, share_of
from sae_lens_ext.run_folder import write_json
from sae_lens_ext.training.going_on import go_on_counting
from sae_lens_ext.training.interruption import InterruptBetweenSteps
from sae_lens_ext.training.own_settings import own_sae, own_settings
from sae_lens_ext.training.own_text import reading_anew
from sae_lens_ext.training.restart import checkpoint_folder
from sae_lens_ext.training.stream import ActivationStream

SAEs = dict[str, TrainingSAE[Any]]
Batches = Iterator[dict[str, torch.Tensor]]


class DividedRunner(MultiSAETrainingRunner):
    """Trains many SAEs at once: under `torchrun` each rank trains every N-th of them, on the same batches.

    Every rank runs the language model on all of the text, as far as its own SAEs' hooks need it, and no activation or gradient is sent. Each SAE is
    the same to the bit whatever the number of ranks, with equally many threads a rank (`torchrun` sets OMP_NUM_THREADS to 1). `cfg.seed`,
    which SAELens reads nowhere, decides the initial weights, with an SAE's name, and the order of the activations, so that a
    run can be repeated, and one that is interrupted ends as if it had not been. The ranks must see the same files.

    Args:
        cfg: As for SAELens' runner; it is left as it is. "cuda" is each rank's own GPU. Losses are logged of the first rank's SAEs.
        override_dataset: As for SAELens' runner.
        override_model: As for SAELens' runner.

    Raises:
        NotADirectoryError: `cfg.output_path` is a file.
        FileNotFoundError: `cfg.resume_from_checkpoint` is no checkpoint.
        ValueError: There are more ranks than SAEs, or there is an evaluator of the user's, which several ranks do not do.
    """

    def __init__(
        self,
        cfg: MultiSAETrainingRunnerConfig,
        override_dataset: HfDataset | None = None,
        override_model: Any = None,
    ) -> None:
        self.ranks = current_ranks()
        require_divisible(cfg, self.ranks)
        if cfg.output_path is not None:
            require_folder(Path(cfg.output_path))
        if cfg.resume_from_checkpoint is not None:
            require_checkpoint(Path(cfg.resume_from_checkpoint), cfg.saes)
        self.all_saes, self.interrupt = cfg, InterruptBetweenSteps(self.ranks)
        self._start: Path | None = None
        own = _own_part(cfg, self.ranks)
        with one_voice(self.ranks):
            super().__init__(own, override_dataset, override_model, self._initialised(own))
        self.activations_store.get_multi_hook_data_loader = self._open_stream  # pyright: ignore[reportAttributeAccessIssue]

    def _initialised(self, cfg: MultiSAETrainingRunnerConfig) -> SAEs:
        """Draw the initial weights of this rank's SAEs."""
        return {name: initialised(sae, _seed_of(cfg.seed, name)) for name, sae in cfg.saes.items()}

    @override
    def run(self) -> SAEs:
        """Train, or go on from `cfg.resume_from_checkpoint`; each rank saves its SAEs in their subfolders of `cfg.output_path`.

        Returns:
            This rank's SAEs, trained, by name.

        Raises:
            RankError: A rank did not answer.
        """
        self._find_start()
        with self.interrupt.watching():
            return self._run()

    def _run(self) -> SAEs:
        """Train and save, while signals are watched for."""
        with one_voice(self.ranks), temporary_seed(self.cfg.seed):
            return super().run()

    def _find_start(self) -> None:
        """Note the checkpoint to go on from, if any, where SAELens' `run` does not see it: the stream finds its own place."""
        asked, self.cfg.resume_from_checkpoint = self.cfg.resume_from_checkpoint, None
        self._start = None if asked is None else Path(asked)
        if self.cfg.checkpoint_path is not None:
            folder, last = checkpoint_folder(
                Path(self.cfg.checkpoint_path), self.all_saes.to_dict(), self.ranks, self.all_saes.saes
            )
            self.cfg.checkpoint_path, self._start = str(folder), last or self._start

    def _open_stream(self) -> Batches:
        """Give the stream that SAELens trains on, at the batch that comes next."""
        stream = ActivationStream(self.activations_store, self.cfg.seed)
        estimates, own_estimates = _estimates(self.all_saes.saes), _estimates(self.cfg.saes)
        if estimates and (self._start is not None or not own_estimates):
            stream.skip(self.cfg.n_batches_for_norm_estimate)
        stream.skip(self._first_batch(self._batches_done()))
        return stream

    def _first_batch(self, done: int) -> int:
        """Give the batch of the stream to begin at, after so many batches that were trained on."""
        return done

    def _batches_done(self) -> int:
        if self._start is None:
            return 0
        return tokens_trained(self._start / next(iter(self.saes))) // self.cfg.train_batch_size_tokens

    def _batches(self, stream: Batches, trainer: MultiSAETrainer) -> Batches:  # noqa: ARG002
        """Give what is trained on, by hook name, from SAELens' stream."""
        return stream

    @override
    def _run_with_interruption_handling(self, trainer: MultiSAETrainer) -> SAEs:
        if self._start is not None:
            trainer.load_checkpoint(self._start)
            go_on_counting(trainer)
            for of_one in trainer.trainers.values():
                go_on_counting(of_one)
        self._evaluate_on_the_stream_as_it_is(trainer)
        self._save_checkpoints_aside(trainer)
        try:
            trainer._estimate_scaling_factors()  # from the stream as it is; only ranks whose SAEs need it
            trainer.data_provider = self.interrupt.between_steps(
                self._batches(trainer.data_provider, trainer)
            )
            return trainer.fit()
        except (KeyboardInterrupt, InterruptedException):
            if self.cfg.checkpoint_path is not None and trainer.n_training_samples > 0:
                trainer.save_checkpoint(checkpoint_name=str(trainer.n_training_samples))
            raise

    def _evaluate_on_the_stream_as_it_is(self, trainer: MultiSAETrainer) -> None:
        """Let SAELens' evaluator read text of its own, and pause a prefetching stream, which stands before what is trained on."""
        if not self.cfg.logger.log_to_wandb:
            return
        evaluator, stream, hooks = self.evaluator, trainer.data_provider, dict(trainer.hook_names)
        evaluator.activations_store = reading_anew(self.activations_store)
        trainer.evaluator = _Evaluate(evaluator, stream, hooks)

    def _save_checkpoints_aside(self, trainer: MultiSAETrainer) -> None:
        """Let the ranks write a checkpoint into a folder aside, which takes its place when all of it is on the disk."""
        save, base = trainer.save_checkpoint, self.cfg.checkpoint_path

        def save_aside(checkpoint_name: str, wandb_aliases: list[str] | None = None) -> None:
            if base is None:
                save(checkpoint_name=checkpoint_name, wandb_aliases=wandb_aliases)
                return
            path, doing = Path(base) / checkpoint_name, f"saving the checkpoint {checkpoint_name}"
            with whole_folder(path) if self.ranks.is_first else naming(path) as own:
                aside = cast(Path, self.ranks.tell.from_first(own, doing))
                save(checkpoint_name=aside.name, wandb_aliases=wandb_aliases)
                self.ranks.tell.wait(doing)
                if self.ranks.is_first:
                    seal_checkpoint(aside)
            self.ranks.tell.wait(doing)

        trainer.save_checkpoint = save_aside

    @override
    def _save_runner_checkpoint_files(self, checkpoint_path: Path | None) -> None:
        # Where checkpoints go is the same on all ranks; the argument is a temporary folder on one that logs.
        if checkpoint_path is not None and self.cfg.checkpoint_path is not None and self.ranks.is_first:
            self.activations_store.save_to_checkpoint(checkpoint_path)
            write_json(checkpoint_path / RUNNER_CFG_FILENAME, self.all_saes.to_dict())

    @override
    def _save_final_outputs(self, saes: SAEs, trainer: MultiSAETrainer) -> None:
        assert self.cfg.output_path is not None
        output_path = Path(self.cfg.output_path)
        for name, sae in saes.items():
            save_whole(output_path / name, partial(self._save_final, name, sae, trainer))
        self.ranks.tell.wait("saving the SAEs")
        if self.ranks.is_first:
            write_json(output_path / RUNNER_CFG_FILENAME, self.all_saes.to_dict())
        self.ranks.tell.wait("saving the SAEs")

    def _save_final(self, name: str, sae: TrainingSAE[Any], trainer: MultiSAETrainer, folder: Path) -> None:
        """Write one SAE into a folder, as SAELens does, which writes into a folder below `cfg.output_path`, and a file beside it."""
        output_path, self.cfg.output_path = self.cfg.output_path, str(folder)
        try:
            super()._save_final_outputs({name: sae}, trainer)
        finally:
            self.cfg.output_path = output_path
        for file in (folder / name).iterdir():
            file.replace(folder / file.name)
        shutil.rmtree(folder / Path(name).parts[0])
        (folder / RUNNER_CFG_FILENAME).unlink()


class _Evaluate:
    """SAELens' evaluator, given the stream and the hooks that it would have without what stands between."""

    def __init__(self, evaluator: MultiSAEEvaluator, stream: Batches, hooks: Mapping[str, str]) -> None:
        self._evaluator, self._stream, self._hooks = evaluator, stream, dict(hooks)

    def __call__(
        self,
        saes: SAEs,
        data_provider: Batches,  # noqa: ARG002  not this one
        activation_scalers: dict[str, ActivationScaler],
        hook_names: dict[str, str],  # noqa: ARG002  nor these
    ) -> dict[str, Any]:
        return self._evaluator(saes, self._stream, activation_scalers, self._hooks)


def initialised(cfg: Any, seed: int) -> TrainingSAE[Any]:
    """Draw an SAE's initial weights, on a copy of its configuration: training writes into its own.

    Args:
        cfg: The SAE's configuration.
        seed: What they are drawn from.
    """
    sae_class, _ = get_sae_training_class(cfg.architecture())
    with temporary_seed(seed):
        return sae_class(copy.deepcopy(cfg))


def require_divisible(cfg: MultiSAETrainingRunnerConfig, ranks: Ranks) -> None:
    """Raise ValueError if the SAEs cannot be divided over the ranks."""
    if ranks.size > len(cfg.saes):
        raise ValueError(
            f"There are {len(cfg.saes)} SAEs to train on {ranks.size} ranks, so that some would have none. Start as many ranks as there are SAEs, or fewer."
        )
    if ranks.size > 1 and cfg.evaluator is not None:
        raise ValueError(
            f"evaluator = {cfg.evaluator!r} reads from the stream that is trained on, which {ranks.size} ranks must read in step. Leave it out, "
            "and measure the SAEs when they are trained."
        )


def _own_part(cfg: MultiSAETrainingRunnerConfig, ranks: Ranks) -> MultiSAETrainingRunnerConfig:
    """Copy a configuration with this rank's SAEs, as it has them."""
    own, names = own_settings(cfg, ranks), share_of(list(cfg.saes), ranks)
    own.saes = {name: own_sae(cfg.saes[name]) for name in names}
    own.hook_names = own._hook_names_per_sae = {name: cfg.hook_names_per_sae[name] for name in names}
    heads = {name: cfg.hook_head_indices_per_sae[name] for name in names}
    own.hook_head_indices = own._hook_head_indices_per_sae = heads
    return own


def _estimates(saes: Mapping[str, Any]) -> bool:
    """Whether SAELens reads batches before the first step, for statistics of the activations."""
    return any(cfg.normalize_activations in ESTIMATED_NORMALIZATIONS for cfg in saes.values())


def _seed_of(seed: int, name: str) -> int:
    """Give every SAE a seed of its own, whichever rank trains it."""
    return zlib.crc32(f"{seed}/{name}".encode())
