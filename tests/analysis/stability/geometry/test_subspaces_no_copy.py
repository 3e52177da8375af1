"""Transfer to unstable rows without near copies: none of it comes from partners, and a shared subspace is still seen."""

import math
from typing import Any

import pytest
import torch

from sae_lens_ext.analysis.stability.geometry.subspaces_result import CLASSES, GROUPS, NO_COPY, SubspaceReport
from tests.analysis.stability.geometry.test_subspaces import by_class, measured
from tests.analysis.stability.labelled import random_rows, unit

D = 256


def with_cosine(rows: torch.Tensor, cosine: float, seed: int) -> torch.Tensor:
    """Unit rows with exactly this cosine to those given, in random directions otherwise."""
    noise = random_rows(*rows.shape, seed)
    aside = unit(noise - (noise * rows).sum(dim=1, keepdim=True) * rows)
    return cosine * rows + math.sqrt(1 - cosine**2) * aside


def seeds_of(unstable: list[torch.Tensor], **arguments: Any) -> SubspaceReport:
    """Measure seeds of these unstable rows, and 40 stable ones that they share."""
    stable = random_rows(40, D, 99)
    rows = [torch.cat([own, stable]) for own in unstable]
    labels = [["unstable"] * len(own) + ["stable"] * 40 for own in unstable]
    return measured(
        rows, labels, **{"max_partner_cosine": 0.4, "n_draws": 2, "ranks": (8, 16, 32), **arguments}
    )


def test_subspace_report_without_near_copies_takes_nothing_from_partners() -> None:
    first = random_rows(100, D, 0)
    report = seeds_of([first, torch.cat([with_cosine(first[:60], 0.6, 1), random_rows(60, D, 2)])])
    assert report.no_copy_rows == ((60,), (40,))
    assert report.no_copy_share.tolist() == [60 / 120, 40 / 100]
    assert report.excess_energy("unstable", "unstable", matched=False)[0] > 0.025
    assert report.excess_energy("unstable", NO_COPY, matched=False)[0] == pytest.approx(0, abs=0.015)
    assert report.notes[-1].startswith("few rows")


def test_subspace_report_without_near_copies_still_sees_a_shared_subspace() -> None:
    wide = [torch.nn.functional.pad(random_rows(150, 40, seed), (0, D - 40)) for seed in range(2)]
    report = seeds_of(wide, ranks=(8, 16, 32, 40))
    assert (report.no_copy_share > 0.1).all() and (report.no_copy_share < 1).all()
    energy = report.energy("unstable", NO_COPY, matched=False).mean(dim=0)
    assert energy[-1] == pytest.approx(1, abs=1e-5)
    assert report.excess_energy("unstable", NO_COPY, matched=False)[0] > 0.3
    narrow = [torch.nn.functional.pad(random_rows(150, 4, seed), (0, D - 4)) for seed in range(2)]
    report = seeds_of(narrow, ranks=(4,))
    assert report.no_copy_rows == ((0,), (0,))
    assert report.energy("unstable", NO_COPY).isnan().all()
    assert report.energy("unstable", "unstable").min() > 0.99
    assert report.notes[-1].startswith("no rows without near copies")


def test_subspace_report_without_near_copies_is_the_loop_over_rows() -> None:
    rows, labels = by_class([(9, 12), (10, 9), (14, 11)])
    report = measured(rows, labels, max_partner_cosine=0.5, ranks=(2, 8))
    for anchor in range(3):
        unstable = rows[anchor][[label == "unstable" for label in labels[anchor]]].double()
        directions = torch.linalg.svd(unstable, full_matrices=False)[2]
        others = [i for i in range(3) if i != anchor]
        left = [
            [
                u.double()
                for u, label in zip(rows[other], labels[other], strict=True)
                if label == "unstable" and max(float(u @ v) for v in rows[anchor]) < 0.5
            ]
            for other in others
        ]
        assert report.no_copy_rows[anchor] == tuple(map(len, left))
        for i, r in enumerate((2, 8)):
            by_sae = [
                sum(float(v @ u) ** 2 for u in own for v in directions[:r]) / len(own) for own in left if own
            ]
            found = float(report.energies_all["unstable", NO_COPY][anchor, i])
            assert found == pytest.approx(sum(by_sae) / len(by_sae), abs=1e-6)


def test_subspace_report_counts_copies_among_all_rows_of_the_anchor() -> None:
    first, second = random_rows(50, D, 0), random_rows(50, D, 1)
    stable, excluded = with_cosine(second[:20], 0.6, 2), with_cosine(second[20:30], 0.6, 3)
    rows = [torch.cat([first, stable, excluded]), torch.cat([second, random_rows(30, D, 4)])]
    labels = [["unstable"] * 50 + ["stable"] * 20 + ["excluded"] * 10] * 2
    assert measured(rows, labels, max_partner_cosine=0.4).no_copy_rows == ((20,), (50,))


def test_subspace_report_of_one_anchor_without_rows_left_is_nan_there_alone() -> None:
    first = random_rows(20, D, 0)
    near = with_cosine(first, 0.6, 1)
    unstable = [torch.cat([first, near]), near, with_cosine(first, 0.6, 2)]
    report = seeds_of(unstable, max_partner_cosine=0.5, ranks=(8, 16))
    assert report.no_copy_rows[0] == (0, 0) and min(report.no_copy_rows[1]) == 0 < max(report.no_copy_rows[1])
    energy = report.energy("unstable", NO_COPY)
    assert energy[0].isnan().all() and energy[1:].isfinite().all()
    assert report.notes[-1].endswith("a decoder row of 'sae_0', so that energy in 'unstable, no copy' is NaN")


def test_subspace_report_with_a_limit_of_1_leaves_all_rows() -> None:
    report = measured(*by_class([(9, 12), (10, 9), (14, 11)]), max_partner_cosine=1, n_draws=2)
    assert report.no_copy_share.tolist() == [1, 1, 1]
    for group in GROUPS:
        torch.testing.assert_close(report.energies[group, NO_COPY], report.energies[group, "unstable"])
    for label in CLASSES:
        torch.testing.assert_close(
            report.energies_all[label, NO_COPY], report.energies_all[label, "unstable"]
        )


@pytest.mark.parametrize("limit", [0, -0.1, 1.01, math.nan, True, "0.4", None])
def test_subspace_report_refuses_a_limit_that_is_no_cosine(limit: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"subspace_report.max_partner_cosine = .* is out of range. Give a cosine above 0, at most 1, such as 0.4.",
    ):
        measured(*by_class([(10, 14), (12, 10)]), max_partner_cosine=limit)
