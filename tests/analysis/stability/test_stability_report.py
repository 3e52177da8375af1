"""The report: classes, shares, tables, figure, text and file, by hand-worked numbers."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_ext.analysis import result_files
from sae_lens_ext.analysis.stability import PairMeasures, StabilityReport
from tests.analysis.stability.labelled import random_rows, sae_of
from tests.analysis.stability.test_feature_stability import stability

PAIRS = (
    PairMeasures(0, 1, pw_mcc=0.5, mmcs_first=0.6, mmcs_second=0.8, matched=0.25, agreement=1.0, shared=0.25),
    PairMeasures(0, 2, pw_mcc=0.25, mmcs_first=0.4, mmcs_second=0.2, matched=0.0, agreement=0.5, shared=None),
    PairMeasures(
        1, 2, pw_mcc=0.75, mmcs_first=0.7, mmcs_second=0.9, matched=0.5, agreement=0.75, shared=0.75
    ),
)
RATES = (torch.tensor([0.5, 0.25, 0.125, 0.001]), torch.tensor([0.1, 0.0, 0.2]), torch.tensor([0.1, 0.2]))
REPORT = StabilityReport(
    names=("a", "b", "c"),
    threshold=0.7,
    max_cosines=(
        torch.tensor(
            [[0.9, 0.7, 0.1, 0.9], [0.8, 0.6, 0.2, 0.8]]
        ),  # p̂ 1, 1/2, 0, and one that does not count
        torch.tensor([[1.0, 1.0, 0.0], [0.5, 1.0, 0.0]]),  # 1/2, does not count, 0
        torch.tensor([[0.75, 0.0], [0.75, -0.5]]),  # 1, 0
    ),
    null_cosines=(
        torch.tensor([[0.1, 0.2], [0.3, 0.8]]),  # a quarter by chance
        torch.tensor([[0.1], [0.2]]),
        torch.tensor([[0.3], [0.4]]),
    ),
    included=(
        torch.tensor([True, True, True, False]),
        torch.tensor([True, False, True]),
        torch.tensor([True, True]),
    ),
    pairs=PAIRS,
    firing_rates=RATES,
    min_firing_rate=0.01,
    links=("gpt2-small/7-res", None, None),
    notes=("a first note", "a second"),
    provenance={"model_name": "gpt2", "hook_name": "blocks.7.hook_out", "seed": 0},
)


def altered(**fields: Any) -> StabilityReport:
    return dataclasses.replace(REPORT, **fields)


def test_StabilityReport_reappearance_by_hand() -> None:
    assert [p.tolist() for p in REPORT.reappearance] == [[1, 0.5, 0, 1], [0.5, 1, 0], [1, 0]]
    assert [p.tolist() for p in altered(threshold=0.75).reappearance][2] == [1, 0]
    assert [p.tolist() for p in altered(threshold=0.8).reappearance][2] == [0, 0]


def test_StabilityReport_labels_and_members_by_hand() -> None:
    assert REPORT.labels().tolist() == ["stable", "middle", "unstable", "excluded"]
    assert REPORT.labels(1).tolist() == ["middle", "excluded", "unstable"]
    assert REPORT.labels(2).tolist() == ["stable", "unstable"]
    assert [REPORT.members("excluded", i).tolist() for i in range(3)] == [[3], [1], []]
    assert REPORT.members("stable").tolist() == [0] and REPORT.members("middle", 1).tolist() == [0]


@pytest.mark.parametrize(
    ("n", "matches", "label"),
    [
        (20, 19, "stable"),  # 0.95
        (20, 1, "unstable"),  # 0.05
        (40, 38, "stable"),
        (40, 2, "unstable"),
        (100, 95, "stable"),
        (100, 94, "middle"),
        (100, 5, "unstable"),
        (100, 6, "middle"),
        (19, 18, "middle"),
        (19, 1, "middle"),
        (1, 1, "stable"),
        (1, 0, "unstable"),
    ],
)
def test_StabilityReport_classes_begin_at_the_papers_limits(n: int, matches: int, label: str) -> None:
    cosines = (torch.arange(n) < matches).float()[:, None]
    one = altered(max_cosines=(cosines,) * 3, included=(torch.tensor([True]),) * 3)
    assert one.labels(0).tolist() == [label]


def test_StabilityReport_numbers_by_hand() -> None:
    assert REPORT.shares("stable") == pytest.approx([1 / 3, 0, 1 / 2])
    assert REPORT.shares("middle") == pytest.approx([1 / 3, 1 / 2, 0])
    assert REPORT.shares("unstable") == pytest.approx([1 / 3, 1 / 2, 1 / 2])
    assert REPORT.shares("excluded") == pytest.approx([1 / 4, 1 / 3, 0])  # of all, not of those that count
    assert REPORT.match_rate == pytest.approx((0.5 + 0.25 + 0.5) / 3)
    assert REPORT.null_match_rate == pytest.approx(0.25 / 3)
    assert REPORT.chance_maximum == pytest.approx(0.2)  # the middle of 0.1 0.1 0.2 0.2 0.3 0.3 0.4 0.8
    assert REPORT.pw_mcc == pytest.approx(0.5)
    # of a: 1.7/3 and 1.6/3; of b: 1/2 and 0.5/2; of c: 0.75/2 and 0.25/2
    assert REPORT.mmcs == pytest.approx((1.1 + 0.75 + 0.5) / 6)
    assert REPORT.shared_fraction == pytest.approx(0.5)  # of the two pairs that have it
    assert REPORT.agreement == pytest.approx(0.75)
    assert altered(pairs=PAIRS[1:2]).shared_fraction is None
    assert math.isnan(altered(pairs=()).pw_mcc)


@pytest.mark.parametrize("anchor", [3, -1, True, 0.0, "a", None])
def test_StabilityReport_anchor_that_is_none_is_named(anchor: Any) -> None:
    for ask in (REPORT.labels, lambda i: REPORT.members("stable", i)):
        with pytest.raises(ValueError) as info:
            ask(anchor)
        assert str(info.value) == (
            f"anchor = {anchor!r} is no position of an SAE. This report has 3: give 0 to 2."
        )


def test_StabilityReport_share_of_a_class_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="There is no class 'steady'"):
        REPORT.shares("steady")


def test_StabilityReport_class_that_is_none_is_named() -> None:
    with pytest.raises(
        ValueError,
        match=r"There is no class 'dead'\. Give 'stable', 'middle', 'unstable' or 'excluded'\.",
    ):
        REPORT.members("dead")


def test_StabilityReport_to_frame_has_a_row_for_every_latent() -> None:
    frame = REPORT.to_frame()
    assert list(frame.columns) == [
        "sae",
        "latent",
        "reappearance",
        "label",
        "max_cosine",
        "firing_rate",
        "url",
    ]
    assert frame["sae"].tolist() == ["a"] * 4 + ["b"] * 3 + ["c"] * 2
    assert frame["latent"].tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1]
    assert frame["reappearance"].tolist() == [1, 0.5, 0, 1, 0.5, 1, 0, 1, 0]
    assert frame["label"].tolist()[2:6] == ["unstable", "excluded", "middle", "excluded"]
    assert frame["max_cosine"].tolist()[:3] == pytest.approx([0.85, 0.65, 0.15])
    assert frame["firing_rate"].tolist()[:3] == [0.5, 0.25, 0.125]
    assert frame["url"].tolist()[:2] == [
        "https://neuronpedia.org/gpt2-small/7-res/0",
        "https://neuronpedia.org/gpt2-small/7-res/1",
    ]
    assert frame["url"][4:].isna().all()


def test_StabilityReport_to_frame_without_rates_and_links() -> None:
    frame = altered(firing_rates=None, links=()).to_frame()
    assert frame["firing_rate"].isna().all() and frame["url"].isna().all() and len(frame) == 9


def test_StabilityReport_summary_has_a_row_for_every_anchor() -> None:
    frame = REPORT.summary()
    assert list(frame.columns) == [
        "sae",
        "latents",
        "excluded",
        "stable",
        "middle",
        "unstable",
        "mean_reappearance",
    ]
    assert frame.iloc[0].tolist() == ["a", 4, 1, *[pytest.approx(1 / 3)] * 3, 0.5]
    assert frame.iloc[1].tolist() == ["b", 3, 1, 0, 0.5, 0.5, 0.25]
    assert frame.iloc[2].tolist() == ["c", 2, 0, 0.5, 0, 0.5, 0.5]


def test_StabilityReport_repr_says_in_three_lines_what_was_found() -> None:
    assert repr(REPORT).splitlines() == [
        "StabilityReport of 3 SAEs (a, …) with 2 to 4 latents, of which 2 to 3 count; cosine ≥ 0.7",
        "  stable 27.8% ± 25.5% · unstable 44.4% ± 9.6% · mean p̂ 0.417, null 0.083 · PW-MCC 0.500 · MMCS 0.392 · shared 0.500",
        "  gpt2 at blocks.7.hook_out · a first note · a second",
    ]
    assert "shared" not in repr(altered(pairs=PAIRS[1:2]))


def test_StabilityReport_in_a_notebook_is_its_summary() -> None:
    html = altered(names=("<b>&", "b", "c"))._repr_html_()
    assert html.startswith("<p>StabilityReport of 3 SAEs (&lt;b&gt;&amp;, …)") and "<b>" not in html
    assert html.count("<br>") == 2 and html.count("<tr") == 4
    for text in ("<th>mean_reappearance</th>", "<td>33.3%</td>", "<td>0.250</td>", "<td>b</td>"):
        assert text in html


def same(one: StabilityReport, other: StabilityReport) -> bool:
    def plain(report: StabilityReport) -> Any:
        return [
            [tensor.tolist() for tensor in value] if isinstance(value[0], torch.Tensor) else value
            for field in dataclasses.fields(report)
            for value in [getattr(report, field.name)]
            if isinstance(value, tuple) and value
        ] + [report.threshold, report.min_firing_rate, report.provenance, report.firing_rates is None]

    return plain(one) == plain(other)


@pytest.mark.parametrize("report", [REPORT, altered(firing_rates=None, pairs=PAIRS[1:2], notes=())])
def test_StabilityReport_saved_and_loaded_is_the_same(tmp_path: Path, report: StabilityReport) -> None:
    report.save(tmp_path / "report.json")
    loaded = StabilityReport.load(str(tmp_path / "report.json"))
    assert same(loaded, report) and repr(loaded) == repr(report)
    assert loaded.included[0].dtype == torch.bool and loaded.max_cosines[0].dtype == torch.float32
    assert loaded.to_frame().equals(report.to_frame())
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 2 and files[1] == "report.json" and files[0].startswith("report-")


def test_StabilityReport_of_a_measurement_is_saved_whole(tmp_path: Path) -> None:
    rates = torch.full((30,), 0.5)  # one tensor for all
    saes = [sae_of(random_rows(30, 8, seed)) for seed in range(3)]
    report = stability(saes, firing_rates=[rates] * 3)
    report.save(tmp_path / "report.json")
    assert same(StabilityReport.load(tmp_path / "report.json"), report)


def test_StabilityReport_save_over_an_older_one_removes_its_tensors_and_nothing_else(tmp_path: Path) -> None:
    others = [
        "report-notes.safetensors",
        "report-3-0123456789ab.safetensors",
        "report-0123456789ab.safetensors",
        "reports-0123456789ab.safetensors",
        "report-0123456789ab.json",
    ]
    for name in others:
        (tmp_path / name).write_text("another's")
    for neighbour in ("report.masking", "report-2.json"):
        altered(threshold=0.9).save(tmp_path / neighbour)
    REPORT.save(tmp_path / "report.json")
    before = {path.name for path in tmp_path.iterdir()}
    REPORT.save(tmp_path / "report.json")  # the same again
    assert {path.name for path in tmp_path.iterdir()} == before
    fewer = altered(firing_rates=None)
    fewer.save(tmp_path / "report.json")
    after = {path.name for path in tmp_path.iterdir()}
    assert len(before - after) == len(after - before) == 1 and set(others) <= after
    assert same(StabilityReport.load(tmp_path / "report.json"), fewer)
    for neighbour in ("report.masking", "report-2.json"):
        assert StabilityReport.load(tmp_path / neighbour).threshold == 0.9


def test_StabilityReport_save_takes_a_name_that_looks_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "runs-0123456789ab.safetensors").write_text("another's")
    for threshold in (0.7, 0.8):
        altered(threshold=threshold, null_cosines=(torch.tensor([[threshold]]),) * 3).save(
            tmp_path / "run[s]*.json"
        )
    assert len(list(tmp_path.iterdir())) == 3
    assert StabilityReport.load(tmp_path / "run[s]*.json").threshold == 0.8


def test_StabilityReport_save_over_what_is_no_report_replaces_it(tmp_path: Path) -> None:
    for content in ("", "[1]", '{"tensors_sha256": 3}', '{"tensors_sha256": "../../x"}'):
        (tmp_path / "report.json").write_text(content)
        REPORT.save(tmp_path / "report.json")
        assert same(StabilityReport.load(tmp_path / "report.json"), REPORT)
    assert len(list(tmp_path.iterdir())) == 2


def test_StabilityReport_that_was_renamed_survives_the_next_one_of_its_old_name(tmp_path: Path) -> None:
    REPORT.save(tmp_path / "report.json")
    (tmp_path / "report.json").rename(tmp_path / "first.json")
    altered(firing_rates=None).save(tmp_path / "report.json")
    assert same(StabilityReport.load(tmp_path / "first.json"), REPORT)


def test_StabilityReport_may_be_moved_with_its_tensors_and_renamed(tmp_path: Path) -> None:
    REPORT.save(tmp_path / "report.json")
    (tmp_path / "elsewhere").mkdir()
    for path in list(tmp_path.glob("report*")):
        path.rename(tmp_path / "elsewhere" / path.name)
    (tmp_path / "elsewhere" / "report.json").rename(tmp_path / "elsewhere" / "final.json")
    assert same(StabilityReport.load(tmp_path / "elsewhere" / "final.json"), REPORT)


@pytest.mark.parametrize("fails", ["write_whole", "write_whole_bytes"])
def test_StabilityReport_save_that_fails_at_any_point_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "report.json"
    REPORT.save(path)

    def crash(*args: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(result_files, fails, crash)
        with pytest.raises(OSError, match="No space left"):
            altered(threshold=0.9, firing_rates=None).save(path)
    assert same(StabilityReport.load(path), REPORT)
    altered(threshold=0.9, firing_rates=None).save(path)
    assert StabilityReport.load(path).threshold == 0.9 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("provenance", "error"), [({"loss": math.nan}, ValueError), ({"object": object()}, TypeError)]
)
def test_StabilityReport_save_of_what_json_does_not_know_writes_nothing(
    tmp_path: Path, provenance: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        altered(provenance=provenance).save(tmp_path / "report.json")
    assert list(tmp_path.iterdir()) == []


def complaint_of(path: Path) -> str:
    with pytest.raises(ValueError, match="is not a StabilityReport that this version can read") as info:
        StabilityReport.load(path)
    assert str(path) in str(info.value)
    assert "that StabilityReport.save wrote, or measure again with feature_stability." in str(info.value)
    return str(info.value)


def test_StabilityReport_load_of_missing_or_truncated_tensors_says_so(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    REPORT.save(path)
    (tensors,) = tmp_path.glob("*.safetensors")
    whole = tensors.read_bytes()
    for n_bytes in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        tensors.write_bytes(whole[:n_bytes])
        assert f"its tensors, {tensors.name}, are truncated or not those" in complaint_of(path)
    tensors.write_bytes(whole[:-1] + b"x")
    assert "are truncated or not those it was saved with" in complaint_of(path)
    tensors.unlink()
    assert f"its tensors, {tensors.name}, are not beside it" in complaint_of(path)
    tensors.write_bytes(whole)
    assert same(StabilityReport.load(path), REPORT)


def test_StabilityReport_load_of_a_damaged_or_foreign_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    REPORT.save(path)
    whole = path.read_text()
    for length in range(0, len(whole) - 2, 251):
        path.write_text(whole[:length])
        complaint_of(path)
    content = json.loads(whole)
    for name in ("format", "names", "tensors", "tensors_sha256", "pairs", "threshold", "links", "provenance"):
        path.write_text(json.dumps({key: value for key, value in content.items() if key != name}))
        assert f"'{name}'" in complaint_of(path)
    path.write_text(json.dumps({**content, "names": ["a", "b", "c", "d"]}))
    assert "'max_cosines.3'" in complaint_of(path)
    path.write_text(json.dumps({**content, "format": "sae_lens_ext.StabilityReport/2"}))
    assert "its format is 'sae_lens_ext.StabilityReport/2'" in complaint_of(path)
    with pytest.raises(FileNotFoundError, match="nothing.json"):
        StabilityReport.load(tmp_path / "nothing.json")
