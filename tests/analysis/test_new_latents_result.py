"""What a NewLatents makes of itself: a table, a file, a page."""

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sae_lens_ext.analysis.new_latents import SECTION_CSS, Context, LatentPair, LatentUse, NewLatents


@pytest.fixture
def result() -> NewLatents:
    """Three latents on two texts of seven tokens; the last never fires."""
    link = "https://neuronpedia.org/tiny/0-res/"
    third, never = {"a": 3 / 7, "b": 0.0}, {"a": 0.0, "b": 0.0}
    strong = Context("a", ("w0", "w1", "w2", "w3", "w4"), (0.0, 0.0, 3.0, 0.0, 1.0), 2)
    early = Context("b", ("<|endoftext|>", "w3", "w5", "w5"), (0.0, 5.0, 0.0, 0.0), 1)
    bases = (
        LatentUse(
            1,
            1,
            {"a": 1 / 7, "b": 1 / 7},
            2.0,
            (replace(strong, activations=(0, 2.0, 0, 0, 0), peak=1),),
            link + "1",
        ),
        LatentUse(0, 0, {"a": 2 / 7, "b": 1 / 7}, 5.0, (early,), link + "0"),
    )
    pairs = (
        LatentPair(LatentUse(0, 2, third, 3.0, (strong,), None), bases[0], 0.6),
        LatentPair(LatentUse(1, 3, {"a": 2 / 7, "b": 1 / 7}, 5.0, (early,), None), bases[1], 1.0),
        LatentPair(LatentUse(2, 4, never, 0.0, (), None), bases[0], -0.4),
    )
    made = {"model_name": "tiny", "hook_name": "hook_embed", "n_tokens": {"a": 7, "b": 7}, "seed": 0}
    return NewLatents(pairs, "code", made)


def test_NewLatents_to_frame_has_a_row_for_each_pair(result: NewLatents) -> None:
    frame = result.to_frame()
    assert list(frame.columns) == [
        *(
            "latent",
            "flat_index",
            "base_latent",
            "cosine",
            "rate[a]",
            "rate[b]",
            "base_rate[a]",
            "base_rate[b]",
        ),
        *("max_activation", "base_max_activation", "top_token", "base_top_token"),
    ]
    assert frame.iloc[1].to_list() == [
        *(1, 3, 0, pytest.approx(1.0), 2 / 7, 1 / 7, 2 / 7, 1 / 7),
        *(5.0, 5.0, "w3", "w3"),
    ]
    assert frame["base_top_token"].to_list() == ["w1", "w3", "w1"]
    assert frame["top_token"].isna().to_list() == [False, False, True]


def test_NewLatents_saved_and_loaded_is_the_same(result: NewLatents, tmp_path) -> None:
    result.save(tmp_path / "new.json")
    assert NewLatents.load(tmp_path / "new.json") == result
    assert NewLatents.load(str(tmp_path / "new.json")).html_section() == result.html_section()
    assert [path.name for path in tmp_path.iterdir()] == ["new.json"]
    assert json.loads((tmp_path / "new.json").read_text())["format"] == "sae_lens_ext.NewLatents/1"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("NewLatents/1", "NewLatents/9"),
        lambda text: text.replace('"cosine"', '"sine"'),
        lambda text: text.replace('"peak": 2', '"peak": 99'),
        lambda text: text.replace('"w3",', "", 1),
        lambda text: text.replace('"firing_rates": {', '"firing_rates": [], "x": {'),
        lambda text: "[]",
        lambda text: "",
    ],
)
def test_NewLatents_load_refuses_what_is_not_whole(result: NewLatents, tmp_path, damage) -> None:
    path = tmp_path / "new.json"
    result.save(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(
        ValueError, match=r"new\.json is not a NewLatents.*NewLatents\.save wrote, or search again"
    ):
        NewLatents.load(path)
    with pytest.raises(FileNotFoundError):
        NewLatents.load(tmp_path / "none.json")


@pytest.mark.parametrize("write", [NewLatents.save, NewLatents.write_html])
def test_NewLatents_files_are_written_whole_or_not_at_all(
    result: NewLatents, tmp_path, monkeypatch, write
) -> None:
    path = tmp_path / "new"
    write(result, path)
    before = path.read_bytes()

    def full_disk(file: int) -> None:
        os.truncate(file, 100)
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(replace(result, domain="other"), path)
    assert path.read_bytes() == before


class Page(HTMLParser):
    """What a browser makes of a page: its tags, its text, and the tokens with their attributes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str | None] = []
        self.spans: list[dict] = []
        self.text = ""
        self.feed(source)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"])
        if tag == "span":
            self.spans.append({"class": None, "style": None, **dict(attrs), "text": ""})

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if "style" not in self.open:
            self.text += data
        if "span" in self.open:
            self.spans[-1]["text"] += data


def one_pair(*tokens: str, activations: tuple[float, ...] = (), name: str = "a", **fields) -> NewLatents:
    context = Context(name, tokens, activations or (1.0,) * len(tokens), 0)
    use = LatentUse(0, 2, {name: 1.0}, 4.0, (context,), None)
    return NewLatents((LatentPair(use, replace(use, **fields), 0.5),), name, {})


def test_NewLatents_write_html_shows_every_pair_shaded_with_the_peak_outlined(
    result: NewLatents, tmp_path
) -> None:
    result.write_html(tmp_path / "new.html", title="What <is> new")
    source = (tmp_path / "new.html").read_text(encoding="utf-8")
    page = Page(source)
    assert [path.name for path in tmp_path.iterdir()] == ["new.html"]
    assert "<title>What &lt;is&gt; new</title>" in source and "<h1>What &lt;is&gt; new</h1>" in source
    assert SECTION_CSS in source and result.html_section() in source
    assert page.links == [f"https://neuronpedia.org/tiny/0-res/{i}" for i in (1, 0, 1)]
    expected = [
        "New: code 0",
        "Base: 1",
        "flat index 2 · fires on 42.9 % of a, 0 % of b · maximum 3",
        "cosine 0.60",
    ]
    for words in expected:
        assert words in page.text
    assert page.text.count("Never fires on these texts.") == 1
    assert page.text.count("a · 3") == 1 and "a (7 tokens), b (7 tokens)" in page.text
    assert [(s["text"], s["title"], s["class"], s["style"]) for s in page.spans[:5]] == [
        ("w0", "0", None, None),
        ("w1", "0", None, None),
        ("w2", "3", "on peak", "--a:1.00"),
        ("w3", "0", None, None),
        ("w4", "1", "on", "--a:0.33"),
    ]
    result.write_html(tmp_path / "untitled.html")
    assert "<title>New latents of the domain “code”</title>" in (tmp_path / "untitled.html").read_text(
        "utf-8"
    )


def test_NewLatents_write_html_needs_nothing_else(result: NewLatents, tmp_path) -> None:
    result.write_html(tmp_path / "new.html")
    source = (tmp_path / "new.html").read_text(encoding="utf-8")
    tags = set(Page(source).tags)
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"\bon\w+=|@import|url\(|\bsrc=", source)
    assert set(re.findall(r"https?://[^/]+", source)) == {"https://neuronpedia.org"}


def test_NewLatents_html_escapes_tokens_names_and_links(tmp_path) -> None:
    nasty = one_pair(
        "<script>alert(1)</script>", '"&amp;', name="<b>'\"", url='https://neuronpedia.org/"><script>/0'
    )
    nasty = replace(nasty, provenance={"model_name": "<i>m", "hook_name": "<i>h", "n_tokens": {}})
    nasty.write_html(tmp_path / "new.html")
    page = Page((tmp_path / "new.html").read_text(encoding="utf-8"))
    assert not {"script", "b"} & set(page.tags) and "i" not in page.tags
    assert page.spans[0]["text"] == "<script>alert(1)</script>" and page.spans[1]["text"] == '"&amp;'
    assert page.links == ['https://neuronpedia.org/"><script>/0']
    assert "<b>'\" · 1" in page.text and "<i>m at <i>h" in page.text
    assert "<script>" not in nasty._repr_html_() and "&lt;script&gt;" in nasty._repr_html_()


def test_NewLatents_html_makes_white_space_and_faint_activations_visible() -> None:
    tokens = ("\n\n", "  ", " the", "\t", "a b\x1b", "", "\ufffd", "é")
    page = Page(one_pair(*tokens, activations=(9.0, 0.01, 2.0, 1, 1, 1, 1, 1)).html_section())
    texts = [span["text"] for span in page.spans[: len(tokens)]]
    assert texts == ["↵\n↵\n", "··", "the", "⇥\t", "a b␛", "∅", "\ufffd", "é"]
    assert "↵\n↵\n·· the⇥\ta b␛∅\ufffdé" in page.text
    assert [s["style"] for s in page.spans[:3]] == ["--a:1.00", "--a:0.12", "--a:0.50"]
    assert "pre-wrap" in SECTION_CSS


def test_NewLatents_repr_is_three_lines_and_a_small_table_in_a_notebook(result: NewLatents) -> None:
    first, second, third = repr(result).splitlines()
    assert first == "NewLatents: 3 latents of the domain 'code', each beside the base's most similar"
    assert second == "  on 2 texts: a (7 tokens), b (7 tokens)"
    assert third.endswith("at hook_embed")
    table = result._repr_html_()
    assert table.count("<tr") == 4 and "never fires" in table
    assert len(repr(one_pair("x")).splitlines()) == 3
