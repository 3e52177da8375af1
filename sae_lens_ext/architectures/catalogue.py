"""The architectures of this package: their classes, papers and BibTeX, and their registration.

One row here is all that SAELens needs to load an architecture by name.
"""

import difflib
import inspect
from dataclasses import MISSING, asdict, dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from sae_lens import (
    SAE,
    SAEConfig,
    TopKSAE,
    TopKSAEConfig,
    TrainingSAE,
    TrainingSAEConfig,
    register_sae_class,
    register_sae_training_class,
)
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

from sae_lens_ext.architectures.hierarchical_topk import (
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
)
from sae_lens_ext.architectures.kron import (
    KronSAE,
    KronSAEConfig,
    KronTrainingSAE,
    KronTrainingSAEConfig,
)
from sae_lens_ext.architectures.residual import ResidualTrainingSAE, ResidualTrainingSAEConfig
from sae_lens_ext.architectures.residual_stack import ResidualStackSAE, ResidualStackSAEConfig


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    key: str
    title: str
    authors: str
    arxiv: str
    year: int

    def bibtex(self) -> str:
        """Give the paper's BibTeX entry."""
        return (
            f"@misc{{{self.key},\n"
            f"  title = {{{self.title}}},\n"
            f"  author = {{{self.authors}}},\n"
            f"  year = {{{self.year}}},\n"
            f"  eprint = {{{self.arxiv}}},\n"
            "  archivePrefix = {arXiv}\n"
            "}"
        )


@dataclass(frozen=True)
class Architecture:
    """One registered name."""

    name: str
    summary: str
    saved_as: str
    paper: Paper
    training: tuple[type[TrainingSAE[Any]], type[TrainingSAEConfig]] | None
    inference: tuple[type[SAE[Any]], type[SAEConfig]] | None

    @property
    def config(self) -> type[SAEConfig]:
        """The configuration a user writes: the training one where there is one."""
        pair = self.training or self.inference
        assert pair is not None
        return pair[1]


_BOOSTING = Paper(
    "koriagin2025boosting",
    "Teach Old SAEs New Domain Tricks with Boosting",
    "Koriagin, Nikita and Aksenov, Yaroslav and Laptev, Daniil and Gerasimov, Gleb and Balagansky, Nikita and "
    "Gavrilov, Daniil",
    "2507.12990",
    2025,
)

_ARCHITECTURES = {
    entry.name: entry
    for entry in (
        Architecture(
            "hierarchical_topk",
            "One TopK dictionary trained for every sparsity budget up to k at once.",
            "topk: SAELens' own class, at any k up to the trained one",
            Paper(
                "balagansky2025hierarchical",
                "Train One Sparse Autoencoder Across Multiple Sparsity Budgets to Preserve Interpretability and "
                "Accuracy",
                "Balagansky, Nikita and Aksenov, Yaroslav and Laptev, Daniil and Kurochkin, Vadim and Gerasimov, "
                "Gleb and Koriagin, Nikita and Gavrilov, Daniil",
                "2505.24473",
                2025,
            ),
            (HierarchicalTopKTrainingSAE, HierarchicalTopKTrainingSAEConfig),
            (TopKSAE, TopKSAEConfig),
        ),
        Architecture(
            "kron",
            "Latents are pairs of base and extension elements, encoded head by head: a smaller, faster encoder.",
            "kron",
            Paper(
                "kurochkin2025kronsae",
                "Train Sparse Autoencoders Efficiently by Utilizing Features Correlation",
                "Kurochkin, Vadim and Aksenov, Yaroslav and Laptev, Daniil and Gavrilov, Daniil and Balagansky, "
                "Nikita",
                "2505.22255",
                2025,
            ),
            (KronTrainingSAE, KronTrainingSAEConfig),
            (KronSAE, KronSAEConfig),
        ),
        Architecture(
            "residual",
            "A small SAE trained on the error of a frozen base SAE, to teach it a domain it is blind to.",
            "jumprelu: it predicts the base's error; stack it with ResidualStackSAE.from_saes",
            _BOOSTING,
            (ResidualTrainingSAE, ResidualTrainingSAEConfig),
            None,
        ),
        Architecture(
            "residual_stack",
            "A base SAE and the residual SAEs of several domains as one flat SAE, domains switchable.",
            "residual_stack; to_native() gives one jumprelu where exact",
            _BOOSTING,
            None,
            (ResidualStackSAE, ResidualStackSAEConfig),
        ),
    )
}


def list_architectures(pattern: str = "*") -> list[str]:
    """List the architectures of this package by name.

    Args:
        pattern: A pattern as in file names, such as "*topk*".

    Returns:
        Names, sorted; an empty list if none matches.

    Raises:
        ValueError: The pattern is no text.
    """
    if not isinstance(pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f'list_architectures was given pattern = {pattern!r}. Give text, such as "*topk*".')
    return sorted(name for name in _ARCHITECTURES if fnmatchcase(name, pattern))


def describe(name: str) -> str:
    """Describe an architecture: what it is, its classes, how it is saved, its fields, its paper.

    Args:
        name: A name from `list_architectures()`.

    Raises:
        ValueError: There is no such architecture.
    """
    entry = _entry(name)
    classes = [
        f"{role:<10} {pair[0].__name__}({pair[1].__name__})"
        for role, pair in (("training", entry.training), ("inference", entry.inference))
        if pair is not None
    ]
    own_fields = [f"  {name} = {default}" for name, default in _own_fields(entry).items()]
    doc = inspect.getdoc(entry.config) or ""
    return "\n".join(
        [
            f"{name}: {entry.summary}",
            "",
            *classes,
            f"{'saved as':<10} {entry.saved_as}",
            f"{'paper':<10} {entry.paper.title}, arXiv {entry.paper.arxiv}",
            "",
            "Fields beyond those of every SAELens configuration:",
            *own_fields,
            "",
            doc,
        ]
    )


def facts(name: str) -> dict[str, Any]:
    """Give what `describe` says, in values that JSON knows, for programs.

    Args:
        name: A name from `list_architectures()`.

    Returns:
        name, summary, saved_as; training and inference, each a mapping with class and config, or None; fields, the defaults of the
        configuration's own as Python writes them; paper, with key, title, authors, arxiv, year.

    Raises:
        ValueError: There is no such architecture.
    """
    entry = _entry(name)
    classes = {
        role: None if pair is None else {"class": pair[0].__name__, "config": pair[1].__name__}
        for role, pair in (("training", entry.training), ("inference", entry.inference))
    }
    return {
        "name": name,
        "summary": entry.summary,
        "saved_as": entry.saved_as,
        **classes,
        "fields": _own_fields(entry),
        "paper": asdict(entry.paper),
    }


def cite(name: str) -> str:
    """Give the BibTeX entry of an architecture's paper.

    Args:
        name: A name from `list_architectures()`.

    Raises:
        ValueError: There is no such architecture.
    """
    return _entry(name).paper.bibtex()


def summary(name: str) -> str:
    """Give an architecture's one-line summary; raises ValueError if there is no such architecture."""
    return _entry(name).summary


def register_architectures() -> None:
    """Make SAELens know our names. Called on import; harmless when called again.

    Raises:
        ValueError: Another package has registered one of the names for a class of its own.
    """
    for name, entry in _ARCHITECTURES.items():
        if entry.training is not None and not _registered(SAE_TRAINING_CLASS_REGISTRY, name, entry.training):
            register_sae_training_class(name, *entry.training)
        if entry.inference is not None and not _registered(SAE_CLASS_REGISTRY, name, entry.inference):
            register_sae_class(name, *entry.inference)


def _registered(registry: Any, name: str, pair: tuple[type, type]) -> bool:
    known = registry.get(name)
    if known is not None and known != pair:
        raise ValueError(
            f"The architecture name {name!r} is already registered in SAELens for {known[0].__module__}."
            f"{known[0].__name__}. sae_lens_ext cannot register its own {pair[0].__name__} beside it: import only one "
            "of the two packages."
        )
    return known is not None


def _entry(name: str) -> Architecture:
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"There is no architecture named {name!r}. Give a name that list_architectures() lists, as text."
        )
    if name in _ARCHITECTURES:
        return _ARCHITECTURES[name]
    close = difflib.get_close_matches(name, _ARCHITECTURES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"sae_lens_ext has no architecture {name!r}. It has {', '.join(map(repr, sorted(_ARCHITECTURES)))}.{hint}"
    )


def _own_fields(entry: Architecture) -> dict[str, str]:
    """Give the fields beyond those of every SAELens configuration, and d_sae, with their defaults."""
    inherited = {f.name for f in fields(TrainingSAEConfig)}
    return {f.name: _default(f) for f in fields(entry.config) if f.name not in inherited or f.name == "d_sae"}


def _default(field: Any) -> str:
    if field.default is not MISSING:
        return repr(field.default)
    return repr(field.default_factory()) if field.default_factory is not MISSING else "(required)"
