import re
from dataclasses import replace

import pytest
import torch

from sae_lens_ext.steering.reading.token_shift import Shifts, TokenShift
from sae_lens_ext.steering.reading.token_shift.strip import limit, named_tokens, visible
from sae_lens_ext.steering.sequences import Sequences

TEXTS = ("<|bos|>", 'say "<script>"\n', " To", "a&b", "\n\n", "   ")


@pytest.fixture
def result() -> TokenShift:
    """One text of four tokens: the likelier, the less likely, the unchanged, and a little likelier one."""
    n = 4
    shifts = Shifts(
        row=torch.zeros(n, dtype=torch.int64),
        offset=torch.arange(n),
        token=torch.tensor([2, 3, 4, 5]),
        token_delta=torch.tensor([0.4, -0.2, 0.0, 0.1]),
        token_p_base=torch.tensor([0.1, 0.5, 0.3, 0.2]),
        boosted=torch.tensor([[2, 3], [2, -1], [-1, -1], [2, 5]]),
        boosted_delta=torch.tensor([[0.4, 0.2], [0.2, 0.0], [0.0, 0.0], [0.3, 0.1]]),
        boosted_p_base=torch.tensor([[0.1, 0.1], [0.2, float("nan")], [float("nan")] * 2, [0.2, 0.2]]),
        base_top=torch.tensor([3, 3, 4, 3]),
        kl=torch.tensor([1.0, 0.5, 0.0, 0.2]),
        total_variation=torch.tensor([0.5, 0.3, 0.0, 0.3]),
    )
    sequences = Sequences.joined([[0, 1]], [[2, 3, 4, 5]])
    return TokenShift(
        shifts, sequences, dict(enumerate(TEXTS)), provenance={"model_name": "<toy>", "hook_names": ["h.1"]}
    )


def _grounds(page: str) -> list[tuple[int, ...]]:
    found = re.findall(r'<b[^>]*style="background: rgb\((\d+), (\d+), (\d+)\)" title', page)
    return [tuple(map(int, one)) for one in found]


def test_strip_colours_each_token_by_its_delta(result: TokenShift):
    grounds = _grounds(result.strip_html(0))
    assert grounds[0] == (230, 138, 60)  # the largest of all, up
    assert grounds[1] == (170, 208, 238)  # half of it, down: halfway between white and blue
    assert grounds[2] == (255, 255, 255)
    assert grounds[3] == (249, 226, 206)  # a quarter, up


def test_strip_scale_is_that_of_all_texts(result: TokenShift):
    assert limit(result) == pytest.approx(0.4)
    unchanged = replace(result, shifts=replace(result.shifts, token_delta=torch.zeros(4)))
    assert limit(unchanged) > 0
    assert _grounds(unchanged.strip_html(0)) == [(255, 255, 255)] * 4


def test_strip_escapes_text_and_shows_what_is_not_seen(result: TokenShift):
    page = result.strip_html(0)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<i>·</i>To</b>" in page
    assert ">a&amp;b</b>" in page
    assert "<i>↵</i><i>↵</i></b>\n\n" in page
    assert "<i>·</i><i>·</i><i>·</i></b>" in page
    assert "&lt;toy&gt;" in page


def test_strip_underlines_tokens_that_are_the_most_boosted(result: TokenShift):
    assert [token.is_boosted for token in named_tokens(result, 0)] == [True, False, False, False]
    assert result.strip_html(0).count('<b class="boosted"') == 1


def test_strip_says_of_each_token_what_was_boosted(result: TokenShift):
    page = result.strip_html(0)
    assert "p 0.100 → 0.500, Δp +0.400" in page
    assert "most boosted: ·To +0.400 (0.100 → 0.500); a&amp;b +0.200 (0.100 → 0.300)" in page
    assert "most boosted: none" in page


def test_strip_is_one_page_that_loads_nothing(result: TokenShift):
    page = result.strip_html(0)
    assert page.startswith("<!doctype html>")
    assert "http" not in page and "src=" not in page and "<script" not in page
    assert "linear-gradient" in page and "−0.4" in page and "+0.4" in page


def test_strip_shows_the_end_of_a_long_prompt(result: TokenShift, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sae_lens_ext.steering.reading.token_shift.strip._PROMPT_TOKENS", 1)
    page = result.strip_html(0)
    assert "… say" in page
    assert "bos" not in page


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" To", "·To"),
        ("a b", "a b"),
        ("  ", "··"),
        ("\n", "↵"),
        ("\t", "⇥"),
        ("\x1b", "␛"),
        ("", "∅"),
        ("x ", "x·"),
    ],
)
def test_visible_marks_what_is_not_seen(token: str, shown: str):
    assert visible(token) == shown
