"""SAELens' runner, except that what an interrupted run has reached is saved whole."""

import signal
from pathlib import Path
from typing import Any

from sae_lens import LanguageModelSAETrainingRunner
from sae_lens.training._interruption import InterruptedException, interrupt_callback
from sae_lens.training.sae_trainer import SAETrainer
from typing_extensions import override


class InterruptibleRunner(LanguageModelSAETrainingRunner):
    """Saves a checkpoint on SIGINT and SIGTERM that `resume_from_checkpoint` can go on from.

    SAELens 6.54 saves the position in the data set there and not the SAE, into a folder it has not made.
    """

    interrupted_checkpoint: Path | None = None
    """Where an interrupted run was saved, if it was."""

    @override
    def run_trainer_with_interruption_handling(self, trainer: SAETrainer[Any, Any]) -> Any:
        """Train; when interrupted, save a checkpoint and raise on."""
        signal.signal(signal.SIGINT, interrupt_callback)
        signal.signal(signal.SIGTERM, interrupt_callback)
        try:
            return trainer.fit()
        except (KeyboardInterrupt, InterruptedException):
            if self.cfg.checkpoint_path is not None:
                trainer.save_checkpoint(checkpoint_name=str(trainer.n_training_samples))
                self.interrupted_checkpoint = Path(self.cfg.checkpoint_path) / str(trainer.n_training_samples)
            raise
