"""SAELens' runner in tensor parallel: an SAE that does not fit one device, its latents divided over the ranks."""

import logging
from collections.abc import Callable
from typing import Any

from sae_lens import LanguageModelSAERunnerConfig
from sae_lens.config import HfDataset
from sae_lens.saes.sae import TrainingSAE, TrainingSAEConfig
from sae_lens.util import temporary_seed
from typing_extensions import override

from sae_lens_ext.ranks import current_ranks, own_device
from sae_lens_ext.training.runner import Batches, ParallelRunner
from sae_lens_ext.training.stream import ActivationStream
from sae_lens_ext.training.tensor_parallel.sae import DividedTopKTrainingSAE
from sae_lens_ext.training.tensor_parallel.trainer import TensorParallelTrainer
from sae_lens_ext.training.trainer import ParallelTrainer

logger = logging.getLogger(__name__)


class TensorParallelRunner(ParallelRunner):
    """SAELens' runner under `torchrun`, with each rank holding d_sae/N latents of one TopK SAE, their gradients and their Adam moments.

    Each rank runs the language model on its share of the text; every rank gets every batch whole. Checkpoints and the SAE that is saved
    are SAELens' own, of the undivided SAE. The initial weights are drawn from `cfg.seed` alone; those of one process are the same where the
    language model is given, or loads without drawing random numbers. Nothing is evaluated while training.

    Args:
        cfg: As for SAELens' runner, of a TopK SAE; it is left as it is. "cuda" is each rank's own GPU.
        override_dataset: As for SAELens' runner.
        override_model: As for SAELens' runner.

    Raises:
        ValueError: The SAE cannot be divided (see `DividedTopKTrainingSAE`), the batch cannot be divided evenly, or the configuration
            asks for what several ranks do not do.

    Example:
        >>> TensorParallelRunner(cfg).run()  # in train.py, started by: torchrun --nproc-per-node 8 train.py
    """

    def __init__(
        self,
        cfg: LanguageModelSAERunnerConfig[Any],
        override_dataset: HfDataset | None = None,
        override_model: Any = None,
    ) -> None:
        self.ranks = current_ranks()
        self._require_divisible(cfg)
        whole_cfg = TrainingSAEConfig.from_dict(cfg.get_training_sae_cfg_dict())
        whole_cfg.device = own_device(whole_cfg.device)
        with temporary_seed(cfg.seed):
            sae = DividedTopKTrainingSAE(whole_cfg, self.ranks)  # type: ignore[arg-type]
        if cfg.from_pretrained_path is not None:
            sae.load_weights_from_checkpoint(cfg.from_pretrained_path)
        super().__init__(cfg, override_dataset, override_model, sae)

    @override
    def run(self) -> TrainingSAE[Any]:
        """Train, or go on; the first rank saves the whole SAE in `cfg.output_path`.

        Returns:
            This rank's share of the trained SAE.

        Raises:
            RankError: A rank did not answer.
        """
        return super().run()

    @override
    def _trainer(self, batches: Batches, wholes: Batches | None, **options: Any) -> TensorParallelTrainer:
        return TensorParallelTrainer(
            self.cfg.to_sae_trainer_config(), self.sae, batches, self.ranks, whole_batches=wholes, **options
        )

    @override
    def _batches(self, stream: ActivationStream) -> tuple[Batches, Batches | None]:
        return (batch[self.cfg.hook_name] for batch in stream.whole_batches()), None

    @override
    def _evaluator(self, paused: Any) -> Callable[..., dict[str, Any]] | None:
        if self.cfg.logger.log_to_wandb:
            logger.warning(
                "Nothing is evaluated while the latents are divided over ranks; evaluate the SAE that is saved."
            )

    @override
    def _save_final(self, sae: TrainingSAE[Any], trainer: ParallelTrainer) -> None:
        if self.cfg.output_path is not None:
            sparsity = trainer.log_feature_sparsity
            if self.ranks.is_first:
                self.save_final_sae(sae, self.cfg.output_path, sparsity)
            else:
                sae.save_inference_model(self.cfg.output_path)  # gives its share
        self.ranks.tell.wait("saving the SAE")

    @override
    def _require_divisible(self, cfg: LanguageModelSAERunnerConfig[Any]) -> None:
        super()._require_divisible(cfg)
        if self.ranks.size > 1 and cfg.compile_sae:
            raise ValueError(
                "compile_sae = True is not done where latents are divided over ranks: a step waits for the other ranks. Leave it out."
            )
