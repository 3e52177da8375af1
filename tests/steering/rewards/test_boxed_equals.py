"""What is inside the last box, and when it counts as the answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.steering.rewards import BoxedEquals
from sae_lens_ext.steering.rewards.boxed_equals import last_boxed


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{5}", "5"),
        (r"so \boxed{3}, no: \boxed{5}.", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed {5}", "5"),
        ("\\boxed{a\nb}", "a\nb"),
        (r"\boxed{}", ""),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{a\\{b}}", r"a\\{b}"),
        (r"\boxed{5", None),
        (r"\boxed{5} \boxed{6", None),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed 5", None),
        ("boxed{5}", None),
        ("5", None),
        ("", None),
    ],
)
def test_what_is_inside_the_last_box(text: str, inside: str | None) -> None:
    assert last_boxed(text) == inside


def test_BoxedEquals_compares_letter_by_letter_without_what_is_around() -> None:
    reward = BoxedEquals({"half": r" $\frac{1}{2}$ ", "five": 5})
    assert reward("half", r"It is $\boxed{\frac{1}{2}}$.") == 1.0
    assert reward("half", r"\boxed{ $\frac{1}{2}$ }") == 1.0
    assert reward("five", r"\boxed{ 5 }") == reward("five", r"\boxed{$5$}") == 1.0
    assert reward("half", r"\boxed{\frac12}") == reward("five", r"\boxed{5.0}") == 0.0
    assert reward("five", r"\boxed{5") == reward("five", "5") == reward("five", r"\boxed{}") == 0.0


def test_BoxedEquals_computes_answers_by_a_function() -> None:
    reward = BoxedEquals(lambda prompt: len(prompt))
    assert reward("four", r"\boxed{4}") == 1.0 and reward("three", r"\boxed{4}") == 0.0


@pytest.mark.parametrize("answer", ["", " ", "$", 0.5, None, True, ["5"]])
def test_BoxedEquals_refuses_what_it_cannot_compare(answer: object) -> None:
    with pytest.raises(ValueError, match="as the answer to 'half', which it cannot compare letter by letter"):
        BoxedEquals({"half": answer})


def test_BoxedEquals_says_which_prompt_has_no_answer_and_names_itself() -> None:
    with pytest.raises(ValueError, match="BoxedEquals has no answer to the prompt 'third'"):
        BoxedEquals({"half": "1/2"})("third", r"\boxed{1/3}")
    assert repr(BoxedEquals({"half": "1/2"})).startswith("BoxedEquals(1 answers, sha256 ")
    assert repr(BoxedEquals({"half": "1/2"})) != repr(BoxedEquals({"half": "1/3"}))


@given(st.text() | st.text(alphabet=r"\{}boxed5$ ").map(lambda text: r"\boxed{" + text))
def test_BoxedEquals_scores_any_text(completion: str) -> None:
    assert BoxedEquals({"": 5})("", completion) in (0.0, 1.0)


@given(st.recursive(st.text(alphabet="ab5 +"), lambda inner: inner.map("{{{}}}".format)), st.text("ab}{ "))
def test_balanced_text_comes_out_of_a_box_as_it_went_in(inside: str, after: str) -> None:
    assert last_boxed(rf"x \boxed{{{inside}}}{after}") == inside
