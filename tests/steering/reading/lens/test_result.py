"""`LogitLensResult`: its tables, figures and files."""

from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_ext.steering.reading.lens import LogitLensResult, logit_lens
from sae_lens_ext.steering.reading.lens.shown import shown_token

COLUMNS = ["layer", "rank", "token", "token_id", "value", "side"]


@pytest.fixture
def several(hooked_model: Any) -> LogitLensResult:
    vectors = {"layer 0": torch.randn(16), "layer 3": torch.randn(16)}
    found = logit_lens(hooked_model, vectors, top_k=4)
    return replace(found, layers=(0, 3))


@pytest.fixture
def single(hooked_model: Any) -> LogitLensResult:
    return logit_lens(hooked_model, torch.randn(16), top_k=4, measure="dot")


def test_the_frame_of_one_vector_has_the_columns_promised(single: LogitLensResult) -> None:
    frame = single.to_frame()
    assert list(frame.columns) == COLUMNS
    assert frame["layer"].isna().all()
    assert frame["rank"].tolist() == [1, 2, 3, 4] * 2
    assert frame["side"].tolist() == ["top"] * 4 + ["bottom"] * 4
    top = frame[frame["side"] == "top"]
    assert list(zip(top["token"], top["value"], strict=True)) == single.top()
    assert top["token_id"].tolist() == single.top_ids[0].tolist()
    bottom = frame[frame["side"] == "bottom"]
    assert bottom["value"].is_monotonic_increasing and top["value"].is_monotonic_decreasing


def test_the_frame_of_several_vectors_names_them(several: LogitLensResult) -> None:
    frame = several.to_frame()
    assert list(frame.columns) == COLUMNS  # the layers say which is which
    assert len(frame) == 2 * 2 * 4
    unknown = replace(several, layers=(None, None)).to_frame()
    assert list(unknown.columns) == [*COLUMNS, "vector"]
    assert set(unknown["vector"]) == {"layer 0", "layer 3"}
    own = frame[(frame["layer"] == 3) & (frame["side"] == "bottom")]
    assert list(zip(own["token"], own["value"], strict=True)) == several.bottom(3)


def test_vectors_are_found_by_layer_and_by_label(several: LogitLensResult, single: LogitLensResult) -> None:
    assert several.top(3, 2) == several.top("layer 3", 4)[:2] == several.at("top", 3, 2)
    assert single.top() == single.top("vector")
    for asked in (1, "layer 1", None):
        with pytest.raises(
            ValueError,
            match=f"asked for {asked!r}, which is .* Give the layer or the label of one of 'layer 0'",
        ):
            several.top(asked)
    with pytest.raises(ValueError, match="n = 0"):
        several.top(3, 0)
    with pytest.raises(ValueError, match="the side 'Top'"):
        several.at("Top", 3)  # pyright: ignore[reportArgumentType]


def test_what_was_saved_is_loaded(several: LogitLensResult, tmp_path: Path) -> None:
    several.save(tmp_path / "lens.json")
    loaded = LogitLensResult.load(tmp_path / "lens.json")
    assert loaded.to_frame().equals(several.to_frame())
    for name in ("labels", "layers", "norms", "tokens", "measure", "final_norm", "unembedding", "n_tokens"):
        assert getattr(loaded, name) == getattr(several, name)
    assert (loaded.random_largest, loaded.provenance) == (several.random_largest, several.provenance)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a LogitLensResult that this version can read"):
        LogitLensResult.load(tmp_path / "other.json")


def test_the_repr_is_three_lines_that_say_how_it_was_read(
    several: LogitLensResult, single: LogitLensResult, hooked_model: Any
) -> None:
    first, second, third = repr(several).splitlines()
    assert first == "LogitLensResult of 2 vectors, 32 tokens of custom"
    assert second == "  cos(W_U[v], x), without the final norm"
    assert third.startswith("  layer ") and "random vectors stay below" in third
    assert "  W_U[v] · x, without the final norm\n" in repr(single)
    normed = logit_lens(hooked_model, torch.randn(16), measure="dot", final_norm=True)
    assert "  W_U[v] · (γ ∘ (x − mean x)), γ of the final LayerNorm\n" in repr(normed)


def test_a_notebook_shows_a_row_for_each_vector_whole(several: LogitLensResult) -> None:
    shown = several._repr_html_()
    assert shown.count("<tr>") + shown.count("<tr ") == 3
    for token, value in several.top(0, 4):
        assert f"{escape(token)} {value:.2f}" in shown


def test_the_table_shows_every_token_and_the_bars_too(
    several: LogitLensResult, single: LogitLensResult
) -> None:
    table = several.plot(n=3)
    top, bottom = table.data
    assert [list(row) for row in top.text] == [
        [escape(shown_token(token, 11)) for token, _ in several.top(label, 3)]
        for label in ("layer 0", "layer 3")
    ]
    assert [list(row) for row in bottom.z] == [
        [value for _, value in several.bottom(label, 3)] for label in ("layer 0", "layer 3")
    ]
    bars = single.plot()
    assert list(bars.data[0].x) == [value for _, value in single.top()]
    assert list(bars.layout.yaxis2.ticktext) == [escape(token) for token, _ in single.bottom()]
    for drawing in (table, bars):
        assert "without the final norm" in drawing.layout.title.text
    with pytest.raises(ValueError, match="n = 0"):
        single.plot(0)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" To", "·To"),
        ("\n\n\t", "↵↵⇥"),
        ("", "∅"),
        ("a" * 16, "a" * 16),
        ("a" * 17, "a" * 15 + "…"),
        ("\x1b[0m", "⟨1b⟩[0m"),
        ("\u202e", "⟨202e⟩"),
        ("é字", "é字"),
    ],
)
def test_tokens_are_shown_so_that_they_can_be_seen(token: str, shown: str) -> None:
    assert shown_token(token) == shown


def test_the_figure_shows_markup_as_it_is(hooked_model: Any) -> None:
    result = logit_lens(hooked_model, torch.randn(16), top_k=2)
    tokens = dict.fromkeys(result.tokens, '<b>$x$</b> & "q"')
    odd = LogitLensResult(
        **{**{name: getattr(result, name) for name in result.__dataclass_fields__}, "tokens": tokens}
    )
    assert odd.plot().layout.yaxis.ticktext[0] == '&lt;b&gt;&#36;x&#36;&lt;/b&gt;·&amp;·"q"'
