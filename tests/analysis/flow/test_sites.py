import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import TranscoderConfig
from sae_lens.saes.transcoder import Transcoder

from sae_lens_ext.analysis.flow import FlowSites, flow_site
from tests.analysis.flow.dictionaries import ATT, MLP, RES, axes, sae_of


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("blocks.3.hook_resid_post", 3, "residual"),
        ("blocks.3.hook_out", 3, "residual"),
        ("blocks.4.hook_resid_pre", 3, "residual"),
        ("blocks.4.hook_in", 3, "residual"),
        ("blocks.12.hook_mlp_out", 12, "mlp"),
        ("blocks.12.mlp.hook_out", 12, "mlp"),
        ("blocks.0.hook_attn_out", 0, "attention"),
        ("blocks.0.attn.hook_out", 0, "attention"),
        ("blocks.0.attn.hook_z", 0, "attention"),
    ],
)
def test_flow_site_knows_both_kinds_of_names(name: str, layer: int, kind: str) -> None:
    site = flow_site(name)
    assert (site.layer, site.kind) == (layer, kind)


@pytest.mark.parametrize(
    "name", ["hook_embed", "blocks.1.hook_resid_mid", "blocks.0.hook_resid_pre", "blocks.x.hook_out", "", 3]
)
def test_flow_site_refuses_other_hooks(name: str) -> None:
    with pytest.raises(ValueError, match="is none that features flow through"):
        flow_site(name)


def test_FlowSites_orders_by_layer_and_says_what_is_missing() -> None:
    saes = [sae_of(axes(0, 1), h) for h in (MLP.format(2), RES.format(2), RES.format(0), RES.format(1))]
    sites = FlowSites.open("test", saes)
    assert list(sites) == [RES.format(0), RES.format(1), RES.format(2), MLP.format(2)]
    assert sites.missing == (
        "No SAE of the mlp output at layers 0, 1.",
        "No SAE of the attention output at layers 0, 1, 2.",
    )
    assert sites.predecessors(RES.format(2)) == {"residual": RES.format(1), "mlp": MLP.format(2)}
    assert sites.predecessors(RES.format(0)) == {}
    assert sites.predecessors(MLP.format(2)) == {}
    assert sites.successor(RES.format(2)) is None
    assert sites.successor(MLP.format(2)) == RES.format(2)


def test_FlowSites_finds_a_site_under_its_other_names() -> None:
    sae = sae_of(axes(0), RES.format(1))
    sites = FlowSites.open("test", {"blocks.1.hook_out": sae})
    assert sites["blocks.1.hook_resid_post"] is sites["blocks.2.hook_in"]
    assert "blocks.1.hook_resid_post" in sites
    assert "blocks.2.hook_resid_post" not in sites
    assert "hook_embed" not in sites


def test_FlowSites_gives_unit_rows_and_leaves_the_sae_as_it_was() -> None:
    sae = sae_of([[3.0, 4.0], [0.0, 0.0]], RES.format(0))
    rows = FlowSites.open("test", [sae]).rows(RES.format(0))
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    assert sae.W_dec[0].tolist() == [3.0, 4.0]


def test_FlowSites_opens_folders_when_they_are_asked_for(tmp_path: Path) -> None:
    for layer in range(8):
        sae_of(axes(layer % 6), RES.format(layer)).save_model(tmp_path / str(layer))
    sites = FlowSites.open("test", [tmp_path / str(layer) for layer in range(8)])
    assert sites.d_sae(RES.format(7)) == 1
    assert [sites.rows(name)[0].argmax().item() for name in sites] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert len(sites._rows) == 4
    (tmp_path / "3" / "sae_weights.safetensors").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="truncated"):
        sites.rows(RES.format(3))


def test_FlowSites_takes_a_transcoder_where_it_writes() -> None:
    cfg = TranscoderConfig(d_in=6, d_sae=2, d_out=6, apply_b_dec_to_input=False)
    cfg.metadata.hook_name, cfg.metadata.hook_name_out = "blocks.1.ln2.hook_normalized", MLP.format(1)
    sites = FlowSites.open("test", [Transcoder(cfg)])
    assert sites.site(MLP.format(1)).kind == "mlp"


def test_FlowSites_refuses_what_is_no_set_of_sites_of_one_stream() -> None:
    a, b = sae_of(axes(0), RES.format(0)), sae_of(axes(0), RES.format(1))
    with pytest.raises(ValueError, match="Give a mapping from hook names to SAEs"):
        FlowSites.open("test", a)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Give a mapping from hook names to SAEs"):
        FlowSites.open("test", [])
    with pytest.raises(
        ValueError, match=re.escape("given, for 'blocks.1.hook_resid_post', an SAE of 'blocks.0")
    ):
        FlowSites.open("test", {RES.format(1): a})
    with pytest.raises(ValueError, match="two SAEs of one site"):
        FlowSites.open("test", [a, sae_of(axes(1), "blocks.0.hook_out")])
    with pytest.raises(ValueError, match="different widths: 6 .* and 3"):
        FlowSites.open("test", [a, sae_of([[1.0, 0, 0]], RES.format(1))])
    with pytest.raises(ValueError, match="different models: 'made-up' .* and 'other'"):
        FlowSites.open("test", [a, sae_of(axes(0), RES.format(1), model="other")])
    b.cfg.metadata.hook_name = None
    with pytest.raises(ValueError, match="names no hook in its metadata"):
        FlowSites.open("test", [a, b])
    with pytest.raises(ValueError, match="Give model=, the language model"):
        FlowSites.open("test", [a, sae_of(axes(0), "blocks.0.attn.hook_z")])
    with pytest.raises(FileNotFoundError):
        FlowSites.open("test", {RES.format(0): Path("/nowhere")})


def test_FlowSites_refuses_a_feature_and_a_hook_that_are_not_there() -> None:
    sites = FlowSites.open("test", [sae_of(axes(0, 1), RES.format(0))])
    assert sites.index(RES.format(0), np.int64(1)) == sites.index(RES.format(0), torch.tensor(1)) == 1
    for index in (2, -1, True, 1.0):
        with pytest.raises(ValueError, match="features 0 to 1"):
            sites.index(RES.format(0), index)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="no SAE at 'blocks.5.hook_out'. There are SAEs at 'blocks.0.hook_resid_post'"
    ):
        sites.name_of("blocks.5.hook_out")


def test_FlowSites_refuses_nan_and_a_normalisation_that_was_never_folded() -> None:
    broken = sae_of(axes(0), ATT.format(0))
    broken.W_dec.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        FlowSites.open("test", [broken]).rows(ATT.format(0))
    scaled = sae_of(axes(0), RES.format(0))
    scaled.cfg.normalize_activations = "expected_average_only_in"
    with pytest.raises(ValueError, match="never folded"):
        FlowSites.open("test", [scaled])


def test_FlowSites_maps_heads_through_the_output_weights(hooked_model) -> None:
    rows = torch.randn(3, 16)
    sites = FlowSites.open("test", [sae_of(rows, "blocks.1.attn.hook_z")], model=hooked_model)
    z = rows[1].reshape(2, 8)
    expected = torch.einsum("hd,hdm->m", z, hooked_model.blocks[1].attn.W_O)
    torch.testing.assert_close(
        sites.rows("blocks.1.attn.hook_z")[1], torch.nn.functional.normalize(expected, dim=0)
    )


def test_FlowSites_refuses_heads_of_another_model(hooked_model) -> None:
    sites = FlowSites.open("test", [sae_of(axes(0), "blocks.1.attn.hook_z")], model=hooked_model)
    with pytest.raises(ValueError, match="rows of width 6, but the heads of layer 1 have 16"):
        sites.rows("blocks.1.attn.hook_z")
