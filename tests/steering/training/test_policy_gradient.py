"""The expected RLOO gradient is the gradient of the expected reward: every group of a model with two tokens, enumerated."""

from itertools import product

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sae_lens_ext import AddVector, steer
from sae_lens_ext.steering.training.advantages import rloo_advantages
from sae_lens_ext.steering.training.log_probs import score
from sae_lens_ext.steering.training.rollout import Rollout

PROMPT = torch.tensor([0, 1, 1])
COMPLETIONS = [torch.tensor(tokens) for tokens in product((0, 1), repeat=2)]
REWARDS = {(0, 0): 0.0, (0, 1): 1.0, (1, 0): 0.25, (1, 1): -2.0}
TEMPERATURE = 0.7


@pytest.fixture
def toy_model() -> HookedTransformer:
    """Two tokens, one layer, double precision."""
    cfg = HookedTransformerConfig(
        n_layers=1,
        d_model=6,
        n_heads=2,
        d_head=3,
        n_ctx=8,
        d_mlp=8,
        d_vocab=2,
        act_fn="gelu",
        seed=3,
        dtype=torch.float64,
        device="cpu",
    )
    model = HookedTransformer(cfg).eval()
    model.requires_grad_(False)
    return model


def log_prob(model: HookedTransformer, completion: torch.Tensor) -> torch.Tensor:
    """By a plain pass over prompt and completion."""
    logits = model(torch.cat([PROMPT, completion])[None], return_type="logits")[0, len(PROMPT) - 1 : -1]
    return (logits / TEMPERATURE).log_softmax(-1).gather(1, completion[:, None]).sum()


def test_expected_gradient_over_all_groups_is_that_of_the_expected_reward(
    toy_model: HookedTransformer,
) -> None:
    vector = torch.linspace(-0.5, 0.4, 6, dtype=torch.float64).requires_grad_()
    with steer(toy_model, AddVector("blocks.0.hook_resid_post", vector)):
        probs = {tuple(y.tolist()): log_prob(toy_model, y).exp() for y in COMPLETIONS}
        assert abs(sum(p.item() for p in probs.values()) - 1) < 1e-9
        expected_reward = torch.stack([probs[y] * REWARDS[y] for y in probs]).sum()
        (exact,) = torch.autograd.grad(expected_reward, vector)
        expected_gradient = torch.zeros_like(vector)
        for group in product(COMPLETIONS, repeat=2):
            names = [tuple(y.tolist()) for y in group]
            rollouts = [Rollout(PROMPT, y, torch.zeros(2), torch.zeros(2), ended=False) for y in group]
            rewards = torch.tensor([[REWARDS[name] for name in names]], dtype=torch.float64)
            own = score(toy_model, rollouts, TEMPERATURE).of_tokens().sum(dim=1)
            objective = (rloo_advantages(rewards)[0] * own).mean()
            (gradient,) = torch.autograd.grad(objective, vector)
            expected_gradient += gradient * (probs[names[0]] * probs[names[1]]).item()
    assert exact.norm() > 1e-3
    torch.testing.assert_close(expected_gradient, exact, atol=1e-7, rtol=1e-5)
