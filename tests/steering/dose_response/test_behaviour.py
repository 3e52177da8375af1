"""A behaviour is a number from 0 to 1; words are counted whole and in any case."""

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.steering.dose_response.behaviour import (
    behaviour_name,
    presence_of_words,
    score_completion,
    share_of_words,
)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("The SEA and the ship.", 2 / 5),
        ("sea, sea; Sea!", 1.0),
        ("a season overseas", 0.0),
        ("the ship's sea-side", 1 / 4),  # "ship's" is one word, "sea-side" two
        ("the sailor’s hat", 1 / 3),
        ("", 0.0),
        (" ... !", 0.0),
    ],
)
def test_share_of_words_counts_whole_words_in_any_case(text: str, share: float) -> None:
    behaviour = share_of_words(["Sea", "ship", "sailor's"])
    assert behaviour(text) == share
    assert presence_of_words(["Sea", "ship", "sailor's"])(text) == float(share > 0)


@given(st.lists(st.sampled_from(["sea", "ship", "land", "hill"])))
def test_share_of_words_is_the_share(words: list[str]) -> None:
    expected = sum(word in ("sea", "ship") for word in words) / max(1, len(words))
    assert share_of_words(["sea", "ship"])(", ".join(words)) == expected


def test_a_behaviour_says_what_it_is() -> None:
    assert repr(share_of_words(["b", "A", "a"])) == "share_of_words(['a', 'b'])"
    assert repr(presence_of_words(("x",))) == "presence_of_words(['x'])"


@pytest.mark.parametrize("words", ["sea", [], ["two words"], [""], ["sea-side"], ["sea!"], [3]])
def test_a_word_list_that_can_never_match_is_refused(words: Any) -> None:
    for make in (share_of_words, presence_of_words):
        with pytest.raises(ValueError, match=f"{make.__name__} was given "):
            make(words)


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan"), "yes", None, float("inf")])
def test_a_behaviour_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(
        ValueError, match=r"The behaviour gave .* for the completion 'a text'. Give a function"
    ):
        score_completion(lambda _: value, "a text")


def test_a_behaviour_may_give_any_kind_of_number() -> None:
    assert [score_completion(lambda _, v=v: v, "") for v in (True, 1, torch.tensor(0.5))] == [1.0, 1.0, 0.5]


def of_length(text: str, most: int = 100) -> float:
    return min(len(text), most) / most


class WithoutRepr:
    def __call__(self, text: str) -> float:
        return 0.0

    def score(self, text: str) -> float:
        return 0.0


@dataclass
class WithRepr:
    most: int

    def __call__(self, text: str) -> float:
        return 0.0


def test_a_behaviour_is_named_equally_in_every_run() -> None:
    here = __name__
    assert behaviour_name(of_length) == f"{here}.of_length"
    assert behaviour_name(share_of_words(["a"])) == "share_of_words(['a'])"
    assert behaviour_name(WithoutRepr()) == f"{here}.WithoutRepr"
    assert behaviour_name(WithoutRepr().score) == f"{here}.WithoutRepr.score"
    assert behaviour_name(WithRepr(3)) == "WithRepr(most=3)"
    assert behaviour_name(functools.partial(of_length, most=7)) == f"partial({here}.of_length, most=7)"
    one = lambda _: 0.0  # noqa: E731
    other = lambda _: 1.0  # noqa: E731
    assert " at 0x" not in behaviour_name(one) and ".<lambda> (line " in behaviour_name(one)
    assert behaviour_name(one) != behaviour_name(other)
