"""Results of effects as tables, figures, texts and files."""

from pathlib import Path

import pytest
import torch

from sae_lens_ext.steering import AddVector
from sae_lens_ext.steering.reading.effect import Persistence, PropagatedEffect, persistence, propagated_effect
from sae_lens_ext.steering.vectors import SteeringVectors
from tests.steering.reading.effect.toy import LinearModel, turn

IDS = torch.tensor([[0, 2, 4, 6], [8, 2, 2, 5]])
VECTORS = SteeringVectors({0: torch.tensor([1.0, 0.0]), 2: torch.tensor([0.5, 0.0])}, {"made_by": "hand"})


@pytest.fixture
def model() -> LinearModel:
    return LinearModel([turn(10), turn(30, 2.0), turn(60, 0.5)])


@pytest.fixture
def followed(model: LinearModel) -> Persistence:
    return persistence(model, VECTORS, IDS, n_resamples=20, seed=4, show_progress=False)


@pytest.fixture
def effect(model: LinearModel) -> PropagatedEffect:
    return propagated_effect(model, VECTORS, IDS, show_progress=False)


def test_persistence_as_a_table_has_each_block_from_the_vectors_on(followed: Persistence) -> None:
    frame = followed.to_frame()
    assert list(zip(frame["layer"], frame["block"], strict=True)) == [(0, 0), (0, 1), (0, 2), (2, 2)]
    assert list(frame.columns) == [
        "layer",
        "block",
        *(
            f"{name}{end}"
            for name in ("diff_vector", "diff_diff", "diff_diff_others")
            for end in ("", "_low", "_high")
        ),
        "null_diff_vector",
        "null_diff_diff",
        "vector_cosine",
        "norm_ratio",
    ]
    assert frame["diff_vector"].isna().tolist() == [False, True, False, False]
    assert frame.loc[1, "norm_ratio"] == pytest.approx(2) and frame.loc[2, "diff_diff_low"] == pytest.approx(
        1
    )


def test_persistence_in_three_lines_and_in_a_notebook(followed: Persistence) -> None:
    lines = repr(followed).splitlines()
    assert len(lines) == 3
    assert lines[0] == "Persistence of 2 vectors through 3 blocks, 6 tokens ('all') of 2 sequences"
    assert "Diff-Vector mean 0.00, 0.00 to 0.00; Diff-Diff mean 1.00, 1.00 to 1.00" in lines[1].replace(
        "-0.00", "0.00"
    )
    assert lines[2] == "  toy at the layers 0, 2"
    assert followed._repr_html_().count("<tr") == 3  # the head, and the last block of each vector


def test_persistence_of_the_last_block_alone_has_nothing_after_it(model: LinearModel) -> None:
    last = persistence(model, VECTORS.only(2), IDS[:1], n_resamples=20, show_progress=False)
    assert "Diff-Vector of no block; Diff-Diff of no block" in repr(last)
    assert last.diff_vector_interval.isnan().all() and last.diff_diff_others.isnan().all()  # one sequence


def test_persistence_comes_back_from_a_file(followed: Persistence, tmp_path: Path) -> None:
    followed.save(tmp_path / "persistence.json")
    again = Persistence.load(tmp_path / "persistence.json")
    assert again.to_frame().equals(followed.to_frame()) and repr(again) == repr(followed)
    assert again.layers == followed.layers and again.provenance == followed.provenance
    with pytest.raises(ValueError, match="is not a PropagatedEffect that this version can read"):
        PropagatedEffect.load(tmp_path / "persistence.json")


def test_persistence_says_where_it_comes_from(followed: Persistence) -> None:
    told = followed.provenance
    assert told["seed"] == 4 and told["tokens"] == "all" and told["model_name"] == "toy"
    assert told["vectors"] == {"made_by": "hand"} and len(told["sequences_sha256"]) == 64
    assert told["hook_names"][2] == "blocks.2.hook_resid_post" and "torch_version" in told


def test_persistence_as_two_heat_maps_on_one_scale(followed: Persistence) -> None:
    one, two = followed.plot().data
    assert (one.zmin, one.zmax, two.zmin, two.zmax) == (-1, 1, -1, 1)
    assert one.colorscale == two.colorscale and (one.showscale, two.showscale) == (False, True)
    assert torch.equal(torch.tensor(one.z).nan_to_num(9), followed.diff_vector.nan_to_num(9))
    assert torch.equal(torch.tensor(two.z).nan_to_num(9), followed.diff_diff.nan_to_num(9))
    assert list(one.y) == ["0", "2"] and list(one.x) == ["0", "1", "2"]


def test_an_effect_as_a_table(effect: PropagatedEffect, model: LinearModel) -> None:
    frame = effect.to_frame()
    assert frame["label"].tolist() == ["layer 0", "layer 2"] and frame["layer"].tolist() == [0, 2]
    assert frame["norm_of_mean"].tolist() == pytest.approx([1, 0.5]) and frame[
        "share"
    ].tolist() == pytest.approx([1, 1])
    whole = propagated_effect(model, VECTORS.interventions(), IDS, show_progress=False)
    assert whole.to_frame()["layer"].isna().tolist() == [True]


def test_an_effect_in_three_lines_and_in_a_notebook(effect: PropagatedEffect) -> None:
    assert repr(effect).splitlines() == [
        "PropagatedEffect of 2 steerings on 6 tokens",
        "  mean ‖Δh‖ 0.5 to 1; share of it in the mean 1.00 to 1.00",
        "  toy at blocks.2.hook_resid_post, tokens 'all'",
    ]
    assert effect._repr_html_().count("<tr") == 3


def test_an_effect_comes_back_from_a_file(
    effect: PropagatedEffect, model: LinearModel, tmp_path: Path
) -> None:
    effect.save(tmp_path / "effect.json")
    again = PropagatedEffect.load(tmp_path / "effect.json")
    assert torch.equal(again.mean, effect.mean) and again.to_frame().equals(effect.to_frame())
    assert (again.labels, again.layers, again.n_tokens) == (effect.labels, effect.layers, effect.n_tokens)
    assert again.provenance == effect.provenance and repr(again) == repr(effect)
    one = AddVector("blocks.0.hook_resid_post", torch.ones(2))
    whole = propagated_effect(model, one, IDS, show_progress=False)
    whole.save(tmp_path / "whole.json")
    assert PropagatedEffect.load(tmp_path / "whole.json").layers == (None,)
    assert whole.provenance["vectors"] == repr(one)


def test_an_effect_as_a_figure(effect: PropagatedEffect) -> None:
    drawn = {trace.name: list(trace.y) for trace in effect.plot().data}
    assert drawn["mean ‖Δh‖"] == pytest.approx([1, 0.5]) and drawn["share"] == pytest.approx([1, 1])
    assert set(drawn) == {"mean ‖Δh‖", "‖mean Δh‖", "share", "null: random directions"}
