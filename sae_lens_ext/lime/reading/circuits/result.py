"""What `depthwise_circuits` found: for every head its sources, as circuits, a table, a figure and a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.lime.reading.circuits.circuit import Circuit, Index, Served, index_of, served_of
from sae_lens_ext.number_checks import require_bool, whole_number
from sae_lens_ext.steering.reading.lens.shown import shown_token

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.DepthwiseCircuits/1"
_TENSORS = ("weights", "value_shares", "key_shares")
IN_NOTEBOOK = 12
"""Circuits in a notebook's table."""
COLUMNS = (
    "layer",
    "head",
    "source_layer",
    "source_head",
    "weight",
    "value_share",
    "key_share",
    "tokens",
)


@dataclass(frozen=True, eq=False, repr=False)
class DepthwiseCircuits:
    """Which heads' buffers each head reads, and at which tokens. See `depthwise_circuits`."""

    weights: Mapping[int, torch.Tensor]
    """R by target layer from 1 on, [target head, source layer, source head], float32; signed."""
    value_shares: Mapping[int, torch.Tensor]
    """Share of each source in the routed values, of the same shapes, float64; signed, those of a target head sum to 1. The values are those before routing."""
    key_shares: Mapping[int, torch.Tensor]
    """The same of the routed keys."""
    served: Mapping[Index, Served]
    """Tokens of the circuits for which they were kept: of each target head those with the largest |value share|."""
    tokens_by: str
    """What tokens are ranked by, "share" or "norm"."""
    n_tokens: int
    """Tokens that the shares are means over; special ones do not count."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, routers, a hash of the tokens."""

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return len(self.weights) + 1

    @property
    def n_kv_heads(self) -> int:
        """Key-value heads of each layer."""
        return len(self.weights[1])

    def circuit(self, layer: int, head: int, source_layer: int, source_head: int) -> Circuit:
        """Give one circuit.

        Args:
            layer: Target layer, from 1 on.
            head: Target head, a key-value head.
            source_layer: Source layer, at most `layer`.
            source_head: Source head.

        Raises:
            ValueError: There is none.
        """
        l, h = self._target(layer, head)  # noqa: E741
        sl, sh = whole_number(source_layer), whole_number(source_head)
        if sl is None or sh is None or not 0 <= sl <= l or not 0 <= sh < self.n_kv_heads:
            raise ValueError(
                f"DepthwiseCircuits was asked for the source layer {source_layer!r}, head {source_head!r} of target layer {l}. Sources are the layers 0 to {l} "
                f"with the heads 0 to {self.n_kv_heads - 1}. Give one of these."
            )
        return self._circuit((l, h, sl, sh))

    def sources(
        self, layer: int, head: int, *, by: Literal["value", "key"] = "value", own_layer: bool = True
    ) -> tuple[Circuit, ...]:
        """Give all circuits into one head, by descending |share|.

        Args:
            layer: Target layer, from 1 on.
            head: Target head, a key-value head.
            by: Which share, of routed values or keys.
            own_layer: Whether those from the layer itself are among them.

        Raises:
            ValueError: There is no such head, or `by` is neither.
        """
        if by not in ("value", "key"):
            raise ValueError(f"DepthwiseCircuits.sources was given by = {by!r}. Give 'value' or 'key'.")
        require_bool("DepthwiseCircuits.sources", "own_layer", own_layer)
        l, h = self._target(layer, head)  # noqa: E741
        shares = (self.value_shares if by == "value" else self.key_shares)[l][h]
        shares = shares if own_layer else shares[:-1]
        order = shares.flatten().abs().sort(descending=True, stable=True).indices.tolist()
        return tuple(self._circuit((l, h, i // self.n_kv_heads, i % self.n_kv_heads)) for i in order)

    def strongest(self, n: int = 20, *, own_layer: bool = False) -> tuple[Circuit, ...]:
        """Give the circuits with the largest |value share| of the whole model; of equal ones the earlier target and source first.

        Args:
            n: How many, at most.
            own_layer: Whether those from a head's own layer are among them.

        Raises:
            ValueError: n is no positive int.
        """
        require_positive_int("DepthwiseCircuits.strongest", "n", n)
        require_bool("DepthwiseCircuits.strongest", "own_layer", own_layer)
        parts, where = [], []
        for layer, shares in self.value_shares.items():
            shown = shares if own_layer else shares[:, :-1]
            parts.append(shown.flatten().abs())
            index = torch.ones_like(shown).nonzero()
            where.append(torch.cat([torch.full((len(index), 1), layer), index], dim=1))
        order = torch.cat(parts).sort(descending=True, stable=True).indices[:n]
        return tuple(self._circuit((a, b, c, d)) for a, b, c, d in torch.cat(where)[order].tolist())

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row for each target and source head.

        Columns: layer, head (the target), source_layer, source_head, weight, value_share, key_share, and tokens: those served, a tuple of strings, the first
        most; empty where none were kept.
        """
        import pandas as pd

        frames = []
        for layer, weight in self.weights.items():
            index = torch.ones_like(weight).nonzero()
            frames.append(
                pd.DataFrame(
                    {
                        "layer": layer,
                        "head": index[:, 0].numpy(),
                        "source_layer": index[:, 1].numpy(),
                        "source_head": index[:, 2].numpy(),
                        "weight": weight.flatten().double().numpy(),
                        "value_share": self.value_shares[layer].flatten().numpy(),
                        "key_share": self.key_shares[layer].flatten().numpy(),
                        "tokens": [self._tokens((layer, h, sl, sh)) for h, sl, sh in index.tolist()],
                    },
                    columns=list(COLUMNS),
                )
            )
        return pd.concat(frames, ignore_index=True)

    def plot(self, n: int = 20, *, own_layer: bool = False) -> "go.Figure":
        """Draw the strongest circuits: shares in the routed values as bars, in the keys as marks, and the tokens served; returns the figure without showing it.

        Args:
            n: How many, at most.
            own_layer: Whether those from a head's own layer are among them.
        """
        from sae_lens_ext.lime.reading.circuits.figure import figure

        return figure(self, self.strongest(n, own_layer=own_layer))

    def save(self, path: str | Path) -> None:
        """Write the result as JSON with safetensors beside it, whole or not at all.

        Args:
            path: The JSON file; its folder must exist.
        """
        content = {
            "tokens_by": self.tokens_by,
            "n_tokens": self.n_tokens,
            "provenance": dict(self.provenance),
            "served": [{"circuit": list(index), **asdict(served)} for index, served in self.served.items()],
        }
        tensors = {f"{name}.{layer}": t for name in _TENSORS for layer, t in getattr(self, name).items()}
        save_result_with_tensors(path, FORMAT, content, tensors)

    @classmethod
    def load(cls, path: str | Path) -> "DepthwiseCircuits":
        """Read a result that `save` wrote; neither the model nor a tokenizer is needed.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> DepthwiseCircuits:
            layers = range(1, len(tensors) // len(_TENSORS) + 1)
            parts = {name: {layer: tensors[f"{name}.{layer}"] for layer in layers} for name in _TENSORS}
            return cls(
                **parts,
                served={index_of(row["circuit"]): served_of(row) for row in content["served"]},
                tokens_by=str(content["tokens_by"]),
                n_tokens=int(content["n_tokens"]),
                provenance=content["provenance"],
            )

        return load_result_with_tensors(path, FORMAT, build, "measure again with depthwise_circuits")

    def __repr__(self) -> str:
        best = self.strongest(1)[0]
        tokens = " ".join(shown_token(token.token) for token in best.tokens[:5])
        serving = f", serving {tokens}" if tokens else ""
        return (
            f"DepthwiseCircuits into {len(self.weights) * self.n_kv_heads} heads of {self.provenance.get('model_name')}\n"
            f"  on {self.n_tokens:,} tokens; shares of routed values, measured before routing\n"
            f"  strongest between layers: {best.name}, share {best.value_share:.3f}{serving}"
        )

    def _repr_html_(self) -> str:
        import pandas as pd

        rows = [
            {
                "circuit": one.name,
                "R": one.weight,
                "value share": one.value_share,
                "key share": one.key_share,
                "tokens": "  ".join(shown_token(token.token) for token in one.tokens[:6]),
            }
            for one in self.strongest(IN_NOTEBOOK)
        ]
        with pd.option_context("display.max_colwidth", None):
            table = pd.DataFrame(rows).to_html(index=False, float_format=lambda x: f"{x:.3f}")
        return notebook_view(self, table)

    def _target(self, layer: int, head: int) -> tuple[int, int]:
        l, h = whole_number(layer), whole_number(head)  # noqa: E741
        if l is None or h is None or l not in self.weights or not 0 <= h < self.n_kv_heads:
            raise ValueError(
                f"DepthwiseCircuits was asked for the target layer {layer!r}, head {head!r}. Targets are the layers 1 to {self.n_layers - 1} with the heads 0 to "
                f"{self.n_kv_heads - 1}; layer 0 has no router. Give one of these."
            )
        return l, h

    def _tokens(self, index: Index) -> tuple[str, ...]:
        served = self.served.get(index)
        return () if served is None else tuple(token.token for token in served.tokens)

    def _circuit(self, index: Index) -> Circuit:
        layer, *place = index
        served = self.served.get(index, Served((), ()))
        weight, value_share, key_share = (
            float(getattr(self, name)[layer][tuple(place)]) for name in _TENSORS
        )
        return Circuit(*index, weight, value_share, key_share, served.tokens, served.contexts)
