"""Which directions seeds share: hand-made seeds, a slow twin, what random rows give, and what must not matter."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import SAE

from sae_lens_ext.analysis.stability.geometry.subspaces import _draw, subspace_report
from sae_lens_ext.analysis.stability.geometry.subspaces_result import CLASSES, GROUPS, SubspaceReport
from sae_lens_ext.analysis.stability.report import StabilityReport
from sae_lens_ext.analysis.stability.same_saes import LabelledRows
from tests.analysis.stability.labelled import random_rows, report_of, rotation, sae_of

D = 16


def by_class(sizes: list[tuple[int, int]], d: int = D) -> tuple[list[torch.Tensor], list[list[str]]]:
    """Random rows of seeds with these many unstable and stable latents, and two that are excluded."""
    rows = [random_rows(u + s + 2, d, seed=10 * i) for i, (u, s) in enumerate(sizes)]
    labels = [["unstable"] * u + ["stable"] * s + ["excluded"] * 2 for u, s in sizes]
    return rows, labels


def measured(rows: list[torch.Tensor], labels: list[list[str]], **arguments: Any) -> SubspaceReport:
    """Measure SAEs of these rows; no row counts as a near copy unless asked for, as in few dimensions most have one by chance."""
    saes = [sae_of(own) for own in rows]
    arguments = {"max_partner_cosine": 1, "show_progress": False, **arguments}
    return subspace_report(saes, report_of(labels, saes), **arguments)


def shared_subspace(n_seeds: int = 3) -> tuple[list[SAE[Any]], StabilityReport]:
    """Unstable rows of all seeds lie in the first 4 of 16 dimensions, stable ones in the other 12; all rows differ by seed."""
    saes, labels = [], []
    for seed in range(n_seeds):
        unstable = torch.nn.functional.pad(random_rows(20, 4, seed), (0, 12))
        stable = torch.nn.functional.pad(random_rows(24, 12, 100 + seed), (4, 0))
        saes.append(sae_of(torch.cat([unstable, stable])))
        labels.append(["unstable"] * 20 + ["stable"] * 24)
    return saes, report_of(labels, saes)


def test_subspace_report_of_seeds_that_share_a_subspace() -> None:
    saes, stability = shared_subspace()
    report = subspace_report(
        saes, stability, ranks=(1, 2, 4, 8, 16), max_partner_cosine=0.1, show_progress=False
    )
    assert report.n_rows == 20 and report.sizes == {"unstable": (20,) * 3, "stable": (24,) * 3}
    own = report.energy("unstable", "unstable").mean(dim=0)
    assert own[2:].tolist() == pytest.approx([1, 1, 1], abs=1e-5) and own[1] < 0.75
    stable = report.energy("stable", "stable").mean(dim=0)
    assert 4 / D < stable[2] < 0.5 and stable[4] == pytest.approx(1)
    for source, target in (("unstable", "stable"), ("stable", "unstable")):
        assert report.energy(source, target)[:, :3].abs().max() < 1e-5
        assert report.energy(source, target, matched=False)[:, 2].abs().max() < 1e-5
    assert report.effective_rank("unstable")[0] * D == pytest.approx(4, abs=0.2)
    assert 9 < report.effective_rank("stable")[0] * D <= 12 < report.effective_rank("random")[0] * D
    assert report.attained("unstable")[0] > 0.85 > 0.5 > report.attained("stable")[0]
    # In 4 dimensions all of them have a partner by chance.
    assert report.no_copy_rows == ((0, 0),) * 3 and report.no_copy_share.tolist() == [0, 0, 0]
    assert report.energy("unstable", "unstable, no copy").isnan().all()
    assert math.isnan(report.excess_energy("any", "unstable, no copy")[0])
    assert report.notes == (
        "no rows without near copies: every unstable latent of the other SAEs has a cosine of at least 0.1 with a decoder row of 'sae_0', 'sae_1', "
        "'sae_2', so that energy in 'unstable, no copy' is NaN",
    )  # fmt: skip


def test_subspace_report_is_the_loop_over_pairs_and_rows() -> None:
    rows, labels = by_class([(9, 12), (10, 9), (14, 11)])
    report = measured(rows, labels, ranks=(1, 3, 9))
    parts: dict[str, list[torch.Tensor]] = {label: [] for label in CLASSES}
    for own, named in zip(rows, labels, strict=True):
        for label, found in parts.items():
            found.append(own[[name == label for name in named]].double())
    for source in CLASSES:
        for anchor in range(3):
            directions = torch.linalg.svd(parts[source][anchor], full_matrices=False)[2]
            for i, r in enumerate((1, 3, 9)):
                for target in CLASSES:
                    by_pair = []
                    for other in range(3):
                        if other != anchor:
                            projected = [
                                sum(float(v @ u) ** 2 for v in directions[:r]) for u in parts[target][other]
                            ]
                            by_pair.append(sum(projected) / len(projected))
                    found = report.energies_all[source, target][anchor, i]
                    assert float(found) == pytest.approx(sum(by_pair) / 2, abs=1e-6)
                own = (parts[source][anchor] @ directions[:r].T).square().sum() / len(parts[source][anchor])
                assert float(report.ceilings[source][anchor, i]) == pytest.approx(float(own), abs=1e-6)


def test_subspace_report_of_classes_of_n_latents_draws_all_of_them() -> None:
    rows, labels = by_class([(9, 9), (9, 9)])
    report = measured(rows, labels, n_draws=3)
    for source in CLASSES:
        for target in CLASSES:
            for draw in range(3):
                torch.testing.assert_close(
                    report.energies[source, target][:, draw], report.energies_all[source, target]
                )
        assert report.effective_ranks[source].std(dim=1).max() < 1e-6
    assert report.effective_ranks["any"].std(dim=1).min() > 0


def test_subspace_report_draws_n_different_rows_of_each_group() -> None:
    labelled = LabelledRows(random_rows(5, 4, 0), random_rows(9, 4, 1), random_rows(20, 4, 2))
    generator = torch.Generator().manual_seed(0)
    drawn = _draw(labelled, 5, generator)
    assert tuple(drawn) == GROUPS
    for group, rows in drawn.items():
        assert rows.shape == (5, 4) and len(rows.unique(dim=0)) == 5
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))
        if group != "random":
            whole = getattr(labelled, group)
            assert all((whole == row).all(dim=1).any() for row in rows)
    assert not torch.equal(_draw(labelled, 5, generator)["stable"], drawn["stable"])


def test_subspace_report_of_random_seeds_is_chance_everywhere() -> None:
    rows, labels = by_class([(150, 200)] * 4, d=32)
    report = measured(rows, labels, n_draws=4)
    for group in GROUPS:
        assert report.effective_rank(group)[0] == pytest.approx(report.effective_rank("random")[0], abs=0.01)
        for target in CLASSES:
            energy = report.energy(group, target).mean(dim=0)
            torch.testing.assert_close(energy, report.chance, atol=0.03, rtol=0)
            assert abs(report.excess_energy(group, target)[0]) < 0.02
    for label in CLASSES:  # the rows of each are concentrated by chance, and no other's are there
        assert (report.ceilings[label].mean(dim=0) - report.chance).max() > 0.05
        assert abs(report.attained(label)[0]) < 0.15


def test_subspace_report_random_rows_hold_r_over_d_of_a_concentrated_class() -> None:
    saes, stability = shared_subspace(4)
    report = subspace_report(saes, stability, n_draws=60, show_progress=False)
    torch.testing.assert_close(
        report.energy("random", "unstable").mean(dim=0), report.chance, atol=0.03, rtol=0
    )


def test_subspace_report_ranks_default_to_powers_of_two() -> None:
    rows, labels = by_class([(40, 40)] * 2, d=24)
    assert measured(rows, labels, n_draws=1).ranks == (1, 2, 4, 8)  # 16 is more than half of 24
    rows, labels = by_class([(5, 40)] * 2, d=24)
    few = measured(rows, labels, n_draws=1)
    assert few.ranks == (1, 2, 4) and few.n_rows == 5
    assert few.notes == (
        "few rows: the smallest class has 5 latents in d_in = 24 dimensions, so that ER/d is at most 0.21 for all, and differences of classes are "
        "compressed",
    )  # fmt: skip


def test_subspace_report_of_all_dimensions_holds_everything() -> None:
    rows, labels = by_class([(30, 30)] * 2)
    report = measured(rows, labels, ranks=(D,), n_draws=1)
    for found in (*report.energies.values(), *report.energies_all.values(), *report.ceilings.values()):
        torch.testing.assert_close(found, torch.ones_like(found))
    assert report.excess_energy("stable", "stable")[0] == pytest.approx(0, abs=1e-6)
    assert math.isnan(report.attained("stable")[0])


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_subspace_report_turned_together_is_the_same(seed: int) -> None:
    rows, labels = by_class([(10, 14), (12, 10)], d=6)
    Q = rotation(6, seed).float()
    one, two = measured(rows, labels, n_draws=2), measured([own @ Q for own in rows], labels, n_draws=2)
    for source in (*CLASSES, "any"):
        torch.testing.assert_close(
            one.effective_ranks[source], two.effective_ranks[source], rtol=1e-4, atol=0
        )
        for target in CLASSES:
            torch.testing.assert_close(
                one.energies[source, target], two.energies[source, target], rtol=0, atol=1e-4
            )
    for pair, found in one.energies_all.items():
        torch.testing.assert_close(found, two.energies_all[pair], rtol=0, atol=1e-4)


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_subspace_report_of_latents_in_another_order_is_the_same(seed: int) -> None:
    rows, labels = by_class([(8, 11), (9, 8)], d=6)
    order = [
        torch.randperm(len(own), generator=torch.Generator().manual_seed(seed + i))
        for i, own in enumerate(rows)
    ]
    moved = measured(
        [own[o] for own, o in zip(rows, order, strict=True)],
        [[own[i] for i in o] for own, o in zip(labels, order, strict=True)],
        n_draws=2,
    )
    one = measured(rows, labels, n_draws=2)
    for label in CLASSES:
        torch.testing.assert_close(one.ceilings[label], moved.ceilings[label], rtol=0, atol=1e-6)
    for pair, found in one.energies_all.items():
        torch.testing.assert_close(found, moved.energies_all[pair], rtol=0, atol=1e-6)
    # Of classes of n latents there is one draw.
    torch.testing.assert_close(one.effective_ranks["unstable"][0], moved.effective_ranks["unstable"][0])
    torch.testing.assert_close(one.effective_ranks["stable"][1], moved.effective_ranks["stable"][1])


def test_subspace_report_is_decided_by_its_seed_and_leaves_torchs_alone() -> None:
    rows, labels = by_class([(10, 14), (12, 10)])
    saes = [sae_of(own) for own in rows]
    stability = report_of(labels, saes)
    state = torch.get_rng_state()
    one, two, other = (
        subspace_report(saes, stability, seed=s, n_draws=2, show_progress=False) for s in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.effective_ranks["any"], two.effective_ranks["any"])
    assert not torch.equal(one.effective_ranks["any"], other.effective_ranks["any"])
    assert one.provenance["seed"] == 0 and other.provenance["seed"] == 1


def test_subspace_report_takes_folders_by_name(tmp_path: Any) -> None:
    rows, labels = by_class([(10, 14), (12, 10)])
    saes = {f"seed_{i}": sae_of(own) for i, own in enumerate(rows)}
    for name, sae in saes.items():
        sae.save_model(tmp_path / name)
    stability = report_of(labels, list(saes.values()), names=list(saes), notes="kept")
    report = subspace_report({name: tmp_path / name for name in saes}, stability, show_progress=False)
    assert report.names == ("seed_0", "seed_1")
    of_objects = subspace_report(saes, stability, show_progress=False)
    assert torch.equal(report.energies["any", "stable"], of_objects.energies["any", "stable"])


@pytest.mark.parametrize("ranks", [(), (2, 1), (1, 1), (1, 2.5), (True,), ("1",)])
def test_subspace_report_refuses_ranks_that_are_no_ascending_whole_numbers(ranks: Any) -> None:
    rows, labels = by_class([(10, 14), (12, 10)])
    with pytest.raises(
        ValueError, match=r"is no ascending list of whole numbers. Give such as \(1, 2, 4, 8\)."
    ):
        measured(rows, labels, ranks=ranks)


@pytest.mark.parametrize("ranks", [(0, 1), (1, 11)])
def test_subspace_report_refuses_ranks_beyond_its_rows(ranks: Any) -> None:
    rows, labels = by_class([(10, 14), (12, 10)])
    with pytest.raises(
        ValueError,
        match=r"out of range. 10 rows \(the smallest class of any SAE\) in d_in = 16 .* vectors 1 to 10",
    ):
        measured(rows, labels, ranks=ranks)
    with pytest.raises(ValueError, match="vectors 1 to 4"):
        measured(*by_class([(10, 14), (12, 10)], d=4), ranks=(5,))


def test_subspace_report_refuses_what_it_cannot_compare() -> None:
    rows, labels = by_class([(10, 14), (12, 10)])
    with pytest.raises(ValueError, match=r"subspace_report.n_draws = 0 is out of range"):
        measured(rows, labels, n_draws=0)
    saes = [sae_of(own) for own in rows]
    with pytest.raises(
        ValueError, match=r"subspace_report was given 'sae_0' .* It is the report's 'sae_1'. Give the SAEs"
    ):
        labels = [["unstable"] * 10 + ["stable"] * 14] * 2
        subspace_report([saes[1], saes[0]], report_of([own[:24] for own in labels], saes))
    with pytest.raises(ValueError, match=r"subspace_report compares .* 'sae_1' has 0 that are unstable"):
        measured(*by_class([(10, 14), (0, 10)]))
    with pytest.raises(ValueError, match="was given 1 SAE"):
        subspace_report(saes[:1], report_of(labels, saes))
