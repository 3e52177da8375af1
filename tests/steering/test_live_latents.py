"""The activations of a few latents, encoded without the others."""

from typing import Any

import pytest
import torch
from sae_lens import (
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)

from sae_lens_ext.architectures.head_reshaping import flat_heads
from sae_lens_ext.steering import (
    ScaleFeature,
)
from sae_lens_ext.steering.effects import LatentChange
from sae_lens_ext.steering.live_latents import LiveLatents
from tests.steering.by_hand import NAN
from tests.steering.naive import EARLY, often_active, sae_at


def encoder(kind: str, **fields: Any) -> Any:
    """A random SAE on 16 dimensions with 24 latents."""
    if kind == "jumprelu":
        return sae_at(EARLY, **fields)
    if kind == "topk":
        sae: Any = TopKSAE(TopKSAEConfig(d_in=16, d_sae=24, k=4, **fields))
    else:
        sae = StandardSAE(StandardSAEConfig(d_in=16, d_sae=24, **fields))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    sae.cfg.metadata.hook_name = EARLY
    return sae


def latents_of(sae: Any, indices: list[int]) -> LiveLatents:
    return LiveLatents([LatentChange(sae, index, -1.0, 0.0) for index in indices])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"apply_b_dec_to_input": False},
        {"reshape_activations": "hook_z"},
        {"dtype": "float64"},
        {"normalize_activations": "layer_norm"},
        {"normalize_activations": "constant_norm_rescale"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
def test_the_latents_needed_are_encoded_as_the_whole_sae_encodes_them(
    kind: str, fields: dict[str, Any]
) -> None:
    sae, indices = encoder(kind, **fields), [3, 17, 3, 0]
    sae.cfg.metadata.hook_name = "blocks.0.attn.hook_z"
    sae.hook_sae_acts_post.add_hook(lambda acts, hook: acts + 1)  # nobody's hooks are heard
    x = torch.randn(50, 16)
    latents = latents_of(sae, indices)
    with torch.no_grad():
        found, scale = latents.acts(x)
        sae.reset_hooks()
        with flat_heads(sae):
            expected = sae.encode(x)
        expected = expected.to_dense() if expected.is_sparse else expected
    assert found.dtype == expected.dtype and (found > 0).any() and (found == 0).any()
    torch.testing.assert_close(found, expected[:, indices])
    by_columns = kind != "topk" and "normalize_activations" not in fields
    assert (latents._columns is not None) == by_columns
    assert (scale is not None) == ("normalize_activations" in fields)


def test_a_few_latents_are_encoded_without_the_others() -> None:
    for kind in ("standard", "jumprelu"):
        sae = encoder(kind)
        with torch.no_grad():
            sae.W_enc[:, 5] = NAN  # of others, nothing is read
            x = torch.randn(9, 16)
            assert torch.isfinite(latents_of(sae, [3]).acts(x)[0]).all()
            assert torch.isnan(latents_of(sae, [5]).acts(x)[0]).any()


def test_an_encoder_of_ones_own_is_run_whole() -> None:
    class Shifted(StandardSAE):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return super().encode(x) + 1

    class Prepared(JumpReLUSAE):
        def process_sae_in(self, sae_in: torch.Tensor) -> torch.Tensor:
            return 2 * super().process_sae_in(sae_in)

    class Smooth(StandardSAE):
        def get_activation_fn(self) -> Any:
            return torch.nn.Softplus()

    x = torch.randn(9, 16)
    for sae in (
        Shifted(StandardSAEConfig(d_in=16, d_sae=24)),
        Prepared(JumpReLUSAEConfig(d_in=16, d_sae=24)),
        Smooth(StandardSAEConfig(d_in=16, d_sae=24)),
    ):
        with torch.no_grad():
            assert torch.equal(latents_of(sae, [2]).acts(x)[0], sae.encode(x)[:, [2]])


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
@pytest.mark.parametrize("normalisation", ["none", "layer_norm"])
def test_gradients_reach_the_activation_and_not_the_sae(kind: str, normalisation: str) -> None:
    sae = encoder(kind, normalize_activations=normalisation)
    x, weights = torch.randn(1, 6, 16, requires_grad=True), torch.randn(1, 6, 16)
    with torch.no_grad():
        index = often_active(sae, x)
    [(_, hook)] = ScaleFeature(sae, index, 3.0).hooks()
    (hook(x) * weights).sum().backward()
    assert x.grad is not None and not torch.equal(x.grad, weights)
    assert all(p.requires_grad and p.grad is None for p in sae.parameters())
    y = x.detach().clone().requires_grad_()
    encoded = sae.encode(y)
    a = (encoded.to_dense() if encoded.is_sparse else encoded)[..., index, None]
    if normalisation == "layer_norm":
        a = a * sae.ln_std
    norm = sae.W_dec[index].norm() if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else 1.0
    ((y + 2 * a * sae.W_dec[index].detach() / norm) * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
