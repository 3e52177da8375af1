from typing import Any

import numpy as np
import pytest
import torch

from sae_lens_ext.steering.sequences import Sequences, as_sequences, padded_batches
from tests.conftest import CONTEXT, VOCABULARY


def _sequences() -> Sequences:
    return Sequences(tuple(torch.arange(1, 1 + n) for n in (5, 2, 7, 5, 3)), (2, 1, 2, 1, 2))


def test_Sequences_counts_the_tokens_after_each_prompt():
    assert _sequences().generated == (3, 1, 5, 4, 1)
    assert len(_sequences()) == 5


def test_Sequences_copies_what_it_is_given():
    ids = torch.tensor([1, 2, 3])
    found = Sequences((ids,), (1,))
    ids[0] = 9
    assert found.tokens[0].tolist() == [1, 2, 3]


def test_Sequences_reads_any_integers_as_int64_on_the_cpu():
    found = Sequences((torch.tensor([1, 2], dtype=torch.int32), [3, 4]), (1, 1))  # type: ignore[arg-type]
    assert [one.dtype for one in found.tokens] == [torch.int64, torch.int64]


def test_Sequences_joined_puts_prompts_and_completions_together():
    found = Sequences.joined([[0, 4], torch.tensor([0])], [[5, 6], []])
    assert [one.tolist() for one in found.tokens] == [[0, 4, 5, 6], [0]]
    assert found.prompt_lengths == (2, 1)
    assert found.generated == (2, 0)


def test_Sequences_digest_is_of_ids_and_of_where_the_prompt_ends():
    digest = Sequences(([1, 2, 3],), (1,)).digest  # type: ignore[arg-type]
    assert digest == Sequences(([1, 2, 3],), (1,)).digest  # type: ignore[arg-type]
    assert digest != Sequences(([1, 2, 3],), (2,)).digest  # type: ignore[arg-type]
    assert digest != Sequences(([1, 2, 4],), (1,)).digest  # type: ignore[arg-type]


def test_Sequences_shows_its_size():
    assert repr(_sequences()) == "Sequences: 5 of 2 to 7 tokens, 8 of prompts and 14 generated"


@pytest.mark.parametrize(
    ("tokens", "prompts", "said"),
    [
        ((), (), "was given no sequence"),
        (([1, 2],), (1, 1), r"1 sequences of tokens and 2 prompt lengths. Give one prompt length for each"),
        (([1, 2],), 1, "the prompt length 1. Give one prompt length for each"),
        (([1, 2],), (0,), "prompt length 0 in row 0, which has 2 tokens. Give a whole number from 1 to 2"),
        (([1, 2], [1, 2]), (1, 3), "prompt length 3 in row 1, which has 2 tokens"),
        (([1, 2],), (True,), "prompt length True in row 0"),
        (([1, 2], []), (1, 1), "no token in row 1. Leave the row out"),
        (([1, -1],), (1,), "the token id -1 in row 0. Ids count from 0"),
        ((torch.tensor([1.0]),), (1,), r"was given \(1,\), torch.float32 in row 0. Give token ids \[pos\]"),
        ((torch.ones(1, 2, dtype=torch.int64),), (1,), r"was given \(1, 2\), torch.int64 in row 0"),
        (("ab",), (1,), "was given str in row 0"),
    ],
)
def test_Sequences_refuses_what_is_none(tokens: Any, prompts: Any, said: str):
    with pytest.raises(ValueError, match=said):
        Sequences(tokens, prompts)


def test_Sequences_joined_refuses_a_completion_too_few():
    with pytest.raises(ValueError, match="2 prompts and 1 completions. Give a completion for each prompt"):
        Sequences.joined([[1], [2]], [[3]])


def test_as_sequences_of_ids_counts_the_first_token_as_prompt(any_model: Any, tokens: torch.Tensor):
    found = as_sequences("reading", any_model, tokens)
    assert found.prompt_lengths == (1,) * 4
    assert torch.equal(torch.stack(found.tokens), tokens)


def test_as_sequences_gives_sequences_as_they_are(any_model: Any):
    given = _sequences()
    assert as_sequences("reading", any_model, given) is given


def test_as_sequences_of_texts_puts_bos_first(any_model: Any):
    found = as_sequences("reading", any_model, ["w0 w1", "w2"])
    assert [one.tolist() for one in found.tokens] == [[0, 2, 3], [0, 4]]
    assert found.prompt_lengths == (1, 1)


def test_as_sequences_of_pairs_tokenises_each_text_for_itself(any_model: Any):
    found = as_sequences("reading", any_model, [("w0 w1", "w2 w3"), ["w4", ""], ("", "w5")])
    assert [one.tolist() for one in found.tokens] == [[0, 2, 3, 4, 5], [0, 6], [0, 7]]
    assert found.prompt_lengths == (3, 2, 1)
    assert found.generated == (2, 0, 1)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("w0 w1", r"reading was given one string, 'w0 w1'. Give a list of texts, such as \['w0 w1'\]"),
        ([], "reading was given an empty list. Give token ids"),
        (7, "reading was given int. Give token ids"),
        (["w0", ""], "reading was given an empty text in row 1. Leave it out"),
        (["w0", ("w0", "w1")], r"reading was given 'w0' in row 0. Give token ids \[batch, pos\]"),
        ([("w0", "w1", "w2")], r"\('w0', 'w1', 'w2'\) in row 0"),
        (torch.ones(2, 3), r"a tensor \(2, 3\), torch.float32. Give token ids"),
        (torch.ones(3, dtype=torch.int64), r"a tensor \(3,\), torch.int64"),
        (torch.ones(0, 3, dtype=torch.int64), r"a tensor \(0, 3\), torch.int64"),
        (torch.full((1, 2), len(VOCABULARY)), "the token id 32 in row 0, but this model's vocabulary has 32"),
        (
            torch.ones(1, CONTEXT + 1, dtype=torch.int64),
            "reading was given 17 tokens in row 0, but this model reads 16. Give at most 16 tokens",
        ),
    ],
)
def test_as_sequences_refuses_what_the_model_cannot_read(hooked_model: Any, value: Any, said: str):
    with pytest.raises(ValueError, match=said):
        as_sequences("reading", hooked_model, value)


def test_as_sequences_of_texts_needs_a_tokenizer(hooked_model: Any):
    hooked_model.tokenizer = None
    with pytest.raises(
        ValueError, match="was given texts, but the model has no tokenizer. Set model.tokenizer"
    ):
        as_sequences("reading", hooked_model, ["w0"])


def test_as_sequences_refuses_an_empty_prompt_without_bos(hooked_model: Any):
    hooked_model.tokenizer.bos_token = None
    with pytest.raises(ValueError, match="an empty prompt in row 0, and the tokenizer has no BOS"):
        as_sequences("reading", hooked_model, [("", "w0")])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 99])
def test_padded_batches_give_every_sequence_once_padded_on_the_right(batch_size: int):
    given, seen = _sequences(), list[int]()
    for rows, ids, real in padded_batches(given, batch_size, "cpu"):
        assert len(rows) <= batch_size
        assert ids.shape == real.shape
        for row, line, mask in zip(rows, ids, real, strict=True):
            n = len(given.tokens[row])
            assert torch.equal(line[:n], given.tokens[row])
            assert not line[n:].any()
            assert mask.tolist() == [True] * n + [False] * (len(line) - n)
        seen += rows
    assert sorted(seen) == list(range(5))


def test_padded_batches_are_sorted_by_length():
    lengths = [ids.shape[1] for _, ids, _ in padded_batches(_sequences(), 2, "cpu")]
    assert lengths == [3, 5, 7]


def test_padded_batches_of_some_rows_keep_their_numbers():
    assert [rows for rows, _, _ in padded_batches(_sequences(), 2, "cpu", rows=[0, 1, 4])] == [[1, 4], [0]]


def test_padded_batches_can_keep_prompts_of_other_lengths_apart():
    given = _sequences()
    for rows, _, _ in padded_batches(given, 99, "cpu", same_prompt_length=True):
        assert len({given.prompt_lengths[row] for row in rows}) == 1


def test_padded_batches_refuse_an_empty_batch():
    with pytest.raises(ValueError, match="padded_batches.batch_size = 0 is out of range"):
        list(padded_batches(_sequences(), 0, "cpu"))


def test_padding_on_the_right_changes_no_logits(any_model: Any, tokens: torch.Tensor):
    given = Sequences(tuple(tokens[i, :n] for i, n in enumerate((4, 9, 16, 6))), (1, 2, 3, 4))
    for rows, ids, real in padded_batches(given, 4, "cpu"):
        with torch.no_grad():
            together = any_model(ids, return_type="logits")
            for i, row in enumerate(rows):
                alone = any_model(given.tokens[row][None], return_type="logits")[0]
                torch.testing.assert_close(together[i][real[i]], alone, rtol=1e-5, atol=1e-5)


def test_slices_are_sequences_and_nothing_else_is() -> None:
    whole = Sequences((torch.tensor([1, 2]), torch.tensor([3, 4, 5]), torch.tensor([6])), (1, 2, 1))
    some = whole[1:]
    assert [one.tolist() for one in some.tokens] == [[3, 4, 5], [6]]
    assert some.prompt_lengths == (2, 1)
    for wanted in (0, slice(3, None)):
        with pytest.raises(ValueError, match="Give a slice that holds some"):
            whole[wanted]  # pyright: ignore[reportArgumentType]


def test_completions_of_one_prompt_belong_together() -> None:
    whole = Sequences.joined([[0, 5], [0, 6], [0, 5], [0], [0]], [[1], [2], [3], [4], [4]])
    assert whole.prompt_of == (0, 1, 0, 2, 3)


def test_arrays_of_numpy_are_ids() -> None:
    whole = Sequences.joined([np.array([0, 5])], [np.array([], dtype=np.int64)])
    assert whole.tokens[0].tolist() == [0, 5]
