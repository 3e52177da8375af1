"""Accuracy is that of greedy reading from the first "=" on, whichever way it is come by."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.lime.arithmetic import (
    ArithmeticAccuracy,
    ArithmeticExamples,
    arithmetic_accuracy,
    arithmetic_examples,
)
from tests.lime.arithmetic.worked import Scripted, oracle

CFG: dict[str, Any] = {
    "n_layers": 1,
    "d_model": 16,
    "n_heads": 2,
    "d_head": 8,
    "n_ctx": 30,
    "d_mlp": 32,
    "d_vocab": 20,
    "act_fn": "relu",
    "positional_embedding_type": "rotary",
    "rotary_dim": 8,
    "seed": 0,
}


@pytest.fixture(scope="module")
def examples() -> ArithmeticExamples:
    return arithmetic_examples([2, 3, 4], 12, seed=1)


@pytest.fixture(scope="module")
def half_trained() -> TransformerBridge:
    """A model that has learnt some of the task: it does small sums with and without mistakes, in chains of many lengths."""
    model = TransformerBridge.boot_native(dict(CFG))
    train = arithmetic_examples([2, 3], 400, modulus=11)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(12):
        for tokens in train.tokens:
            logits = model(tokens, return_type="logits")[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@pytest.mark.parametrize("shortcut", [True, False])
def test_an_oracle_is_always_right(examples: ArithmeticExamples, shortcut: bool) -> None:
    found = arithmetic_accuracy(oracle(examples), examples, batch_size=7, shortcut=shortcut)
    assert found.answer_right.all() and found.chain_right.all()
    assert found.texts == tuple(text + "<end>" for text in examples.texts)


@pytest.mark.parametrize("shortcut", [True, False])
def test_a_model_that_writes_one_number_forever_is_never_right(
    examples: ArithmeticExamples, shortcut: bool
) -> None:
    found = arithmetic_accuracy(Scripted(lambda row: 3, 20), examples, shortcut=shortcut)
    assert not found.answer_right.any() and not found.chain_right.any()
    assert all(text.endswith("33") for text in found.texts)


def test_a_model_that_guesses_one_answer_is_right_where_that_is_the_answer() -> None:
    examples = arithmetic_examples(4, 600, seed=4)
    vocabulary = examples.vocabulary
    guess = Scripted(lambda row: 0 if row[-1] == vocabulary.equals else vocabulary.end, vocabulary.size)
    found = arithmetic_accuracy(guess, examples)
    assert torch.equal(found.answer_right, examples.answers == 0)
    assert not found.chain_right.any()
    assert 0.04 < found.accuracy().value < 0.2


@pytest.mark.parametrize("shortcut", [True, False])
def test_one_wrong_token_makes_that_chain_wrong_and_no_other(
    examples: ArithmeticExamples, shortcut: bool
) -> None:
    lengths = [len(row) for row in examples.sequences]
    answers = examples.answers.tolist()
    prompts = examples.prompt_lengths.tolist()
    mistakes = {5: lengths[5] - 2, 20: prompts[20]}  # at the answer; right after the first "="
    assert answers[5] != 0 and answers[20] != 0 and examples.sequences[20][prompts[20]] != 0
    found = arithmetic_accuracy(oracle(examples, mistakes), examples, shortcut=shortcut)
    wrong = torch.zeros(len(examples), dtype=torch.bool)
    wrong[[5, 20]] = True
    assert torch.equal(found.answer_right, ~wrong) and torch.equal(found.chain_right, ~wrong)


@pytest.mark.parametrize("shortcut", [True, False])
def test_a_right_answer_come_by_otherwise_counts_as_answer_but_not_as_chain(shortcut: bool) -> None:
    examples = arithmetic_examples(3, 4, seed=3)
    vocabulary = examples.vocabulary
    by_prompt = {
        tuple(row[:length]): row[-2]
        for row, length in zip(
            [s.tolist() for s in examples.sequences], examples.prompt_lengths.tolist(), strict=True
        )
    }

    def at_once(row: list[int]) -> int:
        return by_prompt.get(tuple(row), vocabulary.end)

    found = arithmetic_accuracy(Scripted(at_once, vocabulary.size), examples, shortcut=shortcut)
    assert found.answer_right.all() and not found.chain_right.any()


def test_the_shortcut_gives_what_plain_generation_gives(half_trained: TransformerBridge) -> None:
    examples = arithmetic_examples([2, 3, 4], 60, seed=9)
    quick, plain = (
        arithmetic_accuracy(half_trained, examples, batch_size=16, shortcut=s) for s in (True, False)
    )
    assert quick.texts == plain.texts
    assert torch.equal(quick.answer_right, plain.answer_right)
    assert torch.equal(quick.chain_right, plain.chain_right)
    assert 0 < quick.answer_right.sum() < 180  # some of both, or nothing is compared


def test_texts_are_those_of_a_loop_over_single_tokens(half_trained: TransformerBridge) -> None:
    examples = arithmetic_examples(3, 10, seed=9)
    found = arithmetic_accuracy(half_trained, examples, batch_size=4)
    vocabulary = examples.vocabulary
    for text, row, length in zip(
        found.texts, examples.sequences, examples.prompt_lengths.tolist(), strict=True
    ):
        own = row[:length].tolist()
        while own[-1] != vocabulary.end and len(own) < 15:
            own.append(int(half_trained(torch.tensor([own]), return_type="logits")[0, -1].argmax()))
        assert text == vocabulary.decode(own[1:])


def test_every_kind_of_model_is_measured(any_model: Any) -> None:
    examples = arithmetic_examples(3, 6, seed=2)
    quick, plain = (arithmetic_accuracy(any_model, examples, shortcut=s) for s in (True, False))
    assert quick.texts == plain.texts and len(quick.texts) == 6


def test_the_shortcut_reads_each_text_of_an_oracle_once(examples: ArithmeticExamples) -> None:
    model = oracle(examples)
    arithmetic_accuracy(model, examples)
    assert model.rows_read == len(examples)


def test_the_model_is_left_in_training_if_it_was(
    examples: ArithmeticExamples, half_trained: TransformerBridge
) -> None:
    half_trained.train()
    arithmetic_accuracy(half_trained, examples)
    assert half_trained.training
    half_trained.eval()


def test_a_model_that_cannot_read_the_task_is_refused(examples: ArithmeticExamples) -> None:
    small = TransformerBridge.boot_native(CFG | {"d_vocab": 19})
    with pytest.raises(
        ValueError, match="d_vocab is 19, fewer than the 20 tokens of the examples' vocabulary"
    ):
        arithmetic_accuracy(small, examples)
    short = TransformerBridge.boot_native(CFG | {"n_ctx": 26})
    with pytest.raises(
        ValueError, match="n_ctx is 26, fewer than the 27 tokens that the longest steps can have"
    ):
        arithmetic_accuracy(short, examples)


def test_arguments_out_of_range_and_NaN_are_refused(examples: ArithmeticExamples) -> None:
    model = oracle(examples)
    with pytest.raises(ValueError, match=r"arithmetic_accuracy.batch_size = 0 is out of range"):
        arithmetic_accuracy(model, examples, batch_size=0)
    with pytest.raises(ValueError, match="shortcut = 1. Give True or False"):
        arithmetic_accuracy(model, examples, shortcut=1)  # type: ignore[arg-type]

    class Broken(Scripted):
        def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super().forward(*args, **kwargs) * float("nan")

    with pytest.raises(ValueError, match="gave logits that are NaN or infinite"):
        arithmetic_accuracy(Broken(lambda row: 0, 20), examples)


@pytest.fixture
def accuracy() -> ArithmeticAccuracy:
    """Of 2 operands, 3 of 4 answers right; of 3, 1 of 2. Chains: 2 of 4, and none."""
    return ArithmeticAccuracy(
        answer_right=torch.tensor([True, True, True, False, True, False]),
        chain_right=torch.tensor([True, True, False, False, False, False]),
        n_operands=torch.tensor([2, 2, 2, 2, 3, 3]),
        texts=("1+1=2<end>",) * 6,
        provenance={"tokens_sha256": {"length 7": "a"}, "examples": {"modulus": 11}},
    )


def test_shares_are_those_counted_by_hand(accuracy: ArithmeticAccuracy) -> None:
    assert accuracy.accuracy(2).value == 0.75 and accuracy.accuracy(3).value == 0.5
    assert accuracy.accuracy(of="chain").value == pytest.approx(2 / 6)
    assert {k: found.value for k, found in accuracy.by_operands("chain").items()} == {2: 0.5, 3: 0.0}
    found = accuracy.accuracy(2)
    assert found.low is not None and found.high is not None and found.low <= 0.75 <= found.high
    frame = accuracy.to_frame()
    assert frame["n"].tolist() == [4, 2] and frame["answer"].tolist() == [0.75, 0.5]


def test_a_difference_is_paired_by_expression(accuracy: ArithmeticAccuracy) -> None:
    other = ArithmeticAccuracy(
        torch.tensor([False, True, True, False, True, True]),
        accuracy.chain_right,
        accuracy.n_operands,
        accuracy.texts,
        accuracy.provenance,
    )
    assert accuracy.minus(other, 2).value == 0.25 and accuracy.minus(other).value == 0.0
    same = accuracy.minus(accuracy)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_difference_from_other_expressions_is_refused(accuracy: ArithmeticAccuracy) -> None:
    other = ArithmeticAccuracy(
        accuracy.answer_right,
        accuracy.chain_right,
        accuracy.n_operands,
        accuracy.texts,
        {"tokens_sha256": {"length 7": "b"}, "examples": {"modulus": 11}},
    )
    with pytest.raises(ValueError, match="on other expressions, which cannot be paired"):
        accuracy.minus(other)


def test_an_operand_count_or_name_that_is_not_there_is_refused(accuracy: ArithmeticAccuracy) -> None:
    with pytest.raises(ValueError, match="asked for 6 operands, but has 2, 3"):
        accuracy.accuracy(6)
    with pytest.raises(ValueError, match="asked for 'steps'. Give 'answer' or 'chain'"):
        accuracy.accuracy(of="steps")  # type: ignore[arg-type]


def test_ArithmeticAccuracy_is_saved_and_shown(accuracy: ArithmeticAccuracy, tmp_path: Path) -> None:
    accuracy.save(tmp_path / "accuracy.json")
    loaded = ArithmeticAccuracy.load(tmp_path / "accuracy.json")
    assert torch.equal(loaded.answer_right, accuracy.answer_right)
    assert loaded.texts == accuracy.texts and loaded.provenance == accuracy.provenance
    assert repr(loaded) == repr(accuracy) and len(repr(accuracy).splitlines()) == 3
    assert "2: 0.750, 3: 0.500" in repr(accuracy) and "<table" in accuracy._repr_html_()
    figure = accuracy.plot()
    assert [trace.name for trace in figure.data] == ["the answer is right", "every step is right"]
    assert list(figure.data[0].y) == [0.75, 0.5]
    (tmp_path / "accuracy.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a ArithmeticAccuracy that this version can read"):
        ArithmeticAccuracy.load(tmp_path / "accuracy.json")
