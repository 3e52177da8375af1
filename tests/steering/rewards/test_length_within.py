"""How long a completion is, and whether that is right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.steering.rewards import LengthWithin


@pytest.mark.parametrize(
    ("text", "right"),
    [("a", 0.0), ("a b", 1.0), (" a  b\nc ", 1.0), ("a b c d", 0.0), ("", 0.0)],
)
def test_LengthWithin_counts_words_and_includes_both_ends(text: str, right: float) -> None:
    assert LengthWithin(2, 3)("one two", text) == right


def test_LengthWithin_counts_characters_without_the_white_space_around() -> None:
    reward = LengthWithin(3, 3, unit="characters")
    assert reward("", " a b\n") == reward("", "äöü") == 1.0
    assert reward("", "ab ") == reward("", "a  b") == 0.0


def test_LengthWithin_needs_one_limit_alone() -> None:
    assert LengthWithin(2)("", "a b " * 100) == 1.0 and LengthWithin(2)("", "a") == 0.0
    assert LengthWithin(0, 1)("", "") == 1.0 and LengthWithin(0, 0)("", "a") == 0.0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((3, 2), "minimum = 3 and maximum = 2, between which no length lies"),
        ((-1, 2), "between which no length lies"),
        ((1.5, 2), "minimum = 1.5 and maximum = 2. Give whole numbers"),
        ((1, 2.5), "Give whole numbers"),
        ((None, 2), "minimum = None and maximum = 2. Give whole numbers"),
        ((True, 2), "Give whole numbers"),
        ((0,), "no limit, so that every completion earns the reward"),
        ((1, 2, "tokens"), "unit = 'tokens'. Give one of 'words', 'characters'"),
    ],
)
def test_LengthWithin_refuses_what_limits_nothing(arguments: tuple[object, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        LengthWithin(*arguments)  # type: ignore[arg-type]


def test_LengthWithin_names_itself() -> None:
    assert (
        repr(LengthWithin(np.int64(2), 5)) == "LengthWithin(minimum=2, maximum=5, unit='words')"  # type: ignore[arg-type]
    )


@given(st.text(), st.integers(0, 5), st.integers(0, 5), st.sampled_from(["words", "characters"]))
def test_lengths_on_both_sides_of_a_limit_exclude_each_other(
    text: str, low: int, more: int, unit: str
) -> None:
    inside, above = LengthWithin(low, low + more, unit), LengthWithin(low + more + 1, None, unit)  # type: ignore[arg-type]
    below = LengthWithin(0, low - 1, unit)("", text) if low else 0.0  # type: ignore[arg-type]
    assert below + inside("", text) + above("", text) == 1.0
