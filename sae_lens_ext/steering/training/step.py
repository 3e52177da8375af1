"""One update after another: sample, reward, and move the vectors along the policy gradient."""

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from sae_lens_ext.language_model import by_length
from sae_lens_ext.steering.add_vector import AddVector
from sae_lens_ext.steering.intervention import InterventionSum
from sae_lens_ext.steering.steer import steer
from sae_lens_ext.steering.training.advantages import controlled_rewards, rloo_advantages
from sae_lens_ext.steering.training.checkpoint import Checkpoint
from sae_lens_ext.steering.training.log_probs import kl_divergences, score
from sae_lens_ext.steering.training.reward_calls import Reward, call_reward
from sae_lens_ext.steering.training.rollout import Rollout, Sampling, sample
from sae_lens_ext.steering.training.settings import TrainingSettings
from sae_lens_ext.steering.training.texts import chunks, completion_text
from sae_lens_ext.steering.vectors import SteeringVectors

_ORDER, _SAMPLE, _CONTROL = range(3)
"""What a random number is for."""
_STATE = ("step", "exp_avg", "exp_avg_sq")
_MOST_DRIFT = 1e-2
"""Largest difference, nats, between a token's log-probability when sampled and when scored, in float32; rounding gives 1e-4."""
_logger = logging.getLogger(__name__)


class Trainer:
    """A training between two steps.

    Args:
        model: The model.
        prompts: The texts, as the reward reads them.
        tokens: Their token ids, [n] each.
        reward: Says how good a completion is.
        settings: Everything else.
        start: Vectors to begin with; None for zeros.

    Raises:
        ValueError: The vectors to begin with have another width or other layers.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[str],
        tokens: Sequence[torch.Tensor],
        reward: Reward,
        settings: TrainingSettings,
        start: SteeringVectors | None,
    ) -> None:
        self.model, self.prompts, self.tokens = model, prompts, tokens
        self.reward, self.settings = reward, settings
        self.step = 0
        """Updates done."""
        self.rewards: list[float] = []
        """Mean reward of each."""
        begun = SteeringVectors.zeros(model, settings.layers) if start is None else start
        if begun.layers != settings.layers:
            raise ValueError(
                f"train_steering_vectors was given vectors of the layers {list(begun.layers)} to start with, but trains the layers {list(settings.layers)}. "
                "Give layers=start.layers, or other vectors."
            )
        begun.interventions(model)  # raises if the width is another
        device = next(model.parameters()).device
        self._vectors = {
            layer: torch.nn.Parameter(begun[layer].to(device, torch.float32, copy=True))
            for layer in settings.layers
        }
        self._optimizer = torch.optim.AdamW(
            [{"params": [vector], "lr": settings.lr[layer]} for layer, vector in self._vectors.items()],
            weight_decay=settings.weight_decay,
        )
        self._policy = InterventionSum(
            [AddVector(f"blocks.{layer}.hook_resid_post", vector) for layer, vector in self._vectors.items()]
        )
        self._sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.stop_tokens)

    @property
    def finished(self) -> bool:
        """Whether the last step is done, or the training may stop before it."""
        stop = self.settings.early_stop
        return self.step >= self.settings.steps or (stop is not None and stop.reached(self.rewards))

    def vectors(self, provenance: dict[str, Any]) -> SteeringVectors:
        """Give the vectors as they are."""
        return SteeringVectors({layer: v.detach() for layer, v in self._vectors.items()}, provenance)

    def checkpoint(self) -> Checkpoint:
        """Give everything there is to know."""
        state = self._optimizer.state
        return Checkpoint(
            self.step,
            list(self.rewards),
            {layer: vector.detach() for layer, vector in self._vectors.items()},
            {
                name: {
                    layer: state[vector][name] for layer, vector in self._vectors.items() if vector in state
                }
                for name in _STATE
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.step, self.rewards = checkpoint.step, list(checkpoint.rewards)
        with torch.no_grad():
            for layer, vector in self._vectors.items():
                vector.copy_(checkpoint.vectors[layer])
        for name, of_layers in checkpoint.optimizer.items():
            for layer, value in of_layers.items():
                vector = self._vectors[layer]
                kept = value.clone() if name == "step" else value.to(vector.device, copy=True)
                self._optimizer.state[vector][name] = kept

    @contextmanager
    def frozen(self) -> Generator[None, None, None]:
        """Let no gradient into the model's own parameters while the block lasts."""
        wanted = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in wanted:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in wanted:
                parameter.requires_grad_(True)

    def train_step(self) -> dict[str, Any]:
        """Do one update.

        Returns:
            What there is to log of it.

        Raises:
            RewardError: The reward failed; nothing has changed.
            ValueError: The logits are NaN or infinite; nothing has changed.
            RuntimeError: Sampling and scoring disagree; nothing has changed.
        """
        settings, chosen = self.settings, self._chosen()
        rollouts = self._sample(chosen)
        texts = [
            [completion_text(self.model, rollout) for rollout in group]
            for group in chunks(rollouts, settings.group_size)
        ]
        rewards = call_reward(self.reward, [self.prompts[i] for i in chosen], texts)
        trained = controlled_rewards(rewards, settings.control, (settings.seed, _CONTROL, self.step))
        advantages = rloo_advantages(torch.from_numpy(trained)).flatten().float()
        drift = self._accumulate(rollouts, advantages)
        kl = self._kl(rollouts) if settings.kl_every and self.step % settings.kl_every == 0 else None
        norm = self._update()
        self.step += 1
        self.rewards.append(float(rewards.mean()))
        self._warn_of_nothing(trained)
        lengths = [len(rollout.tokens) for rollout in rollouts]
        return {
            "step": self.step,
            "reward": self.rewards[-1],
            "reward_std": float(rewards.std()),
            "trained_reward": float(trained.mean()),
            "degenerate_groups": float((np.ptp(trained, axis=1) == 0).mean()),
            "kl_to_base": kl,
            "entropy": float(torch.cat([rollout.entropies for rollout in rollouts]).mean()),
            "length": float(np.mean(lengths)),
            "ended": float(np.mean([rollout.ended for rollout in rollouts])),
            "gradient_norm": norm,
            "log_prob_drift": drift,
            "learning_rate": {
                str(layer): rate * self._warmth(self.step) for layer, rate in settings.lr.items()
            },
            "vector_norm": {str(layer): float(v.detach().norm()) for layer, v in self._vectors.items()},
        }

    def _chosen(self) -> list[int]:
        """Give the prompts of this step: the next ones of this epoch's order, and of the next epoch's."""
        n, of_step = len(self.prompts), self.settings.prompts_per_step
        places = range(self.step * of_step, (self.step + 1) * of_step)
        orders = {
            epoch: np.random.default_rng((self.settings.seed, _ORDER, epoch)).permutation(n)
            for epoch in {place // n for place in places}
        }
        return [int(orders[place // n][place % n]) for place in places]

    def _sample(self, chosen: Sequence[int]) -> list[Rollout]:
        settings = self.settings
        rows = [(place, i) for place in range(len(chosen)) for i in range(settings.group_size)]
        rollouts: list[Rollout] = []
        with steer(self.model, self._policy):
            for part in chunks(rows, settings.micro_batch_size):
                prompts = [self.tokens[chosen[place]] for place, _ in part]
                seeds = [(settings.seed, _SAMPLE, self.step, place, i) for place, i in part]
                rollouts.extend(sample(self.model, prompts, seeds, self._sampling))
        return rollouts

    def _accumulate(self, rollouts: Sequence[Rollout], advantages: torch.Tensor) -> float:
        """Add the gradient of −mean_j A_j Σ_t log π(y_t) to the vectors; samples without advantage have none.

        Returns:
            The largest difference between a token's log-probability when it was sampled and now, nats.
        """
        self._optimizer.zero_grad(set_to_none=True)
        counting = [j for j, advantage in enumerate(advantages.tolist()) if advantage != 0]
        drift = 0.0
        # Without padding: of a row that attends to nothing some models' attention has NaN as gradient.
        lengths = [len(rollouts[j].prompt) for j in counting]
        for part in by_length(counting, lengths, self.settings.micro_batch_size):
            with steer(self.model, self._policy):
                scored = score(self.model, [rollouts[j] for j in part], self.settings.temperature)
                log_probs = scored.of_tokens()
                weights = advantages[part].to(log_probs.device)
                loss = -(weights * log_probs.sum(dim=1)).sum() / len(rollouts)
                gradients = torch.autograd.grad(loss, list(self._vectors.values()))
            for vector, gradient in zip(self._vectors.values(), gradients, strict=True):
                vector.grad = gradient if vector.grad is None else vector.grad + gradient
            sampled = torch.nn.utils.rnn.pad_sequence([rollouts[j].log_probs for j in part], batch_first=True)
            drift = max(drift, float((log_probs.detach().cpu() - sampled).abs().max()))
        if drift > _MOST_DRIFT and self.model.cfg.dtype in (torch.float32, torch.float64):
            raise RuntimeError(
                f"Tokens were sampled with log-probabilities that differ by up to {drift:.2g} nats from those of the same tokens read at once, where rounding "
                "gives 1e-4. This model's key-value cache or its padding is not exact, so its gradients would be those of another policy. Nothing was changed. "
                "Load the model as another class, HookedTransformer or TransformerBridge."
            )
        return drift

    @torch.no_grad()
    def _kl(self, rollouts: Sequence[Rollout]) -> float:
        """Give KL(steered ‖ base), the mean over the tokens sampled, nats."""
        total, n_tokens = 0.0, 0
        for part in chunks(rollouts, self.settings.micro_batch_size):
            with steer(self.model, self._policy):
                steered = score(self.model, part, self.settings.temperature)
            base = score(self.model, part, self.settings.temperature)
            total += float(kl_divergences(steered.log_probs, base.log_probs)[steered.written].sum())
            n_tokens += int(steered.written.sum())
        return total / n_tokens

    def _update(self) -> float:
        """Move the vectors.

        Returns:
            The norm of the gradient over all of them, before clipping; 0 if no sample had an advantage, and nothing has moved then.

        Raises:
            ValueError: The gradient is NaN or infinite; nothing has changed.
        """
        vectors = list(self._vectors.values())
        if all(vector.grad is None for vector in vectors):
            return 0.0
        norm = float(torch.nn.utils.clip_grad_norm_(vectors, self.settings.clip))
        if not np.isfinite(norm):
            raise ValueError(
                f"The gradient of step {self.step + 1} is NaN or infinite. Train with a lower learning rate, or look at the model's precision. The vectors are as "
                "they were before this step."
            )
        for group, layer in zip(self._optimizer.param_groups, self._vectors, strict=True):
            group["lr"] = self.settings.lr[layer] * self._warmth(self.step + 1)
        self._optimizer.step()
        return norm

    def _warmth(self, step: int) -> float:
        """Give the share of the learning rate at a step, counted from 1."""
        rising = int(np.ceil(self.settings.warmup * self.settings.steps))
        return min(1.0, step / rising) if rising else 1.0

    def _warn_of_nothing(self, trained: np.ndarray) -> None:
        if self.step == 10 and len(set(self.rewards)) == 1 and not np.ptp(trained):
            _logger.warning(
                "In the first 10 steps every sample got the reward %g, so nothing can be learnt. Give a task that the model can do "
                "sometimes.",
                self.rewards[0],
            )
