"""Small SAEs that keep ranked latents, with hooks or without: what the tests of their steps share."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from sae_lens.saes.sae import TrainStepOutput

from sae_lens_ext import (
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
    KronTrainingSAE,
    KronTrainingSAEConfig,
)
from tests.contract.synthetic import step_input

D_IN, D_SAE, K = 8, 48, 4
TRAINING: dict[str, tuple[type, type, dict[str, Any]]] = {
    "hierarchical_topk": (HierarchicalTopKTrainingSAE, HierarchicalTopKTrainingSAEConfig, {}),
    "kron": (KronTrainingSAE, KronTrainingSAEConfig, {"base_dim": 2, "extension_dim": 3}),
}
DEAD = {"none": 0, "few": 3, "many": 29}  # a step uses d_in/2 = 4 of them

both = pytest.mark.parametrize("name", TRAINING)
Trained = HierarchicalTopKTrainingSAE | KronTrainingSAE


def make(name: str, **fields: Any) -> Trained:
    """A training SAE with random parameters of moderate size, and decoder rows of many lengths."""
    sae_class, config, settings = TRAINING[name]
    sae = sae_class(config(**{"d_in": D_IN, "d_sae": D_SAE, "k": K, **settings, **fields}))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn_like(parameter, dtype=torch.float64))
        sae.W_dec.mul_(0.3 + torch.rand(sae.cfg.d_sae, 1))
    return sae


def some_dead(how_many: str, d_sae: int = D_SAE) -> torch.Tensor:
    dead = torch.zeros(d_sae, dtype=torch.bool)
    dead[torch.randperm(d_sae, generator=torch.Generator().manual_seed(3))[: DEAD[how_many]]] = True
    return dead


def watch(tensor: torch.Tensor, hook: Any) -> None:
    """See the tensor and leave it as it is."""


def double(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
    return 2 * tensor


@contextmanager
def hooked(sae: Any, point: str, function: Callable[..., Any] = watch, **options: Any) -> Iterator[None]:
    getattr(sae, point).add_hook(function, **options)
    try:
        yield
    finally:
        sae.reset_hooks(including_permanent=True)


def step(sae: Any, x: torch.Tensor, dead: torch.Tensor | None = None) -> TrainStepOutput:
    """The training step and its backward pass, from fresh gradients."""
    sae.zero_grad()
    output = sae.training_forward_pass(step_input(x, dead=dead))
    output.loss.backward()
    return output


def gradients(sae: Any) -> dict[str, torch.Tensor]:
    found = {}
    for name, parameter in sae.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
    return found


def dense_step(
    sae: Any, x: torch.Tensor, dead: torch.Tensor | None = None
) -> tuple[TrainStepOutput, dict[str, torch.Tensor]]:
    with hooked(sae, "hook_sae_acts_post"):
        output = step(sae, x, dead)
    assert not output.feature_acts.is_sparse
    return output, gradients(sae)


def sparse_step(
    sae: Any, x: torch.Tensor, dead: torch.Tensor | None = None
) -> tuple[TrainStepOutput, dict[str, torch.Tensor]]:
    output = step(sae, x, dead)
    assert output.feature_acts.is_sparse
    return output, gradients(sae)


def mse_by_decoding(sae: Any, x: torch.Tensor) -> torch.Tensor:
    """The squared error at each budget, with SAELens' own decoder on the j largest latents, averaged."""
    acts = sae.encode(x)
    rank = acts.argsort(dim=-1, descending=True).argsort(dim=-1)
    errors = [(sae.decode(acts * (rank < j)) - x).pow(2).sum(dim=-1).mean() for j in sae.cfg.levels]
    return torch.stack(errors).mean()


CONFIGURATIONS = [
    (name, {"budgets": budgets, "rescale_acts_by_decoder_norm": rescale, "apply_b_dec_to_input": apply})
    for name, rescale, apply in itertools.product(TRAINING, (True, False), (True, False))
    for budgets in ("all", (1, 3), (K,), *((None,) if name == "kron" else ()))
]


def described(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    rescale = "rescaled" if value["rescale_acts_by_decoder_norm"] else "not rescaled"
    return f"{value['budgets']} {rescale} {'b_dec in' if value['apply_b_dec_to_input'] else 'b_dec out'}"


configurations = pytest.mark.parametrize(("name", "fields"), CONFIGURATIONS, ids=described)


@configurations
@pytest.mark.parametrize("how_many", DEAD)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_sparse_step_is_the_dense_one(name: str, fields: dict, how_many: str, dtype: str) -> None:
    sae = make(name, dtype=dtype, **fields)
    x, dead = torch.randn(40, D_IN, dtype=sae.dtype), some_dead(how_many)
    dense, dense_gradients = dense_step(sae, x, dead)
    sparse, sparse_gradients = sparse_step(sae, x, dead)
    for loss, wanted in dense.losses.items():
        torch.testing.assert_close(sparse.losses[loss], wanted, msg=f"{loss} differs")
    torch.testing.assert_close(sparse.loss, dense.loss)
    torch.testing.assert_close(sparse.sae_out, dense.sae_out)
    torch.testing.assert_close(sparse.feature_acts.to_dense(), dense.feature_acts)
    assert (sparse.losses["auxiliary_reconstruction_loss"] > 0) == (how_many != "none")
    for parameter, wanted in dense_gradients.items():
        error = (sparse_gradients[parameter] - wanted).norm() / wanted.norm()
        assert error < (1e-5 if dtype == "float32" else 1e-12), parameter


@configurations
def test_the_loss_is_the_mean_over_budgets_of_what_decoding_leaves(name: str, fields: dict) -> None:
    sae = make(name, dtype="float64", **fields)
    x = torch.randn(40, D_IN, dtype=torch.float64)
    output, found = sparse_step(sae, x)
    sae.zero_grad()
    expected = mse_by_decoding(sae, x)
    expected.backward()
    torch.testing.assert_close(output.losses["mse_loss"], expected)
    torch.testing.assert_close(output.sae_out, sae.decode(sae.encode(x)).detach())
    for parameter, wanted in gradients(sae).items():
        torch.testing.assert_close(found[parameter], wanted, msg=f"gradient of {parameter}")
