"""A training of a language model between two steps."""

import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from sae_lens_ext.lime.training.checkpoint import Checkpoint, optimizer_state
from sae_lens_ext.lime.training.loss import cross_entropy, group_losses, mean_loss, mixed_precision
from sae_lens_ext.lime.training.order import BatchOrder
from sae_lens_ext.lime.training.parameters import TrainedParameters, only_trained
from sae_lens_ext.lime.training.settings import LanguageModelTrainingSettings
from sae_lens_ext.lime.training.token_groups import TokenGroup

_DROPOUT = 1
"""What the random numbers are for; other purposes have other numbers."""
HISTORY = ("loss", "lr", "tokens", "grad_norm", "seconds")
"""What is noted of every step."""
VALIDATIONS = ("validation_step", "validation_loss")


class LanguageModelTrainer:
    """Trains a model in place.

    Args:
        model: The model.
        routers: Those attached to it, or None.
        parameters: What is trained.
        groups: What is read.
        validation: What is measured on; may be empty.
        settings: Everything else.
    """

    def __init__(
        self,
        model: Any,
        routers: Any,
        parameters: TrainedParameters,
        groups: Sequence[TokenGroup],
        validation: Sequence[TokenGroup],
        settings: LanguageModelTrainingSettings,
    ) -> None:
        self.model, self.routers, self.settings = model, routers, settings
        self._groups, self._validation = groups, validation
        self._named = parameters.named
        self._of_routers = parameters.routers
        self._parameters = list(self._named.values())
        self._optimizer, self._rates = parameters.optimizer(settings)
        self._order = BatchOrder([len(group.tokens) for group in groups], settings.batch_size, settings.seed)
        self.steps = settings.steps(self._order.per_epoch)
        """Steps of the whole training."""
        self.history: dict[str, list[float]] = {name: [] for name in (*HISTORY, *VALIDATIONS)}
        """What was measured, by name."""
        self._device = next(iter(self._parameters)).device
        self._reached = False

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.history["loss"])

    @property
    def named(self) -> Mapping[str, nn.Parameter]:
        """What is trained, by name."""
        return self._named

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """Let gradients into what is trained alone while the block lasts, and leave none behind."""
        with only_trained(self.model, self.routers, self.settings.trained):
            try:
                yield
            finally:
                self._optimizer.zero_grad(set_to_none=True)

    def note(self, provenance: Mapping[str, Any]) -> None:
        """Note in the routers' provenance how they were trained, if they were."""
        if self._of_routers:
            self.routers.provenance["training"] = dict(provenance)

    def checkpoint(self, *, finished: bool = False) -> Checkpoint:
        """Give everything there is to know; of a training that is finished not the optimiser's state."""
        return Checkpoint(
            self.step,
            {name: p.detach() for name, p in self._named.items() if p in self._optimizer.state},
            {} if finished else optimizer_state(self._optimizer, self._named),
            {name: torch.tensor(values, dtype=torch.float64) for name, values in self.history.items()},
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        checkpoint.load_weights(self._named)
        checkpoint.load_optimizer(self._optimizer, self._named)
        self.history = {name: checkpoint.history[name].tolist() for name in self.history}

    def train_step(self) -> dict[str, Any]:
        """Do one update.

        Returns:
            What there is to log of it.

        Raises:
            RuntimeError: The loss or its gradient is NaN or infinite, or a router gets no gradient. Nothing has changed.
        """
        started = time.perf_counter()
        group_number, chosen = self._order.batch(self.step)
        group, rows = self._groups[group_number], torch.from_numpy(chosen)
        self._optimizer.zero_grad(set_to_none=True)
        with self._own_randomness():
            loss = self._accumulate(group, rows)
        self._require_gradients()
        most = math.inf if self.settings.clip is None else self.settings.clip
        norm = nn.utils.clip_grad_norm_(self._parameters, most)
        loss_value, norm_value = torch.stack(
            [loss, norm]
        ).tolist()  # the one time that an accelerator is waited for
        self._require_finite(loss_value, norm_value)
        share = self.settings.share(self.step + 1, self.steps)
        for parameters, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            parameters["lr"] = rate * share
        self._optimizer.step()
        read = (self.history["tokens"][-1] if self.step else 0) + rows.numel() * group.tokens.shape[1]
        rate = self.settings.router_lr if self.settings.trained == "routers" else self.settings.lr
        line = {
            "loss": loss_value,
            "lr": rate * share,
            "tokens": int(read),
            "grad_norm": norm_value,
            "seconds": time.perf_counter() - started,
        }
        for name in HISTORY:
            self.history[name].append(line[name])
        line = {"step": self.step} | line
        every = self.settings.validate_every
        if self._validation and ((every and self.step % every == 0) or self.step == self.steps):
            line["validation_loss"] = self._validate()
        return line

    def _accumulate(self, group: TokenGroup, rows: torch.Tensor) -> torch.Tensor:
        """Add the gradient of the mean loss over the batch's counted predictions; give that loss."""
        tokens, targets = group.tokens[rows].to(self._device), group.targets[rows].to(self._device)
        counted = int(group.counts[rows].sum())
        size = min(self.settings.micro_batch_size or len(rows), len(rows))
        total = torch.zeros((), device=self._device)
        for part, part_targets in zip(tokens.split(size), targets.split(size), strict=True):
            with mixed_precision(self._device, enabled=self.settings.autocast):
                loss = cross_entropy(self.model, part, part_targets) / counted
            loss.backward()
            total += loss.detach()
            del loss  # and with it what the pass holds
        return total

    @contextmanager
    def _own_randomness(self) -> Generator[None, None, None]:
        """Let dropout draw what follows from the seed and the step, and leave the global generators as they were."""
        if self.settings.trained == "routers":  # without dropout
            yield
            return
        seed = int(np.random.SeedSequence((self.settings.seed, _DROPOUT, self.step)).generate_state(1)[0])
        on_cuda = self._device.type == "cuda"
        with torch.random.fork_rng(devices=[self._device] if on_cuda else []):
            torch.default_generator.manual_seed(seed)
            if on_cuda:
                with torch.cuda.device(self._device):
                    torch.cuda.manual_seed(seed)
            yield

    def _require_gradients(self) -> None:
        if self._reached:
            return
        without = [name for name, parameter in self._of_routers.items() if parameter.grad is None]
        if without:
            raise RuntimeError(
                f"No gradient reaches the routers' {', '.join(without)}, so that they would stay as they are. Are the routers paused, or was the model reset with its "
                "hooks? Attach them anew with attach_lime."
            )
        self._reached = True

    def _require_finite(self, loss: float, norm: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = (
                f"loss of step {self.step + 1} is {loss}"
                if not math.isfinite(loss)
                else f"gradient of step {self.step + 1} has the norm {norm}"
            )
            raise RuntimeError(
                f"The {what}, so the training was stopped; the weights are as they were before this step. Train with a lower learning rate or a longer warm-up, "
                "or without autocast."
            )

    def _validate(self) -> float:
        size = self.settings.micro_batch_size or self.settings.batch_size
        losses = group_losses(self.model, self._validation, size, autocast=self.settings.autocast)
        loss = mean_loss(losses, self._validation)
        if not math.isfinite(loss):
            raise RuntimeError(
                f"The validation loss after step {self.step} is {loss}, so the training was stopped. Train with a lower learning rate, or look at the tokens."
            )
        self.history["validation_step"].append(self.step)
        self.history["validation_loss"].append(loss)
        return loss
