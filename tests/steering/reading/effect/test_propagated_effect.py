"""Propagated effects: worked by hand, against loops, and through interventions that know of prompts."""

import math
from typing import Any

import pytest
import torch

from sae_lens_ext.steering import AddFeature, AddVector
from sae_lens_ext.steering.reading.effect import propagated_effect
from sae_lens_ext.steering.sequences import Sequences
from sae_lens_ext.steering.vectors import SteeringVectors
from tests.steering.naive import sae_at
from tests.steering.reading.effect.toy import LinearModel, effects, ragged, random_vectors, turn

QUIET: dict[str, Any] = {"show_progress": False}
LAST = "blocks.1.hook_resid_post"


def close(found: torch.Tensor, expected: Any, atol: float = 1e-5) -> bool:
    return torch.allclose(found.double(), torch.as_tensor(expected, dtype=torch.float64), atol=atol)


def test_a_model_that_turns_worked_by_hand() -> None:
    model = LinearModel([turn(0), turn(90, 2.0)])
    vectors = SteeringVectors({0: torch.tensor([1.0, 0.0]), 1: torch.tensor([3.0, 4.0])})
    found = propagated_effect(model, vectors, torch.tensor([[0, 2, 4], [1, 1, 1]]), **QUIET)
    assert (
        close(found.mean, [[0, 2], [3, 4]]) and close(found.mean_norm, [2, 5]) and close(found.share, [1, 1])
    )
    assert close(found.null_share, [0.5, 0.5])  # 4 tokens of equal norms
    assert (found.labels, found.layers, found.n_tokens) == (("layer 0", "layer 1"), (0, 1), 4)


def test_tokens_that_disagree_have_a_small_share() -> None:
    model = LinearModel([turn(0), turn(0)], flips=True)
    vectors = SteeringVectors({0: torch.tensor([2.0, 0.0])})
    sequences = Sequences((torch.tensor([0, 2, 4, 1]),), (3,))
    found = propagated_effect(model, vectors, sequences, **QUIET)  # + + −
    assert close(found.mean, [[2 / 3, 0]]) and close(found.mean_norm, [2]) and close(found.share, [1 / 3])
    assert close(found.null_share, [1 / math.sqrt(3)])
    generated = propagated_effect(model, vectors, sequences, tokens="generated", **QUIET)
    assert close(generated.mean, [[-2, 0]]) and generated.n_tokens == 1


@pytest.mark.parametrize("tokens", ["all", "generated"])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_it_agrees_with_loops_whatever_the_batches(any_model: Any, tokens: Any, batch_size: int) -> None:
    vectors, sequences = random_vectors(any_model), ragged(any_model)
    found = propagated_effect(any_model, vectors, sequences, tokens=tokens, batch_size=batch_size, **QUIET)
    for i in vectors.layers:
        every = torch.cat(effects(any_model, vectors.only(i).interventions(), sequences, 1, tokens))
        norms = every.norm(dim=1)
        assert close(found.mean[i], every.mean(dim=0)) and close(found.mean_norm[i], norms.mean())
        assert close(found.share[i], every.mean(dim=0).norm() / norms.mean())
        assert close(found.null_share[i], norms.square().sum().sqrt() / norms.sum())
    assert found.n_tokens == len(every)
    assert close(found.mean[1], vectors[1]) and found.share[1] == pytest.approx(1, abs=1e-5)
    assert found.mean.dtype == torch.float32 and found.mean.shape == (2, any_model.cfg.d_model)


def test_an_intervention_is_one_entry(any_model: Any) -> None:
    vectors, sequences = random_vectors(any_model), ragged(any_model)
    together = vectors.interventions(any_model)
    found = propagated_effect(any_model, together, sequences, **QUIET)
    assert (found.labels, found.layers) == (("intervention",), (None,))
    assert close(found.mean[0], torch.cat(effects(any_model, together, sequences, 1)).mean(dim=0))
    feature = AddFeature(sae_at("blocks.0.hook_resid_post"), 3, 2.0)
    one = propagated_effect(any_model, feature, sequences, **QUIET)
    assert close(one.mean[0], torch.cat(effects(any_model, feature, sequences, 1)).mean(dim=0))


def test_positions_and_phases_are_those_of_each_sequences_own_prompt(any_model: Any) -> None:
    sequences, vector = ragged(any_model), torch.ones(any_model.cfg.d_model)
    for selection in (
        {"positions": -1},
        {"phases": ("generation",)},
        {"phases": ("prompt",), "positions": slice(1, None)},
        {"positions": [2, -1]},
    ):
        found = propagated_effect(
            any_model, AddVector(LAST, vector, **selection), sequences, batch_size=4, **QUIET
        )
        total = 0
        for prompt, length in zip(sequences.prompt_lengths, map(len, sequences.tokens), strict=True):
            acted = set(range(length))
            if "phases" in selection:
                acted &= set(
                    range(prompt, length) if selection["phases"] == ("generation",) else range(prompt)
                )
            if selection.get("positions") == -1:
                acted &= {prompt - 1}
            if selection.get("positions") == [2, -1]:
                acted &= {2, prompt - 1}
            total += len(acted - {0})
        assert close(found.mean[0], total / found.n_tokens * vector), selection


def test_a_part_that_acts_in_some_batches_alone_is_no_error(any_model: Any) -> None:
    vector = torch.ones(any_model.cfg.d_model)
    ids = ragged(any_model)
    late = propagated_effect(any_model, AddVector(LAST, vector, positions=8), ids, batch_size=1, **QUIET)
    assert close(late.mean[0], 2 / late.n_tokens * vector)
    with pytest.raises(RuntimeError, match="acted on no token of the 5 sequences"):
        propagated_effect(any_model, AddVector(LAST, vector, positions=13), ids, batch_size=2, **QUIET)


def test_sequences_may_come_as_texts_and_as_pairs(any_model: Any) -> None:
    vectors = random_vectors(any_model)
    texts = propagated_effect(any_model, vectors, ["w1 w2 w3", "w4 w5"], **QUIET)
    assert texts.n_tokens == 5  # BOS does not count
    pairs = propagated_effect(
        any_model, vectors, [("w1 w2", "w3"), ("w4", "w5")], tokens="generated", **QUIET
    )
    assert pairs.n_tokens == 2
    with pytest.raises(ValueError, match="propagated_effect was given one string"):
        propagated_effect(any_model, vectors, "w1 w2", **QUIET)


def test_a_difference_of_zero_has_no_share() -> None:
    model = LinearModel([turn(0), torch.zeros(2, 2)])
    found = propagated_effect(model, SteeringVectors({0: torch.ones(2)}), torch.tensor([[0, 2]]), **QUIET)
    assert found.mean_norm.item() == 0 and found.share.isnan().all() and found.null_share.isnan().all()
