"""SAELens' multi-SAE runner, with seeds, and orders of the activations that differ from SAE to SAE."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from sae_lens import MultiSAETrainingRunner, TrainingSAE
from sae_lens.config import HfDataset
from sae_lens.registry import get_sae_training_class
from sae_lens.training._interruption import InterruptedException
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.multi_sae_trainer import MultiSAETrainer
from sae_lens.util import temporary_seed
from typing_extensions import override

from sae_lens_ext.analysis.seeds.interruption import InterruptBetweenSteps
from sae_lens_ext.analysis.seeds.orders import SeededOrders
from sae_lens_ext.analysis.seeds.plan import SeededSAE, SeedPlan
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.language_model import find_hook_point


class SeedsRunner(MultiSAETrainingRunner):
    """Trains a plan's SAEs, each from its own seeds.

    Args:
        plan: What is trained.
        override_model: As for SAELens' runner.
        override_dataset: As for SAELens' runner.

    Raises:
        ValueError: Two seeds give the same initial weights; the model has no such hook, or activations of another width there;
            the buffer holds too little to be put into another order.
    """

    def __init__(self, plan: SeedPlan, override_model: Any, override_dataset: HfDataset | None) -> None:
        saes = {member.name: _initialised(plan, member) for member in plan.members}
        _require_different_starts(plan, saes)
        super().__init__(
            plan.cfg, override_dataset=override_dataset, override_model=override_model, override_saes=saes
        )
        self.plan, self.interrupt = plan, InterruptBetweenSteps()
        self.pool_batches = self._rows_in_buffer() // plan.cfg.train_batch_size_tokens
        self._require_something_to_reorder()
        self._require_hooks_and_widths()

    def train(self) -> list[TrainingSAE[Any]]:
        """Train, with what the SAEs share drawn from `cfg.seed`; gives them in the plan's order.

        Call it inside `interrupt.watching()`.
        """
        if self.cfg.resume_from_checkpoint is not None:
            # SAELens skips what was read before only when a prefetching stream already reads; then it finds nothing left to skip.
            self.activations_store.load_from_checkpoint(self.cfg.resume_from_checkpoint)
        with temporary_seed(self.cfg.seed):
            trained = self.run()
        return [trained[member.name] for member in self.plan.members]

    @override
    def _run_with_interruption_handling(self, trainer: MultiSAETrainer) -> dict[str, TrainingSAE[Any]]:
        # Those that an interrupted run has passed would be written one after the other, at the steps that come next.
        trainer.checkpoint_thresholds = [
            tokens for tokens in trainer.checkpoint_thresholds if tokens >= trainer.n_training_samples
        ]
        _evaluate_on_the_stream_as_it_is(trainer)
        stream = trainer.data_provider
        try:
            trainer.data_provider = self.interrupt.between_steps(stream)
            if self.plan.vary != "initialisation":
                trainer._estimate_scaling_factors()  # from the stream as it is, before it has several orders
                trainer.data_provider = self.interrupt.between_steps(self._in_orders(stream, trainer))
                trainer.hook_names = {name: name for name in trainer.hook_names}
            return trainer.fit()
        except (KeyboardInterrupt, InterruptedException):
            if self.cfg.checkpoint_path is not None:
                trainer.save_checkpoint(checkpoint_name=str(trainer.n_training_samples))
            raise

    def _in_orders(self, stream: Iterator[dict[str, torch.Tensor]], trainer: MultiSAETrainer) -> SeededOrders:
        cfg = self.cfg
        return SeededOrders(
            stream,
            hook_names=trainer.hook_names,
            seeds={member.name: member.data_order_seed for member in self.plan.members},
            pool_batches=self.pool_batches,
            n_batches=-(-cfg.training_tokens // cfg.train_batch_size_tokens),
            first_batch=trainer.n_training_samples // cfg.train_batch_size_tokens,
        )

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


def _evaluate_on_the_stream_as_it_is(trainer: MultiSAETrainer) -> None:
    """Keep from SAELens' evaluator what stands before its stream: it pauses a prefetching one, and asks by hook."""
    evaluator, stream, hooks = trainer.evaluator, trainer.data_provider, trainer.hook_names
    if evaluator is None:
        return

    def evaluate(
        saes: dict[str, TrainingSAE[Any]],
        data_provider: Any,  # noqa: ARG001  not this one
        activation_scalers: dict[str, ActivationScaler],
        hook_names: Mapping[str, str],  # noqa: ARG001  nor these
    ) -> dict[str, Any]:
        return evaluator(
            saes=saes, data_provider=stream, activation_scalers=activation_scalers, hook_names=hooks
        )

    trainer.evaluator = evaluate


def _initialised(plan: SeedPlan, member: SeededSAE) -> TrainingSAE[Any]:
    """Draw the initial weights, on a copy of the configuration: training writes into its own, and the plan stays as it is."""
    cfg = copy.deepcopy(plan.cfg.saes[member.name])
    sae_class, _ = get_sae_training_class(cfg.architecture())
    with temporary_seed(member.initialisation_seed):
        return sae_class(cfg)


def _require_different_starts(plan: SeedPlan, saes: dict[str, TrainingSAE[Any]]) -> None:
    if plan.vary == "data_order":
        return
    first: dict[tuple[str, str], SeededSAE] = {}
    for member in plan.members:
        start = (member.kind, weights_fingerprint(saes[member.name]))
        twin = first.setdefault(start, member)
        if twin is not member:
            raise ValueError(
                f"The architecture {plan.cfg.saes[member.name].architecture()!r} draws the same initial weights from the seeds {twin.seed} and "
                f'{member.seed}, so that anything would look stable. Give it an initialisation that is random, or vary = "data_order".'
            )
