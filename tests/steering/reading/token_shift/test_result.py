from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sae_lens_ext.steering.reading.token_shift import Shifts, TokenShift
from sae_lens_ext.steering.reading.token_shift.summary import PromptResamples
from sae_lens_ext.steering.sequences import Sequences

NAN = float("nan")


@pytest.fixture
def result() -> TokenShift:
    """Texts 0 (3 tokens), 1 (none), 2 (2 tokens) and 3 (1 token); nothing is boosted at the last token of text 0."""
    shifts = Shifts(
        row=torch.tensor([0, 0, 0, 2, 2, 3]),
        offset=torch.tensor([0, 1, 2, 0, 1, 0]),
        token=torch.tensor([4, 5, 6, 4, 7, 8]),
        token_delta=torch.tensor([0.4, -0.2, 0.0, 0.6, 0.1, -0.5]),
        token_p_base=torch.tensor([0.1, 0.5, 0.3, 0.2, 0.2, 0.6]),
        boosted=torch.tensor([[4, 5], [6, -1], [-1, -1], [4, 8], [6, -1], [5, -1]]),
        boosted_delta=torch.tensor([[0.4, 0.1], [0.3, 0.0], [0.0, 0.0], [0.6, 0.1], [0.2, 0.0], [0.5, 0.0]]),
        boosted_p_base=torch.tensor([[0.1, 0.0], [0.2, NAN], [NAN, NAN], [0.2, 0.1], [0.3, NAN], [0.1, NAN]]),
        base_top=torch.tensor([5, 6, 6, 4, 7, 8]),
        kl=torch.tensor([1.0, 0.5, 0.0, 2.0, 0.5, 1.0]),
        total_variation=torch.tensor([0.5, 0.3, 0.0, 0.7, 0.2, 0.5]),
    )
    sequences = Sequences.joined([[0, 1], [0], [0, 2], [0]], [[4, 5, 6], [], [4, 7], [8]])
    texts = ["<bos>", "prompt\n", "<b>", "unused", " To", "a&b", "\n", "<i>x</i>", "  "]
    return TokenShift(
        shifts, sequences, dict(enumerate(texts)), provenance={"model_name": "toy", "hook_names": ["h.1"]}
    )


def test_TokenShift_summary_sets_the_first_token_against_the_rest(result: TokenShift):
    table = result.summary()
    assert table.index.tolist() == ["first", "rest", "all"]
    assert table["n_texts"].tolist() == [3, 2, 3]
    assert table["n_tokens"].tolist() == [3, 3, 6]
    assert table["boosted_delta"].tolist() == pytest.approx([0.5, 0.5 / 3, 2.0 / 6])
    assert table["token_delta"].tolist() == pytest.approx([0.5 / 3, -0.1 / 3, 0.4 / 6])
    assert table["kl"].tolist() == pytest.approx([4 / 3, 1 / 3, 5 / 6])
    assert table["total_variation"].tolist() == pytest.approx([1.7 / 3, 0.5 / 3, 2.2 / 6])
    # Of the rest, one token has nothing boosted and counts for no share; of the two others one has the base's choice.
    assert table["frac_same"].tolist() == pytest.approx([1 / 3, 1 / 2, 2 / 5])


def test_TokenShift_by_offset_is_over_the_texts_that_go_so_far(result: TokenShift):
    table = result.by_offset()
    assert table["offset"].tolist() == [0, 1, 2]
    assert table["n_texts"].tolist() == [3, 2, 1]
    assert table["kl"].tolist() == pytest.approx([4 / 3, 0.5, 0.0])
    assert table["frac_same"].tolist()[:2] == pytest.approx([1 / 3, 1 / 2])
    assert np.isnan(table["frac_same"][2])
    assert table["kl_low"].isna().tolist() == [False, False, True]  # of one text there is no interval


def test_TokenShift_intervals_resample_texts_with_all_their_tokens(result: TokenShift):
    result = replace(result, n_resamples=300, seed=3)
    weights = PromptResamples.draw(3, 300, 3).weights[1:]
    kl, row = result.shifts.kl.tolist(), [0, 0, 0, 1, 1, 2]
    means = [sum(w[r] * x for r, x in zip(row, kl, strict=True)) / sum(w[r] for r in row) for w in weights]
    shares = [
        sum(w[r] * x for r, x in zip((0, 1, 2), (1.0, 2.0, 1.0), strict=True))
        / sum(w[r] * x for r, x in zip(row, kl, strict=True))
        for w in weights
    ]
    found = result.summary().loc["all"]
    assert [found["kl_low"], found["kl_high"]] == pytest.approx(np.percentile(means, (2.5, 97.5)))
    share = result.concentration.kl
    assert [share.low, share.high] == pytest.approx(np.percentile(shares, (2.5, 97.5)))


def test_PromptResamples_draw_texts_as_often_as_there_are():
    weights = PromptResamples.draw(5, 40, seed=1).weights
    assert weights.shape == (41, 5)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 5).all()
    assert (weights == PromptResamples.draw(5, 40, seed=1).weights).all()
    assert not (weights == PromptResamples.draw(5, 40, seed=2).weights).all()


def test_PromptResamples_leave_out_samples_without_a_value():
    found = PromptResamples.draw(2, 50, seed=0).mean(np.array([3.0, 3.0]), np.array([1, 1]))
    assert (found.value, found.low) == (3.0, None)
    two = PromptResamples.draw(9, 50, seed=0).mean(np.array([3.0, 3.0]), np.array([1, 2]))
    assert (two.value, two.low, two.high) == (3.0, 3.0, 3.0)


def test_TokenShift_concentration_is_the_share_of_the_first_token(result: TokenShift):
    found = result.concentration
    assert found.kl.value == pytest.approx(4.0 / 5.0)
    assert found.boosted_delta.value == pytest.approx(1.5 / 2.0)
    assert found.even == pytest.approx(1 / 2)  # 3 texts, 6 tokens: mean length 2


def test_TokenShift_concentration_is_even_where_all_tokens_are_changed_alike(result: TokenShift):
    alike = replace(result.shifts, kl=torch.full((6,), 0.25))
    found = replace(result, shifts=alike).concentration
    assert found.kl.value == pytest.approx(found.even)


def test_TokenShift_boosted_tokens_count_the_most_boosted(result: TokenShift):
    first = result.boosted_tokens()
    assert first["token"].tolist() == [" To", "a&b"]
    assert first["token_id"].tolist() == [4, 5]
    assert first["count"].tolist() == [2, 1]
    assert first["share"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert first["mean_delta"].tolist() == pytest.approx([0.5, 0.5])
    assert result.boosted_tokens(first=False)["token_id"].tolist() == [6]
    assert result.boosted_tokens(first=None)["count"].tolist() == [2, 2, 1]
    assert result.boosted_tokens(n=1)["token_id"].tolist() == [4]


def test_TokenShift_to_frame_has_a_row_for_each_generated_token(result: TokenShift):
    frame = result.to_frame()
    assert len(frame) == 6
    assert frame["token"].tolist() == [" To", "a&b", "\n", " To", "<i>x</i>", "  "]
    assert frame["token_p_steered"].tolist() == pytest.approx([0.5, 0.3, 0.3, 0.8, 0.3, 0.1])
    assert frame["boosted_p_steered"][0] == pytest.approx(0.5)
    assert frame["boosted_id"].tolist() == [4, 6, -1, 4, 6, 5]
    assert frame["boosted"][2] is None or pd.isna(frame["boosted"][2])
    assert frame["same"].tolist()[:2] == [False, True]
    assert frame["same"].isna().tolist() == [False, False, True, False, False, False]


def test_TokenShift_is_read_back_as_it_was_saved(result: TokenShift, tmp_path: Path):
    result.save(tmp_path / "shift.json")
    loaded = TokenShift.load(tmp_path / "shift.json")
    for f in fields(Shifts):
        ours, theirs = getattr(loaded.shifts, f.name), getattr(result.shifts, f.name)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    assert loaded.sequences.digest == result.sequences.digest
    assert loaded.vocabulary == result.vocabulary
    assert loaded.provenance == result.provenance
    assert loaded.summary().equals(result.summary())
    assert repr(loaded) == repr(result)


def test_TokenShift_load_refuses_another_file(tmp_path: Path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a TokenShift .* or measure again with token_shift"):
        TokenShift.load(tmp_path / "x.json")


def test_TokenShift_shows_three_lines_and_a_table(result: TokenShift):
    lines = repr(result).splitlines()
    assert len(lines) == 3
    assert "6 generated tokens in 3 texts (1 without any left out)" in lines[0]
    assert "0.500 if it were even" in lines[0]
    assert "first token: Δp 0.500, KL 1.33" in lines[1]
    assert lines[2].strip() == "toy at h.1"
    assert "<table" in result._repr_html_()


def _one_token_each(result: TokenShift) -> TokenShift:
    first = result.shifts.offset == 0
    shifts = Shifts(**{f.name: getattr(result.shifts, f.name)[first] for f in fields(Shifts)})
    return replace(result, shifts=shifts, sequences=Sequences.joined([[0]] * 4, [[4], [], [4], [8]]))


def test_TokenShift_of_one_token_each_has_no_rest(result: TokenShift):
    short = _one_token_each(result)
    assert short.summary()["n_tokens"].tolist() == [3, 0, 3]
    assert np.isnan(short.summary()["kl"]["rest"])
    assert short.concentration.kl.value == pytest.approx(1.0)
    assert "later" not in repr(short)
    assert len(short.plot().data) == 2


def test_TokenShift_plot_sets_the_first_token_apart(result: TokenShift):
    drawing = result.plot()
    named: Any = {(trace.name, trace.yaxis): trace for trace in drawing.data if trace.name}
    assert set(named) == {
        (name, axis) for name in ("the rest", "first generated token") for axis in ("y", "y2")
    }
    assert list(named["first generated token", "y"].x) == [0]
    assert list(named["the rest", "y2"].x) == [1, 2]
    assert list(named["the rest", "y2"].y) == pytest.approx([0.5, 0.0])
    assert list(named["first generated token", "y2"].error_y.array) == pytest.approx(
        (result.by_offset()["kl_high"] - result.by_offset()["kl"])[:1]
    )
    assert "80% of KL falls on the first generated token, 50% if it were even" in drawing.layout.title.text


def test_TokenShift_plot_tokens_has_a_line_for_each_text(result: TokenShift):
    drawing: Any = result.plot_tokens()
    cells = drawing.data[0]
    assert list(drawing.layout.yaxis.ticktext) == ["0", "2", "3"]  # text 1 has no token
    assert np.array(cells.z, dtype=float).shape == (3, 3)
    assert list(cells.z[1]) == [pytest.approx(0.6), pytest.approx(0.1), None]
    assert cells.zmax == -cells.zmin == pytest.approx(0.6)
    assert cells.text[1][1] == "&lt;i&gt;x&lt;/i&gt;"  # plotly would read it as mark-up
    assert "most boosted: ·To +0.600 (0.200 → 0.800)" in cells.customdata[1][0]
    assert list(result.plot_tokens([3]).layout.yaxis.ticktext) == ["3"]


def test_TokenShift_plot_strip_has_the_tokens_in_lines(result: TokenShift, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sae_lens_ext.steering.reading.token_shift.figure._PER_LINE", 2)
    cells: Any = result.plot_strip(0).data[0]
    assert [list(line) for line in cells.text] == [["·To", "a&amp;b"], ["↵", ""]]
    assert list(cells.z[1]) == [0.0, None]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (1, "Row 1 has no generated token. There are 4, counted from 0; 3 of them .* such as row 0"),
        (4, "Row 4 is none of the sequences"),
        (-1, "Row -1 is none of the sequences"),
        ("0", "Row '0' is none of the sequences"),
    ],
)
def test_TokenShift_draws_no_text_that_is_not_there(result: TokenShift, row: Any, said: str):
    with pytest.raises(ValueError, match=said):
        result.strip_html(row)
    with pytest.raises(ValueError, match=said):
        result.plot_strip(row)
    with pytest.raises(ValueError, match=said):
        result.plot_tokens([row])


def test_TokenShift_plot_tokens_refuses_no_rows(result: TokenShift):
    with pytest.raises(ValueError, match="No row was named. Give at least one, or None for the first"):
        result.plot_tokens([])


def test_completions_of_one_prompt_are_resampled_together(result: TokenShift):
    shifts = result.shifts
    copies = {
        field.name: torch.cat([getattr(shifts, field.name)] * 3)
        for field in fields(shifts)
        if field.name != "row"
    }
    row = torch.cat([shifts.row + 4 * copy for copy in range(3)])
    rows = [[0, 1], [0, 9], [0, 2], [0, 3]] * 3
    sequences = Sequences.joined(rows, [[4, 5, 6], [], [4, 7], [8]] * 3)
    once = replace(result, sequences=Sequences.joined(rows[:4], [[4, 5, 6], [], [4, 7], [8]]))
    thrice = replace(result, shifts=Shifts(row=row, **copies), sequences=sequences)
    for name in ("kl", "boosted_delta"):
        for end in ("", "_low", "_high"):
            assert thrice.summary()[name + end]["all"] == pytest.approx(once.summary()[name + end]["all"])
    assert thrice.summary()["n_texts"]["all"] == 9


def test_a_steering_that_changes_nothing_says_so(result: TokenShift):
    still = replace(result.shifts, kl=torch.zeros(6), boosted=torch.full((6, 2), -1))
    assert "nothing is changed" in repr(replace(result, shifts=still))
