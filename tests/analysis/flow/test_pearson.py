"""Correlations of activations, against numpy's of dense matrices."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_array

from sae_lens_ext.analysis.flow import pearson_sums
from sae_lens_ext.analysis.flow.match import FeatureMatch
from sae_lens_ext.analysis.flow.pearson import pearson_matches
from sae_lens_ext.analysis.flow.pearson_sums import most_correlated
from sae_lens_ext.analysis.texts import pack_texts
from sae_lens_ext.language_model import Site, read_activations
from tests.analysis.domains import CONTEXT, TEXTS
from tests.analysis.flow.deactivation.cases import HOOKS, encode, saes_of
from tests.language_model.test_hook_points import hooks_left, own_name

SMALL = {"context_size": CONTEXT, "max_tokens": 12 * CONTEXT, "seed": 3, "show_progress": False}


def dense(model: Any, saes: dict[str, Any]) -> dict[str, np.ndarray]:
    settings = {"context_size": CONTEXT, "max_tokens": 12 * CONTEXT, "seed": 3}
    tokens = pack_texts(model, {"a": TEXTS["code"]}, **settings)["a"]
    return {
        name: encode(sae, read_activations(model, tokens, Site(name))[tokens != 0]).detach().double().numpy()
        for name, sae in saes.items()
    }


def best_by_numpy(target: np.ndarray, other: np.ndarray, k: int) -> list[list[tuple[int, float]]]:
    """Partners of each column with their correlations, best first; what never varies has none and is none."""
    found = []
    for own in target.T:
        pairs = [
            (j, np.corrcoef(own, column)[0, 1])
            for j, column in enumerate(other.T)
            if own.std() > 0 and column.std() > 0
        ]
        found.append(sorted(pairs, key=lambda pair: -pair[1])[:k])
    return found


def assert_same(match: FeatureMatch, expected: list[list[tuple[int, float]]]) -> None:
    for indices, scores, pairs in zip(match.indices.tolist(), match.scores.tolist(), expected, strict=True):
        n = len(pairs)
        assert indices == [j for j, _ in pairs] + [-1] * (len(indices) - n)
        assert scores[:n] == pytest.approx([r for _, r in pairs], abs=1e-6)
        assert np.isnan(scores[n:]).all()


@pytest.mark.parametrize("top_k", [1, 4])
def test_pearson_matches_is_corrcoef_of_dense_activations(any_model: Any, top_k: int) -> None:
    saes = saes_of(any_model, "early", "late", "mlp", "heads")
    late = own_name(any_model, *HOOKS["late"])
    saes[late].threshold.data[5] = 1e9  # type: ignore[union-attr]
    found = pearson_matches(any_model, saes, TEXTS["code"], late, top_k=top_k, batch_size=5, **SMALL)
    acts = dense(any_model, saes)
    assert set(found) == {"residual", "mlp", "attention"}
    for kind, site in (("residual", "early"), ("mlp", "mlp"), ("attention", "heads")):
        assert_same(found[kind], best_by_numpy(acts[late], acts[own_name(any_model, *HOOKS[site])], top_k))
        assert found[kind].provenance["n_tokens"] == len(acts[late])
    assert found["residual"].indices[5].tolist() == [-1] * top_k
    assert hooks_left(any_model) == []


def test_pearson_matches_of_some_features_leaves_the_others_out(hooked_model) -> None:
    saes = saes_of(hooked_model, "early", "late")
    late = HOOKS["late"][0]
    every, some = (
        pearson_matches(hooked_model, saes, TEXTS["code"], late, features=wanted, **SMALL)["residual"]
        for wanted in (None, [7, 2])
    )
    assert torch.equal(some.indices[[2, 7]], every.indices[[2, 7]])
    assert (some.indices >= 0).sum() == 2


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_most_correlated_in_chunks_is_corrcoef(seed: int, rows_at_once: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (
        rng.exponential(size=(30, n)) * (rng.random((30, n)) < 0.4) + 3 * (rng.random(n) < 0.2)
        for n in (7, 5)
    )
    a[:, 0], b[:, 1], b[:, 2] = 0, 0, 2.5
    own = pearson_sums._CHUNK_BYTES
    pearson_sums._CHUNK_BYTES = 8 * 5 * rows_at_once
    try:
        indices, scores = most_correlated(csc_array(a), csc_array(b), range(7), 3)
    finally:
        pearson_sums._CHUNK_BYTES = own
    for i, pairs in enumerate(best_by_numpy(a, b, 3)):
        assert scores[i, : len(pairs)].tolist() == pytest.approx([r for _, r in pairs], abs=1e-10)
        for j, score in zip(indices[i].tolist(), scores[i].tolist(), strict=True):
            if j >= 0:
                assert score == pytest.approx(np.corrcoef(a[:, i], b[:, j])[0, 1], abs=1e-10)
    assert (indices[0] == -1).all() and not torch.isin(indices, torch.tensor([1, 2])).any()


def test_a_match_by_correlation_says_so() -> None:
    nan = float("nan")
    match = FeatureMatch(
        torch.tensor([[3, 1], [-1, -1]]),
        torch.tensor([[0.75, 0.5], [nan, nan]]),
        4,
        False,
        {"hook_a": "a", "hook_b": "b"},
        "correlation",
    )
    assert (
        repr(match)
        == "FeatureMatch of 2 features with 4, the best 2\n  1 have a match, median correlation 0.750\n  a → b"
    )
