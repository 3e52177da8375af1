"""hook_z: an SAE over concatenated heads reads and writes [batch, pos, heads, d_head]."""

from pathlib import Path

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.sae import SAEMetadata

from .cases import CASES, TRAINED, ArchitectureCase
from .synthetic import D_IN, sparse_activations

HOOK = "blocks.0.attn.hook_z"
every = pytest.mark.parametrize("case", CASES, ids=str)


def heads(batch: int = 2, pos: int = 3) -> torch.Tensor:
    return sparse_activations(batch * pos).reshape(batch, pos, 2, D_IN // 2)


def over_heads(case: ArchitectureCase) -> SAE:
    return case.make_inference(reshape_activations="hook_z", metadata=SAEMetadata(hook_name=HOOK))


@every
def test_heads_come_back_as_they_went_in(case: ArchitectureCase):
    sae, z = over_heads(case), heads()
    acts = sae.encode(z)
    assert acts.shape == (2, 3, sae.cfg.d_sae)
    assert sae.decode(acts).shape == z.shape
    assert sae(z).shape == z.shape


@every
def test_heads_are_read_as_one_concatenated_vector(case: ArchitectureCase):
    sae, z = over_heads(case), heads()
    out, acts = sae(z), sae.encode(z)
    sae.turn_off_forward_pass_hook_z_reshaping()
    flat = z.flatten(-2, -1)
    torch.testing.assert_close(sae.encode(flat), acts)
    torch.testing.assert_close(sae(flat), out.flatten(-2, -1))
    sae.turn_on_forward_pass_hook_z_reshaping()
    torch.testing.assert_close(sae(z), out)


@every
def test_the_error_term_keeps_the_heads(case: ArchitectureCase):
    sae, z = over_heads(case), heads()
    sae.use_error_term = True
    torch.testing.assert_close(sae(z), z, rtol=1e-5, atol=1e-5)


@every
def test_the_setting_is_saved(case: ArchitectureCase, tmp_path: Path):
    sae, z = over_heads(case), heads()
    sae.save_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    assert loaded.cfg.reshape_activations == "hook_z"
    torch.testing.assert_close(loaded(z), sae(z))


@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_training_reads_heads_already_flattened(case: ArchitectureCase):
    sae = case.make_training(reshape_activations="hook_z", metadata=SAEMetadata(hook_name=HOOK))
    assert not sae.hook_z_reshaping_mode
    assert sae(sparse_activations(4)).shape == (4, D_IN)


@every
def test_heads_of_a_model_pass_through(case: ArchitectureCase, hooked_model, tokens):
    sae = over_heads(case)
    plain = hooked_model(tokens)
    kept = hooked_model.run_with_saes(tokens, saes=[sae], use_error_term=True)
    torch.testing.assert_close(kept, plain, rtol=1e-4, atol=1e-4)
    assert hooked_model.run_with_saes(tokens, saes=[sae]).isfinite().all()


@every
def test_a_bridge_gives_the_heads_flattened_and_hands_the_sae_back(
    case: ArchitectureCase, sae_bridge, tokens
):
    sae, z = over_heads(case), heads()
    expected, plain = sae(z), sae_bridge(tokens)
    kept = sae_bridge.run_with_saes(tokens, saes=[sae], use_error_term=True)
    torch.testing.assert_close(kept, plain, rtol=1e-4, atol=1e-4)
    assert sae.hook_z_reshaping_mode
    assert torch.equal(sae(z), expected)
