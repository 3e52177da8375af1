"""Which tokens a circuit serves, by hand: two layers of one head, values of one number."""

import pytest
import torch

from sae_lens_ext.lime.reading.circuits.served import ServedTokens, TokensBy, strongest_sources

WEIGHTS = torch.tensor([[[1.0], [1.0]]])
TOKENS = torch.tensor([[5, 6, 7, 5]])
COUNTED = torch.tensor([[True, True, False, True]])
VOCABULARY, COUNTS = torch.tensor([5, 6]), torch.tensor([2, 1])


def served(first_layer: list[float], share: float, by: TokensBy = "share") -> ServedTokens:
    """Feed a circuit from layer 0, where the values are `first_layer`, and 1 in layer 1."""
    values = torch.stack([torch.tensor(first_layer), torch.ones(4)], dim=1)[None, :, :, None, None]
    shares = torch.tensor([[[share], [1 - share]]], dtype=torch.float64)
    found = ServedTokens(
        WEIGHTS,
        shares,
        [(0, 0, 0)],
        VOCABULARY,
        by=by,
        n_contexts=2,
        window=3,
        device=torch.device("cpu"),
    )
    found.add(values, TOKENS, COUNTED, 0)
    return found


def test_tokens_are_ranked_by_the_share_over_their_occurrences() -> None:
    found = served([1.0, 3.0, 99.0, 4.0], 0.5).tokens(0, COUNTS, 5, 1, None)
    assert [(t.token, t.token_id, t.count) for t in found] == [("<5>", 5, 2), ("<6>", 6, 1)]
    assert [t.value for t in found] == pytest.approx(
        [(2 + 20) / (4 + 25), 12 / 16]
    )  # of (1 + 1)² and (4 + 1)²


def test_tokens_that_occur_too_seldom_are_left_out() -> None:
    found = served([1.0, 3.0, 99.0, 4.0], 0.5).tokens(0, COUNTS, 5, 2, None)
    assert [t.token_id for t in found] == [5]


def test_no_more_tokens_are_kept_than_asked_for() -> None:
    assert len(served([1.0, 3.0, 99.0, 4.0], 0.5).tokens(0, COUNTS, 1, 1, None)) == 1


def test_source_with_a_negative_share_serves_where_it_is_most_negative() -> None:
    found = served([-0.5, -0.2, 99.0, -0.5], -1.0)
    assert [t.token_id for t in found.tokens(0, COUNTS, 5, 1, None)] == [5, 6]
    assert [t.value for t in found.tokens(0, COUNTS, 5, 1, None)] == pytest.approx([-1.0, -0.25])
    assert found.contexts(0, TOKENS, None)[0].activations == pytest.approx((-1.0, -0.25, 0.0))


def test_tokens_at_which_the_source_does_the_opposite_are_not_served() -> None:
    assert served([-0.5, 1.0, 99.0, -0.5], 0.5).tokens(0, COUNTS, 5, 1, None)[0].token_id == 6
    assert len(served([-0.5, 1.0, 99.0, -0.5], 0.5).tokens(0, COUNTS, 5, 1, None)) == 1


def test_norm_ranks_by_the_size_of_the_contribution() -> None:
    found = served([-4.0, 3.0, 99.0, -5.0], -1.0, by="norm").tokens(0, COUNTS, 5, 1, None)
    assert [(t.token_id, t.value) for t in found] == [(5, 4.5), (6, 3.0)]


def test_single_position_has_the_tokens_around_it_and_none_that_does_not_count() -> None:
    (context,) = served([1.0, 3.0, 99.0, 4.0], 0.5).contexts(0, TOKENS, None)
    assert context.tokens == ("<6>", "<7>", "<5>")
    assert context.peak == 2
    assert context.activations == pytest.approx((3 / 4, 0.0, 4 / 5))


def test_strongest_sources_are_ranked_by_size_and_none_is_zero() -> None:
    shares = torch.tensor([[[0.1, -0.4], [0.0, 1.3]]], dtype=torch.float64)
    assert strongest_sources(shares, 4, own_layer=False) == [(0, 0, 1), (0, 0, 0)]
    assert strongest_sources(shares, 2, own_layer=True) == [(0, 1, 1), (0, 0, 1)]
    assert strongest_sources(shares, 9, own_layer=True) == [(0, 1, 1), (0, 0, 1), (0, 0, 0)]
