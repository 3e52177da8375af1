"""The stack against the sum of its parts, its switches and addresses, and its native form."""

import copy
import subprocess
import sys

import pytest
import torch
from sae_lens import (
    SAE,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    TrainingSAE,
    Transcoder,
    TranscoderConfig,
)

from sae_lens_ext import KronSAE, KronSAEConfig, ResidualStackSAE, ResidualStackSAEConfig, with_k
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.architectures.inference import as_inference
from tests.architectures.bases import D_BASE, D_IN, D_RESIDUAL, base_sae, residual_for

EXACT = ["standard", "jumprelu", "topk", "rescaled_topk"]
BASES = [*EXACT, "gated"]  # whose gates are folded into thresholds: the same up to rounding


def stack_of(kind: str, **fields):
    base = base_sae(kind, **fields)
    residuals = {name: residual_for(base, seed=seed) for seed, name in ((1, "code"), (2, "french"))}
    return (
        ResidualStackSAE.from_saes(base, residuals),
        base,
        {n: as_inference(r) for n, r in residuals.items()},
    )


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@pytest.mark.parametrize("active", [("code", "french"), ("french",), ()])
def test_ResidualStackSAE_is_the_sum_of_its_active_parts(
    kind: str, apply_b_dec_to_input: bool, active
) -> None:
    stack, base, residuals = stack_of(kind, apply_b_dec_to_input=apply_b_dec_to_input)
    stack.active = active
    x = torch.randn(30, D_IN)
    torch.testing.assert_close(
        stack(x), base(x) + sum(residuals[name](x) for name in active), rtol=1e-5, atol=1e-5
    )
    parts = stack.encode(x).split([D_BASE, D_RESIDUAL, D_RESIDUAL], dim=-1)
    torch.testing.assert_close(parts[0], base.encode(x), rtol=1e-5, atol=1e-5)
    for name, part in zip(("code", "french"), parts[1:], strict=True):
        expected = residuals[name].encode(x) if name in active else torch.zeros_like(part)
        torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-5)
    assert all((residuals[name].encode(x) != 0).any() for name in residuals)  # the parts do say something


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ResidualStackSAE_with_nothing_active_is_the_base_bit_for_bit(kind: str, dtype: torch.dtype) -> None:
    stack, base, _ = stack_of(kind)
    stack, base, x = stack.to(dtype=dtype), base.to(dtype=dtype), torch.randn(30, D_IN).to(dtype)
    stack.active = ()
    assert torch.equal(stack(x), base(x))
    assert torch.equal(stack.encode(x)[:, :D_BASE], base.encode(x))


def test_ResidualStackSAE_nothing_active_is_the_base_bit_for_bit_at_a_real_size() -> None:
    base = StandardSAE(StandardSAEConfig(d_in=576, d_sae=2048))
    residual = JumpReLUSAE(JumpReLUSAEConfig(d_in=576, d_sae=1024, apply_b_dec_to_input=False))
    stack, x = ResidualStackSAE.from_saes(base, {"code": residual}), torch.randn(257, 576)
    stack.active = ()
    assert torch.equal(stack(x), base(x))


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "gated"])
@pytest.mark.parametrize("active", [("code", "french"), ("french",), ()])
def test_ResidualStackSAE_to_native_is_one_jumprelu_with_the_same_outputs(kind: str, active) -> None:
    stack, _, _ = stack_of(kind)
    stack.active = active
    native, x = stack.to_native(), torch.randn(30, D_IN)
    assert type(native) is JumpReLUSAE and native.cfg.d_sae == D_BASE + D_RESIDUAL * len(active)
    torch.testing.assert_close(native(x), stack(x), rtol=1e-5, atol=1e-5)


def test_ResidualStackSAE_to_native_refuses_a_topk_base() -> None:
    with pytest.raises(ValueError, match="budget k = 5 binds the base's latents and not the residuals'"):
        stack_of("topk")[0].to_native()


def test_ResidualStackSAE_native_form_loads_without_this_package(tmp_path) -> None:
    x = torch.randn(6, D_IN)
    torch.save(x, tmp_path / "x.pt")
    stacks = {kind: stack_of(kind)[0] for kind in ("jumprelu", "gated")}
    for kind, stack in stacks.items():
        stack.to_native().save_model(tmp_path / kind)
    script = (
        "import sys, torch\n"
        "from sae_lens import SAE\n"
        "x = torch.load('x.pt')\n"
        "for kind in sys.argv[1:]:\n"
        "    torch.save(SAE.load_from_disk(kind)(x), kind + '.pt')\n"
        "assert not any(name.startswith('sae_lens_ext') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, *stacks], check=True, cwd=tmp_path)
    for kind, stack in stacks.items():
        torch.testing.assert_close(torch.load(tmp_path / f"{kind}.pt"), stack(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["rescaled_topk", "gated"])
def test_ResidualStackSAE_saved_and_loaded_is_the_same_with_its_switches(tmp_path, kind: str) -> None:
    stack, _, _ = stack_of(kind)
    stack.active = ("french",)
    stack.save_model(tmp_path)
    loaded, x = SAE.load_from_disk(tmp_path), torch.randn(9, D_IN)
    assert isinstance(loaded, ResidualStackSAE)
    assert loaded.domains == ("code", "french") and loaded.active == ("french",)
    assert torch.equal(loaded(x), stack(x))
    loaded.active = loaded.domains
    stack.active = stack.domains
    assert torch.equal(loaded(x), stack(x))


def test_ResidualStackSAE_addresses_latents_both_ways() -> None:
    stack, _, _ = stack_of("standard")
    assert stack.flat_index("base", 3) == 3
    assert stack.flat_index("code", 0) == D_BASE
    assert stack.flat_index("french", 9) == D_BASE + 2 * D_RESIDUAL - 1
    for flat in range(stack.cfg.d_sae):
        assert stack.flat_index(*stack.locate(flat)) == flat
    with pytest.raises(ValueError, match="no domain 'german'.*base, code, french"):
        stack.flat_index("german", 0)
    with pytest.raises(ValueError, match="latents 0 to 9, and index 10"):
        stack.flat_index("code", 10)
    with pytest.raises(ValueError, match="Latent 44 is outside this stack's 0 to 43"):
        stack.locate(44)


def test_ResidualStackSAE_active_is_checked_and_kept_in_order() -> None:
    stack, _, _ = stack_of("standard")
    stack.active = ["french", "code"]  # type: ignore[assignment]
    assert stack.active == ("code", "french")
    with pytest.raises(ValueError, match="no domain 'german'. It has 'code', 'french'"):
        stack.active = ("german",)
    with pytest.raises(ValueError, match=r"active = 'code' is one string. Give a tuple"):
        stack.active = "code"  # type: ignore[assignment]
    assert stack.active == ("code", "french")


@pytest.mark.parametrize("kind", BASES)
def test_ResidualStackSAE_shares_no_memory_with_its_parts(kind: str) -> None:
    stack, base, _ = stack_of(kind)
    before = copy.deepcopy(base.state_dict())
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())


@pytest.mark.parametrize(
    "base",
    [
        TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D_IN, d_sae=16, k=3)),
        GatedTrainingSAE(GatedTrainingSAEConfig(d_in=D_IN, d_sae=16)),
    ],
    ids=["topk", "gated"],
)
def test_ResidualStackSAE_from_training_saes_as_they_come_from_the_runner(base: TrainingSAE) -> None:
    stack = ResidualStackSAE.from_saes(base, {"code": residual_for(base)})
    stack.active = ()
    x = torch.randn(5, D_IN)
    torch.testing.assert_close(stack(x), base(x))


def test_ResidualStackSAE_refuses_what_does_not_belong_on_the_base() -> None:
    base, other = base_sae("standard"), base_sae("standard", seed=9)
    with pytest.raises(ValueError, match="of 'code' was trained on a base with weights"):
        ResidualStackSAE.from_saes(other, {"code": residual_for(base)})
    with pytest.raises(ValueError, match="architecture 'kron', which a residual SAE cannot stand on"):
        ResidualStackSAE.from_saes(KronSAE(KronSAEConfig(d_in=D_IN, d_sae=24, k=4)), {})
    transcoder = Transcoder(TranscoderConfig(d_in=D_IN, d_out=D_IN, d_sae=24, apply_b_dec_to_input=False))
    with pytest.raises(ValueError, match="architecture 'transcoder', which a residual.*predicts another"):
        ResidualStackSAE.from_saes(transcoder, {})
    with pytest.raises(ValueError, match="The residual SAE of 'code' has the architecture 'standard'"):
        ResidualStackSAE.from_saes(base, {"code": other})
    with pytest.raises(ValueError, match="residuals of type list. Give a mapping"):
        ResidualStackSAE.from_saes(base, [residual_for(base)])  # type: ignore[arg-type]
    biased = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=4))
    biased.b_dec.data += 1
    with pytest.raises(ValueError, match="has a decoder bias"):
        ResidualStackSAE.from_saes(base, {"code": biased})
    with pytest.raises(ValueError, match="width 8, but the residual SAE of 'code' has d_in = 9"):
        ResidualStackSAE.from_saes(base, {"code": JumpReLUSAE(JumpReLUSAEConfig(d_in=9, d_sae=4))})


def test_ResidualStackSAE_refuses_the_base_at_another_k() -> None:
    base = base_sae("topk")
    with pytest.raises(ValueError, match="of 'code' was trained on a base.*with its own k"):
        ResidualStackSAE.from_saes(with_k(base, 2), {"code": residual_for(base)})


def test_ResidualStackSAE_says_when_a_residual_names_no_base(caplog: pytest.LogCaptureFixture) -> None:
    unnamed = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=4))
    ResidualStackSAE.from_saes(base_sae("standard"), {"code": unnamed})
    assert "The residual SAE of 'code' names no base" in caplog.text


@pytest.mark.parametrize("kind", ["standard", "gated"])
def test_ResidualStackSAE_knows_its_base_in_another_precision(kind: str) -> None:
    base = base_sae(kind)
    residual = residual_for(base)
    ResidualStackSAE.from_saes(base.to(dtype=torch.bfloat16), {"code": residual})


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"domains": ["a", "a"], "part_sizes": [4, 2, 2]}, "each once"),
        ({"domains": ["base"], "part_sizes": [4, 4]}, "none 'base'"),
        ({"domains": ["a"], "part_sizes": [4, 5]}, "add up to d_sae = 8"),
        ({"domains": ["a"], "part_sizes": [8]}, "one for each of the 1 domains"),
        ({"part_sizes": [8], "base_architecture": "gated"}, "'gated' cannot stand under a stack"),
        ({"part_sizes": [8], "base_architecture": "topk"}, "base_k must be a whole number"),
        ({"part_sizes": [8], "active": ["x"]}, "no domain 'x'"),
        ({"part_sizes": [8], "normalize_activations": "layer_norm"}, "All parts read raw activations"),
    ],
)
def test_ResidualStackSAEConfig_refuses(fields: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ResidualStackSAEConfig(d_in=D_IN, d_sae=8, **fields)


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("active", [("code", "french"), ("french",), ()])
def test_ResidualStackSAE_with_active_computes_what_switching_does(kind: str, active) -> None:
    stack, _, _ = stack_of(kind)
    other, x = stack.with_active(active), torch.randn(20, D_IN)
    assert type(other) is ResidualStackSAE and other.active == active
    stack.active = active
    assert torch.equal(other(x), stack(x)) and torch.equal(other.encode(x), stack.encode(x))


def test_ResidualStackSAE_with_active_leaves_the_original_s_switches() -> None:
    stack, _, _ = stack_of("standard")
    x = torch.randn(20, D_IN)
    before = stack(x)
    other = stack.with_active(("french",))
    assert stack.active == ("code", "french") and torch.equal(stack(x), before)
    other.active = ()
    stack.active = ("code",)
    assert other.active == () and stack.active == ("code",)
    other.cfg.metadata.model_name = "another"
    assert stack.cfg.metadata.model_name != "another"


def test_ResidualStackSAE_with_active_keeps_the_order_of_the_stack_and_takes_any_sequence() -> None:
    stack, _, _ = stack_of("standard")
    assert stack.with_active(["french", "code"]).active == ("code", "french")
    assert stack.with_active(()).with_active(("code",)).active == ("code",)


def test_ResidualStackSAE_with_active_shares_the_weights() -> None:
    stack, _, _ = stack_of("jumprelu")
    other = stack.with_active(())
    mine, theirs = dict(stack.named_parameters()), dict(other.named_parameters())
    assert mine.keys() == theirs.keys() == {"W_enc", "b_enc", "threshold", "W_dec", "b_dec"}
    assert all(mine[name].data_ptr() == theirs[name].data_ptr() for name in mine)
    with torch.no_grad():
        stack.b_dec += 1
    x = torch.randn(5, D_IN)
    stack.active = ()
    assert torch.equal(other(x), stack(x))


def test_ResidualStackSAE_with_active_has_hooks_of_its_own() -> None:
    stack, _, _ = stack_of("jumprelu")
    runs = []
    stack.hook_sae_acts_post.add_hook(lambda x, hook: runs.append("stack"))
    stack.with_active(("code",))(torch.randn(5, D_IN))
    assert runs == []


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_ResidualStackSAE_with_active_keeps_precision_device_and_mode(training: bool, dtype) -> None:
    stack, _, _ = stack_of("standard")
    stack = stack.to(dtype=dtype).train(training)
    other = stack.with_active(("code",))
    assert (other.dtype, other.device, other.training) == (dtype, stack.device, training)
    assert other(torch.randn(5, D_IN)).dtype == dtype
    assert {**other.cfg.to_dict(), "active": None} == {**stack.cfg.to_dict(), "active": None}


def test_ResidualStackSAE_with_active_refuses_domains_it_lacks() -> None:
    stack, _, _ = stack_of("standard")
    with pytest.raises(ValueError, match="no domain 'german'. It has 'code', 'french'"):
        stack.with_active(("code", "german"))
    with pytest.raises(ValueError, match=r"active = 'code' is one string. Give a tuple"):
        stack.with_active("code")
    assert stack.active == ("code", "french")


def test_ResidualStackSAE_on_a_gated_base_says_that_it_holds_a_jumprelu() -> None:
    stack, base, _ = stack_of("gated")
    assert stack.cfg.base_architecture == "jumprelu" and stack.cfg.base_k is None
    assert stack.cfg.metadata.residual_base_sha256 == weights_fingerprint(base)
    assert stack.cfg.metadata.hook_name == base.cfg.metadata.hook_name
