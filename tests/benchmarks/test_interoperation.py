"""What the other packages' environments read a Kron with, where this package is not installed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens.saes.topk_sae import TopK

from sae_lens_ext import KronSAE, KronSAEConfig

D_IN = 12


def saved_kron(folder: Path, **settings: Any) -> KronSAE:
    torch.manual_seed(0)
    sae = KronSAE(KronSAEConfig(d_in=D_IN, d_sae=48, k=5, base_dim=2, extension_dim=3, **settings))
    for parameter in sae.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    sae.cfg.metadata.hook_name = "blocks.3.hook_resid_post"
    sae.save_model(folder)
    return sae


@pytest.mark.parametrize("apply_b_dec_to_input", [False, True])
def test_PlainKron_computes_what_KronSAE_does(
    load_benchmark: Any, tmp_path: Path, apply_b_dec_to_input: bool
) -> None:
    sae = saved_kron(tmp_path, apply_b_dec_to_input=apply_b_dec_to_input, rescale_acts_by_decoder_norm=True)
    plain = load_benchmark("plain_kron").PlainKron(tmp_path)
    x = torch.randn(4, 7, D_IN)
    assert (sae.encode(x) > 0).any()
    torch.testing.assert_close(plain.encode(x), sae.encode(x))
    torch.testing.assert_close(plain(x), sae(x))
    torch.testing.assert_close(plain.W_dec.norm(dim=-1), torch.ones(48))
    head, i, j = 3, 1, 2
    P, Q = sae.W_enc[:, head * 5 : head * 5 + 2], sae.W_enc[:, head * 5 + 2 : head * 5 + 5]
    torch.testing.assert_close(plain.W_enc[:, head * 6 + i * 3 + j], P[:, i] + Q[:, j])
    assert plain.b_enc.shape == (48,)
    assert isinstance(plain.activation_fn, TopK)
    assert plain.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
    assert plain.cfg.to_dict()["architecture"] == plain.cfg.architecture() == "kron"


def test_PlainKron_keeps_norms_that_are_part_of_the_function(load_benchmark: Any, tmp_path: Path) -> None:
    sae = saved_kron(tmp_path, rescale_acts_by_decoder_norm=False)
    x = torch.randn(9, D_IN)
    torch.testing.assert_close(load_benchmark("plain_kron").PlainKron(tmp_path)(x), sae(x))


def test_PlainKron_refuses_another_architecture(load_benchmark: Any, tmp_path: Path) -> None:
    saved_kron(tmp_path)
    cfg = tmp_path / "cfg.json"
    cfg.write_text(cfg.read_text().replace('"kron"', '"topk"'))
    with pytest.raises(ValueError, match="holds no KronSAE"):
        load_benchmark("plain_kron").PlainKron(tmp_path)
