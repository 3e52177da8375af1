"""What `top_activations` found, to be asked feature by feature, as a table, a figure and a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_lens_ext.analysis.flow.top_activations.running import window_starts
from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors
from sae_lens_ext.analysis.top_contexts import Context
from sae_lens_ext.language_model import same_hook

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.TopActivations/1"


@dataclass(frozen=True, eq=False)
class SiteTops:
    """What the features of one hook fire on. Everything is on the CPU."""

    features: torch.Tensor
    """Indices of the features looked at, ascending, [n], int64."""
    fired: torch.Tensor
    """On how many of the tokens that count each is not 0, [n], int64."""
    context: torch.Tensor
    """Rows of the contexts with the largest activations, descending, [n, n_contexts], int32; −1 where there is none."""
    peak: torch.Tensor
    """Position of the largest activation in each, the first of equals, [n, n_contexts], int32; −1 where there is none."""
    activation: torch.Tensor
    """Largest activation in each, [n, n_contexts], float32; 0 where there is none."""
    windows: torch.Tensor
    """Activations of the tokens around each peak, [n, n_contexts, window], float32; 0 at special tokens."""
    token: torch.Tensor
    """Ids of the tokens with the largest activations, descending, [n, n_tokens], int32; −1 where there is none."""
    token_activation: torch.Tensor
    """Largest activation at any occurrence of each, [n, n_tokens], float32; 0 where there is none."""


@dataclass(frozen=True, repr=False, eq=False)
class TopActivations:
    """The contexts and tokens on which features fire most, and how often they fire. See `top_activations`."""

    sites: Mapping[str, SiteTops]
    """By hook, in the order of the layers."""
    contexts_read: torch.Tensor
    """Token ids of all contexts, [n_contexts_read, context_size], int32."""
    text_sizes: Mapping[str, int]
    """How many of the contexts are of each text, in their order."""
    vocabulary: Mapping[int, str]
    """The tokens that occur, by id, each decoded by itself."""
    n_tokens: int
    """How many tokens count: all that were read but the special ones."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, hooks, a hash of the tokens of each text and of each SAE."""

    def __post_init__(self) -> None:
        rows = {
            name: {index: i for i, index in enumerate(s.features.tolist())} for name, s in self.sites.items()
        }
        object.__setattr__(self, "_rows", rows)

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hooks whose features were looked at."""
        return tuple(self.sites)

    def __contains__(self, feature: object) -> bool:
        """Say whether a feature, (hook name, index), was looked at."""
        if not isinstance(feature, tuple) or len(feature) != 2:  # pyright: ignore[reportUnknownArgumentType]
            return False
        hook_name, index = feature
        return any(same_hook(name, hook_name) and index in self._index(name) for name in self.sites)

    def tokens(self, hook_name: str, index: int, n: int = 10) -> list[tuple[str, float]]:
        """Give the tokens of the vocabulary with a feature's largest activations, and these, the largest first.

        Args:
            hook_name: The hook, under either of its names.
            index: The feature.
            n: How many, at most; no more than were kept.

        Raises:
            ValueError: The feature was not looked at.
        """
        site, row = self._find(hook_name, index)
        pairs = zip(site.token[row, :n].tolist(), site.token_activation[row, :n].tolist(), strict=True)
        return [(self.vocabulary[token], value) for token, value in pairs if token >= 0]

    def contexts(self, hook_name: str, index: int, n: int = 5) -> list[Context]:
        """Give the contexts with a feature's largest activations, the strongest first, each of another packed context.

        Args:
            hook_name: The hook, under either of its names.
            index: The feature.
            n: How many, at most; no more than were kept.

        Raises:
            ValueError: The feature was not looked at.
        """
        site, row = self._find(hook_name, index)
        window, size = site.windows.shape[2], self.contexts_read.shape[1]
        starts = window_starts(site.peak[row], window, size).tolist()
        names = [name for name, count in self.text_sizes.items() for _ in range(count)]
        found: list[Context] = []
        for i, (number, start) in enumerate(zip(site.context[row, :n].tolist(), starts, strict=False)):
            if number < 0:
                break
            ids = self.contexts_read[number, start : start + window].tolist()
            found.append(
                Context(
                    text=names[number],
                    tokens=tuple(self.vocabulary[token] for token in ids),
                    activations=tuple(site.windows[row, i].tolist()),
                    peak=int(site.peak[row, i]) - start,
                )
            )
        return found

    def firing_rate(self, hook_name: str, index: int) -> float:
        """Give the share of the tokens on which a feature is not 0, 0 to 1.

        Raises:
            ValueError: The feature was not looked at.
        """
        site, row = self._find(hook_name, index)
        return int(site.fired[row]) / self.n_tokens

    def max_activation(self, hook_name: str, index: int) -> float:
        """Give a feature's largest activation on any token; 0 if it never fires.

        Raises:
            ValueError: The feature was not looked at.
        """
        site, row = self._find(hook_name, index)
        return float(site.activation[row, 0])

    def to_frame(self, n: int = 5) -> "pd.DataFrame":
        """Give a data frame with a row for each feature.

        Args:
            n: Tokens named of each feature, at most.

        Returns:
            The columns hook, index, firing_rate (share of tokens), max_activation, tokens (tuple of strings, the strongest first).
        """
        import pandas as pd

        columns = ["hook", "index", "firing_rate", "max_activation", "tokens"]
        frames = [
            pd.DataFrame(
                {
                    "hook": name,
                    "index": site.features.numpy(),
                    "firing_rate": (site.fired.double() / self.n_tokens).numpy(),
                    "max_activation": site.activation[:, 0].numpy(),
                    "tokens": [
                        tuple(self.vocabulary[t] for t in row if t >= 0) for row in site.token[:, :n].tolist()
                    ],
                },
                columns=columns,
            )
            for name, site in self.sites.items()
        ]
        return pd.concat(frames, ignore_index=True)

    def plot(self) -> "go.Figure":
        """Draw how often the features of each hook fire; returns the figure without showing it."""
        from sae_lens_ext.analysis.flow.top_activations.figure import figure

        return figure(self)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, and its tensors as safetensors beside it, whole or not at all.

        Args:
            path: The JSON file; its folder must exist.
        """
        tensors = {
            f"{i}.{f.name}": getattr(site, f.name)
            for i, site in enumerate(self.sites.values())
            for f in fields(SiteTops)
        }
        content = {
            "hooks": list(self.sites),
            "text_sizes": dict(self.text_sizes),
            "vocabulary": {str(token): text for token, text in self.vocabulary.items()},
            "n_tokens": self.n_tokens,
            "provenance": dict(self.provenance),
        }
        save_result_with_tensors(path, FORMAT, content, {"contexts_read": self.contexts_read, **tensors})

    @classmethod
    def load(cls, path: str | Path) -> "TopActivations":
        """Read a result that `save` wrote; no tokenizer is needed.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> TopActivations:
            return cls(
                sites={
                    name: SiteTops(**{f.name: tensors[f"{i}.{f.name}"] for f in fields(SiteTops)})
                    for i, name in enumerate(content["hooks"])
                },
                contexts_read=tensors["contexts_read"],
                text_sizes=content["text_sizes"],
                vocabulary={int(token): text for token, text in content["vocabulary"].items()},
                n_tokens=content["n_tokens"],
                provenance=content["provenance"],
            )

        return load_result_with_tensors(path, FORMAT, build, "search again with top_activations")

    def _index(self, name: str) -> dict[int, int]:
        return self.__dict__["_rows"][name]

    def _find(self, hook_name: str, index: int) -> tuple[SiteTops, int]:
        for name, site in self.sites.items():
            if same_hook(name, hook_name):
                row = self._index(name).get(index)
                if row is not None:
                    return site, row
                raise ValueError(
                    f"The feature {index!r} of {name!r} was not looked at; {len(site.features):,} features of this hook were, {_range(site.features)}. "
                    "Search again with it among the features."
                )
        raise ValueError(
            f"No features of {hook_name!r} were looked at. There are those of {', '.join(map(repr, self.sites))}. Give one of these."
        )

    def __repr__(self) -> str:
        n = sum(len(site.features) for site in self.sites.values())
        silent = sum(int((site.fired == 0).sum()) for site in self.sites.values())
        texts = ", ".join(map(repr, self.text_sizes))
        return (
            f"TopActivations of {n:,} features at {len(self.sites)} hooks of {self.provenance.get('model_name')}\n"
            f"  on {self.n_tokens:,} tokens of {texts}; {silent:,} features never fired\n"
            f"  {', '.join(self.sites)}"
        )

    def _repr_html_(self) -> str:
        import pandas as pd

        shown = [
            (name, i) for name, site in self.sites.items() for i in site.features[site.fired > 0][:3].tolist()
        ]
        table = pd.DataFrame(
            [
                {
                    "hook": name,
                    "index": index,
                    "firing_rate": self.firing_rate(name, index),
                    "max_activation": self.max_activation(name, index),
                    "tokens": " ".join(repr(token) for token, _ in self.tokens(name, index, 5)),
                }
                for name, index in shown[:12]
            ]
        )
        return notebook_view(self, table.to_html(index=False, float_format=lambda x: f"{x:.3g}"))


def _range(features: torch.Tensor) -> str:
    return f"from {int(features[0])} to {int(features[-1])}"
