"""When a regular expression counts as matching."""

import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.steering.rewards import MatchesPattern


def test_MatchesPattern_searches_or_matches_in_full() -> None:
    assert MatchesPattern(r"\d+")("", "about 5 apples") == 1.0
    assert MatchesPattern(r"\d+")("5", "none") == 0.0
    assert MatchesPattern(r"\d+", full=True)("", "about 5") == 0.0
    assert MatchesPattern(r"\d+", full=True)("", "55") == 1.0
    assert isinstance(MatchesPattern("a")("", "a"), float)


def test_MatchesPattern_takes_flags_of_its_own_or_of_a_compiled_pattern() -> None:
    assert MatchesPattern("YES")("", "yes") == 0.0
    assert MatchesPattern("YES", flags=re.IGNORECASE)("", "yes") == 1.0
    compiled = MatchesPattern(re.compile("Y.S", re.IGNORECASE), flags=re.DOTALL)
    assert compiled("", "y\ns") == 1.0 and compiled.pattern == "Y.S"
    assert compiled == MatchesPattern("Y.S", flags=re.I | re.S | re.U) and hash(compiled)


@pytest.mark.parametrize(
    ("pattern", "flags", "complaint"),
    [
        ("(", 0, r"the pattern '\(' with flags 0, which Python cannot compile: missing \)"),
        ("a", re.LOCALE, "which Python cannot compile"),
        ("a", "i", "which Python cannot compile"),
        (b"a", 0, "MatchesPattern was given pattern = b'a'. Give a regular expression as a text"),
        (re.compile(b"a"), 0, "Give a regular expression as a text"),
        (None, 0, "MatchesPattern was given pattern = None"),
    ],
)
def test_MatchesPattern_refuses_what_is_no_pattern(pattern: object, flags: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        MatchesPattern(pattern, flags=flags)  # type: ignore[arg-type]


def test_MatchesPattern_refuses_a_truth_value_that_is_none() -> None:
    with pytest.raises(ValueError, match="MatchesPattern was given full = 1"):
        MatchesPattern("a", full=1)  # type: ignore[arg-type]


def test_MatchesPattern_names_itself_and_can_be_pickled() -> None:
    reward = MatchesPattern(r"\d", full=True, flags=re.IGNORECASE)
    assert repr(reward) == r"MatchesPattern(pattern='\\d', full=True, flags=2)"
    assert pickle.loads(pickle.dumps(reward)) == reward


@given(st.text(), st.text(), st.booleans())
def test_MatchesPattern_scores_any_text_and_finds_it_in_itself(prompt: str, text: str, full: bool) -> None:
    assert MatchesPattern(r"\w+[.!]?", full=full)(prompt, text) in (0.0, 1.0)
    assert MatchesPattern(re.escape(text), full=full)(prompt, text) == 1.0
