"""SAELens' training runner, repeatable, interruptible and over the ranks of a job."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import wandb
from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner
from sae_lens.config import HfDataset
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainingSAE
from sae_lens.training._interruption import InterruptedException
from sae_lens.training.prefetch import PrefetchingIterator
from sae_lens.util import temporary_seed
from tqdm.auto import tqdm
from typing_extensions import override

from sae_lens_ext.architectures.saving import save_whole
from sae_lens_ext.architectures.validation import ESTIMATED_NORMALIZATIONS
from sae_lens_ext.checkpoints import require_checkpoint, tokens_trained
from sae_lens_ext.files import require_folder
from sae_lens_ext.ranks import current_ranks, one_voice
from sae_lens_ext.training.data_parallel import DataParallelTrainer, require_mean_over_rows
from sae_lens_ext.training.interruption import InterruptBetweenSteps
from sae_lens_ext.training.own_settings import own_sae, own_settings
from sae_lens_ext.training.own_text import reading_anew
from sae_lens_ext.training.restart import checkpoint_folder
from sae_lens_ext.training.stream import ActivationStream, require_even
from sae_lens_ext.training.trainer import ParallelTrainer

Batches = Iterator[torch.Tensor]


class ParallelRunner(LanguageModelSAETrainingRunner):
    """What the runners over ranks have in common; alone, each is SAELens' runner with `cfg.seed` obeyed.

    SAELens reads `cfg.seed` nowhere. Here it decides the initial weights and the order of the activations, so that a run can be repeated
    to the bit on a CPU, and one that is interrupted ends as if it had not been: it finds the batch it was at, see `ActivationStream`. (With
    cached activations, which SAELens mixes itself, a run that is taken up again mixes those that are left otherwise.)
    """

    interrupted_checkpoint: Path | None = None
    """Where an interrupted run was saved, if it was."""

    def __init__(
        self,
        cfg: LanguageModelSAERunnerConfig[Any],
        override_dataset: HfDataset | None = None,
        override_model: Any = None,
        override_sae: TrainingSAE[Any] | None = None,
    ) -> None:
        self.ranks = current_ranks()
        self._require_divisible(cfg)
        if cfg.output_path is not None:
            require_folder(Path(cfg.output_path))
        if cfg.resume_from_checkpoint is not None:
            require_checkpoint(Path(cfg.resume_from_checkpoint))
        self._log_every = cfg.logger.wandb_log_frequency if cfg.logger.log_to_wandb else None
        own = own_settings(cfg, self.ranks)
        own.sae = own_sae(cfg.sae)
        with one_voice(self.ranks), temporary_seed(cfg.seed):
            super().__init__(own, override_dataset, override_model, override_sae)

    @abstractmethod
    def _trainer(self, batches: Batches, wholes: Batches | None, **options: Any) -> ParallelTrainer:
        """Make the trainer.

        Args:
            batches: This rank's rows of each batch, from the stream's `next`.
            wholes: The same stream's whole batches; None if `batches` gives them.
            options: Further arguments of the trainer.
        """

    def _batches(self, stream: ActivationStream) -> tuple[Batches, Batches | None]:
        """Give this rank's part of each batch, and the stream's whole batches, or None if the parts are whole."""
        hook = self.cfg.hook_name
        parts = (batch[hook] for batch in stream)
        if self.ranks.size == 1:
            return parts, None
        return parts, (batch[hook] for batch in stream.whole_batches())

    @override
    def run(self) -> TrainingSAE[Any]:
        """Train, or go on; the first rank saves the SAE in `cfg.output_path`, as SAELens does.

        Returns:
            The trained SAE.

        Raises:
            RankError: A rank did not answer, or the ranks' weights have come apart.
        """
        with one_voice(self.ranks), temporary_seed(self.cfg.seed):
            return self._run()

    def _run(self) -> TrainingSAE[Any]:
        self._set_sae_metadata()
        if self.cfg.logger.log_to_wandb:
            self._start_logging()
        start = self._start()
        batches, wholes, paused = self._open_stream(start)
        interrupt = InterruptBetweenSteps(self.ranks)
        try:
            trainer = self._trainer(
                interrupt.between_steps(batches),
                wholes,
                evaluator=self._evaluator(paused),
                save_checkpoint_fn=self.save_checkpoint,
                log_every=self._log_every,
            )
            if start is not None:
                tqdm.write(f"Going on from the checkpoint {start}.")
                trainer.resume(start)
            self._compile_sae_if_needed()
            with interrupt.watching():
                sae = self.run_trainer_with_interruption_handling(trainer)
                self._save_final(sae, trainer)
            if self.cfg.logger.log_to_wandb:
                wandb.finish()
            return sae
        finally:
            if isinstance(paused, PrefetchingIterator):
                paused.close()

    @override
    def run_trainer_with_interruption_handling(self, trainer: ParallelTrainer) -> TrainingSAE[Any]:
        """Train; when interrupted, save a checkpoint that `resume_from_checkpoint` can go on from, and raise on.

        SAELens 6.54 saves the position in the data set there and not the SAE, into a folder it has not made.
        """
        try:
            return trainer.fit()
        except (KeyboardInterrupt, InterruptedException):
            if self.cfg.checkpoint_path is not None and trainer.n_training_samples > 0:
                name = str(trainer.n_training_samples)
                trainer.save_checkpoint(checkpoint_name=name)
                self.interrupted_checkpoint = Path(self.cfg.checkpoint_path) / name
            raise

    def _start(self) -> Path | None:
        """Give the checkpoint to go on from, if any: this job's own after a restart, or the one that was asked for."""
        asked = self.cfg.resume_from_checkpoint
        start = None if asked is None else Path(asked)
        if self.cfg.checkpoint_path is None:
            return start
        folder, last = checkpoint_folder(Path(self.cfg.checkpoint_path), self.cfg.to_dict(), self.ranks)
        self.cfg.checkpoint_path = str(folder)
        return last or start

    def _open_stream(self, start: Path | None) -> tuple[Batches, Batches | None, Any]:
        """Give the batches that come next, the same as whole batches or None, and what must be closed in the end."""
        cfg = self.cfg
        if cfg.use_cached_activations:
            if start is not None:
                self.activations_store.load_from_checkpoint(start)
            batches, wholes = iter(self.activations_store), None
        else:
            stream = ActivationStream(self.activations_store, cfg.seed, self.ranks)
            stream.skip(self._batches_before(start))
            batches, wholes = self._batches(stream)
        if cfg.prefetch_llm_batches:
            batches = PrefetchingIterator(batches, prefetch=int(cfg.prefetch_llm_batches))
        return batches, wholes, batches

    def _batches_before(self, start: Path | None) -> int:
        """Count the batches of the stream that a checkpoint has behind it: those trained on, and those of the normalisation."""
        if start is None:
            return 0
        cfg = self.cfg
        estimated = cfg.sae.normalize_activations in ESTIMATED_NORMALIZATIONS
        n_estimated = cfg.n_batches_for_norm_estimate if estimated else 0
        return n_estimated + tokens_trained(start) // cfg.train_batch_size_tokens

    def _evaluator(self, paused: Any) -> Callable[..., dict[str, Any]] | None:
        """Give SAELens' evaluator, on text of its own: what it reads is not taken from the training."""
        if not self.cfg.logger.log_to_wandb:
            return None
        evaluator = self.evaluator
        if not self.cfg.use_cached_activations:
            evaluator.activations_store = reading_anew(self.activations_store)
        # What the trainer reads is not SAELens' prefetching stream, which must be paused, but stands before it.
        return lambda sae, _, scaler: evaluator(sae, paused, scaler)

    def _save_final(self, sae: TrainingSAE[Any], trainer: ParallelTrainer) -> None:
        if self.cfg.output_path is not None and self.ranks.is_first:
            self.save_final_sae(sae, self.cfg.output_path, trainer.log_feature_sparsity)
        self.ranks.tell.wait("saving the SAE")

    @override
    def save_final_sae(
        self, sae: TrainingSAE[Any], output_path: str, log_feature_sparsity: torch.Tensor | None = None
    ) -> None:
        """Save as SAELens does; the folder is as it was until all is written."""
        save = super().save_final_sae
        save_whole(output_path, lambda aside: save(sae, str(aside), log_feature_sparsity))

    def _start_logging(self) -> None:
        log = self.cfg.logger
        wandb.init(
            project=log.wandb_project,
            entity=log.wandb_entity,
            config=self.cfg.to_dict(),
            name=log.run_name,
            id=log.wandb_id,
        )

    def _require_divisible(self, cfg: LanguageModelSAERunnerConfig[Any]) -> None:
        """Raise ValueError for what cannot be done by several ranks."""
        if self.ranks.size == 1:
            return
        require_even(cfg.train_batch_size_tokens, self.ranks)
        refused = {
            "use_cached_activations": cfg.use_cached_activations,
            "prefetch_llm_batches": cfg.prefetch_llm_batches,
        }
        for name, value in refused.items():
            if value:
                raise ValueError(
                    f"{name} = {value!r} is not done over {self.ranks.size} ranks. Leave it out, or train in one process."
                )


class DataParallelRunner(ParallelRunner):
    """SAELens' runner in data parallel: under `torchrun` every rank trains the same SAE on its part of each batch.

    The batches are those of one process: each rank runs the language model on its share of the text, and gets B/N of the batch's
    rows; so the SAE is the same, but for the order in which sums are rounded, whatever the number of ranks. `train_batch_size_tokens` is the whole batch.
    The ranks must see the same files. Losses are logged of the whole batch, other metrics of the first rank's part of it.

    Args:
        cfg: As for SAELens' runner; it is left as it is. "cuda" is each rank's own GPU.
        override_dataset: As for SAELens' runner.
        override_model: As for SAELens' runner.
        override_sae: As for SAELens' runner; the same on every rank.

    Raises:
        ValueError: The batch cannot be divided evenly; the architecture's loss is not known to be a mean over rows; or
            the configuration asks for cached activations or prefetching, which several ranks do not do.

    Example:
        >>> DataParallelRunner(cfg).run()  # in train.py, started by: torchrun --nproc-per-node 8 train.py
    """

    @override
    def _require_divisible(self, cfg: LanguageModelSAERunnerConfig[Any]) -> None:
        super()._require_divisible(cfg)
        name = cfg.sae.architecture()
        require_mean_over_rows(name, get_sae_training_class(name)[0], self.ranks.size)

    @override
    def _trainer(self, batches: Batches, wholes: Batches | None, **options: Any) -> DataParallelTrainer:
        return DataParallelTrainer(
            self.cfg.to_sae_trainer_config(), self.sae, batches, self.ranks, whole_batches=wholes, **options
        )
