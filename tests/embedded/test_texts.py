import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.embedded import EmbeddedTexts, embedded_texts, list_embedded_texts
from sae_lens_ext.embedded.texts import in_test_split

FROM_PYTHON = ["python_source", "python_reference"]
FROM_PACKAGES = ["encyclopedia", "encyclopedia_fr", "encyclopedia_es", "recipes", "kjv"]
EVERY_TEXT = [*FROM_PYTHON, *(pytest.param(name, marks=pytest.mark.embedded) for name in FROM_PACKAGES)]


def make(documents: list[str]) -> EmbeddedTexts:
    return EmbeddedTexts(
        name="made",
        split="all",
        documents=tuple(documents),
        titles=tuple(f"title {i}" for i in range(len(documents))),
        topics=("",) * len(documents),
        language="en",
        licence="public domain",
        source="made==1",
    )


def test_list_embedded_texts_names_every_text():
    assert sorted(list_embedded_texts()) == sorted(FROM_PYTHON + FROM_PACKAGES)


@pytest.mark.parametrize("name", EVERY_TEXT)
def test_embedded_texts_splits_are_disjoint_and_make_up_the_whole(name: str):
    whole, train, test = (embedded_texts(name, split=split) for split in ("all", "train", "test"))
    assert set(train).isdisjoint(test)
    assert list(train) == [text for text in whole if not in_test_split(text)]
    assert list(test) == [text for text in whole if in_test_split(text)]
    assert 0.05 < len(test) / len(whole) < 0.16
    assert (train.split, test.split) == ("train", "test")


@pytest.mark.parametrize("name", EVERY_TEXT)
def test_embedded_texts_are_the_same_every_time_and_complete(name: str):
    texts = embedded_texts(name)
    assert texts == embedded_texts(name)
    assert texts.name == name
    assert len(texts.titles) == len(texts.topics) == len(texts)
    assert all(text.strip() for text in texts)
    assert all(texts.titles)
    assert "==" in texts.source
    assert texts.licence
    assert texts.language in {"en", "fr", "es", "Python"}


def test_python_source_leaves_out_tests_tables_and_other_peoples_packages():
    texts = embedded_texts("python_source")
    assert "argparse.py" in texts.titles
    assert "asyncio/events.py" in texts.titles
    parts = {part for title in texts.titles for part in title.split("/")[:-1]}
    assert parts.isdisjoint(
        {"site-packages", "test", "tests", "lib2to3", "encodings", "pydoc_data", "__pycache__"}
    )
    assert list(texts.titles) == sorted(texts.titles)
    assert texts.topics[texts.titles.index("asyncio/events.py")] == "asyncio"


def test_python_reference_sections_carry_their_names():
    texts = embedded_texts("python_reference")
    assert texts[texts.titles.index("assert")].startswith('The "assert" statement')


@pytest.mark.embedded
def test_encyclopedia_has_titles_and_topics():
    texts = embedded_texts("encyclopedia")
    at = texts.titles.index("20th-century classical music")
    assert texts[at].startswith("20th-century classical music is Western art music")
    assert {"Mathematics", "People", "Geography"} <= set(texts.topics)


@pytest.mark.embedded
def test_recipes_are_title_ingredients_and_numbered_steps():
    texts = embedded_texts("recipes")
    at = texts.titles.index("'Out of Salad Dressing' Salad Dressing")
    lines = texts[at].splitlines()
    assert lines[:4] == [texts.titles[at], "", "Ingredients", "- 1 ½ lemons, juiced"]
    assert lines[-1] == "3. Cover and refrigerate 8 hours, or overnight."


@pytest.mark.embedded
def test_kjv_documents_are_chapters():
    texts = embedded_texts("kjv")
    assert len(texts) == 1189
    assert texts.titles[0] == "Genesis 1"
    assert len(texts[0].splitlines()) == 31
    assert texts[0].splitlines()[2] == "And God said, Let there be light: and there was light."
    assert len(set(texts.topics)) == 66


def test_unknown_name_is_refused_with_the_closest_and_all_names():
    with pytest.raises(
        ValueError, match=r"no embedded text named 'recipe'\. Did you mean 'recipes'"
    ) as caught:
        embedded_texts("recipe")
    assert all(repr(name) in str(caught.value) for name in list_embedded_texts())


def test_unknown_split_is_refused():
    with pytest.raises(
        ValueError, match=r"got split='dev'. Use split='train', split='test' or split='all'\."
    ):
        embedded_texts("python_reference", split="dev")  # pyright: ignore[reportArgumentType]


def test_to_dataset_has_one_column_of_text():
    texts = make(["one", "two"])
    dataset = texts.to_dataset()
    assert dataset.column_names == ["text"]
    assert list(dataset["text"]) == ["one", "two"]


def test_embedded_texts_are_immutable():
    texts = make(["one"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        texts.documents = ()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        texts[0] = "two"  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize("documents", [[], ["one"], ["a\nb " * 100, "two"]])
def test_repr_is_three_lines(documents: list[str]):
    text = repr(make(documents))
    assert len(text.split("\n")) == 3
    assert f"'made', split 'all': {len(documents)} documents" in text


@given(st.lists(st.text(), max_size=8), st.slices(8))
def test_slices_are_slices_of_documents_and_titles_alike(documents: list[str], part: slice):
    texts = make(documents)
    assert list(texts[part]) == documents[part]
    assert list(texts[part].titles) == list(texts.titles)[part]
    assert len(texts[part].topics) == len(texts[part])
    assert list(texts) == documents


@given(st.text())
def test_split_depends_on_nothing_but_the_text(text: str):
    assert in_test_split(text) == in_test_split("".join(list(text)))


def test_split_puts_one_in_ten_into_test():
    share = sum(in_test_split(f"document {i}") for i in range(20_000)) / 20_000
    assert abs(share - 0.1) < 0.01
