"""p̂ and its companions: dictionaries made by hand, a naive twin, what must not change anything, and what chance gives."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import SAE, TopKTrainingSAE, TopKTrainingSAEConfig

from sae_lens_ext.analysis.matching import cosines as cosines_module
from sae_lens_ext.analysis.stability import StabilityReport, feature_stability
from sae_lens_ext.architectures.inference import as_inference
from tests.analysis.stability import naive
from tests.analysis.stability.labelled import random_rows, rotation, sae_of, unit

E = torch.eye(8)


def stability(saes: Any, **settings: Any) -> StabilityReport:
    return feature_stability(saes, **{"show_progress": False, **settings})


def relatives(sizes: Sequence[int], d: int, noise: float, seed: int = 0) -> list[SAE[Any]]:
    """SAEs that share their first features more or less; encoders are others than decoders."""
    common = random_rows(max(sizes), d, seed)
    saes: list[SAE[Any]] = []
    for i, n in enumerate(sizes, start=1):
        own = noise * torch.linspace(0, 2, n)[:, None]  # the first rows are the same, the last ones hardly
        sae = sae_of(unit(common[:n] + own * random_rows(n, d, seed + 10 * i)))
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 10 * i + 1))
        with torch.no_grad():
            sae.W_enc.copy_((sae.W_dec + 2.0 * own * random_rows(n, d, seed + 10 * i + 2)).T)
            sae.W_dec.copy_(sae.W_dec[order])
            sae.W_enc.copy_(sae.W_enc[:, order])
        saes.append(sae)
    return saes


def permuted(sae: SAE[Any], order: torch.Tensor) -> SAE[Any]:
    """The same SAE with its latents in another order."""
    other = copy.deepcopy(sae)
    with torch.no_grad():
        other.W_dec.copy_(sae.W_dec[order])
        other.W_enc.copy_(sae.W_enc[:, order])
    return other


def turned(sae: SAE[Any], Q: torch.Tensor) -> SAE[Any]:
    """The same SAE in a space that is rotated by Q."""
    other = copy.deepcopy(sae)
    with torch.no_grad():
        other.W_dec.copy_((sae.W_dec.double() @ Q).float())
        other.W_enc.copy_((Q.T @ sae.W_enc.double()).float())
    return other


def test_feature_stability_of_dictionaries_made_by_hand() -> None:
    # The anchor has the features e0 to e3. Its e1 is negated once and found once, e2 is found twice, e3 always, e0 never.
    saes = {
        "anchor": sae_of(torch.stack([E[0], E[1], E[2], E[3]])),
        "one": sae_of(torch.stack([E[4], E[3], E[2], E[1]])),
        "two": sae_of(torch.stack([-E[1], E[2], E[3], E[5]])),
        "three": sae_of(torch.stack([-E[0], -E[2], E[6], E[3]])),
    }
    report = stability(saes)
    assert report.names == ("anchor", "one", "two", "three")
    torch.testing.assert_close(
        report.reappearance,
        (
            torch.tensor([0, 1 / 3, 2 / 3, 1]),
            torch.tensor([0, 1, 2 / 3, 1 / 3]),
            torch.tensor([0, 2 / 3, 1, 0]),
            torch.tensor([0.0, 0, 0, 1]),
        ),
    )
    assert report.labels(0).tolist() == ["unstable", "middle", "middle", "stable"]
    assert report.max_cosines[0].tolist() == [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    assert report.match_rate == pytest.approx((2 + 2 + 5 / 3 + 1) / 16)
    # PW-MCC: 3, 2, 1, 2, 1, 1 pairs of four have the cosine 1; no matching needs a negative one.
    assert [pair.pw_mcc for pair in report.pairs] == [0.75, 0.5, 0.25, 0.5, 0.25, 0.25]
    assert [(pair.first, pair.second) for pair in report.pairs] == [
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 2),
        (1, 3),
        (2, 3),
    ]
    assert report.mmcs == report.pw_mcc == pytest.approx(2.5 / 6)
    assert all(pair.agreement == 1 for pair in report.pairs)


def test_feature_stability_does_not_match_what_is_negated() -> None:
    report = stability([sae_of(E), sae_of(-E.roll(1, dims=0))])
    assert report.match_rate == 0 and report.max_cosines[0].eq(0).all()
    assert report.pw_mcc == 0 and report.labels(0).tolist() == ["unstable"] * 8


def test_feature_stability_lets_several_latents_match_one() -> None:
    close = unit(torch.stack([E[0], E[0] + 0.5 * E[1]]))
    report = stability([sae_of(close), sae_of(torch.stack([E[0], E[5]]))])
    assert report.reappearance[0].tolist() == [1, 1]  # both have the cosine 1 or 0.89 with the other's first
    assert report.reappearance[1].tolist() == [1, 0]
    # One to one only the first does: intersection 1 over union 2; and the pairs have the cosines 1 and 0.
    (pair,) = report.pairs
    assert (pair.agreement, pair.matched, pair.pw_mcc) == (0.5, 0.5, 0.5)
    assert pair.mmcs_first == pytest.approx((1 + 2 / math.sqrt(5)) / 2) and pair.mmcs_second == 0.5


@pytest.mark.parametrize(
    ("threshold", "matches"), [(0.6, 1), (0.5999, 1), (0.6001, 0), (1, 0), (1e-9, 1), (0.8, 0)]
)
def test_feature_stability_matches_from_the_threshold_on(threshold: float, matches: int) -> None:
    anchor = sae_of(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    other = sae_of(torch.tensor([[3.0, 4.0], [3.0, -4.0]]))  # the cosine 0.6 exactly
    report = stability([anchor, other], threshold=threshold)
    assert report.reappearance[0].tolist() == [matches, 0]


def listed(rows: torch.Tensor, kept: torch.Tensor | None = None) -> list[list[float]]:
    return (rows if kept is None else rows[kept]).double().tolist()


@pytest.mark.parametrize("sizes", [(12, 12, 12), (9, 14, 11, 6), (1, 5)])
@pytest.mark.parametrize("with_rates", [False, True])
def test_feature_stability_is_what_plain_loops_find(sizes: tuple[int, ...], with_rates: bool) -> None:
    saes, theta = relatives(sizes, 6, noise=0.6), 0.7
    rates = [torch.linspace(0.9, 0.0 if n > 1 else 0.5, n) for n in sizes]
    floor = {"firing_rates": rates, "min_firing_rate": 0.2} if with_rates else {}
    report = stability(saes, threshold=theta, **floor)
    kept = [(r >= 0.2) if with_rates else torch.ones(len(r), dtype=torch.bool) for r in rates]
    assert all(torch.equal(*masks) for masks in zip(report.included, kept, strict=True))
    rows = [listed(sae.W_dec) for sae in saes]
    for i, p in enumerate(report.reappearance):
        others = [own for j, own in enumerate(rows) if j != i]
        assert p.tolist() == pytest.approx(naive.p_hat(rows[i], others, theta))
        for row, other in zip(report.max_cosines[i].tolist(), others, strict=True):
            assert row == pytest.approx(naive.largest_cosines(rows[i], other), abs=1e-6)
    for pair in report.pairs:
        i, j = pair.first, pair.second
        a, b = listed(saes[i].W_dec, kept[i]), listed(saes[j].W_dec, kept[j])
        assert pair.pw_mcc == pytest.approx(naive.pw_mcc(a, b), abs=1e-6)
        assert pair.mmcs_first == pytest.approx(naive.mmcs(a, rows[j]), abs=1e-6)
        assert pair.mmcs_second == pytest.approx(naive.mmcs(b, rows[i]), abs=1e-6)
        assert pair.matched == pytest.approx(naive.matched(a, b, theta))
        assert pair.agreement == pytest.approx(naive.agreement(a, rows[j], b, theta))
        encoders = [listed(saes[k].W_enc.T, kept[k]) for k in (i, j)]
        assert pair.shared == pytest.approx(naive.shared(a, b, *encoders, theta))


def test_feature_stability_twin_meets_every_case() -> None:
    """What the twin is compared on has matches and none, and pairs that only the decoders agree on."""
    report = stability(relatives((12, 12, 12), 6, noise=0.6))
    assert {"stable", "unstable", "middle"} <= {label for i in range(3) for label in report.labels(i)}
    assert all(0 < pair.shared <= pair.matched < 1 for pair in report.pairs)
    assert any(pair.shared < pair.matched for pair in report.pairs)
    assert any(pair.agreement < 1 for pair in report.pairs)


def test_feature_stability_permuting_latents_permutes_p_hat() -> None:
    saes = relatives((12, 9, 12), 6, noise=0.6)
    orders = [torch.randperm(sae.cfg.d_sae) for sae in saes]
    plain = stability(saes)
    mixed = stability([permuted(sae, order) for sae, order in zip(saes, orders, strict=True)])
    for p, q, order in zip(plain.reappearance, mixed.reappearance, orders, strict=True):
        assert torch.equal(p[order], q)
    for one, other in zip(plain.pairs, mixed.pairs, strict=True):
        for name in ("pw_mcc", "mmcs_first", "mmcs_second", "matched", "agreement", "shared"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-6)


def test_feature_stability_permuting_saes_permutes_the_results() -> None:
    saes = {f"sae {i}": sae for i, sae in enumerate(relatives((12, 9, 12), 6, noise=0.6))}
    plain, order = stability(saes), [2, 0, 1]
    mixed = stability({name: saes[name] for name in [f"sae {i}" for i in order]})
    for position, i in enumerate(order):
        torch.testing.assert_close(mixed.reappearance[position], plain.reappearance[i])
        assert mixed.labels(position).tolist() == plain.labels(i).tolist()
    by_names = {frozenset((plain.names[p.first], plain.names[p.second])): p for p in plain.pairs}
    for pair in mixed.pairs:
        same = by_names[frozenset((mixed.names[pair.first], mixed.names[pair.second]))]
        assert pair.pw_mcc == pytest.approx(same.pw_mcc, abs=1e-6)
        assert (pair.matched, pair.shared) == (same.matched, same.shared)
        turned_round = mixed.names[pair.first] != plain.names[same.first]
        ways = (same.mmcs_second, same.mmcs_first) if turned_round else (same.mmcs_first, same.mmcs_second)
        assert (pair.mmcs_first, pair.mmcs_second) == pytest.approx(ways, abs=1e-6)


@settings(max_examples=20)
@given(
    d=st.integers(2, 7),
    sizes=st.lists(st.integers(2, 9), min_size=2, max_size=4),
    seed=st.integers(0, 2**16),
)
def test_feature_stability_one_rotation_of_all_changes_nothing(d: int, sizes: list[int], seed: int) -> None:
    saes, Q = relatives(sizes, d, noise=0.7, seed=seed), rotation(d, seed)
    plain, after = stability(saes), stability([turned(sae, Q) for sae in saes])
    for cosines, own, p, q in zip(
        plain.max_cosines, after.max_cosines, plain.reappearance, after.reappearance, strict=True
    ):
        torch.testing.assert_close(cosines, own, rtol=0, atol=2e-6)
        clear = ((cosines - 0.7).abs() > 1e-5).all(dim=0)
        assert torch.equal(p[clear], q[clear])
    assert after.pw_mcc == pytest.approx(plain.pw_mcc, abs=1e-5)
    assert after.mmcs == pytest.approx(plain.mmcs, abs=1e-5)


def test_feature_stability_finds_a_shuffled_copy_whole() -> None:
    sae = sae_of(random_rows(40, 16, 0))
    report = stability([sae, permuted(sae, torch.randperm(40)), permuted(sae, torch.randperm(40))])
    assert all((p == 1).all() for p in report.reappearance) and report.match_rate == 1
    for number in (report.pw_mcc, report.mmcs, report.shared_fraction, report.agreement):
        assert number == pytest.approx(1, abs=1e-6)
    assert report.null_match_rate < 0.1


def test_feature_stability_of_a_rotated_copy_is_chance() -> None:
    sae = sae_of(random_rows(200, 64, 0))
    report = stability([sae, turned(sae, rotation(64, 1))])
    assert report.match_rate == report.null_match_rate == 0
    assert (report.labels(0) == "unstable").all()
    assert report.mmcs == pytest.approx(
        report.chance_maximum, abs=0.02
    )  # what 200 random directions of 64 give
    assert report.chance_maximum == pytest.approx(0.33, abs=0.03)


def test_feature_stability_null_knows_what_a_low_threshold_finds_by_chance() -> None:
    report = stability([sae_of(random_rows(200, 8, seed)) for seed in range(3)], threshold=0.6)
    assert report.null_match_rate > 0.9
    assert report.match_rate == pytest.approx(report.null_match_rate, abs=0.03)


def test_feature_stability_null_is_of_latents_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_lens_ext.analysis.stability import measure

    saes = [sae_of(random_rows(30, 8, seed)) for seed in range(3)]
    assert [c.shape for c in stability(saes).null_cosines] == [(2, 30)] * 3
    rates = [torch.arange(30) / 30 for _ in saes]
    assert [c.shape for c in stability(saes, firing_rates=rates, min_firing_rate=0.5).null_cosines] == [
        (2, 15)
    ] * 3
    monkeypatch.setattr(measure, "NULL_LATENTS", 7)
    assert [c.shape for c in stability(saes).null_cosines] == [(2, 7)] * 3


def test_feature_stability_depends_on_its_seed_alone_and_disturbs_no_generator() -> None:
    saes = relatives((12, 9), 6, noise=0.6)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = stability(saes)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    same, other = stability(saes), stability(saes, seed=1)
    for one, two, three in zip(first.null_cosines, same.null_cosines, other.null_cosines, strict=True):
        assert torch.equal(one, two) and not torch.equal(one, three)
    for one, three in zip(first.max_cosines, other.max_cosines, strict=True):
        assert torch.equal(one, three)
    assert first.pairs == same.pairs == other.pairs and other.provenance["seed"] == 1


def test_feature_stability_changes_no_sae() -> None:
    saes = relatives((12, 9), 6, noise=0.6)
    before = [{name: tensor.clone() for name, tensor in sae.state_dict().items()} for sae in saes]
    stability(saes)
    for sae, state in zip(saes, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in sae.state_dict().items())
        assert sae.W_dec.requires_grad


@pytest.mark.parametrize("fast", [False, True])
def test_feature_stability_is_the_same_with_a_shortlist_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    saes = relatives((560, 520), 24, noise=0.6)
    plain = [naive_largest(saes[0], saes[1]), naive_largest(saes[1], saes[0])]
    monkeypatch.setattr(cosines_module, "_is_fast_at_bfloat16", lambda device_type: fast)
    report = stability(saes)
    for cosines, expected in zip(report.max_cosines, plain, strict=True):
        torch.testing.assert_close(cosines[0], expected, rtol=0, atol=1e-6)


def naive_largest(a: SAE[Any], b: SAE[Any]) -> torch.Tensor:
    return (unit(a.W_dec.detach().double()) @ unit(b.W_dec.detach().double()).T).amax(dim=1).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_feature_stability_of_saes_in_other_precisions(dtype: torch.dtype) -> None:
    saes = relatives((12, 9), 6, noise=0.6)
    plain, rounded = stability(saes), stability([copy.deepcopy(sae).to(dtype=dtype) for sae in saes])
    for cosines, own in zip(plain.max_cosines, rounded.max_cosines, strict=True):
        assert own.dtype == torch.float32
        torch.testing.assert_close(cosines, own, rtol=0, atol=1e-2)
    assert rounded.pw_mcc == pytest.approx(plain.pw_mcc, abs=1e-2)
    mixed = stability([saes[0], copy.deepcopy(saes[1]).to(dtype=dtype)])
    assert mixed.pw_mcc == pytest.approx(plain.pw_mcc, abs=1e-2)


def test_feature_stability_takes_training_saes_in_their_inference_form() -> None:
    trained = [
        TopKTrainingSAE(TopKTrainingSAEConfig(d_in=6, d_sae=10, k=3, rescale_acts_by_decoder_norm=True))
        for _ in range(2)
    ]
    inference = [as_inference(sae) for sae in trained]
    one, other = stability(trained), stability(inference)
    assert one.pairs == other.pairs and one.provenance["architectures"] == ["topk"]
    assert one.provenance["sae_fingerprints"] == other.provenance["sae_fingerprints"]
