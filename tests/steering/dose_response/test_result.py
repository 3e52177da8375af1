"""Dose responses as tables, figures and files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_lens_ext.steering.dose_response import (
    Completion,
    DoseResponse,
    DoseRow,
    Estimate,
    plot_dose_responses,
)

MEASURES = ("behaviour", "coherence", "distinct_bigrams", "score", "cross_entropy")


def row(strength: float | None, score: float, *, interval: bool = True, theme: bool = False) -> DoseRow:
    def near(value: float) -> Estimate:
        return Estimate(value, value - 0.1, value + 0.1) if interval else Estimate(value, None, None)

    values = {name: near(score) for name in MEASURES}
    return DoseRow(strength=strength, theme_log_prob=near(-1.0) if theme else None, **values)


def response(**fields: Any) -> DoseResponse:
    texts = [(None, "a"), (4.0, "b b"), (0.0, "c"), (8.0, "d")]
    settings: dict[str, Any] = {
        "rows": (row(4.0, 0.6, theme=True), row(0.0, 0.1), row(8.0, 0.4)),
        "unsteered": row(None, 0.1),
        "completions": tuple(Completion(s, 0, 0, text, 2, 0.5, 1.5, 1.0) for s, text in texts),
        "prompts": ("once",),
        "mode": "activate",
        "theme_texts": ("theme",),
        "theme_log_prob": -3.0,
        "provenance": {"model_name": "tiny", "hook_names": ["blocks.1.hook_out"], "temperature": 1.27},
    }
    return DoseResponse(**{**settings, **fields})


def test_a_dose_response_gives_tables() -> None:
    found = response()
    frame = found.to_frame()
    assert frame["strength"].tolist() == [4, 0, 8] and frame["score"].tolist() == [0.6, 0.1, 0.4]
    assert frame["score_high"].tolist() == pytest.approx([0.7, 0.2, 0.5])
    assert frame["theme_log_prob"].tolist()[0] == -1 and np.isnan(frame["theme_log_prob"][1])
    texts = found.completions_frame()
    assert texts["text"].tolist() == ["a", "b b", "c", "d"] and texts["prompt"].tolist() == ["once"] * 4
    assert np.isnan(texts["strength"][0]) and texts["strength"][1] == 4


def test_a_dose_response_finds_its_best_and_its_texts() -> None:
    found = response()
    assert found.best.strength == 4 and found.at(8).score.value == 0.4
    assert found.texts(None) == ["a"] and found.texts(4) == ["b b"]
    with pytest.raises(ValueError, match="Strength 3 was not measured. There are 4, 0, 8."):
        found.texts(3)


@pytest.mark.parametrize("interval", [True, False])
def test_a_dose_response_is_saved_and_loaded(tmp_path: Path, interval: bool) -> None:
    found = response(rows=(row(1.0, 0.5, interval=interval),))
    found.save(tmp_path / "dose.json")
    assert DoseResponse.load(tmp_path / "dose.json") == found
    (tmp_path / "dose.json").write_text((tmp_path / "dose.json").read_text()[:200])
    with pytest.raises(ValueError, match="is not a DoseResponse that this version can read.*dose_response"):
        DoseResponse.load(tmp_path / "dose.json")
    with pytest.raises(FileNotFoundError):
        DoseResponse.load(tmp_path / "nothing.json")


def test_a_dose_response_shows_itself_in_three_lines() -> None:
    lines = repr(response()).splitlines()
    assert len(lines) == 3 and "best at strength 4" in lines[1] and "tiny at blocks.1.hook_out" in lines[2]
    assert "<table" in response()._repr_html_()


def test_the_figure_draws_strengths_in_order_with_intervals() -> None:
    drawing = response().plot()
    (score,) = drawing.select_traces({"name": "score"})
    assert list(score.x) == [0, 4, 8] and list(score.y) == [0.1, 0.6, 0.4]
    assert {trace.name for trace in drawing.data if trace.name} == {
        "behaviour",
        "coherence",
        "distinct bigrams",
        "score",
        "unsteered",
    }
    assert sum(trace.fill == "toself" for trace in drawing.data) == 4
    bare = response(rows=tuple(row(s, 0.5, interval=False) for s in (0.0, 1.0))).plot()
    assert not any(trace.fill == "toself" for trace in bare.data)


def test_responses_are_compared_by_their_scores() -> None:
    other = response(rows=(row(0.0, 0.2), row(20.0, 0.9)))
    drawing = plot_dose_responses({"single": response(), "cumulative": other})
    lines = {trace.name: list(trace.y) for trace in drawing.data if trace.mode == "lines+markers"}
    assert lines == {"single": [0.1, 0.6, 0.4], "cumulative": [0.2, 0.9]}
    (level,) = drawing.select_traces({"name": "unsteered"})
    assert list(level.x) == [0, 20]


@pytest.mark.parametrize(
    ("responses", "complaint"),
    [
        ({}, "dict without entries by name"),
        ([response()], "list without entries by name"),
        ({"a": 3}, "was given int as 'a'"),
        ({"a": response(), "b": response(mode="suppress")}, "'a' and 'b', which differ in mode"),
        ({"a": response(), "b": response(prompts=("other",))}, "which differ in prompts"),
        (
            {"a": response(), "b": response(provenance={"model_name": "big"})},
            "differ in model_name .'tiny' and 'big'",
        ),
    ],
)
def test_what_does_not_compare_is_refused(responses: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        plot_dose_responses(responses)


def test_rows_are_frozen() -> None:
    with pytest.raises(AttributeError):
        response().mode = "suppress"  # type: ignore[misc]
    assert replace(response(), mode="suppress").mode == "suppress"
