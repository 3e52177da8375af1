"""The step that works on the latents kept, against the dense step that hooks ask for and against the formula."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from sae_lens import TopKTrainingSAE

from sae_lens_ext import (
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
    KronTrainingSAE,
    KronTrainingSAEConfig,
)
from sae_lens_ext.ops import chunks
from tests.architectures.ranked import (
    D_IN,
    D_SAE,
    DEAD,
    K,
    both,
    configurations,
    dense_step,
    double,
    gradients,
    hooked,
    make,
    mse_by_decoding,
    some_dead,
    sparse_step,
    step,
    watch,
)
from tests.contract.synthetic import relative_error, step_input
from tests.ops.largest_tensor import LargestTensor


@pytest.fixture
def deterministic_algorithms() -> Iterator[None]:
    """What cannot be deterministic raises."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@both
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("how_many", ["few", "many"])
def test_the_dead_latent_loss_is_topks_own(name: str, rescale: bool, how_many: str) -> None:
    """SAELens' formula on all latents' scores, every one of which but the dead is thrown away."""
    sae = make(name, dtype="float64", rescale_acts_by_decoder_norm=rescale, aux_loss_coefficient=0.5)
    x, dead = torch.randn(40, D_IN, dtype=torch.float64), some_dead(how_many)
    sae.zero_grad()
    output = sae.training_forward_pass(step_input(x, dead=dead))
    output.losses["auxiliary_reconstruction_loss"].backward()
    found = {n: p.grad.clone() for n, p in sae.named_parameters() if p.grad is not None}
    sae.zero_grad()
    _, scores = sae.encode_with_hidden_pre(x)
    if isinstance(sae, KronTrainingSAE):
        scores = sae._scores(scores)
    expected = TopKTrainingSAE.calculate_topk_aux_loss(sae, x, output.sae_out, scores, dead)
    expected.backward()
    torch.testing.assert_close(output.losses["auxiliary_reconstruction_loss"], expected)
    for parameter in ("W_enc", "b_enc", "W_dec"):
        wanted = sae.get_parameter(parameter).grad
        assert wanted is not None and wanted.any()
        torch.testing.assert_close(found[parameter], wanted, msg=f"gradient of {parameter}")


@configurations
def test_a_bfloat16_step_agrees_roughly_with_the_dense_one(name: str, fields: dict) -> None:
    """Scores tie often in bfloat16, where the dense step takes any of the equals: single rows differ."""
    sae = make(name, dtype="bfloat16", **fields)
    x, dead = torch.randn(200, D_IN, dtype=torch.bfloat16), some_dead("many")
    dense, dense_gradients = dense_step(sae, x, dead)
    sparse, sparse_gradients = sparse_step(sae, x, dead)
    for loss, wanted in dense.losses.items():
        assert sparse.losses[loss].item() == pytest.approx(wanted.item(), rel=0.05), loss
    assert relative_error(sparse.sae_out, dense.sae_out) < 0.25
    for parameter, wanted in dense_gradients.items():
        assert sparse_gradients[parameter].dtype == torch.bfloat16
        assert relative_error(sparse_gradients[parameter], wanted) < 0.25, parameter


@both
def test_an_autocast_step_agrees_roughly_with_the_dense_one(name: str) -> None:
    sae = make(name)
    x, dead = torch.randn(200, D_IN), some_dead("many")
    exact = step(sae, x, dead)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dense, dense_gradients = dense_step(sae, x, dead)
        sparse, sparse_gradients = sparse_step(sae, x, dead)
    for loss, wanted in dense.losses.items():
        assert sparse.losses[loss].item() == pytest.approx(wanted.item(), rel=0.05), loss
        assert sparse.losses[loss].item() == pytest.approx(exact.losses[loss].item(), rel=0.05), loss
    for parameter, wanted in dense_gradients.items():
        assert sparse_gradients[parameter].dtype == torch.float32
        assert relative_error(sparse_gradients[parameter], wanted) < 0.25, parameter


@both
def test_chunks_do_not_show_in_a_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sae = make(name, dtype="float64")
    x, dead = torch.randn(37, D_IN, dtype=torch.float64), some_dead("many")
    expected, expected_gradients = sparse_step(sae, x, dead)
    monkeypatch.setitem(chunks.FLOATS_PER_CHUNK, "cpu", 5 * D_SAE)
    output, found = sparse_step(sae, x, dead)
    torch.testing.assert_close(output.losses, expected.losses)
    torch.testing.assert_close(found, expected_gradients)


@both
@pytest.mark.parametrize("budgets", ["all", (1, 3)])
def test_every_latent_may_be_kept(name: str, budgets: Any) -> None:
    sae = make(name, k=D_SAE, budgets=(*range(1, 20), D_SAE) if budgets == "all" else (1, D_SAE))
    x = torch.randn(10, D_IN)
    dense, dense_gradients = dense_step(sae, x)
    sparse, sparse_gradients = sparse_step(sae, x)
    torch.testing.assert_close(sparse.loss, dense.loss)
    for parameter, wanted in dense_gradients.items():
        assert relative_error(sparse_gradients[parameter], wanted) < 1e-5, parameter


@both
@pytest.mark.parametrize("budgets", ["all", (1, 3), (K,)], ids=str)
def test_two_steps_are_equal_to_the_last_bit(name: str, budgets: Any, deterministic_algorithms: None) -> None:
    sae, x, dead = make(name, budgets=budgets), torch.randn(300, D_IN), some_dead("many")
    first, first_gradients = sparse_step(sae, x, dead)
    second, second_gradients = sparse_step(sae, x, dead)
    assert torch.equal(first.loss, second.loss)
    assert all(torch.equal(first_gradients[n], second_gradients[n]) for n in first_gradients)


@both
@pytest.mark.parametrize("frozen", ["W_enc", "b_enc", "W_dec", "b_dec"])
def test_a_frozen_parameter_gets_no_gradient_and_the_others_theirs(name: str, frozen: str) -> None:
    sae = make(name, apply_b_dec_to_input=True)
    x, dead = torch.randn(30, D_IN), some_dead("many")
    _, expected = sparse_step(sae, x, dead)
    sae.get_parameter(frozen).requires_grad_(False)
    step(sae, x, dead)
    for parameter, tensor in sae.named_parameters():
        if parameter == frozen:
            assert tensor.grad is None
        else:
            torch.testing.assert_close(tensor.grad, expected[parameter])


@both
def test_a_batch_of_other_precision_is_taken_in_the_saes(name: str) -> None:
    sae, x = make(name), torch.randn(40, D_IN, dtype=torch.bfloat16)
    dense, dense_gradients = dense_step(sae, x)
    sparse, sparse_gradients = sparse_step(sae, x)
    torch.testing.assert_close(sparse.loss, dense.loss)
    torch.testing.assert_close(sparse_gradients, dense_gradients)


@both
@pytest.mark.parametrize("budgets", ["all", (K,)], ids=str)
def test_devices_without_weighted_bags_train_without_them(
    name: str, budgets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, x, dead = make(name, budgets=budgets), torch.randn(30, D_IN), some_dead("many")
    expected = step(sae, x, dead).loss
    monkeypatch.setattr(chunks, "SPARSE_DEVICES", [])
    monkeypatch.setattr(torch, "embedding_bag", lambda *_, **__: pytest.fail("a bag was used"))
    output = step(sae, x, dead)
    assert not output.feature_acts.is_sparse
    torch.testing.assert_close(output.loss, expected)


@both
def test_features_are_a_detached_coo_tensor(name: str) -> None:
    sae, x = make(name), torch.randn(7, D_IN)
    output = step(sae, x, some_dead("few"))
    for features in (output.feature_acts, output.hidden_pre):
        assert features.layout == torch.sparse_coo and features.shape == (7, D_SAE)
        assert not features.requires_grad
    assert not output.sae_out.requires_grad
    torch.testing.assert_close(output.feature_acts.to_dense(), sae.encode(x).detach())


@both
def test_a_step_under_no_grad_gives_the_loss(name: str) -> None:
    sae, x = make(name), torch.randn(7, D_IN)
    expected = step(sae, x, some_dead("many")).loss.detach()
    with torch.no_grad():
        output = sae.training_forward_pass(step_input(x, dead=some_dead("many")))
    torch.testing.assert_close(output.loss, expected)
    assert not output.loss.requires_grad


@both
@pytest.mark.parametrize("how_many", ["none", "few"])
@pytest.mark.parametrize("budgets", [(K,), "all"])
def test_a_step_in_inference_mode_gives_the_loss(name: str, how_many: str, budgets: Any) -> None:
    """As a step of SAELens' TopK does."""
    sae, x = make(name, budgets=budgets), torch.randn(7, D_IN)
    expected = step(sae, x, some_dead(how_many)).loss.item()
    with torch.inference_mode():
        output = sae.training_forward_pass(step_input(x, dead=some_dead(how_many)))
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


@both
@pytest.mark.parametrize("point", ["hook_sae_input", "hook_sae_acts_pre", "hook_sae_acts_post"])
def test_a_hook_that_changes_what_it_sees_changes_the_step(name: str, point: str) -> None:
    sae = make(name, dtype="float64", apply_b_dec_to_input=False)
    x = torch.randn(20, D_IN, dtype=torch.float64)
    plain = step(sae, x)
    with hooked(sae, point, double):
        output = step(sae, x)
        found = gradients(sae)
        sae.zero_grad()
        expected = mse_by_decoding(sae, x)
        expected.backward()
    assert abs(output.losses["mse_loss"] - plain.losses["mse_loss"]) > 0.1 * plain.losses["mse_loss"]
    torch.testing.assert_close(output.losses["mse_loss"], expected)
    torch.testing.assert_close(found, gradients(sae))
    if point != "hook_sae_input":  # both are homogeneous in their pre-activations
        torch.testing.assert_close(output.feature_acts, 2 * plain.feature_acts.to_dense())
    assert step(sae, x).loss == plain.loss


@both
def test_latents_that_a_hook_switches_off_leave_the_decoders_bias(name: str) -> None:
    sae, x = make(name), torch.randn(20, D_IN)
    with hooked(sae, "hook_sae_acts_post", lambda tensor, hook: torch.zeros_like(tensor)):
        output = step(sae, x)
    torch.testing.assert_close(
        output.losses["mse_loss"].detach(), (x - sae.b_dec).pow(2).sum(-1).mean().detach()
    )


@both
@pytest.mark.parametrize("point", ["hook_sae_acts_pre", "hook_sae_acts_post"])
def test_a_backward_hook_sees_the_dense_gradient(name: str, point: str) -> None:
    sae, x, seen = make(name), torch.randn(20, D_IN), []
    with hooked(sae, point, lambda tensor, hook: seen.append(tensor.clone()), dir="bwd"):
        step(sae, x)
    width = sae.W_enc.shape[1] if point == "hook_sae_acts_pre" else D_SAE
    assert len(seen) == 1 and seen[0].shape == (20, width) and seen[0].any()


@both
@pytest.mark.parametrize("dense", [False, True])
def test_a_hook_on_the_reconstruction_sees_the_largest_budgets(name: str, dense: bool) -> None:
    sae, x, seen = make(name, budgets=(1, 3)), torch.randn(20, D_IN), []
    with hooked(sae, "hook_sae_recons", lambda tensor, hook: seen.append(tensor.clone())):
        if dense:
            sae.hook_sae_acts_post.add_hook(watch)
        output = step(sae, x)
    assert len(seen) == 1 and torch.equal(seen[0], output.sae_out)
    torch.testing.assert_close(seen[0], sae(x).detach())


@both
@pytest.mark.parametrize("how_many", DEAD)
def test_a_hook_on_the_reconstruction_cannot_change_the_loss(name: str, how_many: str) -> None:
    """As `training_forward_pass` says; what is logged as `sae_out` is what the hook made of it."""
    sae, x, dead = make(name), torch.randn(20, D_IN), some_dead(how_many)
    plain = step(sae, x, dead)
    with hooked(sae, "hook_sae_recons", double):
        output = step(sae, x, dead)
    torch.testing.assert_close(output.sae_out, 2 * plain.sae_out)
    torch.testing.assert_close(output.losses, plain.losses)


def test_a_kron_step_makes_nothing_as_large_as_the_dense_latents() -> None:
    """F = 32768, backward pass and five dead latents included; pre-latents of all tokens are B·F/8."""
    tokens, d_in, d_sae = 64, 4, 2**15
    cfg = KronTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=4, base_dim=16, extension_dim=16)
    sae, x = KronTrainingSAE(cfg), torch.randn(tokens, d_in)
    dead = torch.arange(d_sae) % 7000 == 5
    with LargestTensor() as largest:
        output = step(sae, x, dead)
    assert output.losses["auxiliary_reconstruction_loss"] > 0
    assert largest.numel <= tokens * d_sae // 8, largest
    with LargestTensor() as largest:
        dense_step(sae, x, dead)
    assert largest.numel >= tokens * d_sae, largest


@pytest.mark.parametrize("budgets", ["all", (1, 2, 4), (4,)])
def test_a_kron_step_with_budgets_makes_nothing_as_large_as_the_dense_latents(budgets: Any) -> None:
    tokens, d_in, d_sae = 64, 4, 2**13
    cfg = KronTrainingSAEConfig(
        d_in=d_in,
        d_sae=d_sae,
        k=4,
        base_dim=8,
        extension_dim=8,
        budgets=budgets,
        apply_b_dec_to_input=True,
    )
    with LargestTensor() as largest:
        step(KronTrainingSAE(cfg), torch.randn(tokens, d_in), torch.arange(d_sae) % 3000 == 5)
    assert largest.numel <= tokens * d_sae // 4, largest


def test_a_hierarchical_topk_step_holds_the_latents_of_a_few_tokens() -> None:
    tokens, d_in, d_sae = 64, 4, 4096
    sae = HierarchicalTopKTrainingSAE(HierarchicalTopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=4))
    with patch.dict(chunks.FLOATS_PER_CHUNK, {"cpu": 4 * d_sae}), LargestTensor() as largest:
        step(sae, torch.randn(tokens, d_in), torch.arange(d_sae) % 1000 == 5)
    assert largest.numel <= 4 * d_sae, largest  # a chunk, and each weight's gradient
    with LargestTensor() as largest:
        dense_step(sae, torch.randn(tokens, d_in))
    assert largest.numel >= tokens * d_sae, largest
