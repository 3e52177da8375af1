import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig

from sae_lens_ext.steering import AddVector, steer
from sae_lens_ext.steering.reading.token_shift import Shifts, TokenShift, token_shift
from sae_lens_ext.steering.sequences import Sequences
from sae_lens_ext.steering.vectors import SteeringVectors
from tests.conftest import CONTEXT, TINY
from tests.steering.reading.token_shift.naive import naive_shifts

HOOK = "blocks.0.hook_resid_post"
NAMES = tuple(f.name for f in fields(Shifts))


def _vectors(*layers: int, scale: float = 2.0) -> SteeringVectors:
    generator = torch.Generator().manual_seed(5)
    return SteeringVectors(
        {layer: scale * torch.randn(TINY["d_model"], generator=generator) for layer in layers or (1,)}
    )


def _sequences(tokens: torch.Tensor) -> Sequences:
    """Five sequences of other lengths and with other prompts; the second has no generated token."""
    lengths, prompts = (9, 4, 12, 6, CONTEXT), (3, 4, 1, 2, 10)
    return Sequences(tuple(tokens[i % 4, :n] for i, n in enumerate(lengths)), prompts)


def _assert_same(found: TokenShift, expected: TokenShift, atol: float = 1e-6) -> None:
    for name in NAMES:
        ours, theirs = getattr(found.shifts, name), getattr(expected.shifts, name)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=atol, equal_nan=True, msg=name)


def test_token_shift_of_a_toy_model_is_what_one_computes_by_hand(toy_model: Any):
    # ln 4 more on token 2: (1/2, 1/4, 1/8, 1/8) becomes (1/2, 1/4, 1/2, 1/8) / (11/8) = (4, 2, 4, 1) / 11.
    add = AddVector(HOOK, torch.tensor([0.0, 0.0, math.log(4), 0.0]))
    found = token_shift(toy_model, add, Sequences((torch.tensor([3, 1, 0]),), (1,)), top_k=2)
    lines = found.shifts
    assert lines.row.tolist() == [0, 0]
    assert lines.offset.tolist() == [0, 1]
    assert lines.token.tolist() == [1, 0]
    torch.testing.assert_close(lines.token_p_base, torch.tensor([1 / 4, 1 / 2]))
    torch.testing.assert_close(lines.token_delta, torch.tensor([2 / 11 - 1 / 4, 4 / 11 - 1 / 2]))
    assert lines.boosted.tolist() == [[2, -1]] * 2  # only one token gains
    torch.testing.assert_close(lines.boosted_delta, torch.tensor([[4 / 11 - 1 / 8, 0.0]] * 2))
    torch.testing.assert_close(
        lines.boosted_p_base, torch.tensor([[1 / 8, float("nan")]] * 2), equal_nan=True
    )
    assert lines.base_top.tolist() == [0, 0]
    kl = 7 / 11 * math.log(8 / 11) + 4 / 11 * math.log(32 / 11)
    torch.testing.assert_close(lines.kl, torch.tensor([kl, kl]))
    torch.testing.assert_close(lines.total_variation, torch.tensor([21 / 88, 21 / 88]))


def test_token_shift_sees_that_the_boosted_token_was_the_bases_choice(toy_model: Any):
    add = AddVector(HOOK, torch.tensor([math.log(4), 0.0, 0.0, 0.0]))
    found = token_shift(toy_model, add, torch.tensor([[3, 1, 0]]))
    assert found.summary()["frac_same"].tolist() == [1.0, 1.0, 1.0]


def test_token_shift_agrees_with_one_row_and_one_token_at_a_time(any_model: Any, tokens: torch.Tensor):
    given, vectors = _sequences(tokens), _vectors(1)
    lines = token_shift(any_model, vectors, given, batch_size=3, top_k=1).shifts
    expected = naive_shifts(any_model, "blocks.1.hook_resid_post", vectors[1], given)
    assert len(lines.row) == len(expected) == sum(given.generated)
    for name in NAMES:
        column = torch.tensor([line[name] for line in expected])
        ours = getattr(lines, name)
        ours = ours[:, 0] if ours.ndim == 2 else ours
        torch.testing.assert_close(
            ours.double(), column.double(), rtol=1e-4, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("batch_size", [1, 2])
def test_token_shift_does_not_depend_on_batches_and_padding(
    any_model: Any, tokens: torch.Tensor, batch_size: int
):
    given, vectors = _sequences(tokens), _vectors(0, 1)
    _assert_same(
        token_shift(any_model, vectors, given, batch_size=batch_size),
        token_shift(any_model, vectors, given, batch_size=8),
    )


def test_token_shift_does_not_depend_on_how_many_probabilities_are_computed_at_a_time(
    hooked_model: Any, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
):
    whole = token_shift(hooked_model, _vectors(), _sequences(tokens))
    monkeypatch.setattr("sae_lens_ext.steering.reading.token_shift.shifts._CHUNK", 3 * TINY["d_vocab"])
    _assert_same(token_shift(hooked_model, _vectors(), _sequences(tokens)), whole, atol=1e-7)


def test_token_shift_by_vectors_of_zeros_is_exactly_nothing(any_model: Any, tokens: torch.Tensor):
    found = token_shift(any_model, SteeringVectors.zeros(any_model), _sequences(tokens))
    lines = found.shifts
    for column in (lines.token_delta, lines.boosted_delta, lines.kl, lines.total_variation):
        assert not column.any()
    assert (lines.boosted == -1).all()
    assert found.boosted_tokens().empty
    assert found.summary()["frac_same"].isna().all()
    assert found.to_frame()["same"].isna().all()
    assert math.isnan(found.concentration.kl.value)


def test_token_shift_of_all_tokens_sums_to_zero(any_model: Any, tokens: torch.Tensor):
    # What the tokens that gain gain is half of all that moves, which is so only if the rest loses as much.
    lines = token_shift(any_model, _vectors(0), tokens, top_k=TINY["d_vocab"]).shifts
    torch.testing.assert_close(lines.boosted_delta.sum(dim=1), lines.total_variation)


def test_token_shift_reads_the_distribution_each_token_was_drawn_from(any_model: Any, tokens: torch.Tensor):
    # What the steered model takes greedily is its likeliest token, at the first position as at the others.
    vectors, prompts = _vectors(scale=8.0), tokens[:, :5]
    with steer(any_model, vectors.interventions(any_model)), torch.no_grad():
        whole = any_model.generate(
            prompts, max_new_tokens=6, do_sample=False, stop_at_eos=False, verbose=False, return_type="tokens"
        )
    given = Sequences.joined(list(prompts), list(whole[:, 5:].clone()))
    lines = token_shift(any_model, vectors, given, top_k=TINY["d_vocab"]).shifts
    own = lines.token_p_base + lines.token_delta
    gained = (lines.boosted_p_base + lines.boosted_delta).nan_to_num(0)
    assert len(own) == 24
    assert (own[:, None] >= gained - 1e-6).all()
    assert (own > 1 / TINY["d_vocab"]).all()


def test_token_shift_takes_vectors_and_the_interventions_they_stand_for(any_model: Any, tokens: torch.Tensor):
    vectors = _vectors(0, 1)
    _assert_same(
        token_shift(any_model, vectors.interventions(any_model), tokens),
        token_shift(any_model, vectors, tokens),
    )


def test_token_shift_steers_prompts_as_prompts(toy_model: Any):
    # Without attention a vector acts where it is added: on the last token of the prompt alone, or on all after it.
    given = Sequences((torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2])), (1, 2))
    vector = torch.tensor([0.0, 0.0, 1.0, 0.0])
    moved = {
        "prompt": token_shift(toy_model, AddVector(HOOK, vector, phases=("prompt",)), given),
        "generation": token_shift(toy_model, AddVector(HOOK, vector, phases=("generation",)), given),
        "last": token_shift(toy_model, AddVector(HOOK, vector, positions=-1), given),
        "from the last": token_shift(toy_model, AddVector(HOOK, vector, positions=slice(-1, None)), given),
    }
    offsets = {
        name: sorted(set(one.shifts.offset[one.shifts.kl > 0].tolist())) for name, one in moved.items()
    }
    assert offsets == {"prompt": [0], "generation": [1, 2], "last": [0], "from the last": [0, 1, 2]}


@pytest.mark.parametrize("batch_size", [1, 2])
def test_token_shift_acts_at_a_position_that_only_some_texts_reach(toy_model: Any, batch_size: int):
    add = AddVector(HOOK, torch.eye(4)[0], positions=3)
    given = Sequences((torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2, 3, 0])), (1, 1))
    lines = token_shift(toy_model, add, given, batch_size=batch_size).shifts
    assert (lines.kl > 0).tolist() == [False] * 5 + [True]


def test_token_shift_of_a_position_that_no_text_reaches_says_so(toy_model: Any):
    add = AddVector(HOOK, torch.ones(4), positions=5)
    with pytest.raises(
        RuntimeError, match=r"positions=5\) acted on no token of the 1 sequences: its positions"
    ):
        token_shift(toy_model, add, torch.tensor([[0, 1, 2]]))


def test_token_shift_keeps_no_more_tokens_than_there_are(toy_model: Any):
    found = token_shift(toy_model, AddVector(HOOK, torch.eye(4)[2]), torch.tensor([[0, 1]]), top_k=9)
    assert found.shifts.boosted.tolist() == [[2, -1, -1, -1]]


def test_token_shift_leaves_out_completions_without_a_token(hooked_model: Any, tokens: torch.Tensor):
    given = _sequences(tokens)
    found = token_shift(hooked_model, _vectors(), given)
    assert found.n_empty == 1
    assert found.shifts.row.unique().tolist() == [0, 2, 3, 4]
    kept = [0, 2, 3, 4]
    alone = token_shift(
        hooked_model,
        _vectors(),
        Sequences(tuple(given.tokens[i] for i in kept), tuple(given.prompt_lengths[i] for i in kept)),
    )
    torch.testing.assert_close(found.shifts.kl, alone.shifts.kl)
    assert found.summary().equals(alone.summary())


def test_token_shift_of_empty_completions_alone_says_so(hooked_model: Any):
    with pytest.raises(
        ValueError, match="was given 2 sequences without a token after their prompts. Give texts"
    ):
        token_shift(hooked_model, _vectors(), [("w1", ""), ("w2 w3", "")])


def test_token_shift_lets_a_token_be_impossible(toy_model: Any):
    with torch.no_grad():
        toy_model.unembed.b_U[3] = -math.inf
    lines = token_shift(toy_model, AddVector(HOOK, torch.eye(4)[1]), torch.tensor([[0, 1, 2]])).shifts
    assert torch.isfinite(lines.kl).all()
    assert (lines.kl > 0).all()


def test_token_shift_reads_a_model_in_half_precision(any_model: Any, tokens: torch.Tensor):
    lines = token_shift(any_model.to(torch.bfloat16), _vectors(scale=8.0), tokens).shifts
    assert lines.kl.dtype == torch.float32
    assert (lines.kl > 0).all()


def test_token_shift_leaves_the_model_and_the_random_state_alone(any_model: Any, tokens: torch.Tensor):
    any_model.train()
    with torch.no_grad():
        before, state = any_model.eval()(tokens, return_type="logits"), torch.get_rng_state()
    any_model.train()
    token_shift(any_model, _vectors(), tokens)
    assert any_model.training
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        assert torch.equal(any_model.eval()(tokens, return_type="logits"), before)


def test_token_shift_names_tokens_by_their_ids_without_a_tokenizer(toy_model: Any):
    found = token_shift(toy_model, AddVector(HOOK, torch.eye(4)[2]), torch.tensor([[0, 1]]))
    assert found.boosted_tokens()["token"].tolist() == ["⟨2⟩"]


def test_token_shift_names_model_hooks_and_tokens_in_its_provenance(hooked_model: Any, tokens: torch.Tensor):
    first, second = (token_shift(hooked_model, _vectors(), ids).provenance for ids in (tokens, tokens[:2]))
    assert first["hook_names"] == ["blocks.1.hook_resid_post"]
    assert first["tokens_sha256"] != second["tokens_sha256"]
    assert {"torch_version", "model_name", "seed", "top_k", "intervention"} <= set(first)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (SteeringVectors({1: torch.ones(7)}), "width 7"),
        (SteeringVectors({5: torch.ones(16)}), "layer 5"),
        (AddVector(HOOK, torch.ones(7)), "adds a vector of 7 numbers, but the activations .* have width 16"),
        (AddVector("blocks.7.hook_resid_post", torch.ones(16)), "has no hook 'blocks.7.hook_resid_post'"),
        (torch.ones(16), "token_shift was given Tensor as vectors. Give SteeringVectors, or an intervention"),
        (
            AddVector(HOOK, torch.ones(16), positions=torch.ones(4, 3, dtype=torch.bool)),
            "positions as a mask .* put into batches by their lengths. Give positions as numbers or a slice",
        ),
    ],
)
def test_token_shift_refuses_what_does_not_steer_the_model(
    any_model: Any, tokens: torch.Tensor, vectors: Any, said: str
):
    with pytest.raises(ValueError, match=said):
        token_shift(any_model, vectors, tokens)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"top_k": 0}, "token_shift.top_k = 0 is out of range"),
        ({"batch_size": 0}, "token_shift.batch_size = 0 is out of range"),
        ({"n_resamples": 1.5}, "token_shift.n_resamples must be a whole number"),
    ],
)
def test_token_shift_refuses_numbers_out_of_range(
    hooked_model: Any, tokens: torch.Tensor, settings: Any, said: str
):
    with pytest.raises(ValueError, match=said):
        token_shift(hooked_model, _vectors(), tokens, **settings)


def test_token_shift_refuses_a_text_longer_than_the_context(any_model: Any):
    with pytest.raises(ValueError, match="token_shift was given 18 tokens in row 1, but this model reads 16"):
        token_shift(any_model, _vectors(), [("w1", "w2"), ("w1", " ".join(["w2"] * 16))])


def test_token_shift_names_the_row_of_logits_that_are_no_numbers(toy_model: Any):
    with torch.no_grad():
        toy_model.embed.W_E[3] = math.nan
    given = Sequences((torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1]), torch.tensor([0, 3, 1])), (1, 2, 1))
    with pytest.raises(
        ValueError, match="The model gives NaN or infinity as logits in row 2, so that nothing"
    ):
        token_shift(toy_model, AddVector(HOOK, torch.ones(4)), given)


def test_token_shift_says_that_it_is_the_steered_model_whose_logits_are_no_numbers(toy_model: Any):
    add = AddVector(HOOK, torch.full((4,), 3e38), strength=2.0)
    with pytest.raises(ValueError, match="The steered model gives NaN or infinity as logits in row 0"):
        token_shift(toy_model, add, torch.tensor([[0, 1]]))


def test_token_shift_refuses_a_model_with_saes_attached(hooked_model: Any, tokens: torch.Tensor):
    sae = StandardSAE(StandardSAEConfig(d_in=16, d_sae=8))
    sae.cfg.metadata.hook_name = HOOK
    hooked_model.add_sae(sae)
    with pytest.raises(ValueError, match="has SAEs attached .* Call model.reset_saes"):
        token_shift(hooked_model, _vectors(), tokens)
