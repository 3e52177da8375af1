"""Every number is one token; division multiplies with the inverse."""

import pytest

from sae_lens_ext.lime.arithmetic import ArithmeticVocabulary


def test_modulo_11_there_are_20_tokens() -> None:
    vocabulary = ArithmeticVocabulary()
    assert vocabulary.size == len(vocabulary.symbols) == len(set(vocabulary.symbols)) == 20
    assert vocabulary.decode([19, 15, 10, 12, 3, 16, 13, 2, 17, 3, 18]) == "<bos>(10−3)×2=3<end>"
    ids = (vocabulary.opening, vocabulary.closing, vocabulary.equals, vocabulary.end, vocabulary.bos)
    assert [vocabulary.symbols[i] for i in ids] == ["(", ")", "=", "<end>", "<bos>"]
    assert [vocabulary.symbols[i] for i in vocabulary.operators] == ["+", "−", "×", "÷"]


def test_a_token_that_is_none_of_these_is_shown_as_such() -> None:
    assert ArithmeticVocabulary(5).decode([4, 14, 40]) == "4??"


def test_results_modulo_5_are_those_worked_by_hand() -> None:
    plus, minus, times, divided = ArithmeticVocabulary(5).results()
    assert (plus[3, 4], minus[1, 3], times[3, 4]) == (2, 3, 2)
    assert divided[1].tolist() == [-1, 1, 3, 2, 4]  # 2 · 3 = 3 · 2 = 4 · 4 = 1 modulo 5
    assert (divided[:, 0] == -1).all()


@pytest.mark.parametrize("modulus", [2, 7, 11, 13])
def test_division_undoes_multiplication(modulus: int) -> None:
    _, _, times, divided = ArithmeticVocabulary(modulus).results()
    for a in range(modulus):
        for b in range(1, modulus):
            assert divided[times[a, b], b] == a


@pytest.mark.parametrize("modulus", [10, 1, 0, -3, 9, True, 11.0, "11"])
def test_a_modulus_that_is_no_prime_is_refused(modulus) -> None:
    with pytest.raises(ValueError, match="which is not a prime.*Give a prime, such as 11"):
        ArithmeticVocabulary(modulus)
