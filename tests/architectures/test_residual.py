"""What is the residual SAE's own: x in, the base's error out, and a base that is checked and never touched."""

import copy

import pytest
import torch
from sae_lens import (
    SAE,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUSAE,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    TrainingSAE,
    Transcoder,
    TranscoderConfig,
)
from safetensors.torch import load_file

from sae_lens_ext import (
    KronSAE,
    KronSAEConfig,
    NonFiniteTrainingError,
    ResidualTrainingSAE,
    ResidualTrainingSAEConfig,
)
from sae_lens_ext.architectures.identity import weights_fingerprint
from tests.architectures.bases import D_IN, HOOK, base_sae, residual_for
from tests.contract.synthetic import make_trainer, step_input


@pytest.mark.parametrize("kind", ["standard", "gated", "jumprelu", "topk"])
def test_ResidualTrainingSAE_mse_is_against_the_bases_error(kind: str) -> None:
    base = base_sae(kind)
    sae, x = residual_for(base), torch.randn(20, D_IN)
    output = sae.training_forward_pass(step_input(x))
    error = x - base(x)
    torch.testing.assert_close(output.losses["mse_loss"], (error - sae(x)).pow(2).sum(-1).mean())
    torch.testing.assert_close(output.sae_out, base(x) + sae(x))
    assert torch.equal(output.sae_in, x)


def test_ResidualTrainingSAE_logs_the_explained_variance_of_base_and_residual_together() -> None:
    base = base_sae("standard")
    sae, x = residual_for(base), torch.randn(50, D_IN)
    output = sae.training_forward_pass(step_input(x))
    variance = (x - x.mean(0)).pow(2).sum()
    ev_base = 1 - (x - base(x)).pow(2).sum() / variance
    ev_both = 1 - (x - base(x) - sae(x)).pow(2).sum() / variance
    assert output.metrics["explained_variance_base"]() == pytest.approx(ev_base.item(), rel=1e-5)
    assert output.metrics["explained_variance_gain"]() == pytest.approx((ev_both - ev_base).item(), rel=1e-5)
    log = make_trainer(sae).build_train_step_log_dict(output, n_training_samples=50)
    assert log["metrics/explained_variance"] == pytest.approx(ev_both.item(), rel=1e-5)


def test_ResidualTrainingSAE_has_no_decoder_bias_even_after_training() -> None:
    sae = residual_for(base_sae("topk"))
    trainer = make_trainer(sae, data=iter(torch.randn(40, 64, D_IN)))
    for _ in range(20):
        trainer.step(next(trainer.data_provider))
    assert not sae.b_dec.any()
    quiet = torch.zeros(1, sae.cfg.d_sae)
    assert not sae.decode(quiet).any()


@pytest.mark.parametrize("kind", ["jumprelu", "gated"])
def test_ResidualTrainingSAE_leaves_the_base_bit_identical(kind: str) -> None:
    base = base_sae(kind)
    before = copy.deepcopy(base.state_dict())
    sae = residual_for(base)
    trainer = make_trainer(sae, data=iter(torch.randn(40, 64, D_IN)))
    for _ in range(20):
        trainer.step(next(trainer.data_provider))
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())
    assert not any(name.startswith("base") for name, _ in sae.named_parameters())
    assert set(sae.state_dict()) == {"W_enc", "b_enc", "W_dec", "b_dec", "topk_threshold"}


def test_ResidualTrainingSAE_takes_the_error_in_float32_when_all_else_is_bfloat16() -> None:
    """In bfloat16 the difference of x and x̂ loses what the residual is to learn."""
    base = base_sae("standard").to(dtype=torch.bfloat16)
    sae = residual_for(base, dtype="bfloat16")
    x = torch.randn(20, D_IN, dtype=torch.bfloat16)
    output = sae.training_forward_pass(step_input(x))
    assert output.sae_out.dtype == torch.float32 and output.losses["mse_loss"].dtype == torch.float32
    exact = (x.float() - base(x).float() - sae(x).float()).pow(2).sum(-1).mean()
    torch.testing.assert_close(output.losses["mse_loss"], exact)


@pytest.mark.parametrize("kind", ["jumprelu", "gated"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_ResidualTrainingSAE_trained_as_the_runner_does_leaves_the_base_on_disk_and_in_its_own_precision(
    tmp_path, kind: str, dtype: torch.dtype
) -> None:
    base_sae(kind).to(dtype=dtype).save_model(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    weights = load_file(tmp_path / "sae_weights.safetensors")
    cfg = ResidualTrainingSAEConfig(d_in=D_IN, d_sae=10, k=3, base_path=str(tmp_path))
    sae = TrainingSAE.from_dict(cfg.to_dict())
    assert isinstance(sae, ResidualTrainingSAE)
    untrained = sae.W_enc.detach().clone()
    trainer = make_trainer(sae, data=iter(torch.randn(70, 64, D_IN)), total_training_samples=64 * 30)
    trainer.fit()
    assert not torch.equal(sae.W_enc, untrained)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert sae.base.dtype == dtype and sae.dtype == torch.float32
    assert sae.W_enc.dtype == torch.float32 and trainer.sae is sae
    state = sae.base.state_dict()
    assert state.keys() == weights.keys()
    for name, tensor in state.items():
        assert tensor.dtype == dtype and torch.equal(tensor, weights[name]), name


def test_ResidualTrainingSAE_runs_its_base_in_the_bases_precision() -> None:
    base = base_sae("standard").to(dtype=torch.bfloat16)
    sae, x = residual_for(base), torch.randn(20, D_IN)
    output = sae.training_forward_pass(step_input(x))
    torch.testing.assert_close(output.sae_out, base(x).float() + sae(x))
    assert output.sae_out.dtype == torch.float32
    assert not torch.allclose(output.sae_out, base_sae("standard")(x) + sae(x), atol=1e-5)


def test_ResidualTrainingSAE_takes_its_base_from_a_release(tmp_path, monkeypatch) -> None:
    base, asked = base_sae("jumprelu"), []

    def from_pretrained(*args: str, **kwargs: str) -> SAE:
        asked.append((args, kwargs))
        return base

    monkeypatch.setattr(SAE, "from_pretrained", from_pretrained)
    named = {"base_release": "gpt2-small-res-jb", "base_sae_id": "blocks.8.hook_resid_pre"}
    sae = ResidualTrainingSAE(ResidualTrainingSAEConfig(d_in=D_IN, d_sae=10, k=3, **named))
    assert asked == [(("gpt2-small-res-jb", "blocks.8.hook_resid_pre"), {"device": "cpu"})]
    assert sae.base is base
    x = torch.randn(10, D_IN)
    torch.testing.assert_close(sae.training_forward_pass(step_input(x)).sae_out, base(x) + sae(x))
    sae.save_inference_model(tmp_path)
    metadata = SAE.load_from_disk(tmp_path).cfg.metadata
    assert metadata.residual_base == {
        "architecture": "jumprelu",
        "d_sae": base.cfg.d_sae,
        "hook_name": HOOK,
        "weights_sha256": weights_fingerprint(base),
    }
    assert named.items() <= metadata.training_architecture_details.items()


def test_ResidualTrainingSAE_loads_its_base_from_disk_and_names_it(tmp_path) -> None:
    base = base_sae("standard")
    base.save_model(tmp_path / "base")
    sae = ResidualTrainingSAE(ResidualTrainingSAEConfig(d_in=D_IN, base_path=str(tmp_path / "base")))
    assert sae.cfg.d_sae == 1024 and sae.cfg.k == 5
    sae.save_inference_model(tmp_path / "residual")
    loaded = SAE.load_from_disk(tmp_path / "residual")
    assert type(loaded) is JumpReLUSAE
    record = loaded.cfg.metadata.residual_base
    assert record["hook_name"] == HOOK and len(record["weights_sha256"]) == 64
    assert loaded.cfg.metadata.training_architecture_details["base_path"] == str(tmp_path / "base")


@pytest.mark.parametrize(
    "base",
    [
        TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D_IN, d_sae=16, k=3)),
        GatedTrainingSAE(GatedTrainingSAEConfig(d_in=D_IN, d_sae=16)),
    ],
    ids=["topk", "gated"],
)
def test_ResidualTrainingSAE_takes_a_training_sae_as_base_in_its_inference_form(base: TrainingSAE) -> None:
    sae, x = residual_for(base), torch.randn(10, D_IN)
    torch.testing.assert_close(sae.training_forward_pass(step_input(x)).sae_out, base(x) + sae(x))


def test_ResidualTrainingSAE_leaves_the_users_configuration_for_another_base() -> None:
    cfg = ResidualTrainingSAEConfig(d_in=D_IN, d_sae=10, k=3)
    records = [
        ResidualTrainingSAE(cfg, base=base_sae("standard", seed=s)).cfg.metadata.residual_base for s in (0, 1)
    ]
    assert records[0]["weights_sha256"] != records[1]["weights_sha256"]
    assert cfg.metadata.residual_base is None


def test_ResidualTrainingSAE_checkpoint_of_another_base_is_refused(tmp_path) -> None:
    residual_for(base_sae("standard", seed=0)).save_model(tmp_path)
    other = residual_for(base_sae("standard", seed=5))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="was trained on a base with weights .* but the base at hand"):
        other.load_weights_from_checkpoint(tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, r"needs a base SAE, but its configuration names none.*ResidualTrainingSAE\(cfg, base=sae\)"),
        ({"base_release": "gpt2"}, r"names half a base: base_release = 'gpt2' and base_sae_id = None"),
        ({"k": "5"}, r"k = '5' is out of range"),
        ({"d_sae": 64.0}, r"d_sae must be a whole number, but 64.0 was given"),
        ({"base_path": "a", "base_release": "b"}, r"names the base twice"),
        ({"k": 0}, r"k = 0 is out of range"),
        ({"k": 2000}, r"at most d_sae = 1024"),
        ({"normalize_activations": "expected_average_only_in"}, r"The base SAE must see raw activations"),
    ],
)
def test_ResidualTrainingSAE_refuses(fields: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ResidualTrainingSAE(ResidualTrainingSAEConfig(d_in=D_IN, **fields))


def test_ResidualTrainingSAE_refuses_a_base_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"base_path = 'nowhere' holds no saved SAE"):
        ResidualTrainingSAE(ResidualTrainingSAEConfig(d_in=D_IN, base_path="nowhere"))


def test_ResidualTrainingSAE_refuses_a_base_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"width 12, but this residual SAE has d_in = 8"):
        residual_for(base_sae("standard", d_in=12))


def test_ResidualTrainingSAE_refuses_a_base_of_another_hook_at_the_first_step() -> None:
    sae = residual_for(base_sae("standard"))
    sae.cfg.metadata.hook_name = "blocks.0.hook_resid_post"
    with pytest.raises(ValueError, match=r"trained on the hook 'blocks.1.hook_resid_post', but .*'blocks.0"):
        sae.training_forward_pass(step_input(torch.randn(4, D_IN)))
    sae.cfg.metadata.hook_name = "blocks.1.hook_out"  # the bridge's name of the same site
    sae.training_forward_pass(step_input(torch.randn(4, D_IN)))


SIZE = {"d_in": D_IN, "d_sae": 16}
TO_SELF = {**SIZE, "d_out": D_IN, "apply_b_dec_to_input": False}
ANOTHER_HOOK = "it reads one hook and predicts another, so what it misses is no error of what it reads"


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (Transcoder(TranscoderConfig(**TO_SELF)), ANOTHER_HOOK),
        (SkipTranscoder(SkipTranscoderConfig(**TO_SELF)), ANOTHER_HOOK),
        (JumpReLUTranscoder(JumpReLUTranscoderConfig(**TO_SELF)), ANOTHER_HOOK),
        (KronSAE(KronSAEConfig(**SIZE, k=4)), "its encoder multiplies the parts of each pair of latents"),
    ],
    ids=lambda value: value.cfg.architecture() if isinstance(value, SAE) else "",
)
def test_ResidualTrainingSAE_refuses_bases_that_cannot_be_stacked(base: SAE, reason: str) -> None:
    with pytest.raises(ValueError) as info:
        residual_for(base)
    message = str(info.value)
    assert f"architecture {base.cfg.architecture()!r}, which a residual SAE cannot stand on" in message
    assert f"the stack is one flat encoder and decoder, and {reason}" in message
    assert "It can hold standard, gated, jumprelu, topk bases" in message
    assert len([1 for other in (ANOTHER_HOOK, "its encoder multiplies") if other in message]) == 1


@pytest.mark.parametrize("kind", ["standard", "gated"])
def test_ResidualTrainingSAE_refuses_bases_that_do_not_read_raw_activations(kind: str) -> None:
    with pytest.raises(ValueError, match="does not read raw activations"):
        residual_for(base_sae(kind, normalize_activations="expected_average_only_in"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_ResidualTrainingSAE_stops_at_activations_that_are_not_finite(bad: float) -> None:
    sae = residual_for(base_sae("standard"))
    trainer = make_trainer(sae)
    trainer.n_training_steps = 17
    before = copy.deepcopy(sae.state_dict())
    batch = torch.randn(64, D_IN)
    batch[3, 2] = bad
    with pytest.raises(NonFiniteTrainingError, match=r"step 17: 1 of the 64 .* row 3.*not updated"):
        trainer.step(batch)
    assert all(torch.equal(before[name], tensor) for name, tensor in sae.state_dict().items())
