"""The last number of a completion: what is one, with which sign, and how it is compared."""

import pickle
import re
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.steering.rewards import LastNumberEquals
from sae_lens_ext.steering.rewards.numbers import as_number, last_number

QUESTION = "2 + 3 ="


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", "5"),
        ("The answer is 5.", "5"),
        ("It is 5, not 6, I mean 7!", "7"),
        ("1.0", "1"),
        ("3.50 euros", "3.5"),
        (".5", "0.5"),
        ("it is...5", "5"),
        ("1,234", "1234"),
        ("1,234,567.25.", "1234567.25"),
        ("1,2", "2"),
        ("1, 234", "234"),
        ("1,23", "23"),
        ("1,2345", "2345"),
        ("1234,567", "567"),
        ("100,200", "100200"),
        ("-3", "-3"),
        ("= -3.", "-3"),
        ("\N{MINUS SIGN}3", "-3"),
        ("5-3", "3"),
        ("5\N{MINUS SIGN}3", "3"),
        ("5 - 3", "3"),
        ("5 -3", "-3"),
        ("x-3", "3"),
        ("(2)-3", "3"),
        (r"\frac{1}{2}-3", "3"),
        ("$-3$", "-3"),
        ("-$3", "-3"),
        ("$1,000", "1000"),
        ("+5", "5"),
        ("2*-3", "-3"),
        ("-0", "0"),
        ("007", "7"),
        ("50%", "50"),
        ("50 %-10", "10"),
        ("1/2", "2"),
        ("1e3", "1000"),
        ("2.5e-3", "0.0025"),
        ("1e\N{MINUS SIGN}2", "0.01"),
        ("2 eggs", "2"),
        ("x2", "2"),
        ("w1 w2", "2"),
        ("1.2.3", "3"),
        ("2024-05-06", "6"),
        ("#### 42\n", "42"),
        ("9" * 50 + ".5", "9" * 50 + ".5"),
    ],
)
def test_the_last_number_of_a_text(text: str, number: str) -> None:
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "five", "-", "...", "٣", ",,"])
def test_a_text_without_digits_has_no_number(text: str) -> None:
    assert last_number(text) is None


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (5, "5"),
        (-5, "-5"),
        (0.1, "0.1"),
        (1e-7, "0.0000001"),
        (1e22, "1" + "0" * 22),
        (Decimal("2.50"), "2.5"),
        (np.int64(7), "7"),
        (torch.tensor(8), "8"),
        (" 1,234 ", "1234"),
        ("\N{MINUS SIGN}2", "-2"),
        ("+2", "2"),
        ("$3", "3"),
    ],
)
def test_answers_are_read_exactly(answer: object, number: str) -> None:
    assert as_number(answer) == Decimal(number)


@pytest.mark.parametrize(
    "answer",
    ["", "five", "1/2", "5 apples", "5.", float("nan"), float("inf"), True, None, [5], Decimal("NaN"), "nan"],
)
def test_an_answer_that_is_not_one_number_is_refused(answer: object) -> None:
    with pytest.raises(
        ValueError, match=r"as the answer to '2 \+ 3 =', which is not one finite number. Give one"
    ):
        LastNumberEquals({QUESTION: answer})
    with pytest.raises(ValueError, match="which is not one finite number"):
        LastNumberEquals(lambda prompt: answer)(QUESTION, "5")


def test_LastNumberEquals_compares_with_the_answer_to_the_prompt() -> None:
    reward = LastNumberEquals({QUESTION: 5, "4 + 4 =": "8.0"})
    assert reward(QUESTION, " 5") == reward("4 + 4 =", "It is 4 + 4 = 8.") == 1.0
    assert reward(QUESTION, " 8") == reward("4 + 4 =", "5") == reward(QUESTION, "five") == 0.0
    assert reward(QUESTION, "5.0000") == 1.0 and reward(QUESTION, "5.0001") == 0.0
    assert isinstance(reward(QUESTION, "5"), float)


def test_LastNumberEquals_computes_answers_by_a_function() -> None:
    reward = LastNumberEquals(lambda prompt: sum(map(int, re.findall(r"\d+", prompt))))
    assert reward("2 + 3", "it is 5") == 1.0 and reward("10 + 3", "it is 5") == 0.0


def test_LastNumberEquals_reads_up_to_stop() -> None:
    completion = " 5\n4 + 4 = 8"
    assert LastNumberEquals({QUESTION: 5})(QUESTION, completion) == 0.0
    assert LastNumberEquals({QUESTION: 5}, stop="\n")(QUESTION, completion) == 1.0
    assert LastNumberEquals({QUESTION: 5}, stop="\n")(QUESTION, "\n5") == 0.0
    assert LastNumberEquals({QUESTION: 5}, stop="END")(QUESTION, "5") == 1.0


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ({}, "LastNumberEquals was given no answers"),
        ({3: 5}, "LastNumberEquals was given 3 as a prompt"),
        ([5], r"LastNumberEquals was given answers = \[5\]. Give a mapping"),
        (None, "LastNumberEquals was given answers = None"),
    ],
)
def test_LastNumberEquals_refuses_what_are_no_answers(answers: object, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        LastNumberEquals(answers)  # type: ignore[arg-type]


@pytest.mark.parametrize("stop", ["", 3])
def test_LastNumberEquals_refuses_what_cannot_end_a_text(stop: object) -> None:
    with pytest.raises(ValueError, match="LastNumberEquals was given stop = "):
        LastNumberEquals({QUESTION: 5}, stop=stop)  # type: ignore[arg-type]


def test_LastNumberEquals_says_which_prompt_has_no_answer() -> None:
    with pytest.raises(
        ValueError, match=r"has no answer to the prompt '3 \+ 3 =', only to 1 others. Give one"
    ):
        LastNumberEquals({QUESTION: 5})("3 + 3 =", "6")


def test_LastNumberEquals_keeps_its_own_answers_and_can_be_pickled() -> None:
    answers = {QUESTION: 5}
    reward = LastNumberEquals(answers)
    answers[QUESTION] = 6
    assert reward(QUESTION, "5") == 1.0 and answers == {QUESTION: 6}
    assert pickle.loads(pickle.dumps(reward)) == reward


def test_the_name_of_LastNumberEquals_tells_other_answers_apart_and_not_their_order() -> None:
    def name(answers: object, **others: object) -> str:
        return repr(LastNumberEquals(answers, **others))  # type: ignore[arg-type]

    first = name({"a": 1, "b": 2})
    assert re.fullmatch(r"LastNumberEquals\(2 answers, sha256 [0-9a-f]{12}, stop=None\)", first)
    assert first == name({"b": 2, "a": 1}) != name({"a": 1, "b": 3}) != name({"a": 1, "c": 2})
    assert name({"a": 1, "b": 2}, stop="\n") == first.replace("None", r"'\n'")
    assert "answer_of" in name(answer_of) and name(answer_of) == name(answer_of)


def answer_of(prompt: str) -> int:
    return len(prompt)


@given(st.text(), st.text(), st.sampled_from([None, "\n", "a"]))
def test_LastNumberEquals_scores_any_text(prompt: str, completion: str, stop: str | None) -> None:
    assert LastNumberEquals({prompt: 5}, stop=stop)(prompt, completion) in (0.0, 1.0)


@given(st.text(alphabet="0123456789,.-+$eE% ()\N{MINUS SIGN}"))
def test_LastNumberEquals_scores_any_text_that_looks_like_numbers(completion: str) -> None:
    assert LastNumberEquals({"": 5})("", completion) in (0.0, 1.0)


@given(
    st.text(alphabet="abc \n.,"), st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=3)
)
def test_a_number_written_last_is_found_as_python_and_people_write_it(
    before: str, number: int | Decimal
) -> None:
    kind = "f" if isinstance(number, Decimal) else "d"
    for written in (f"{number:{kind}}", f"{number:,{kind}}"):
        for end in ("", ".", "\n", " euros"):
            assert last_number(f"{before} {written}{end}") == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_answer_equals_itself_as_printed(number: float) -> None:
    assert LastNumberEquals({"": number})("", repr(number)) == 1.0
