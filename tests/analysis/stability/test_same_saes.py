"""What analyses of a report's classes are given again: the report's own SAEs, and rows by class."""

import dataclasses

import pytest
import torch

from sae_lens_ext.analysis.stability.same_saes import labelled_rows, report_provenance, require_report_saes
from tests.analysis.stability.labelled import random_rows, report_of, sae_of

LABELS = ["stable", "unstable", "middle", "excluded", "unstable", "stable"]


def three() -> dict[str, torch.nn.Module]:
    return {f"sae_{i}": sae_of(random_rows(6, 4, seed=i)) for i in range(3)}


def test_labelled_rows_are_unit_decoder_rows_by_class() -> None:
    saes = three()
    found = labelled_rows("a_caller", saes, report_of([LABELS] * 3))
    for i, rows in enumerate(found):
        expected = random_rows(6, 4, seed=i)
        torch.testing.assert_close(rows.unstable, expected[[1, 4]])
        torch.testing.assert_close(rows.stable, expected[[0, 5]])
        torch.testing.assert_close(rows.any, expected[[0, 1, 2, 4, 5]])


def test_require_report_saes_takes_the_reports_saes_under_other_names() -> None:
    saes = three()
    report = report_of([LABELS] * 3, list(saes.values()))
    require_report_saes("a_caller", saes, report)
    require_report_saes("a_caller", {f"renamed {name}": sae for name, sae in saes.items()}, report)
    require_report_saes("a_caller", three(), report_of([LABELS] * 3))  # no fingerprints to compare


def test_require_report_saes_tells_others_from_the_reports() -> None:
    saes = three()
    a, b, c = saes.values()
    report = report_of([LABELS] * 3, [a, b, c])
    with pytest.raises(
        ValueError,
        match=r"a_caller was given 2 SAEs \(x, y\) with a report of 3 \(sae_0, sae_1, sae_2\). Give the SAEs",
    ):
        require_report_saes("a_caller", {"x": a, "y": b}, report)
    with pytest.raises(
        ValueError,
        match=r"given 'y' where the report has 'sae_1', and its weights are others. It is the report's 'sae_2'. Give",
    ):
        require_report_saes("a_caller", {"x": a, "y": c, "z": b}, report)
    foreign = sae_of(random_rows(6, 4, seed=9))
    with pytest.raises(
        ValueError, match=r"weights are others. It is none of the report's SAEs. Give the SAEs"
    ):
        require_report_saes("a_caller", {"x": a, "y": b, "z": foreign}, report)
    longer = sae_of(random_rows(7, 4, seed=9))
    with pytest.raises(
        ValueError,
        match=r"given 'z' with d_sae = 7 where the report has 'sae_2' with 6 latents. Give the SAEs",
    ):
        require_report_saes("a_caller", {"x": a, "y": b, "z": longer}, report)
    with pytest.raises(
        ValueError, match=r"given str as report. Give the StabilityReport that feature_stability found"
    ):
        require_report_saes("a_caller", saes, "report.json")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (["stable"] * 5 + ["excluded"], r"'sae_1' has 0 that are unstable, of 6 \(1 of them excluded\)"),
        (["stable"] * 5 + ["unstable"], r"'sae_1' has 1 that is unstable, of 6 \(0 of them excluded\)"),
        (["unstable"] * 6, r"'sae_1' has 0 that are stable, of 6"),
    ],
)
def test_labelled_rows_need_two_latents_of_each_class(labels: list[str], complaint: str) -> None:
    with pytest.raises(
        ValueError, match=complaint + r".*. Give at least 2 of each: another threshold or min_firing_rate"
    ):
        labelled_rows("a_caller", three(), report_of([LABELS, labels, LABELS]))


def test_labelled_rows_refuse_saes_of_two_hooks_and_rows_of_nothing() -> None:
    saes = three()
    saes["sae_2"].cfg.metadata.hook_name = "blocks.0.hook_resid_post"
    with pytest.raises(ValueError, match="SAEs of different hooks"):
        labelled_rows("a_caller", saes, report_of([LABELS] * 3))
    saes = three()
    with torch.no_grad():
        saes["sae_1"].W_dec[3:5] = 0  # 3 is excluded, 4 is not
    with pytest.raises(
        ValueError, match=r"latent 4 of 'sae_1' counts in the report, but its decoder row is 0. The report"
    ):
        labelled_rows("a_caller", saes, report_of([LABELS] * 3))


def test_report_provenance_keeps_the_reports_and_adds_its_own() -> None:
    report = dataclasses.replace(report_of([LABELS] * 3, dataset_path="texts"), min_firing_rate=0.25)
    found = report_provenance(report, seed=3, n_draws=5)
    assert (found["stability_seed"], found["seed"], found["n_draws"]) == (7, 3, 5)
    assert (found["dataset_path"], found["threshold"], found["min_firing_rate"]) == ("texts", 0.7, 0.25)
    assert "torch_version" in found
