"""A gated SAE as the JumpReLU SAE that it is: every latent of every token, and the cases by hand."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import GatedSAE, GatedSAEConfig, JumpReLUSAE
from sae_lens.saes.sae import SAEMetadata

from sae_lens_ext.architectures.gated_base import without_gates
from tests.architectures.bases import D_BASE, D_IN, HOOK, base_sae


def one_latent(b_gate: float, b_mag: float, r_mag: float = 0.0) -> GatedSAE:
    """π = x + b_gate, m = x e^r + b_mag, for a number x."""
    sae = GatedSAE(GatedSAEConfig(d_in=1, d_sae=1))
    values = {
        "W_enc": [[1.0]],
        "b_gate": [b_gate],
        "b_mag": [b_mag],
        "r_mag": [r_mag],
        "W_dec": [[1.0]],
        "b_dec": [0.0],
    }
    sae.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    return sae


@pytest.mark.parametrize(
    ("b_gate", "b_mag", "threshold", "acts"),
    [
        # x:                     −1,  0,  1,  2,  4
        (-1.0, 0.5, 1.5, [0.0, 0.0, 0.0, 2.5, 4.5]),  # at x = 1 the gate is 0, which is closed
        (2.0, -3.0, -5.0, [0.0, 0.0, 0.0, 0.0, 1.0]),  # open, where the magnitude is below 0
        (0.0, 0.0, 0.0, [0.0, 0.0, 1.0, 2.0, 4.0]),  # a ReLU
        (0.5, 2.0, 1.5, [0.0, 2.0, 3.0, 4.0, 6.0]),  # at x = −1 closed, with a magnitude of 1
    ],
)
def test_without_gates_by_hand(b_gate: float, b_mag: float, threshold: float, acts: list[float]) -> None:
    gated = one_latent(b_gate, b_mag)
    plain, x = without_gates(gated), torch.tensor([[-1.0], [0.0], [1.0], [2.0], [4.0]])
    assert isinstance(plain, JumpReLUSAE)
    assert plain.threshold.tolist() == [threshold]
    assert plain.encode(x).flatten().tolist() == gated.encode(x).flatten().tolist() == acts


def test_without_gates_scales_weight_and_threshold_by_hand() -> None:
    plain = without_gates(one_latent(-1.0, 0.5, r_mag=torch.tensor(3.0).log().item()))
    assert plain.W_enc.item() == pytest.approx(3)
    assert plain.threshold.item() == pytest.approx(3.5)  # 0.5 + 1 · 3
    assert plain.encode(torch.tensor([[2.0]])).item() == pytest.approx(6.5)
    assert plain.encode(torch.tensor([[0.9]])).item() == 0


@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@given(seed=st.integers(0, 10**6))
def test_without_gates_is_the_gated_sae_on_many_tokens(apply_b_dec_to_input: bool, seed: int) -> None:
    gated = base_sae("gated", seed=seed, apply_b_dec_to_input=apply_b_dec_to_input).to(dtype=torch.float64)
    x = 3 * torch.randn(500, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    plain = without_gates(gated)
    acts = gated.encode(x)
    torch.testing.assert_close(plain.encode(x), acts, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(plain(x), gated(x), rtol=1e-9, atol=1e-9)
    assert 0.1 < (acts > 0).double().mean() < 0.9


@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
def test_without_gates_in_float32_differs_at_the_very_edge_of_a_gate_only(apply_b_dec_to_input: bool) -> None:
    gated = base_sae("gated", apply_b_dec_to_input=apply_b_dec_to_input)
    plain, x = without_gates(gated), 3 * torch.randn(20_000, D_IN)
    gates = (x - gated.b_dec * apply_b_dec_to_input) @ gated.W_enc + gated.b_gate
    acts = gated.encode(x)
    clear = gates.abs() > 1e-4
    torch.testing.assert_close(plain.encode(x)[clear], acts[clear], rtol=1e-4, atol=1e-4)
    assert clear.double().mean() > 0.999
    magnitudes = gates - gated.b_gate
    magnitudes = magnitudes * gated.r_mag.exp() + gated.b_mag
    for disagreement in ((gates > 0) & (magnitudes < 0), (gates < 0) & (magnitudes > 0)):
        assert disagreement.double().mean() > 0.01  # gate and magnitude do say different things


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_gates_keeps_what_the_sae_is_and_shares_nothing(dtype: torch.dtype) -> None:
    gated = base_sae("gated", metadata=SAEMetadata(model_name="tiny")).to(dtype=dtype)
    before = copy.deepcopy(gated.state_dict())
    plain = without_gates(gated)
    assert (plain.cfg.architecture(), plain.cfg.d_in, plain.cfg.d_sae) == ("jumprelu", D_IN, D_BASE)
    assert (plain.cfg.metadata.hook_name, plain.cfg.metadata.model_name) == (HOOK, "tiny")
    assert plain.dtype == dtype and all(tensor.dtype == dtype for tensor in plain.state_dict().values())
    assert plain.cfg.device == str(gated.device)
    plain.cfg.metadata.hook_name = "elsewhere"
    assert gated.cfg.metadata.hook_name == HOOK
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in gated.state_dict().items())


def test_without_gates_keeps_the_reshaping_of_heads() -> None:
    gated = base_sae(
        "gated", reshape_activations="hook_z", metadata=SAEMetadata(hook_name="blocks.0.attn.hook_z")
    )
    gated.cfg.metadata.hook_name = "blocks.0.attn.hook_z"
    plain, z = without_gates(gated), torch.randn(2, 3, 4, 2)
    assert plain.cfg.reshape_activations == "hook_z"
    torch.testing.assert_close(plain(z), gated(z), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
def test_without_gates_leaves_an_sae_without_gates(kind: str) -> None:
    sae = base_sae(kind)
    assert without_gates(sae) is sae
