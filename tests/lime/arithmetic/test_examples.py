"""Expressions are drawn from a seed, worked out rightly, one operation a step, and held-out ones are new."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext.lime.arithmetic import ArithmeticExamples, arithmetic_examples, count_expressions
from tests.lime.arithmetic.worked import next_line, value


def operations(line: str) -> int:
    return sum(line.count(sign) for sign in "+−×÷")


@settings(max_examples=25)
@given(n_operands=st.integers(2, 7), modulus=st.sampled_from([2, 3, 7, 11, 13]), seed=st.integers(0, 2**32))
def test_every_step_is_the_next_operation_done_rightly(n_operands: int, modulus: int, seed: int) -> None:
    examples = arithmetic_examples(n_operands, 20, modulus=modulus, seed=seed)
    assert len(examples) == 20
    for text, prompt, answer in zip(examples.texts, examples.prompts, examples.answers.tolist(), strict=True):
        lines = text.split("=")
        assert text.startswith(prompt) and prompt == lines[0] + "="
        assert [operations(line) for line in lines] == list(range(n_operands - 1, -1, -1))
        assert [value(line, modulus) for line in lines] == [answer] * n_operands
        for line, following in itertools.pairwise(lines):
            assert next_line(line, modulus) == following


def test_tokens_are_grouped_by_length_and_masked_up_to_the_first_equals_sign() -> None:
    examples = arithmetic_examples([3, 5], 200)
    vocabulary = examples.vocabulary
    lengths = [group.shape[1] for group in examples.tokens]
    assert lengths == sorted(set(lengths))
    assert sum(map(len, examples.tokens)) == len(examples) == 400
    assert (examples.n_operands == 3).sum() == (examples.n_operands == 5).sum() == 200
    row = 0
    for tokens, mask in zip(examples.tokens, examples.loss_masks, strict=True):
        assert tokens.dtype == torch.int64 and mask.dtype == torch.bool and mask.shape == tokens.shape
        for sequence, counts in zip(tokens.tolist(), mask.tolist(), strict=True):
            first = sequence.index(vocabulary.equals)
            assert sequence[0] == vocabulary.bos and sequence[-1] == vocabulary.end
            assert counts == [i > first for i in range(len(sequence))]
            assert examples.prompt_lengths[row] == first + 1
            numbers = sum(token < 11 for token in sequence[:first])
            assert examples.n_operands[row] == numbers
            row += 1


def test_the_same_seed_gives_the_same_examples_and_another_other_ones() -> None:
    once, again, other = (arithmetic_examples(4, 300, seed=seed) for seed in (5, 5, 6))
    assert once.texts == again.texts
    assert len(set(once.texts) & set(other.texts)) < 30


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    arithmetic_examples(3, 10)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_the_examples_of_an_operand_count_do_not_depend_on_the_others() -> None:
    both, alone = arithmetic_examples([4, 3], 50, seed=2), arithmetic_examples(3, 50, seed=2)
    chosen = [text for text, k in zip(both.texts, both.n_operands.tolist(), strict=True) if k == 3]
    assert chosen == list(alone.texts)


def test_held_out_expressions_are_none_that_are_trained_on_and_none_twice() -> None:
    train = arithmetic_examples([3, 4], 3000)
    held_out = arithmetic_examples([3, 4], 100, seed=0, distinct_from=[train, arithmetic_examples(5, 20)])
    assert not set(train.prompts) & set(held_out.prompts)
    assert len(set(held_out.prompts)) == 200
    assert held_out.provenance["distinct_from_expressions"] == len(set(train.prompts)) + 20


def test_every_expression_is_drawn_equally_often() -> None:
    n = count_expressions(2, 3)
    prompts = arithmetic_examples(2, 200 * n, modulus=3).prompts
    counts = np.array([prompts.count(prompt) for prompt in set(prompts)])
    assert len(counts) == n == 33
    chi_squared = ((counts - 200) ** 2 / 200).sum()
    assert chi_squared < 62  # 99.9 % of draws with 32 degrees of freedom


def test_the_last_new_expression_can_be_had_but_not_one_more() -> None:
    some = arithmetic_examples(2, 4, modulus=3)
    given = len(set(some.prompts))
    rest = arithmetic_examples(2, 33 - given, modulus=3, distinct_from=some)
    assert len({*some.prompts, *rest.prompts}) == 33
    with pytest.raises(
        ValueError,
        match=f"there are 33 in all modulo 3, of which {given} are given. Ask for at most {33 - given}",
    ):
        arithmetic_examples(2, 34 - given, modulus=3, distinct_from=some)


@pytest.mark.parametrize("n_operands", [1, 9, 0, [], [3, 3], 2.5, True, [3, "4"]])
def test_an_operand_count_out_of_range_is_refused(n_operands) -> None:
    with pytest.raises(
        ValueError,
        match="was given n_operands = .*Give a whole number from 2 to 8, or several different ones",
    ):
        arithmetic_examples(n_operands, 10)


def test_other_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"arithmetic_examples.n = 0 is out of range"):
        arithmetic_examples(3, 0)
    with pytest.raises(ValueError, match="seed = -1. Give a whole number from 0 to"):
        arithmetic_examples(3, 5, seed=-1)
    with pytest.raises(ValueError, match="modulus = 12, which is not a prime"):
        arithmetic_examples(3, 5, modulus=12)
    with pytest.raises(ValueError, match="without any examples in it"):
        arithmetic_examples(3, 5, distinct_from=[])
    with pytest.raises(ValueError, match="modulus = 11, and distinct_from with examples modulo 7"):
        arithmetic_examples(3, 5, distinct_from=arithmetic_examples(3, 5, modulus=7))


def test_ArithmeticExamples_shows_itself() -> None:
    examples = arithmetic_examples([3, 4], 30)
    frame = examples.to_frame()
    assert len(frame) == 60 and list(frame["text"]) == list(examples.texts)
    assert (frame["tokens"] == [len(row) for row in examples.sequences]).all()
    lines = repr(examples).splitlines()
    assert len(lines) == 3 and lines[0] == "ArithmeticExamples modulo 11: 30 of 3, 30 of 4 operands"
    assert examples.texts[0] in examples._repr_html_()
    assert isinstance(examples, ArithmeticExamples)
