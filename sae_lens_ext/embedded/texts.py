"""Real texts for training and judging SAEs offline, split by document."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

from sae_lens_ext.embedded.sources import SOURCES

if TYPE_CHECKING:
    from datasets import Dataset

Split = Literal["all", "train", "test"]

_TEST_ONE_IN = 10


@dataclass(frozen=True, repr=False)
class EmbeddedTexts(Sequence[str]):
    """The documents of one text, an immutable sequence of strings; slices keep titles, topics and provenance."""

    name: str
    """Name of the text, one of `list_embedded_texts()`."""
    split: Split
    """Which documents: `"train"` and `"test"` have no text in common and make up `"all"`."""
    documents: tuple[str, ...]
    """The texts themselves, in the order of the source."""
    titles: tuple[str, ...]
    """A title for each document: an article, a recipe, a file's path, a chapter."""
    topics: tuple[str, ...]
    """A topic for each document, as the source labels it; empty where it gives none."""
    language: str
    """ISO 639-1 code of a natural language, or `"Python"`."""
    licence: str
    """Licence of the texts (not of the package that carries them)."""
    source: str
    """Where they were read from, `package==version`."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> EmbeddedTexts: ...
    def __getitem__(self, index: int | slice) -> str | EmbeddedTexts:
        if not isinstance(index, slice):
            return self.documents[index]
        return replace(
            self, documents=self.documents[index], titles=self.titles[index], topics=self.topics[index]
        )

    def __len__(self) -> int:
        return len(self.documents)

    def to_dataset(self) -> Dataset:
        """Returns a `datasets.Dataset` with the one column `"text"`.

        SAELens takes it as `override_dataset` of `LanguageModelSAETrainingRunner` and `ActivationsStore`.
        """
        from datasets import Dataset

        return Dataset.from_dict({"text": list(self.documents)})

    def __repr__(self) -> str:
        characters = sum(map(len, self.documents))
        first = " ".join(self.documents[0][:200].split())[:80] if self.documents else ""
        return (
            f"EmbeddedTexts {self.name!r}, split {self.split!r}: {len(self):,} documents, {characters:,} characters\n"
            f"  language {self.language}, licence {self.licence}, source {self.source}\n"
            f"  begins {first!r}"
        )


def list_embedded_texts() -> list[str]:
    """Returns the names that `embedded_texts` accepts."""
    return list(SOURCES)


def embedded_texts(name: str, *, split: Split = "all") -> EmbeddedTexts:
    """Reads a text from an installed package, or from Python itself.

    | name | what | licence |
    |---|---|---|
    | `encyclopedia`, and with `_fr`, `_es` | summaries of Wikipedia articles, with topics | CC BY-SA 4.0 |
    | `recipes` | the Wikibooks Cookbook in English | CC BY-SA 4.0 |
    | `python_source` | Python's standard library (of the running version) | PSF-2.0 |
    | `python_reference` | Python's language reference | PSF-2.0 |
    | `kjv` | the King James Bible, by chapter | public domain |

    The split is by document and needs no seed: a hash of a document's text puts one in ten into `"test"`, so equal
    documents always fall on the same side, whatever package version they come from.

    Args:
        name: One of `list_embedded_texts()`.
        split: `"train"`, `"test"` or `"all"`.

    Raises:
        ValueError: `name` or `split` is unknown.
        EmbeddedNotInstalledError: The package that carries the text is not installed.
    """
    if not isinstance(name, str) or name not in SOURCES:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(_unknown_name(name))
    if split not in get_args(Split):
        raise ValueError(
            f"embedded_texts got split={split!r}. Use split='train', split='test' or split='all'."
        )
    source = SOURCES[name]
    version = source.version
    kept = [d for d in source.read() if split == "all" or in_test_split(d.text) == (split == "test")]
    if not kept:
        raise ValueError(
            f"The text {name!r}, read from {version}, has no documents; its files are not as expected. Install it "
            "again with `sae-lens-ext install-embedded`."
        )
    return EmbeddedTexts(
        name=name,
        split=split,
        documents=tuple(d.text for d in kept),
        titles=tuple(d.title for d in kept),
        topics=tuple(d.topic for d in kept),
        language=source.language,
        licence=source.licence,
        source=version,
    )


def in_test_split(text: str) -> bool:
    """Says whether a document belongs to the test split; depends on nothing but its text."""
    digest = hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % _TEST_ONE_IN == 0


def _unknown_name(name: Any) -> str:
    close = difflib.get_close_matches(str(name), SOURCES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"There is no embedded text named {name!r}.{hint} The names are {', '.join(map(repr, SOURCES))}."
