"""What is read and what counts, and what is refused."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sae_lens_ext.lime.training.token_groups import IGNORED, groups_hash, split_validation, token_groups

MODEL: Any = SimpleNamespace(cfg=SimpleNamespace(n_ctx=4, d_vocab=10))
TOKENS = torch.tensor([[1, 2, 3], [4, 5, 6]])
MASK = torch.tensor([[True, False, True], [False, True, False]])


def groups(tokens: Any, loss_mask: Any = None):
    return token_groups("train_language_model", MODEL, tokens, loss_mask)


def test_each_position_has_the_next_token_as_its_target():
    (group,) = groups(TOKENS)

    assert group.targets.tolist() == [[2, 3, IGNORED], [5, 6, IGNORED]]
    assert group.counts.tolist() == [2, 2]


def test_a_mask_says_of_which_tokens_the_prediction_counts_and_the_first_never_does():
    (group,) = groups(TOKENS, MASK)

    assert group.targets.tolist() == [[IGNORED, 3, IGNORED], [5, IGNORED, IGNORED]]
    assert group.counts.tolist() == [1, 1]


def test_groups_of_other_lengths_stay_apart_and_are_copies():
    given = [TOKENS.clone(), torch.tensor([[1, 2]], dtype=torch.int32)]
    found = groups(given)
    given[0][:] = 0

    assert [group.tokens.tolist() for group in found] == [TOKENS.tolist(), [[1, 2]]]
    assert found[1].tokens.dtype == torch.int64


def test_the_hash_tells_tokens_masks_and_shapes_apart():
    hashes = {
        groups_hash(groups(*given))
        for given in [
            (TOKENS,),
            (TOKENS, MASK),
            (TOKENS.flip(0),),
            (TOKENS.reshape(3, 2),),
            ([TOKENS, TOKENS],),
        ]
    }

    assert len(hashes) == 5


def test_validation_is_tokens_or_a_pair_with_a_mask():
    for given, expected in [
        (TOKENS, (TOKENS, None)),
        ((TOKENS, MASK), (TOKENS, MASK)),
        ((TOKENS, None), (TOKENS, None)),
        ((TOKENS, TOKENS), ((TOKENS, TOKENS), None)),
        (([TOKENS], [MASK]), ([TOKENS], [MASK])),
    ]:
        found = split_validation("train_language_model", given)
        assert all(
            a is b or all(x is y for x, y in zip(a, b, strict=True))
            for a, b in zip(found, expected, strict=True)
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("a text",), r"was given str as tokens\. Give an integer tensor \[n, t\]"),
        (([],), r"was given list as tokens\. Give an integer tensor"),
        ((TOKENS[0],), r"was given Tensor of shape \[3\] in tokens\. Give an integer tensor"),
        (([[1, 2]],), r"was given list in tokens\. Give an integer tensor"),
        ((TOKENS[:0],), r"Tensor of shape \[0, 3\] in tokens"),
        ((TOKENS.float(),), r"tokens of dtype torch\.float32\. Give token ids, int64"),
        ((MASK,), r"tokens of dtype torch\.bool\. Give token ids"),
        ((TOKENS[:, :1],), "of one token each, of which there is nothing to predict"),
        ((torch.zeros(1, 5, dtype=torch.long),), "of 5 tokens a sequence, but this model reads 4"),
        ((torch.tensor([[1, 10]]),), r"the token id 10\. This model's vocabulary has the ids 0 to 9"),
        ((torch.tensor([[-1, 3]]),), r"the token id -1\. This model's vocabulary has the ids 0 to 9"),
        ((TOKENS, MASK[:1]), r"tokens of the shapes \[2, 3\] and a loss mask of \[1, 3\]\. Give a mask"),
        (([TOKENS], [MASK, MASK]), r"shapes \[2, 3\] and a loss mask of \[2, 3\], \[2, 3\]"),
        ((TOKENS, MASK.long()), r"a loss mask of dtype torch\.int64\. Give bool"),
        ((TOKENS, True), "was given bool as the loss mask of tokens"),
        (
            (TOKENS, torch.tensor([[True, True, True], [True, False, False]])),
            r"a sequence \(number 1 of its group\) none of whose predictions counts",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(given: Any, message: str):
    with pytest.raises(ValueError, match=message):
        groups(*given)


def test_a_mask_alone_is_no_validation():
    with pytest.raises(ValueError, match="was given a mask as validation"):
        split_validation("train_language_model", MASK)
