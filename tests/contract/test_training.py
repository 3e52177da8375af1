"""SAELens' trainer: the loss falls, every parameter learns, and no precision or dead latent breaks it."""

import copy
import math

import pytest
import torch
from sae_lens.saes.sae import TrainStepOutput

from .cases import HIERARCHICAL_TOPK, TOPK, TRAINED, ArchitectureCase
from .synthetic import (
    BATCH,
    D_IN,
    K,
    batches,
    copy_of_state,
    make_trainer,
    run_steps,
    same_state,
    sparse_activations,
    step_input,
    train,
)


def mse_loss_mixes_precisions() -> bool:
    """Whether torch differentiates `mse_loss` of bfloat16 and float32; 2.6 does not."""
    x = torch.ones(1, dtype=torch.bfloat16, requires_grad=True)
    try:
        torch.nn.functional.mse_loss(x, torch.ones(1)).backward()
    except RuntimeError:
        return False
    return True


trained = pytest.mark.parametrize("case", TRAINED, ids=str)


@trained
def test_the_loss_falls(case: ArchitectureCase):
    outputs = train(case.make_training(), steps=120)
    losses = [output.losses["mse_loss"].item() for output in outputs]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@trained
def test_the_loss_reaches_every_parameter(case: ArchitectureCase):
    sae = case.make_trained()
    sae.training_forward_pass(step_input=step_input(sparse_activations(256))).loss.backward()
    unreached = set()
    for name, parameter in sae.named_parameters():
        if parameter.grad is None or not parameter.grad.any():
            unreached.add(name)
        else:
            assert parameter.grad.isfinite().all(), name
    assert unreached == case.frozen & set(dict(sae.named_parameters()))


@trained
def test_training_changes_every_parameter(case: ArchitectureCase):
    sae = case.make_training()
    before = copy_of_state(sae)
    train(sae, steps=3)
    unchanged = {name for name, p in sae.named_parameters() if torch.equal(p, before[name])}
    assert unchanged == case.frozen & set(dict(sae.named_parameters()))


@trained
def test_the_step_s_output_is_what_the_trainer_reads(case: ArchitectureCase):
    sae = case.make_trained()
    x = sparse_activations(BATCH)
    before = x.clone()
    output = sae.training_forward_pass(step_input=step_input(x))
    assert isinstance(output, TrainStepOutput)
    assert torch.equal(x, before)
    assert torch.equal(output.sae_in, x)
    assert output.sae_out.shape == x.shape
    assert output.feature_acts.shape == (BATCH, sae.cfg.d_sae)
    assert not (output.feature_acts.is_sparse and output.feature_acts.requires_grad)
    assert output.loss.shape == ()
    assert output.loss.requires_grad
    assert "mse_loss" in output.losses
    torch.testing.assert_close(output.loss, sum(output.losses.values()))


@trained
def test_the_step_s_features_fire_as_the_budget_says(case: ArchitectureCase):
    sae = case.make_trained()
    output = sae.training_forward_pass(step_input=step_input(sparse_activations(BATCH)))
    fired = output.feature_acts.to_dense() != 0
    assert 0.5 < fired.sum(dim=-1).float().mean() <= K
    if case.per_token:
        assert fired.sum(dim=-1).max() <= K


@trained
def test_the_step_reconstructs_its_input(case: ArchitectureCase):
    sae = case.make_training()
    train(sae, steps=120)
    x = sparse_activations(512, seed=99)
    output = sae.training_forward_pass(step_input=step_input(x))
    explained = 1 - (output.sae_out - x).pow(2).sum() / (x - x.mean(dim=0)).pow(2).sum()
    assert explained > 0.4


@trained
def test_the_trainer_counts_firings_and_logs_finite_numbers(case: ArchitectureCase):
    sae = case.make_training()
    trainer = make_trainer(sae)
    output = run_steps(trainer, batches(), 4)[-1]
    fired = (output.feature_acts.to_dense() != 0).any(dim=0)
    assert (trainer.n_forward_passes_since_fired[fired] == 0).all()
    assert trainer.act_freq_scores.shape == (sae.cfg.d_sae,)
    assert 0 < trainer.feature_sparsity.sum() <= K + 1e-4
    logs = trainer.build_train_step_log_dict(output, n_training_samples=trainer.n_training_samples)
    assert {"losses/overall_loss", "losses/mse_loss", "metrics/l0"} <= logs.keys()
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in logs.values())
    assert 0 < logs["metrics/l0"] <= K + 1e-4


@trained
def test_histograms_are_logged(case: ArchitectureCase):
    sae = case.make_trained()
    assert sae.log_histograms()["weights/W_dec_norms"].shape == (sae.cfg.d_sae,)


@trained
def test_dead_latents_add_a_finite_loss(case: ArchitectureCase):
    sae = case.make_trained()
    dead = torch.arange(sae.cfg.d_sae) % 2 == 0
    x = sparse_activations(BATCH)
    alive = sae.training_forward_pass(step_input=step_input(x, dead=torch.zeros_like(dead)))
    output = sae.training_forward_pass(step_input=step_input(x, dead=dead))
    output.loss.backward()
    assert output.loss > alive.loss
    for name, parameter in sae.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@trained
def test_training_goes_on_when_every_latent_dies(case: ArchitectureCase):
    sae = case.make_training()
    outputs = train(sae, steps=6, dead_feature_window=0)
    assert all(output.loss.isfinite() for output in outputs)
    assert all(parameter.isfinite().all() for parameter in sae.parameters())


@trained
def test_zero_rows_give_finite_gradients(case: ArchitectureCase):
    sae = case.make_training()
    x = sparse_activations(BATCH)
    x[::2] = 0
    output = sae.training_forward_pass(step_input=step_input(x))
    output.loss.backward()
    assert output.loss.isfinite()
    for name, parameter in sae.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@trained
def test_autocast_keeps_float32_weights_and_a_finite_loss(case: ArchitectureCase):
    sae = case.make_training()
    outputs = train(sae, steps=20, autocast=True, dead_feature_window=2)
    assert all(output.loss.isfinite() for output in outputs)
    assert {parameter.dtype for parameter in sae.parameters()} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in sae.parameters())


@trained
def test_autocast_gives_about_the_same_loss(case: ArchitectureCase):
    sae = case.make_trained()
    x = sparse_activations(BATCH)
    exact = sae.training_forward_pass(step_input=step_input(x)).losses["mse_loss"].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = sae.training_forward_pass(step_input=step_input(x)).losses["mse_loss"].item()
    assert rough == pytest.approx(exact, rel=0.05)


@trained
@pytest.mark.parametrize("batch_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_bfloat16_sae_trains(case: ArchitectureCase, batch_dtype: torch.dtype):
    if (
        case.name in ("topk", "batchtopk")
        and batch_dtype == torch.float32
        and not mse_loss_mixes_precisions()
    ):
        pytest.xfail("SAELens' own loss compares two precisions, which this torch cannot differentiate.")
    sae = case.make_training(dtype="bfloat16")
    data = (batch.to(batch_dtype) for batch in batches())
    losses = [
        o.losses["mse_loss"].item() for o in run_steps(make_trainer(sae, dead_feature_window=2), data, 60)
    ]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert {parameter.dtype for parameter in sae.parameters()} == {torch.bfloat16}


@trained
def test_fit_ends_with_statistics_in_the_metadata(case: ArchitectureCase):
    sae = case.make_training()
    trainer = make_trainer(sae, total_training_samples=BATCH * 5, dead_feature_window=2)
    assert trainer.fit() is sae
    assert trainer.n_training_steps == 5
    assert 0 < sae.cfg.metadata.l0 <= K + 1e-4
    assert sae.cfg.metadata.num_dead_features >= 0


@trained
def test_a_forward_pass_alone_trains_nothing(case: ArchitectureCase):
    sae = case.make_trained()
    before = copy_of_state(sae)
    sae.eval()
    with torch.no_grad():
        sae(sparse_activations(8))
        sae.decode(sae.encode(torch.zeros(2, D_IN)))
    assert same_state(sae, before)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("case", [TOPK, HIERARCHICAL_TOPK], ids=str)
def test_features_may_be_a_sparse_tensor(case: ArchitectureCase):
    sae = case.make_training(use_sparse_activations=True, rescale_acts_by_decoder_norm=False)
    trainer = make_trainer(sae, dead_feature_window=3)
    outputs = run_steps(trainer, batches(), 60)
    assert outputs[-1].feature_acts.is_sparse
    losses = [output.losses["mse_loss"].item() for output in outputs]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    logs = trainer.build_train_step_log_dict(outputs[-1], n_training_samples=1)
    assert 0 < logs["metrics/l0"] <= K + 1e-4


@pytest.mark.filterwarnings("ignore")  # of what the tracer itself does
@trained
def test_a_compiled_step_trains_as_a_plain_one(case: ArchitectureCase):
    """The runner's `compile_sae`, without the C++ compiler that its default backend needs."""
    torch._dynamo.reset()
    torch.manual_seed(1)
    plain = case.make_training()
    compiled = copy.deepcopy(plain)
    compiled.training_forward_pass = torch.compile(compiled.training_forward_pass, backend="eager")
    expected = [output.loss.item() for output in train(plain, steps=6, dead_feature_window=2)]
    losses = [output.loss.item() for output in train(compiled, steps=6, dead_feature_window=2)]
    assert losses == pytest.approx(expected, rel=1e-4)
