"""A map of routers: the share of each source layer, the signed weights of the heads, as tables, a figure and a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors
from sae_lens_ext.number_checks import require_bool

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.RouterMap/1"


@dataclass(frozen=True, eq=False, repr=False)
class RouterMap:
    """Which earlier layers the keys and values of each layer come from. See `router_map`."""

    by_head: Mapping[int, torch.Tensor]
    """The routers' signed weights by target layer, [target head, source layer, source head], float32; layer 0 has the identity."""
    off_diagonal: bool
    """Whether each layer's own weights are left out of the shares."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, and where the routers came from."""

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return len(self.by_head)

    @property
    def n_kv_heads(self) -> int:
        """Key-value heads of each layer."""
        return len(self.by_head[0])

    @property
    def mean_size(self) -> torch.Tensor:
        """Mean of |R| over target and source heads, [target layer, source layer], float64; 0 where there is no weight, of later layers."""
        sizes = torch.zeros(self.n_layers, self.n_layers, dtype=torch.float64)
        for layer, weight in self.by_head.items():
            sizes[layer, : layer + 1] = weight.double().abs().mean(dim=(0, 2))
        return sizes

    @property
    def by_layer(self) -> torch.Tensor:
        """Share of each source layer in a target layer, [target layer, source layer], float64, rows summing to 1; 0 for later layers.

        With `off_diagonal` the diagonal is 0. A row is all 0 where nothing is left to share: of layer 0 then, and where all other weights are 0.
        """
        sizes = self.mean_size
        if self.off_diagonal:
            sizes = sizes.fill_diagonal_(0.0)
        total = sizes.sum(dim=1, keepdim=True)
        return sizes / torch.where(total > 0, total, torch.ones_like(total))

    @property
    def share_of_own_layer(self) -> torch.Tensor:
        """Share of the layer itself by target layer, [n_layers], float64; 0 with `off_diagonal`."""
        return self.by_layer.diagonal().clone()

    @property
    def share_of_first_layer(self) -> torch.Tensor:
        """Share of layer 0 by target layer, [n_layers], float64; of layer 0 it is the share of itself."""
        return self.by_layer[:, 0].clone()

    @property
    def share_of_predecessor(self) -> torch.Tensor:
        """Share of the layer before by target layer, [n_layers], float64; 0 of layer 0, which has none. Layer 1's is the first layer too."""
        return torch.cat([torch.zeros(1, dtype=torch.float64), self.by_layer.diagonal(-1)])

    def pattern(self) -> "pd.DataFrame":
        """Give which other layers each layer leans on, to be held against the paper's pattern.

        The paper's: layers 2 to 4 lean on the first buffer, each layer on its predecessor, the last layers on the first two.

        Returns:
            A row per target layer from 1 on. `layer`; `sources`, the other layers by descending share, of equal ones the earlier first, without those of
            share 0; `shares`, theirs; `own`, `first`, `first_two` (layers 0 and 1, without the layer itself) and `predecessor`, shares of these;
            `uniform`, the share of one layer if all that count had the same.
        """
        import pandas as pd

        shares, rows = self.by_layer, []
        for layer in range(1, self.n_layers):
            others = shares[layer, :layer]
            order = others.sort(descending=True, stable=True).indices
            order = order[others[order] > 0]
            rows.append(
                {
                    "layer": layer,
                    "sources": tuple(order.tolist()),
                    "shares": tuple(others[order].tolist()),
                    "own": float(shares[layer, layer]),
                    "first": float(others[0]),
                    "first_two": float(others[:2].sum()),
                    "predecessor": float(others[-1]),
                    "uniform": 1 / (layer + (not self.off_diagonal)),
                }
            )
        columns = ["layer", "sources", "shares", "own", "first", "first_two", "predecessor", "uniform"]
        return pd.DataFrame(rows, columns=columns)

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row for each weight: layer, head (the target), source_layer, source_head, weight."""
        import pandas as pd

        frames = []
        for layer, weight in self.by_head.items():
            head, source_layer, source_head = torch.ones_like(weight).nonzero().T.numpy()
            frames.append(
                pd.DataFrame(
                    {
                        "layer": layer,
                        "head": head,
                        "source_layer": source_layer,
                        "source_head": source_head,
                        "weight": weight.flatten().double().numpy(),
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)

    def plot(self, *, per_head: bool = False) -> "go.Figure":
        """Draw the map; returns the figure without showing it.

        Args:
            per_head: Draw the signed weights, a row per target head and a column per source head, in place of the shares of layers. With
                `off_diagonal` the layers' own weights are left blank there, and the colours are scaled to the others.
        """
        from sae_lens_ext.lime.reading.maps.figure import head_figure, layer_figure

        require_bool("RouterMap.plot", "per_head", per_head)
        return head_figure(self) if per_head else layer_figure(self)

    def save(self, path: str | Path) -> None:
        """Write the map as JSON with safetensors beside it, whole or not at all.

        Args:
            path: The JSON file; its folder must exist.
        """
        content = {"off_diagonal": self.off_diagonal, "provenance": dict(self.provenance)}
        tensors = {str(layer): weight for layer, weight in self.by_head.items()}
        save_result_with_tensors(path, FORMAT, content, tensors)

    @classmethod
    def load(cls, path: str | Path) -> "RouterMap":
        """Read a map that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole map.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> RouterMap:
            by_head = {layer: tensors[str(layer)] for layer in range(len(tensors))}
            return cls(by_head, bool(content["off_diagonal"]), content["provenance"])

        return load_result_with_tensors(path, FORMAT, build, "make it again with router_map")

    def __repr__(self) -> str:
        what = "of the weight on other layers" if self.off_diagonal else "of all weight"
        later = slice(1, None)  # layer 0 has no router
        own, first, before = (
            float(share[later].mean()) if self.n_layers > 1 else 0.0
            for share in (self.share_of_own_layer, self.share_of_first_layer, self.share_of_predecessor)
        )
        return (
            f"RouterMap of {self.n_layers} layers with {self.n_kv_heads} key-value heads\n"
            f"  mean shares from layer 1 on, {what}:\n"
            f"  own layer {own:.3f}, first layer {first:.3f}, predecessor {before:.3f}"
        )

    def _repr_html_(self) -> str:
        table = self.pattern().drop(columns="shares")
        table["sources"] = [", ".join(map(str, sources[:5])) for sources in table["sources"]]
        return notebook_view(self, table.to_html(index=False, float_format=lambda x: f"{x:.3f}"))
