"""The log of a training: what is read, what is refused, and what is drawn."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_lens_ext.steering.training.training_log import TrainingLog, plot_training_logs
from sae_lens_ext.steering.training.training_log_figure import running_mean


def row(step: int, **others: Any) -> dict[str, Any]:
    return {
        "step": step,
        "reward": step / 10,
        "reward_std": 0.5,
        "trained_reward": step / 10,
        "degenerate_groups": 0.25,
        "kl_to_base": 0.01 * step if step % 2 else None,
        "entropy": 2.0 - step / 10,
        "length": 10.0 + step,
        "ended": 0.75,
        "gradient_norm": 1.5,
        "learning_rate": {"0": 1e-3, "3": 2e-3},
        "vector_norm": {"0": 0.5 * step, "3": 0.25},
        "seconds": 2.0,
        **others,
    }


def written(folder: Path, rows: list[Any], end: str = "\n") -> Path:
    path = folder / "log.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in rows) + end)
    return path


def test_a_log_is_read_from_its_file_or_folder(tmp_path: Path) -> None:
    path = written(tmp_path, [row(1), row(2)])
    for given_path in (path, tmp_path, str(tmp_path)):
        log = TrainingLog.load(given_path)
        assert log.rows == (row(1), row(2)) and log.path == path
        assert log.steps.tolist() == [1, 2]
        assert log.values("reward").tolist() == [0.1, 0.2]
        np.testing.assert_array_equal(log.values("kl_to_base"), [0.01, np.nan])


@pytest.mark.parametrize("cut", [1, 7, 40, len(json.dumps(row(3))) - 1])
def test_a_last_line_that_was_cut_off_is_dropped_and_told_of(tmp_path: Path, cut: int, caplog) -> None:
    written(tmp_path, [row(1), row(2), json.dumps(row(3))[:cut]], end="")
    with caplog.at_level(logging.WARNING):
        log = TrainingLog.load(tmp_path)
    assert log.steps.tolist() == [1, 2]
    (record,) = caplog.records
    assert "line 3, was cut off and is left out" in record.getMessage()


def test_a_last_line_cut_inside_a_letter_is_dropped(tmp_path: Path, caplog) -> None:
    path = written(tmp_path, [row(1)])
    path.write_bytes(path.read_bytes() + '{"ü'.encode()[:-1])
    assert TrainingLog.load(path).steps.tolist() == [1] and len(caplog.records) == 1


def test_a_whole_last_line_without_a_line_break_is_kept(tmp_path: Path, caplog) -> None:
    assert TrainingLog.load(written(tmp_path, [row(1), row(2)], end="")).steps.tolist() == [1, 2]
    assert not caplog.records


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            '{"step": 2',
            r"Line 2 of .*log.jsonl is not a step of a training: it is no JSON \(.*Give a log.jsonl",
        ),
        ("", "Line 2 .* it is no JSON"),
        ("[2]", "it is list and not a JSON object"),
        ({"reward": 0.5}, "its step is None and not a whole number from 1 on"),
        (row(0), "its step is 0"),
        (row(True), "its step is True"),
        ({"step": 2}, "it has no reward"),
        (row(2, reward=None), "it has no reward"),
        (row(2, reward="high"), "its reward is 'high', where there should be a finite number"),
        (row(2, entropy=float("nan")), "its entropy is nan"),
        (row(2, vector_norm={"0": float("inf")}), "its vector_norm is"),
        (row(2, entropy={"0": 1.0}), "its entropy is"),
        (row(1), "step 1 comes after step 1"),
    ],
)
@pytest.mark.parametrize("after", [True, False])
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, line: Any, complaint: str, after: bool) -> None:
    written(tmp_path, [row(1), line, *([row(3)] if after else [])])
    with pytest.raises(ValueError, match=complaint):
        TrainingLog.load(tmp_path)


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no training log at .*log.jsonl. Give the folder"):
        TrainingLog.load(tmp_path)
    written(tmp_path, [], end="")
    with pytest.raises(ValueError, match="holds no step yet"):
        TrainingLog.load(tmp_path)


def test_a_frame_has_a_row_a_step_and_a_column_a_layer(tmp_path: Path) -> None:
    frame = TrainingLog.load(written(tmp_path, [row(1), row(2)])).to_frame()
    assert frame["step"].tolist() == [1, 2] and frame["step"].dtype == int
    assert frame["vector_norm_0"].tolist() == [0.5, 1.0] and frame["learning_rate_3"].tolist() == [2e-3] * 2
    assert frame["kl_to_base"].isna().tolist() == [False, True]
    one_rate = TrainingLog.load(written(tmp_path, [row(1, learning_rate=0.1)])).to_frame()
    assert one_rate["learning_rate"].tolist() == [0.1]


def test_an_unknown_field_is_refused_by_name(tmp_path: Path) -> None:
    log = TrainingLog.load(written(tmp_path, [row(1)]))
    with pytest.raises(
        ValueError, match="no field 'rewards' of one number a step. It has degenerate_groups, ended"
    ):
        log.values("rewards")
    with pytest.raises(ValueError, match="no field 'vector_norm' of one number"):
        log.values("vector_norm")


def test_a_log_sums_itself_up(tmp_path: Path) -> None:
    log = TrainingLog.load(written(tmp_path, [row(step) for step in range(1, 21)]))
    first, reward, last = repr(log).splitlines()
    assert first.startswith("TrainingLog of 20 steps (")
    assert reward == "  reward 0.550 in the first 10, 1.550 in the last 10; largest 2.000 at step 20"
    assert last.startswith("  step 20: 0 nats a token, 30 tokens, 0.75 ended by themselves, 0.25 of")
    assert log._repr_html_().count("<tr") == 11
    assert "nothing else was noted" in repr(TrainingLog(({"step": 1, "reward": 0.5},)))


def test_a_log_is_drawn_in_panels_with_a_running_mean(tmp_path: Path) -> None:
    log = TrainingLog.load(written(tmp_path, [row(step) for step in range(1, 6)]))
    drawing = log.plot(window=2)
    titles = [annotation.text for annotation in drawing.layout.annotations]
    assert titles == ["reward", "KL to the base (nats a token)", "entropy (nats a token)", "length (tokens)"]
    raw, mean, kl, entropy, length = drawing.data
    np.testing.assert_allclose(raw.y, [0.1, 0.2, 0.3, 0.4, 0.5])
    np.testing.assert_allclose(mean.y, [0.1, 0.15, 0.25, 0.35, 0.45])
    assert list(kl.x) == [1, 3, 5] and list(entropy.x) == list(length.x) == [1, 2, 3, 4, 5]


def test_a_log_under_a_control_shows_what_was_trained_on(tmp_path: Path) -> None:
    rows = [row(step, trained_reward=0.5) for step in range(1, 4)]
    drawing = TrainingLog.load(written(tmp_path, rows)).plot()
    (control,) = [line for line in drawing.data if line.name == "trained on (control)"]
    assert list(control.y) == [0.5] * 3


def test_a_log_without_diagnostics_and_of_one_step_is_drawn(tmp_path: Path) -> None:
    drawing = TrainingLog.load(written(tmp_path, [{"step": 1, "reward": 0.5, "kl_to_base": None}])).plot()
    assert [annotation.text for annotation in drawing.layout.annotations] == ["reward"]
    assert all(line.mode == "markers" for line in drawing.data)


def test_logs_are_compared_by_name(tmp_path: Path) -> None:
    log = TrainingLog.load(written(tmp_path, [row(1), row(2)]))
    drawing = plot_training_logs({"true": log, "random": log}, window=1)
    assert [line.name for line in drawing.data if line.showlegend is not False] == ["true", "random"]
    assert all(list(line.y) == [0.1, 0.2] for line in drawing.data)


@pytest.mark.parametrize(
    ("logs", "complaint"),
    [
        ({}, "plot_training_logs was given dict without entries by name"),
        ([1], "plot_training_logs was given list"),
        ({"a": "log.jsonl"}, "plot_training_logs was given str as 'a'. Give what TrainingLog.load returns"),
    ],
)
def test_what_are_no_logs_is_refused(logs: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        plot_training_logs(logs)


def test_a_window_of_no_steps_is_refused(tmp_path: Path) -> None:
    log = TrainingLog.load(written(tmp_path, [row(1)]))
    with pytest.raises(ValueError, match=r"TrainingLog.plot.window = 0 is out of range"):
        log.plot(window=0)
    with pytest.raises(ValueError, match=r"plot_training_logs.window"):
        plot_training_logs({"a": log}, window=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("window", "means"), [(1, [1, 5, 3, 7]), (2, [1, 3, 4, 5]), (3, [1, 3, 3, 5]), (9, [1, 3, 3, 4])]
)
def test_a_running_mean_is_that_of_a_step_and_those_before_it(window: int, means: list[float]) -> None:
    np.testing.assert_allclose(running_mean(np.array([1.0, 5.0, 3.0, 7.0]), window), means)
