"""Depthwise circuits as a table, a figure and a file, and what can be asked of them."""

from pathlib import Path

import pytest
import torch

from sae_lens_ext.analysis.top_contexts import Context
from sae_lens_ext.lime.reading import DepthwiseCircuits, ServedToken
from sae_lens_ext.lime.reading.circuits.circuit import Served

SHARES = {
    1: torch.tensor([[[0.2], [0.8]]], dtype=torch.float64),
    2: torch.tensor([[[0.3], [-0.4], [1.1]]], dtype=torch.float64),
}
SERVED = Served(
    (ServedToken(" <b>", 7, -0.5, 3), ServedToken("b\n", 8, -0.4, 2)),
    (Context("texts", ("a", "b"), (0.0, -0.5), 1),),
)


@pytest.fixture
def result() -> DepthwiseCircuits:
    """Three layers of one head."""
    return DepthwiseCircuits(
        weights={layer: (own / 2).float() for layer, own in SHARES.items()},
        value_shares=SHARES,
        key_shares={layer: own.flip(1) for layer, own in SHARES.items()},
        served={(2, 0, 1, 0): SERVED},
        tokens_by="share",
        n_tokens=1000,
        provenance={"model_name": "tiny"},
    )


def test_strongest_circuits_are_ranked_by_size_over_the_whole_model(result: DepthwiseCircuits) -> None:
    names = ["L2.H0 ← L1.H0", "L2.H0 ← L0.H0", "L1.H0 ← L0.H0"]
    assert [one.name for one in result.strongest()] == names
    assert [one.name for one in result.strongest(2, own_layer=True)] == ["L2.H0 ← L2.H0", "L1.H0 ← L1.H0"]


def test_sources_of_a_head_are_ranked_by_values_or_keys(result: DepthwiseCircuits) -> None:
    assert [c.source_layer for c in result.sources(2, 0)] == [2, 1, 0]
    assert [c.source_layer for c in result.sources(2, 0, by="key")] == [0, 1, 2]
    assert [c.source_layer for c in result.sources(2, 0, own_layer=False)] == [1, 0]


def test_circuit_has_its_numbers_and_tokens(result: DepthwiseCircuits) -> None:
    one = result.circuit(2, 0, 1, 0)
    assert (one.weight, one.value_share, one.key_share) == pytest.approx((-0.2, -0.4, -0.4))
    assert one.tokens == SERVED.tokens
    assert one.contexts == SERVED.contexts
    assert result.circuit(1, 0, 0, 0).tokens == ()


def test_frame_has_a_row_for_each_source(result: DepthwiseCircuits) -> None:
    frame = result.to_frame()
    assert len(frame) == 5
    for row in frame.itertuples(index=False):
        one = result.circuit(row.layer, row.head, row.source_layer, row.source_head)
        assert (row.weight, row.value_share, row.key_share) == (one.weight, one.value_share, one.key_share)
        assert row.tokens == tuple(t.token for t in one.tokens)


def test_figure_shows_what_the_frame_says(result: DepthwiseCircuits) -> None:
    bars, marks, texts = result.plot().data
    frame = result.to_frame()
    between = frame[frame["layer"] != frame["source_layer"]].sort_values(
        "value_share", key=lambda s: -s.abs()
    )
    assert list(bars.x) == between["value_share"].tolist()
    assert list(marks.x) == between["key_share"].tolist()
    assert list(texts.text) == ["·&lt;b&gt;  b↵", "", ""]
    assert bars.marker.color[0] != bars.marker.color[1] == bars.marker.color[2]  # against, for, for
    assert "(3×)" in texts.hovertext[0]
    assert len(result.plot(1).data[0].x) == 1
    assert result.plot(9, own_layer=True).data[0].x[0] == 1.1


def test_result_is_the_same_after_saving_and_loading(result: DepthwiseCircuits, tmp_path: Path) -> None:
    result.save(tmp_path / "circuits.json")
    loaded = DepthwiseCircuits.load(tmp_path / "circuits.json")
    assert loaded.to_frame().equals(result.to_frame())
    assert loaded.served == result.served
    assert (loaded.tokens_by, loaded.n_tokens, loaded.provenance) == ("share", 1000, {"model_name": "tiny"})


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "circuits.json").write_text("[]")
    with pytest.raises(
        ValueError, match="is not a DepthwiseCircuits .* measure again with depthwise_circuits"
    ):
        DepthwiseCircuits.load(tmp_path / "circuits.json")


def test_result_shows_itself_in_three_lines_and_a_table(result: DepthwiseCircuits) -> None:
    assert len(repr(result).splitlines()) == 3
    assert "L2.H0 ← L1.H0, share -0.400, serving ·<b> b↵" in repr(result)
    assert "<td>·&lt;b&gt;&nbsp;&nbsp;b↵</td>" in result._repr_html_()


def test_what_is_not_there_is_refused(result: DepthwiseCircuits) -> None:
    with pytest.raises(ValueError, match="target layer 0, head 0. Targets are the layers 1 to 2"):
        result.sources(0, 0)
    with pytest.raises(ValueError, match="target layer 1, head 1"):
        result.circuit(1, 1, 0, 0)
    with pytest.raises(
        ValueError, match="source layer 2, head 0 of target layer 1. Sources are the layers 0 to 1"
    ):
        result.circuit(1, 0, 2, 0)
    with pytest.raises(ValueError, match="by = 'size'. Give 'value' or 'key'"):
        result.sources(1, 0, by="size")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n = 0 is out of range"):
        result.strongest(0)
    with pytest.raises(ValueError, match="own_layer = 1"):
        result.strongest(own_layer=1)  # type: ignore[arg-type]
