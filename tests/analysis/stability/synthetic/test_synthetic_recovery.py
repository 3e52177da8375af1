"""What SAEs recovered of a ground truth: SAEs whose answer is known, a slow form, null models, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

from sae_lens_ext.analysis.stability.synthetic.measure import _turn
from sae_lens_ext.analysis.stability.synthetic.model import LowRankFeatureModel
from tests.analysis.stability.labelled import random_rows, rotation
from tests.analysis.stability.naive import largest_cosines
from tests.analysis.stability.synthetic.synthetic_cases import (
    MODEL,
    TRUTH,
    B,
    C,
    mixed,
    recovery_of,
    report_of,
    sae_of,
    shuffled_truth,
)


def test_recovery_of_perfect_SAEs_is_perfect() -> None:
    recovery = recovery_of([shuffled_truth(0), shuffled_truth(1)])
    assert recovery.names == ("sae_0", "sae_1")
    assert [(row.sae, row.group) for row in recovery.measurements] == [
        ("sae_0", "independent"),
        ("sae_0", "low_rank"),
        ("sae_1", "independent"),
        ("sae_1", "low_rank"),
    ]
    for group, n, energy in (("independent", 10, 0.0), ("low_rank", 12, 1.0)):
        assert recovery.values("n_latents", group) == [n, n]
        assert recovery.values("reappearance", group) == [1, 1]
        for measure, expected in (
            ("truth_cosine", 1.0),
            ("latent_cosine", 1.0),
            ("projection_energy", energy),
        ):
            assert recovery.values(measure, group) == pytest.approx([expected] * 2, abs=1e-5)
        assert all(value < 0.95 for value in recovery.values("null_truth_cosine", group))
        assert all(value < 0.95 for value in recovery.values("null_latent_cosine", group))
    assert all(value < 0.5 for value in recovery.values("null_reappearance", "independent"))
    assert recovery.chance_energy == 0.125


def test_recovery_of_random_SAEs_has_the_energy_of_chance() -> None:
    """Of random rows r/d lies in the subspace; nearly none is called low-rank, and those that are do not change the mean over all."""
    recovery = recovery_of([random_rows(1500, 24, 0), random_rows(1500, 24, 1)], with_report=False)
    for independent, low_rank in zip(recovery.measurements[::2], recovery.measurements[1::2], strict=True):
        assert independent.n_latents + low_rank.n_latents == 1500
        assert low_rank.n_latents < 30
        assert independent.projection_energy is not None
        total = independent.n_latents * independent.projection_energy
        total += low_rank.n_latents * (low_rank.projection_energy or 0)
        assert total / 1500 == pytest.approx(3 / 24, abs=0.01)


def test_recovery_of_a_subspace_without_its_features() -> None:
    """Group B turned within its subspace: all its energy is there, no more of its features than chance would find."""
    rows = []
    for seed in range(3):
        turn = B.T @ rotation(3, seed).float() @ B
        rows.append(torch.cat([TRUTH["independent"], TRUTH["low_rank"] @ turn]))
    recovery = recovery_of(rows)
    assert recovery.mean("projection_energy", "low_rank") == pytest.approx(1, abs=1e-5)
    assert recovery.mean("projection_energy", "independent") == pytest.approx(0, abs=1e-5)
    assert recovery.values("n_latents", "low_rank") == [12, 12, 12]
    assert recovery.mean("truth_cosine", "independent") == pytest.approx(1, abs=1e-5)
    assert recovery.values("reappearance", "independent") == [1, 1, 1]
    assert recovery.mean("truth_cosine", "low_rank") < 0.95
    null = recovery.mean("null_truth_cosine", "low_rank")
    assert recovery.mean("truth_cosine", "low_rank") == pytest.approx(null, abs=0.06)
    for i, own in enumerate(rows):
        expected = largest_cosines(TRUTH["low_rank"].tolist(), own.tolist())
        assert recovery.values("truth_cosine", "low_rank")[i] == pytest.approx(sum(expected) / 12, abs=1e-5)


@pytest.mark.parametrize("seed", [0, 10])
def test_recovery_is_what_plain_loops_give(seed: int) -> None:
    rows = [mixed(seed + 100 * i) for i in range(3)]
    report = report_of(rows)
    recovery = recovery_of(rows)
    truth = {group: own.tolist() for group, own in TRUTH.items()}
    for i, own in enumerate(rows):
        alive = [row for row in own.tolist() if any(row)]
        members: dict[str, list[int]] = {"independent": [], "low_rank": []}
        energies = []
        for j, row in enumerate(own.tolist()):
            energy = sum(sum(x * b for x, b in zip(row, basis, strict=True)) ** 2 for basis in B.tolist())
            energies.append(energy)
            if any(row):
                members["low_rank" if energy > 0.5 else "independent"].append(j)
        for group, indices in members.items():
            row = recovery.measurements[2 * i + (group == "low_rank")]
            assert (row.sae, row.group, row.n_latents) == (f"sae_{i}", group, len(indices))
            to_truth = largest_cosines(own.tolist(), truth["independent"] + truth["low_rank"])
            from_truth = largest_cosines(truth[group], alive)
            assert row.truth_cosine == pytest.approx(sum(from_truth) / len(from_truth), abs=1e-5)
            for found, by_latent in (
                (row.reappearance, report.reappearance[i].tolist()),
                (row.latent_cosine, to_truth),
                (row.projection_energy, energies),
            ):
                assert found == pytest.approx(sum(by_latent[j] for j in indices) / len(indices), abs=1e-5)


def test_recovery_counts_the_sign_of_a_cosine() -> None:
    recovery = recovery_of([-shuffled_truth(0), -shuffled_truth(1)])
    assert recovery.mean("truth_cosine", "independent") < 0.1
    assert recovery.mean("projection_energy", "low_rank") == pytest.approx(1, abs=1e-5)


def test_recovery_null_turns_each_subspace_in_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        turn = _turn(MODEL, generator)
        torch.testing.assert_close(turn @ turn.T, torch.eye(24), atol=1e-5, rtol=0)
        for basis in (B, C):
            torch.testing.assert_close(basis @ turn @ basis.T @ basis, basis @ turn, atol=1e-5, rtol=0)
        assert float((B @ turn - B).abs().max()) > 0.1


def test_recovery_null_is_that_of_random_turns() -> None:
    """Against other random turns within the subspace, the mean over many."""
    rows = [shuffled_truth(0), shuffled_truth(1)]
    saes = [sae_of(own) for own in rows]
    report = report_of(rows)
    nulls = [MODEL.recovery(saes, report, n_samples=100, seed=seed) for seed in range(40)]
    expected: dict[str, list[float]] = {"null_truth_cosine": [], "null_reappearance": []}
    for seed in range(120):
        inside = (TRUTH["low_rank"] @ B.T).double() @ rotation(3, seed) @ B.double()
        largest = (TRUTH["low_rank"].double() @ inside.T).max(dim=1).values
        expected["null_truth_cosine"].append(float(largest.mean()))
        expected["null_reappearance"].append(float((largest >= 0.7).double().mean()))
    for measure, values in expected.items():
        found = [value for null in nulls for value in null.values(measure, "low_rank")]
        spread = torch.tensor(values).std() / math.sqrt(len(values)) + torch.tensor(found).std() / math.sqrt(
            len(found)
        )
        assert abs(sum(found) / len(found) - sum(values) / len(values)) < 4 * float(spread)
    independent = [value for null in nulls for value in null.values("null_reappearance", "independent")]
    assert sum(independent) / len(independent) < 0.02  # 21 dimensions are room enough for 10


def test_recovery_is_decided_by_its_seed_and_leaves_the_global_generator_alone() -> None:
    rows = [mixed(0), mixed(100)]
    torch.manual_seed(5)
    one = recovery_of(rows, seed=1)
    torch.manual_seed(6)
    saes, report = [sae_of(own) for own in rows], report_of(rows)
    before = torch.get_rng_state()
    assert MODEL.recovery(saes, report, n_samples=500, seed=1) == one
    assert torch.equal(torch.get_rng_state(), before)
    other = MODEL.recovery(saes, report, n_samples=500, seed=2)
    for measure in ("truth_cosine", "latent_cosine", "projection_energy", "reappearance"):
        assert other.values(measure, "low_rank") == one.values(measure, "low_rank")
    assert other.values("null_truth_cosine", "low_rank") != one.values("null_truth_cosine", "low_rank")


def test_recovery_leaves_out_latents_that_never_fire() -> None:
    saes = [sae_of(shuffled_truth(0)), sae_of(MODEL.features)]
    with torch.no_grad():
        saes[1].b_enc[10:] = -100  # the whole low-rank group
        saes[1].b_enc[3] = -100
    recovery = MODEL.recovery(saes, n_samples=500)
    assert recovery.values("n_latents", "independent") == [10, 9]
    assert recovery.values("n_latents", "low_rank") == [12, 0]
    dead = recovery.measurements[3]
    assert dead.latent_cosine is dead.projection_energy is dead.null_latent_cosine is None
    assert dead.truth_cosine < 1e-4
    assert recovery.measurements[2].truth_cosine == pytest.approx(0.9, abs=1e-3)  # nine of ten
    assert recovery.values("projection_energy", "low_rank") == pytest.approx([1], abs=1e-5)
    assert math.isnan(recovery.deviation("projection_energy", "low_rank"))
    frame = recovery.to_frame()
    assert frame["projection_energy"].isna().tolist() == [False, False, False, True]
    assert frame["reappearance"].isna().all()


def test_recovery_leaves_out_latents_that_do_not_count_in_the_report() -> None:
    rows = [MODEL.features, shuffled_truth(1)]
    report = report_of(rows)
    kept = torch.ones(22, dtype=torch.bool)
    kept[[0, 1, 20]] = False
    report = replace(report, included=(kept, report.included[1]))
    recovery = MODEL.recovery([sae_of(own) for own in rows], report, n_samples=500)
    assert recovery.values("n_latents", "independent") == [8, 10]
    assert recovery.values("n_latents", "low_rank") == [11, 12]
    assert recovery.measurements[0].truth_cosine == pytest.approx(0.8, abs=1e-3)


def test_recovery_takes_training_SAEs_folders_and_names(tmp_path: Path) -> None:
    training = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=24, d_sae=30, k=4))
    sae_of(MODEL.features).save_model(tmp_path / "saved")
    recovery = MODEL.recovery({"mine": training, "theirs": tmp_path / "saved"}, n_samples=200)
    assert recovery.names == ("mine", "theirs")
    assert recovery.provenance["architectures"] == ["standard", "topk"]
    assert set(recovery.provenance["sae_fingerprints"]) == {"mine", "theirs"}
    assert recovery.provenance["n_samples"] == 200 and recovery.provenance["seed"] == 0
    assert recovery.provenance["stability_report"] is None
    assert recovery.threshold is None and recovery.model == MODEL


def test_recovery_refuses() -> None:
    saes = [sae_of(shuffled_truth(0)), sae_of(shuffled_truth(1))]
    with pytest.raises(ValueError, match=r"LowRankFeatureModel\.recovery was given 1 SAE\. Give two or more"):
        MODEL.recovery(saes[:1])
    with pytest.raises(ValueError, match=r"LowRankFeatureModel\.recovery\.n_samples = 0 is out of range"):
        MODEL.recovery(saes, n_samples=0)
    with pytest.raises(ValueError, match=r"was given seed = -3"):
        MODEL.recovery(saes, seed=-3)
    other = LowRankFeatureModel(d_in=30, n_independent=4, n_low_rank=4, rank=2)
    with pytest.raises(
        ValueError,
        match=r"LowRankFeatureModel\.recovery was given 'sae_0', which reads d_in = 24 and writes 24, but the activations of this model have "
        r"d_in = 30\. Give SAEs that were trained on its batches\.",
    ):
        other.recovery(saes)
    dead = sae_of(shuffled_truth(2))
    with torch.no_grad():
        dead.b_enc[:] = -100
    with pytest.raises(
        ValueError,
        match=r"No latent of the SAE 'sae_1' fires on any of 1,000 activations of this model and counts in the report, so that there is nothing "
        r"to compare with the true features\. Give SAEs that were trained on its batches, or more n_samples\.",
    ):
        MODEL.recovery([saes[0], dead], n_samples=1000)
    broken = sae_of(shuffled_truth(2))
    with torch.no_grad():
        broken.W_dec[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"The decoder of the SAE 'sae_1' holds NaN or infinity"):
        MODEL.recovery([saes[0], broken], n_samples=100)


def test_recovery_refuses_the_report_of_other_SAEs() -> None:
    rows = [shuffled_truth(seed) for seed in range(3)]
    saes, report = [sae_of(own) for own in rows], report_of(rows)
    with pytest.raises(ValueError, match=r"was given 2 SAEs \(sae_0, sae_1\) with a report of 3"):
        MODEL.recovery(saes[:2], report)
    with pytest.raises(
        ValueError,
        match=r"'sae_1' where the report has 'sae_1', and its weights are others\. It is the report's 'sae_2'",
    ):
        MODEL.recovery([saes[0], saes[2], saes[1]], report)
    with pytest.raises(ValueError, match=r"LowRankFeatureModel\.recovery was given float as report"):
        MODEL.recovery(saes, 0.7)  # pyright: ignore[reportArgumentType]
