"""`with_k` shares weights and checks its k; `budget_curve` equals evaluating one budget at a time."""

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
from sae_lens.evals import ExplainedVarianceCalculator

from sae_lens_ext import (
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
    KronSAE,
    KronSAEConfig,
    KronTrainingSAE,
    KronTrainingSAEConfig,
    budget_curve,
    with_k,
)
from tests.architectures.bases import base_sae, residual_for

SIZE = {"d_in": 6, "d_sae": 24, "k": 5}
MAKERS = {
    "topk": lambda: TopKSAE(TopKSAEConfig(**SIZE)),
    "topk rescaled": lambda: TopKSAE(TopKSAEConfig(**SIZE, rescale_acts_by_decoder_norm=True)),
    "hierarchical training": lambda: HierarchicalTopKTrainingSAE(HierarchicalTopKTrainingSAEConfig(**SIZE)),
    "kron": lambda: KronSAE(KronSAEConfig(**SIZE, base_dim=2, extension_dim=2)),
    "kron training": lambda: KronTrainingSAE(KronTrainingSAEConfig(**SIZE, base_dim=2, extension_dim=2)),
}


@pytest.fixture(params=MAKERS)
def sae(request: pytest.FixtureRequest):
    sae = MAKERS[request.param]()
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.normal_()
    return sae


def test_with_k_keeps_the_k_largest_and_shares_the_weights(sae) -> None:
    smaller, x = with_k(sae, 2), torch.randn(7, 6)
    values, indices = sae.encode(x).topk(2)
    torch.testing.assert_close(smaller.encode(x), torch.zeros(7, 24).scatter(-1, indices, values))
    assert type(smaller) is type(sae) and smaller.cfg.k == 2 and sae.cfg.k == 5
    assert all(a is b for a, b in zip(smaller.parameters(), sae.parameters(), strict=True))
    assert smaller.hook_dict.keys() == sae.hook_dict.keys()
    assert not any(a is b for a, b in zip(smaller.hook_dict.values(), sae.hook_dict.values(), strict=True))


def test_with_k_goes_back_up_to_the_trained_k_and_no_further(sae) -> None:
    x = torch.randn(7, 6)
    assert torch.equal(with_k(with_k(sae, 1), 5)(x), sae(x))
    for k in (0, -1, 6):
        with pytest.raises(ValueError, match=rf"k = {k} is out of range.* trained with = 5"):
            with_k(with_k(sae, 2), k)


def test_with_k_on_a_training_sae_keeps_only_the_budgets_it_can_have() -> None:
    sae = HierarchicalTopKTrainingSAE(HierarchicalTopKTrainingSAEConfig(**SIZE, budgets=(1, 3, 5)))
    assert with_k(sae, 3).cfg.budgets == (1, 3)
    assert with_k(sae, 4).cfg.budgets == (1, 3, 4)


@pytest.mark.parametrize(
    "function", [lambda sae: with_k(sae, 1), lambda sae: budget_curve(sae, torch.ones(1, 8), [1])]
)
def test_SAEs_without_a_budget_per_token_are_refused(function) -> None:
    for sae in (StandardSAE(StandardSAEConfig(d_in=8, d_sae=16)), residual_for(base_sae("standard"))):
        with pytest.raises(
            ValueError, match="keeps the k largest latents of each token, but a '(standard|residual)'"
        ):
            function(sae)


def test_budget_curve_equals_one_budget_at_a_time(sae) -> None:
    x = torch.randn(600, 6)
    curve = budget_curve(sae, x, torch.tensor([5, 1, 3]))
    assert curve.ks == (1, 3, 5) and curve.n_tokens == 600
    for k, ev, mse in zip(curve.ks, curve.explained_variance, curve.mse, strict=True):
        x_hat = with_k(sae, k)(x).detach()
        calculator = ExplainedVarianceCalculator()
        calculator.add_batch(x_hat, x)
        assert ev == pytest.approx(calculator.compute(), rel=1e-4)
        assert mse == pytest.approx((x - x_hat).pow(2).sum(-1).mean().item(), rel=1e-4)


def test_budget_curve_reads_batches_of_any_shape(sae) -> None:
    x = torch.randn(600, 6)
    whole = budget_curve(sae, x, range(1, 6))
    batches = budget_curve(sae, (part.reshape(-1, 20, 6) for part in x.split(200)), range(1, 6))
    assert batches.explained_variance == pytest.approx(whole.explained_variance, rel=1e-5)


def test_budget_curve_refuses_activations_of_another_width(sae) -> None:
    with pytest.raises(ValueError, match=r"shape \(10, 12\), but the SAE has d_in = 6"):
        budget_curve(sae, torch.randn(10, 12), [1])


def test_budget_curve_measures_hook_z_saes_on_flattened_heads() -> None:
    sae = TopKSAE(TopKSAEConfig(**SIZE, reshape_activations="hook_z"))
    plain = TopKSAE(TopKSAEConfig(**SIZE))
    plain.load_state_dict(sae.state_dict())
    x = torch.randn(40, 6)
    assert budget_curve(sae, x, [1, 5]).mse == pytest.approx(budget_curve(plain, x, [1, 5]).mse)
    assert sae.hook_z_reshaping_mode


def test_budget_curve_is_a_table_a_picture_and_three_lines(sae) -> None:
    curve = budget_curve(sae, torch.randn(50, 6), [1, 5])
    assert list(curve.to_frame().columns) == ["k", "explained_variance", "mse"] and len(curve.to_frame()) == 2
    assert list(curve.plot().data[0].x) == [1, 5]
    assert len(repr(curve).splitlines()) == 3


def test_budget_curve_refuses(sae) -> None:
    with pytest.raises(ValueError, match="no budgets"):
        budget_curve(sae, torch.randn(5, 6), [])
    with pytest.raises(ValueError, match="ks = 6 is out of range"):
        budget_curve(sae, torch.randn(5, 6), [1, 6])
    with pytest.raises(ValueError, match="ks = 0 is out of range"):
        budget_curve(sae, torch.randn(5, 6), [0, 3])
    with pytest.raises(ValueError, match="no activations"):
        budget_curve(sae, iter(()), [1])
    stateful = TopKSAE(TopKSAEConfig(**SIZE, normalize_activations="layer_norm"))
    with pytest.raises(ValueError, match="scales each token by itself"):
        budget_curve(stateful, torch.randn(5, 6), [1])
