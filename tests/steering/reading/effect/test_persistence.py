"""Persistence: worked by hand on a model that turns, and against two passes of loops on real ones."""

import importlib
import math
from typing import Any

import numpy as np
import pytest
import torch

from sae_lens_ext.steering.reading.effect import persistence
from sae_lens_ext.steering.sequences import Sequences
from sae_lens_ext.steering.vectors import SteeringVectors
from tests.steering.reading.effect.toy import LinearModel, cosine, effects, ragged, random_vectors, turn

QUIET: dict[str, Any] = {"show_progress": False, "n_resamples": 50}
IDS = torch.tensor([[0, 2, 4, 6], [8, 2, 2, 4]])
NAN = math.nan


def same(found: torch.Tensor, expected: Any, **tolerance: float) -> bool:
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    return torch.allclose(found, wanted, equal_nan=True, **(tolerance or {"atol": 1e-5}))


def test_a_model_that_turns_and_stretches_worked_by_hand() -> None:
    model = LinearModel([turn(10), turn(30, 2.0), turn(60, 0.5)])
    vectors = SteeringVectors(
        {0: torch.tensor([1.0, 0.0]), 1: torch.tensor([0.0, 3.0]), 2: torch.tensor([0.5, 0.0])}
    )
    found = persistence(model, vectors, IDS, **QUIET)
    # s_0 = (1, 0) is at 30° after block 1, against s_1 at 90°; at 90° after block 2, against s_2 at 0°. s_1 gets to 150°.
    expected = [[1, 0.5, 0], [NAN, 1, math.cos(math.radians(150))], [NAN, NAN, 1]]
    assert same(found.diff_vector, expected)
    assert same(found.diff_diff, [[1, 1, 1], [NAN, 1, 1], [NAN, NAN, 1]])
    assert same(found.diff_diff_others, [[1, 1, 1], [NAN, 1, 1], [NAN, NAN, 1]])
    assert same(found.norm_ratio, [[1, 2, 1], [NAN, 1, 0.5], [NAN, NAN, 1]])
    assert same(found.vector_cosine, [[1, 0, 1], [NAN, 1, 0], [NAN, NAN, 1]])
    assert (found.n_tokens, found.n_sequences, found.n_blocks) == (6, 2, 3)
    # Every token goes the same way: |mean unit vector| is 1, and norms are equal.
    assert same(found.null_diff_vector[0], [1 / math.sqrt(2)] * 3)
    assert same(found.null_diff_diff[0], [1 / math.sqrt(6)] * 3)


def test_tokens_that_go_opposite_ways_worked_by_hand() -> None:
    model = LinearModel([turn(0), turn(0)], flips=True)
    vectors = SteeringVectors({0: torch.tensor([2.0, 0.0]), 1: torch.tensor([1.0, 0.0])})
    # After block 1 an even token has Δh = s_0 and an odd one −s_0. First tokens do not count: + + − and + −.
    sequences = Sequences((torch.tensor([0, 2, 4, 1]), torch.tensor([0, 2, 3])), (2, 1))
    found = persistence(model, vectors, sequences, **QUIET)
    assert same(found.diff_vector, [[1, 1 / 5], [NAN, 1]])
    assert same(found.diff_diff, [[1, 1 / 5], [NAN, 1]])
    # The first sequence sums to +1, the second to 0, whose direction is none: neither has another to be measured against.
    assert math.isnan(found.diff_diff_others[0, 1]) and found.diff_diff_others[0, 0] == pytest.approx(1)
    generated = persistence(model, vectors, sequences, tokens="generated", **QUIET)  # + −, and + −
    assert same(generated.diff_vector[0], [1, 0]) and math.isnan(generated.diff_diff[0, 1])
    assert generated.n_tokens == 4


def test_the_mean_of_the_other_sequences_worked_by_hand() -> None:
    model = LinearModel([turn(0), turn(0)], flips=True)
    vectors = SteeringVectors({0: torch.tensor([2.0, 0.0])})
    sequences = torch.tensor([[0, 2, 2], [0, 2, 4], [0, 1, 3]])  # ++, ++, −−
    found = persistence(model, vectors, sequences, **QUIET)
    assert found.diff_diff[0, 1] == pytest.approx((4 - 2) / 6)
    # The others of the first two sum to 0. With one of them less, they do not.
    assert math.isnan(found.diff_diff_others[0, 1])
    two = persistence(model, vectors, sequences[1:], **QUIET)
    assert two.diff_diff_others[0, 1] == pytest.approx(-1) and math.isnan(two.diff_diff[0, 1])
    three = persistence(
        model, vectors, torch.tensor([[0, 2, 2], [0, 2, 4], [0, 2, 3]]), **QUIET
    )  # ++, ++, +−
    assert three.diff_diff_others[0, 1] == pytest.approx(4 / 6)


@pytest.mark.parametrize("tokens", ["all", "generated"])
def test_one_pass_with_sums_agrees_with_two_passes_of_loops(any_model: Any, tokens: Any) -> None:
    vectors, sequences = random_vectors(any_model), ragged(any_model)
    found = persistence(any_model, vectors, sequences, tokens=tokens, batch_size=2, **QUIET)
    for i in vectors.layers:
        for j in range(2):
            if j < i:
                assert math.isnan(found.diff_vector[i, j]) and math.isnan(found.diff_diff[i, j])
                continue
            by_row = effects(any_model, vectors.only(i).interventions(), sequences, j, tokens)
            every = torch.cat(by_row)
            mean = every.mean(dim=0)
            local = [cosine(gap, vectors[j].double()) for gap in every]
            to_mean = [cosine(gap, mean) for gap in every]
            to_others = [
                cosine(
                    gap, torch.cat([by_row[other] for other in range(len(by_row)) if other != row]).sum(dim=0)
                )
                for row, gaps in enumerate(by_row)
                for gap in gaps
            ]
            assert found.diff_vector[i, j] == pytest.approx(np.mean(local), abs=1e-4)
            assert found.diff_diff[i, j] == pytest.approx(np.mean(to_mean), abs=1e-4)
            assert found.diff_diff_others[i, j] == pytest.approx(np.mean(to_others), abs=1e-4)
            norms = every.norm(dim=1)
            assert found.norm_ratio[i, j] == pytest.approx(float(norms.mean() / vectors[i].norm()), rel=1e-4)
            null = float(norms.sum() / (len(norms) * norms.square().sum().sqrt()))
            assert found.null_diff_diff[i, j] == pytest.approx(null, rel=1e-4)
    assert found.n_tokens == len(every)


def test_the_diagonal_is_1_and_the_effect_of_the_first_layer_turns(any_model: Any) -> None:
    found = persistence(any_model, random_vectors(any_model), ragged(any_model), **QUIET)
    assert same(found.diff_vector.diag(), [1, 1]) and same(found.norm_ratio.diag(), [1, 1], atol=1e-4)
    assert same(found.diff_diff.diag(), [1, 1])
    assert same(found.diff_vector_interval[0, 0], [1, 1])
    assert found.diff_vector[0, 1] < 0.99


def test_batches_padding_and_memory_do_not_change_the_result(
    any_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, sequences = random_vectors(any_model), ragged(any_model)
    first = persistence(any_model, vectors, sequences, batch_size=1, **QUIET).to_frame()
    second = persistence(any_model, vectors, sequences, batch_size=5, **QUIET).to_frame()
    module = importlib.import_module("sae_lens_ext.steering.reading.effect.persistence")
    monkeypatch.setattr(module, "MEMORY", 1)
    third = persistence(any_model, vectors, sequences, batch_size=3, **QUIET).to_frame()
    for other in (second, third):
        np.testing.assert_allclose(first, other, atol=2e-5, equal_nan=True)


def test_one_vector_alone_has_the_row_it_has_among_others(any_model: Any) -> None:
    vectors, sequences = random_vectors(any_model), ragged(any_model)
    both = persistence(any_model, vectors, sequences, **QUIET)
    upper = persistence(any_model, vectors.only(1), sequences, **QUIET)
    lower = persistence(any_model, vectors.only(0), sequences, **QUIET)
    assert upper.layers == (1,) and same(upper.diff_diff[0], both.diff_diff[1])
    assert same(lower.diff_diff[0], both.diff_diff[0])
    assert math.isnan(lower.diff_vector[0, 1]) and not math.isnan(
        lower.diff_diff[0, 1]
    )  # block 1 has no vector
    assert same(lower.norm_ratio[0], both.norm_ratio[0])


def test_the_model_is_left_as_it_was(any_model: Any) -> None:
    sequences = ragged(any_model)
    before = any_model(sequences.tokens[0][None], return_type="logits").detach()
    any_model.train()
    state = torch.random.get_rng_state()
    persistence(any_model, random_vectors(any_model), sequences, **QUIET)
    assert any_model.training and torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(before, any_model.eval()(sequences.tokens[0][None], return_type="logits").detach())
