"""What SAEBench and SAE-Dashboard do to an SAE, who cannot be installed beside us."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.topk_sae import TopK

from .cases import CASES, HIERARCHICAL_TOPK, KRON, RESIDUAL, RESIDUAL_STACK, TRAINED, ArchitectureCase
from .synthetic import D_IN, K, copy_of_state, same_state, sparse_activations

STOCK = {"standard", "topk", "jumprelu", "gated"}
MASKED = {"standard": ("b_enc",), "jumprelu": ("b_enc", "threshold"), "gated": ("b_gate", "r_mag", "b_mag")}
"""What SAE-Dashboard 0.8 cuts down beside W_enc and W_dec; it refuses other names, unless `activation_fn` is a TopK."""
every = pytest.mark.parametrize("case", CASES, ids=str)
saved_as_topk = pytest.mark.parametrize("case", [c for c in TRAINED if c.saved_as == "topk"], ids=str)


@every
def test_saebench_s_decoder_matrix_is_the_decoder(case: ArchitectureCase):
    """SAEBench works with rows of W_dec and never calls `forward`."""
    sae = case.make_inference()
    assert sae.W_dec.shape == (sae.cfg.d_sae, D_IN)
    one_hot = torch.eye(sae.cfg.d_sae)
    zero = sae.decode(torch.zeros_like(one_hot))
    torch.testing.assert_close(sae.decode(one_hot) - zero, sae.W_dec.data, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(zero[0], sae.b_dec.data)


@every
def test_saebench_s_attributes_are_there(case: ArchitectureCase):
    sae = case.make_inference()
    sae.eval().requires_grad_(False)
    assert (sae.cfg.d_in, sae.device.type, sae.dtype) == (D_IN, "cpu", torch.float32)
    assert sae.W_enc.shape[0] == D_IN
    assert sae.b_dec.shape == (D_IN,)
    assert sae.cfg.architecture() == case.saved_as
    assert sae.to("cpu", torch.bfloat16).encode(sparse_activations(2)).dtype == torch.bfloat16


@every
def test_the_metadata_name_model_and_hook(case: ArchitectureCase):
    metadata = SAEMetadata(model_name="gpt2", hook_name="blocks.3.hook_resid_pre", hook_head_index=None)
    sae = case.make_inference(metadata=metadata)
    assert sae.cfg.metadata.model_name == "gpt2"
    assert sae.cfg.metadata.hook_name == "blocks.3.hook_resid_pre"
    assert "gpt2" in sae.get_name()


@pytest.mark.parametrize("case", [c for c in CASES if c.unit_norm], ids=str)
def test_saved_decoder_rows_have_unit_norm(case: ArchitectureCase):
    norms = case.make_inference().W_dec.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-3, atol=1e-3)


@every
def test_dashboard_s_fold_is_exact_or_refused_untouched(case: ArchitectureCase):
    sae, x = case.make_inference(), sparse_activations(32)
    expected, before = sae(x), copy_of_state(sae)
    try:
        sae.fold_W_dec_norm()
    except NotImplementedError as refusal:
        assert "norm" in str(refusal)
        assert same_state(sae, before)
        return
    torch.testing.assert_close(sae(x), expected, rtol=1e-4, atol=1e-5)
    norms = sae.W_dec.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-3, atol=1e-3)


@every
def test_stock_architectures_fold_for_the_dashboard(case: ArchitectureCase):
    sae = case.make_inference()
    if case.saved_as in STOCK or case.name == "kron":
        sae.fold_W_dec_norm()
        torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(sae.cfg.d_sae))


@saved_as_topk
def test_dashboard_knows_the_activation_function(case: ArchitectureCase):
    sae = case.make_inference()
    assert type(sae.activation_fn) is TopK
    assert sae.activation_fn.k == sae.cfg.k == K


def test_dashboard_takes_a_kron_for_a_topk():
    """It encodes with all latents then, and looks for no encoder column."""
    assert isinstance(KRON.make_inference().activation_fn, TopK)


def masked_features(sae: SAE[Any], x: torch.Tensor, features: list[int]) -> torch.Tensor:
    """Encode as SAE-Dashboard does where there is no TopK: with parameters cut down to some features for a while."""
    names = ("W_dec", "W_enc", *MASKED[sae.cfg.architecture()])
    kept = {name: getattr(sae, name).data.clone() for name in names}
    for name, whole in kept.items():
        setattr(sae, name, torch.nn.Parameter(whole[:, features] if name == "W_enc" else whole[features]))
    acts = sae.encode(x)
    for name, whole in kept.items():
        setattr(sae, name, torch.nn.Parameter(whole))
    return acts


@pytest.mark.parametrize("name", ["residual", "native stack"])
def test_dashboard_s_masked_encoder_gives_the_features_asked_for(name: str):
    sae = RESIDUAL.make_inference() if name == "residual" else RESIDUAL_STACK.make_inference().to_native()
    sae.fold_W_dec_norm()
    x, features = sparse_activations(32), [3, sae.cfg.d_sae - 1, 0]
    expected, before = sae.encode(x), copy_of_state(sae)
    with torch.inference_mode():
        found = masked_features(sae, x, features)
    torch.testing.assert_close(found, expected[:, features])
    assert same_state(sae, before)


@every
def test_saebench_s_notes_on_the_configuration_do_no_harm(case: ArchitectureCase, tmp_path: Path):
    """SAEBench 0.6 writes what it reads from the metadata onto cfg as well, and keeps cfg.to_dict() as JSON."""
    sae = case.make_inference(
        metadata=SAEMetadata(model_name="gpt2", hook_name="blocks.3.hook_resid_pre", hook_head_index=None)
    )
    notes = {"hook_layer": 3, "hook_name": "blocks.3.hook_resid_pre", "architecture_str": case.saved_as}
    for owner in (sae.cfg, sae.cfg.metadata):
        for name, value in {
            **notes,
            "exclude_special_tokens": None,
            "model_from_pretrained_kwargs": {},
        }.items():
            setattr(owner, name, value)
    assert json.loads(json.dumps(sae.cfg.to_dict()))["architecture"] == case.saved_as
    sae.save_model(tmp_path)
    x = sparse_activations(8)
    torch.testing.assert_close(SAE.load_from_disk(tmp_path).encode(x), sae.encode(x))


def test_a_folded_native_stack_has_the_unit_rows_that_saebench_asks_for():
    stack = RESIDUAL_STACK.make_inference()
    stack.fold_W_dec_norm()
    norms = stack.to_native().W_dec.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-5)


@every
def test_features_in_batches_of_tokens_as_the_dashboard_reads_them(case: ArchitectureCase):
    """A dashboard encodes [batch, pos, d] and keeps a slice of the features."""
    sae, x = case.make_inference(), sparse_activations(12).reshape(3, 4, D_IN)
    wanted = [0, 5, sae.cfg.d_sae - 1]
    torch.testing.assert_close(
        sae.encode(x)[..., wanted], sae.encode(x.flatten(0, 1))[:, wanted].reshape(3, 4, 3)
    )
    assert sae.W_dec[wanted].shape == (3, D_IN)


@every
def test_direct_logit_attribution_of_a_feature(case: ArchitectureCase):
    """Logit weights are W_dec @ W_U: a row must be what its feature writes."""
    sae, x = case.make_inference(), sparse_activations(32)
    acts = sae.encode(x)
    by_rows = acts @ sae.W_dec + sae.b_dec
    torch.testing.assert_close(sae.decode(acts), by_rows, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_stock_saves_load_without_this_package(tmp_path: Path):
    for case in (HIERARCHICAL_TOPK, RESIDUAL):
        case.make_trained().save_inference_model(tmp_path / case.name)
    program = (
        "import sys\n"
        "from sae_lens import SAE\n"
        "print(*[SAE.load_from_disk(folder).cfg.architecture() for folder in sys.argv[1:]])\n"
        "assert 'sae_lens_ext' not in sys.modules\n"
    )
    folders = [str(tmp_path / case.name) for case in (HIERARCHICAL_TOPK, RESIDUAL)]
    run = subprocess.run(
        [sys.executable, "-c", program, *folders], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["topk", "jumprelu"]


@pytest.mark.parametrize("name", ["hierarchical_topk"])
def test_the_training_name_resolves_to_the_stock_inference_class(name: str):
    assert SAE.get_sae_class_for_architecture(name) is SAE.get_sae_class_for_architecture("topk")
