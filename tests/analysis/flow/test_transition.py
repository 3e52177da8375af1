"""A match as a transcoder, against its formula in loops, and where the result is known."""

import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig

from sae_lens_ext.analysis.flow.match import FeatureMatch, match_features
from sae_lens_ext.analysis.flow.transition import transition_explained_variance
from sae_lens_ext.analysis.flow.transition_result import TransitionResult, TransitionRow
from sae_lens_ext.analysis.texts import pack_texts
from sae_lens_ext.language_model import Site, read_activations
from tests.analysis.domains import CONTEXT, TEXTS
from tests.analysis.flow.deactivation.cases import HOOKS, flow_sae, saes_of
from tests.language_model.test_hook_points import hooks_left

SMALL = {"context_size": CONTEXT, "max_tokens": 8 * CONTEXT, "seed": 3, "show_progress": False}


def transition(model: Any, first: Any, second: Any, **settings: Any) -> TransitionResult:
    return transition_explained_variance(
        model, first, second, **{"texts": TEXTS["code"], **SMALL, **settings}
    )


def read(model: Any, *saes: Any) -> list[torch.Tensor]:
    packed = pack_texts(
        model, {"a": TEXTS["code"]}, context_size=CONTEXT, max_tokens=8 * CONTEXT, seed=3
    )["a"]  # fmt: skip
    return [
        read_activations(model, packed, Site(str(sae.cfg.metadata.hook_name)))[packed != 0] for sae in saes
    ]


def ev(x: torch.Tensor, x_hat: torch.Tensor) -> float:
    x, x_hat = x.double(), x_hat.double()
    return 1 - ((x - x_hat).pow(2).sum() / (x - x.mean(dim=0)).pow(2).sum()).item()


@torch.no_grad()
def predicted(
    first: Any, second: Any, indices: torch.Tensor, x: torch.Tensor, fold: bool = False
) -> torch.Tensor:
    """W_dec' T z + b', feature by feature."""
    x_hat = second.b_dec.repeat(len(x), 1)
    acts = first.encode(x)
    for i, j in enumerate(indices[:, 0].tolist()):
        if j < 0:
            continue
        row = second.W_dec[j] / second.W_dec[j].norm()
        z = acts[:, i] * first.W_dec[i].norm()
        if fold:  # θ = ‖row‖ · threshold of each
            z = (
                z
                * (second.W_dec[j].norm() * second.threshold[j])
                / (first.W_dec[i].norm() * first.threshold[i])
            )
        x_hat += z[:, None] * row
    return x_hat


def test_transition_is_its_formula_and_the_baselines_are_theirs(any_model: Any) -> None:
    first, second = saes_of(any_model, "early", "late").values()
    x, after = read(any_model, first, second)
    result = transition(any_model, first, second, fold=True, batch_size=3)
    for name, one_to_one in (("cosine", False), ("permutation", True)):
        indices = match_features(first, second, one_to_one=one_to_one).indices
        for folded in (False, True):
            row = result.at(name, folded=folded)
            expected = ev(after, predicted(first, second, indices, x, folded))
            assert row.ev == pytest.approx(expected, rel=1e-4, abs=1e-5)
            z = first.encode(x).detach() * first.W_dec.detach().norm(dim=1)
            share = (z[:, indices[:, 0] >= 0].sum() / z.sum()).item()
            assert row.share_matched == pytest.approx(share, rel=1e-5)
    with torch.no_grad():
        assert result.at("reconstruction").ev == pytest.approx(ev(after, second(after)), rel=1e-4)
        assert result.at("carried over").ev == pytest.approx(ev(after, first(x)), rel=1e-4)
        assert result.at("bias").ev == pytest.approx(ev(after, second.b_dec.expand_as(after)), abs=1e-4)
    assert result.at("mean").ev == 0 and result.n_tokens == len(x)
    assert [(row.name, row.folded) for row in result.rows] == [
        ("cosine", False), ("permutation", False), ("cosine", True), ("permutation", True),
        ("reconstruction", False), ("carried over", False), ("bias", False), ("mean", False),
    ]  # fmt: skip
    assert hooks_left(any_model) == []


def test_transition_from_an_sae_to_itself_is_its_reconstruction(hooked_model) -> None:
    sae = flow_sae(hooked_model, "early")
    result = transition(hooked_model, sae, sae, fold=True)
    for row in result.rows[:6]:
        assert row.ev == pytest.approx(result.at("reconstruction").ev, rel=1e-5)
    assert result.at("cosine").share_matched == 1


def test_transition_to_the_same_sae_in_other_units_or_order_changes_nothing(hooked_model) -> None:
    sae, other = flow_sae(hooked_model, "early"), flow_sae(hooked_model, "early")
    order, scale = torch.randperm(32), torch.rand(32) + 0.5
    with torch.no_grad():
        other.W_dec.copy_(sae.W_dec[order] * scale[:, None])
        other.W_enc.copy_(sae.W_enc[:, order] / scale)
        other.b_enc.copy_(sae.b_enc[order] / scale)
        other.threshold.copy_(sae.threshold[order] / scale)
    result = transition(hooked_model, other, sae, fold=True)
    for row in result.rows[:5]:
        assert row.ev == pytest.approx(result.at("reconstruction").ev, rel=1e-4)


def test_transition_of_a_given_match_adds_up_and_drops_out(hooked_model) -> None:
    first, second = saes_of(hooked_model, "early", "late").values()
    indices = torch.randint(-1, 4, (32, 1))
    match = FeatureMatch(indices, torch.ones(32, 1), 32, False)
    x, after = read(hooked_model, first, second)
    row = transition(hooked_model, first, second, match=match).rows[0]
    assert row.name == "given" and 0 < (row.share_matched or 0) < 1
    assert row.ev == pytest.approx(ev(after, predicted(first, second, indices, x)), rel=1e-4, abs=1e-5)
    nothing = FeatureMatch(torch.full((32, 1), -1), torch.ones(32, 1), 32, False)
    result = transition(hooked_model, first, second, match=nothing)
    assert (
        result.at("given").ev == pytest.approx(result.at("bias").ev) and result.at("given").share_matched == 0
    )


ROWS = (
    TransitionRow("cosine", False, 0.75, 0.5),
    TransitionRow("cosine", True, 0.5, 0.5),
    TransitionRow("reconstruction", False, 0.9, None),
    TransitionRow("mean", False, 0.0, None),
)
RESULT = TransitionResult(ROWS, "blocks.0.hook_out", "blocks.1.hook_out", 1200, {"model_name": "gpt2"})


def test_TransitionResult_shows_saves_and_loads(tmp_path: Path) -> None:
    assert repr(RESULT) == (
        "TransitionResult blocks.0.hook_out → blocks.1.hook_out, on 1,200 tokens\n"
        "  EV: cosine 0.750, cosine (folded) 0.500, reconstruction 0.900, mean 0.000\n"
        "  gpt2"
    )
    assert RESULT._repr_html_().count("<tr") == 5 and "NaN" not in RESULT._repr_html_()
    assert list(RESULT.to_frame()) == ["name", "folded", "ev", "share_matched"]
    RESULT.save(tmp_path / "a.json")
    assert TransitionResult.load(tmp_path / "a.json") == RESULT
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(
        ValueError, match="is not a TransitionResult.*measure again with transition_explained_variance"
    ):
        TransitionResult.load(tmp_path / "a.json")
    figure = RESULT.plot()
    assert isinstance(figure, go.Figure)
    assert list(figure.data[0].x) == ["cosine", "cosine, thresholds folded"] and list(figure.data[0].y) == [
        0.75,
        0.5,
    ]
    assert sorted(a.text for a in figure.layout.annotations) == ["mean", "reconstruction"]
    with pytest.raises(ValueError, match="has no 'permutation' with folded = False. It has 'cosine' "):
        RESULT.at("permutation")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"match": FeatureMatch(torch.zeros(8, 1).long(), torch.ones(8, 1), 32, False)},
            "a match of 8 features with 32",
        ),
        (
            {"match": FeatureMatch(torch.zeros(32, 2).long(), torch.ones(32, 2), 32, False)},
            "the best 2 of each",
        ),
        ({"texts": ["w1"]}, "The text 'texts' is too short"),
        ({"texts": ["<|endoftext|> " * 40] * 10}, "nothing but special tokens"),
        ({"max_tokens": 0}, "transition_explained_variance.max_tokens = 0 is out of range"),
    ],
)
def test_transition_refuses(hooked_model, settings: Any, message: str) -> None:
    first, second = saes_of(hooked_model, "early", "late").values()
    with pytest.raises(ValueError, match=re.escape(message)):
        transition(hooked_model, first, second, **settings)


def test_transition_refuses_a_match_that_leads_back(hooked_model) -> None:
    first, second = saes_of(hooked_model, "early", "late").values()
    back = FeatureMatch(
        torch.zeros(first.cfg.d_sae, 1).long(),
        torch.ones(first.cfg.d_sae, 1),
        second.cfg.d_sae,
        False,
        {"hook_a": HOOKS["late"][0], "hook_b": HOOKS["early"][0]},
    )
    with pytest.raises(ValueError, match="a match from .*Give a match from the first SAE to the second"):
        transition(hooked_model, first, second, match=back)


def test_transition_refuses_saes_that_do_not_fit(hooked_model) -> None:
    first, second, mlp = saes_of(hooked_model, "early", "late", "mlp").values()
    with pytest.raises(ValueError, match="'blocks.1.hook_mlp_out', which is no place on the residual stream"):
        transition(hooked_model, first, mlp)
    narrow = StandardSAE(StandardSAEConfig(d_in=8, d_sae=8))
    narrow.cfg.metadata.hook_name = HOOKS["late"][0]
    with pytest.raises(ValueError, match="different widths, 16 and 8"):
        transition(hooked_model, first, narrow)
    plain = StandardSAE(StandardSAEConfig(d_in=16, d_sae=8))
    plain.cfg.metadata.hook_name = HOOKS["late"][0]
    with pytest.raises(ValueError, match="architecture 'standard'.*JumpReLU"):
        transition(hooked_model, first, plain, fold=True)
    scaled = StandardSAE(StandardSAEConfig(d_in=16, d_sae=8, normalize_activations="layer_norm"))
    scaled.cfg.metadata.hook_name = HOOKS["late"][0]
    with pytest.raises(
        ValueError, match="normalize_activations = 'layer_norm', which scales each token by itself"
    ):
        transition(hooked_model, first, scaled)
    silent = flow_sae(hooked_model, "early")
    silent.threshold.data.fill_(1e9)
    with pytest.raises(ValueError, match="no active feature of the SAE at 'blocks.0.hook_resid_post'"):
        transition(hooked_model, silent, second)
    assert hooks_left(hooked_model) == []
