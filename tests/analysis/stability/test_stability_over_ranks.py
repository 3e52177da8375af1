"""Stability and firing rates in several processes, against one process: equal to the bit, and each does its share only."""

from typing import Any

import pytest
import torch
from sae_lens import SAE

from sae_lens_ext.analysis.matching import cosines
from sae_lens_ext.analysis.stability import (
    StabilityReport,
    comparisons,
    feature_stability,
    firing,
    firing_rates_on,
    measure_firing_rates,
)
from tests.analysis.domains import BATCH, CONTEXT, N_CONTEXTS, RESIDUAL, TEXTS
from tests.analysis.stability.labelled import random_rows, sae_of, unit
from tests.analysis.stability.test_firing import pair_at
from tests.in_ranks import in_ranks


def relatives(*sizes: int, d: int = 8) -> dict[str, SAE[Any]]:
    """SAEs whose first features are nearly the same."""
    common = random_rows(max(sizes), d, 0)
    saes: dict[str, SAE[Any]] = {}
    for seed, n in enumerate(sizes, start=1):
        own = torch.linspace(0, 2, n)[:, None] * random_rows(n, d, seed)
        saes[f"seed {seed}"] = sae_of(unit(common[:n] + own))
    return saes


def stability(saes: Any, **settings: Any) -> StabilityReport:
    return feature_stability(saes, show_progress=False, **settings)


def assert_same_report(found: StabilityReport, expected: StabilityReport) -> None:
    for name in ("max_cosines", "null_cosines", "included"):
        for own, other in zip(getattr(found, name), getattr(expected, name), strict=True):
            assert torch.equal(own, other), name
    for name in ("names", "pairs", "notes", "provenance", "min_firing_rate"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_every_rank_has_the_report_of_one_process_to_the_bit(n: int) -> None:
    saes = relatives(20, 16, 24)
    rates = {name: torch.linspace(0, 1, sae.cfg.d_sae) for name, sae in saes.items()}
    expected = stability(saes, firing_rates=rates, min_firing_rate=0.1, seed=3)
    assert 0 < expected.match_rate < 1 and len(expected.pairs) == 3

    for found in in_ranks(
        n, lambda: stability(saes, firing_rates=rates, min_firing_rate=0.1, seed=3), timeout=30
    ):
        assert_same_report(found, expected)


def test_ranks_divide_the_comparisons_and_the_one_to_one_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 SAEs: 12 comparisons, 12 with rotated SAEs (3 to each of 4), 6 pairs."""
    saes = relatives(10, 10, 10, 10)
    calls = {"top_cosines": 0}
    real = comparisons.top_cosines

    def counted(*arguments: Any, **settings: Any) -> Any:
        calls["top_cosines"] += 1
        return real(*arguments, **settings)

    monkeypatch.setattr(comparisons, "top_cosines", counted)

    def share() -> int:
        stability(saes)
        return calls["top_cosines"]

    assert in_ranks(2, share) == [6 + 6, 6 + 6]
    assert in_ranks(3, share) == [4 + 6, 4 + 3, 4 + 3]


def test_more_ranks_than_comparisons_divide_anchors_by_blocks_to_the_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cosines, "_is_fast_at_bfloat16", lambda _: False)
    saes = relatives(4096, 4096)
    expected = stability(saes)
    lengths: list[int] = []
    real = comparisons.top_cosines

    def noted(a: torch.Tensor, *rest: Any) -> Any:
        lengths.append(len(a))
        return real(a, *rest)

    monkeypatch.setattr(comparisons, "top_cosines", noted)
    found = in_ranks(3, lambda: (stability(saes), lengths))
    for report, _ in found:
        assert_same_report(report, expected)
    # Blocks 3072 | 1024 of the one, 3072 | 1024 of the other, and 512 of each for the null, which two ranks make.
    assert [own for _, own in found] == [[3072, 1024, 512], [1024, 512], [3072]]


def test_blocks_of_any_width_are_put_together_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons, "BLOCK_ROWS", 7)
    saes = relatives(20, 23)
    expected = stability(saes)
    for found in in_ranks(4, lambda: stability(saes)):
        for own, one in zip(found.max_cosines, expected.max_cosines, strict=True):
            torch.testing.assert_close(own, one, rtol=0, atol=1e-6)
        for own, one in zip(found.null_cosines, expected.null_cosines, strict=True):
            assert torch.equal(own, one)


def test_an_SAE_given_twice_is_refused_on_every_rank() -> None:
    saes = relatives(12, 12)
    twice = [saes["seed 1"], saes["seed 1"]]

    def refuse() -> str:
        with pytest.raises(ValueError, match="was given the same SAE twice") as caught:
            stability(twice)
        return str(caught.value)

    assert len(set(in_ranks(2, refuse))) == 1


def rates_of(model: Any, **settings: Any) -> Any:
    return measure_firing_rates(
        model,
        pair_at(RESIDUAL[0]),
        TEXTS["code"],
        **{
            "context_size": CONTEXT,
            "max_tokens": CONTEXT * N_CONTEXTS,
            "batch_size": BATCH,
            "show_progress": False,
            **settings,
        },
    )


@pytest.mark.parametrize("n", [1, 2, 4])
def test_firing_rates_are_those_of_one_process_to_the_bit(n: int, hooked_model: Any) -> None:
    """There are three batches, so that one of four ranks reads nothing."""
    expected = rates_of(hooked_model)

    for found in in_ranks(n, lambda: rates_of(hooked_model)):
        assert found.n_tokens == expected.n_tokens and found.provenance == expected.provenance
        assert all(torch.equal(own, one) for own, one in zip(found.rates, expected.rates, strict=True))


def test_each_rank_reads_its_share_of_the_batches(hooked_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[torch.Tensor] = []
    real = firing.read_activations

    def noted(model: Any, batch: torch.Tensor, *rest: Any, **settings: Any) -> torch.Tensor:
        read.append(batch)
        return real(model, batch, *rest, **settings)

    monkeypatch.setattr(firing, "read_activations", noted)
    rates_of(hooked_model)
    expected = list(read)
    read.clear()

    def share() -> list[torch.Tensor]:
        rates_of(hooked_model)
        return read

    first, second = in_ranks(2, share)
    assert [len(first), len(second)] == [2, 1]
    for own, one in zip((first[0], second[0], first[1]), expected, strict=True):
        assert torch.equal(own, one)


def test_firing_rates_on_given_activations_are_of_what_each_rank_was_given() -> None:
    """Rank r has 5 + r activations: nothing is added up."""
    saes = relatives(6, 6)

    def count() -> int:
        rank = torch.distributed.get_rank()
        return firing_rates_on(saes, torch.randn(5 + rank, 8)).n_tokens

    assert in_ranks(2, count) == [5, 6]


def test_a_text_of_special_tokens_alone_is_refused_on_every_rank(
    hooked_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firing, "special_tokens", lambda _: torch.arange(32))

    def refuse() -> None:
        with pytest.raises(ValueError, match="nothing but special tokens"):
            rates_of(hooked_model)

    in_ranks(2, refuse)
