"""SAELens' multi-SAE runner, with seeds, and orders of the activations that differ from SAE to SAE."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from sae_lens import MultiSAETrainingRunnerConfig, TrainingSAE
from sae_lens.config import HfDataset
from sae_lens.training.multi_sae_trainer import MultiSAETrainer
from typing_extensions import override

from sae_lens_ext.analysis.seeds.orders import SeededOrders
from sae_lens_ext.analysis.seeds.plan import SeededSAE, SeedPlan
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.language_model import find_hook_point
from sae_lens_ext.training.divided import DividedRunner, SAEs, initialised


class SeedsRunner(DividedRunner):
    """Trains a plan's SAEs, each from its own seeds; under `torchrun` each rank trains its share.

    Args:
        plan: What is trained.
        override_model: As for SAELens' runner.
        override_dataset: As for SAELens' runner.
        start: A checkpoint of this plan to go on from.

    Raises:
        ValueError: Two seeds give the same initial weights; the model has no such hook, or activations of another width there;
            the buffer holds too little to be put into another order.
    """

    def __init__(
        self,
        plan: SeedPlan,
        override_model: Any,
        override_dataset: HfDataset | None,
        start: Path | None = None,
    ) -> None:
        self.plan = plan
        super().__init__(plan.cfg, override_dataset, override_model)
        self._start = start
        self.pool_batches = self._rows_in_buffer() // plan.cfg.train_batch_size_tokens
        self._require_something_to_reorder()
        self._require_hooks_and_widths()

    @property
    def members(self) -> list[SeededSAE]:
        """This rank's SAEs, in the plan's order."""
        return [member for member in self.plan.members if member.name in self.cfg.saes]

    @override
    def _initialised(self, cfg: MultiSAETrainingRunnerConfig) -> SAEs:
        own = {
            member.name: initialised(cfg.saes[member.name], member.initialisation_seed)
            for member in self.plan.members
            if member.name in cfg.saes
        }
        if self.plan.vary != "data_order":
            starts = {name: weights_fingerprint(sae) for name, sae in own.items()}
            everyone: dict[str, str] = {}
            for part in self.ranks.tell.gather_objects(starts, "comparing the initial weights"):
                everyone.update(part)
            _require_different_starts(self.plan, everyone)
        return own

    def train(self) -> list[TrainingSAE[Any]]:
        """Train, with what the SAEs share drawn from `cfg.seed`; gives this rank's in the plan's order.

        Call it inside `interrupt.watching()`.
        """
        trained = self._run()
        return [trained[member.name] for member in self.members]

    @override
    def _first_batch(self, done: int) -> int:
        return done if self.plan.vary == "initialisation" else done - done % self.pool_batches

    @override
    def _batches(
        self, stream: Iterator[dict[str, torch.Tensor]], trainer: MultiSAETrainer
    ) -> Iterator[dict[str, torch.Tensor]]:
        if self.plan.vary == "initialisation":
            return stream
        cfg = self.cfg
        done = trainer.n_training_samples // cfg.train_batch_size_tokens
        orders = SeededOrders(
            stream,
            hook_names=trainer.hook_names,
            seeds={member.name: member.data_order_seed for member in self.members},
            pool_batches=self.pool_batches,
            n_batches=-(-cfg.training_tokens // cfg.train_batch_size_tokens),
            first_batch=self._first_batch(done),
        )
        trainer.hook_names = {name: name for name in trainer.hook_names}
        return islice(orders, done - self._first_batch(done), None)

    def _rows_in_buffer(self) -> int:
        return self.cfg.n_batches_in_buffer * self.activations_store.training_context_size

    def _require_something_to_reorder(self) -> None:
        if self.plan.vary != "initialisation" and self.pool_batches < 2:
            cfg = self.cfg
            enough = -(-2 * cfg.train_batch_size_tokens // self.activations_store.training_context_size)
            raise ValueError(
                f"train_seeds was given vary = {self.plan.vary!r}, but the buffer, n_batches_in_buffer = {cfg.n_batches_in_buffer} "
                f"contexts, holds {self._rows_in_buffer()} rows, less than two batches of {cfg.train_batch_size_tokens}, so that all "
                f"seeds would see the same batches. Give at least n_batches_in_buffer = {enough}, better ten times as many."
            )

    def _require_hooks_and_widths(self) -> None:
        for hook_name in dict.fromkeys(self.cfg.hook_names_per_sae.values()):
            find_hook_point(self.model, hook_name)
        token = torch.zeros(1, 1, dtype=torch.long, device=next(self.model.parameters()).device)
        try:
            activations = self.activations_store.get_multi_hook_activations(token)
        except KeyError as error:  # a name of the other kind of model's
            raise ValueError(
                f"The model {type(self.model).__name__} has a hook that goes by the name {error} in another class of model. Give the name "
                "that is in model.hook_dict."
            ) from error
        for name, hook_name in self.cfg.hook_names_per_sae.items():
            width, d_in = activations[hook_name].shape[-1], self.cfg.saes[name].d_in
            if width != d_in:
                raise ValueError(
                    f"The activations at {hook_name!r} have width {width}, but the SAE has d_in = {d_in}. Set d_in to that width."
                )


def _require_different_starts(plan: SeedPlan, fingerprints: dict[str, str]) -> None:
    """Raise ValueError if two SAEs of a kind, by their fingerprints, start from the same weights."""
    first: dict[tuple[str, str], SeededSAE] = {}
    for member in plan.members:
        twin = first.setdefault((member.kind, fingerprints[member.name]), member)
        if twin is not member:
            raise ValueError(
                f"The architecture {plan.cfg.saes[member.name].architecture()!r} draws the same initial weights from the seeds {twin.seed} and "
                f'{member.seed}, so that anything would look stable. Give it an initialisation that is random, or vary = "data_order".'
            )
