"""A graph of features and what they flow into, from one feature's to a whole model's."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sae_lens_ext.analysis.flow.origins import ORIGINS
from sae_lens_ext.analysis.flow.sites import KINDS, FlowSite, FlowSites, flow_site
from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd
    import plotly.graph_objects as go

    from sae_lens_ext.analysis.flow.top_activations import TopActivations

Feature = tuple[str, int]
"""A hook name and an index."""
_FORMAT = "sae_lens_ext.FlowGraph/1"
_SAME_SCORE = 0.01
"""Rounded to bfloat16, a decoder gives a cosine that differs by less."""
_TENSORS = (
    "node_hook",
    "node_index",
    "node_scores",
    "node_origin",
    "edge_source",
    "edge_target",
    "edge_score",
    "edge_null_quantile",
)


@dataclass(frozen=True, eq=False, repr=False)
class FlowGraph:
    """Features as nodes, matches as edges from predecessor to successor. Columns, so that a million features fit."""

    hooks: tuple[str, ...]
    """The sites there are SAEs of, ordered by layer, then residual stream, MLP, attention."""
    node_hook: torch.Tensor
    """[n], int64: each node's site, a position in `hooks`."""
    node_index: torch.Tensor
    """[n], int64: which feature of that site's SAE."""
    node_scores: torch.Tensor
    """[n, 3], float32: s(R), s(M), s(A), the largest cosine with a feature of the stream one layer before, of this layer's MLP and of its
    attention, whether or not it counts; NaN where there is no such site, no positive cosine, or the node is no residual feature."""
    node_origin: torch.Tensor
    """[n], int8: 0 for features that are not of the stream, or whose layer has no SAE of the stream before it (layer 0 has none to have); else 1
    + the position in `ORIGINS`."""
    edge_source: torch.Tensor
    """[e], int64: the predecessor, a position among the nodes."""
    edge_target: torch.Tensor
    """[e], int64: the successor."""
    edge_score: torch.Tensor
    """[e], float32, above 0 up to 1: cosine of the two decoder rows."""
    edge_null_quantile: torch.Tensor
    """[e], float32, 0 to 1: share of made-up features whose best score between the same two sites is smaller. They are made up after the
    features of the end that was matched: the target's on the way back, the source's on the way on."""
    starts: tuple[Feature, ...] = ()
    """The features the graph was traced from; none for a whole model's."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """From which score and null quantile on an edge is in the graph."""
    missing: tuple[str, ...] = ()
    """A sentence for each kind of site that some layers have no SAE of."""
    neuronpedia_ids: dict[str, str] = field(default_factory=dict)
    """What Neuronpedia calls the SAE at a hook, where its metadata say so."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Versions, model, the null model and its seed."""
    activations: "TopActivations | None" = None
    """What the features fire on, for the pictures; not saved with the graph, it has a `save` of its own."""
    sites: FlowSites | None = None
    """The SAEs the graph was traced through, for steering; None in a graph that was loaded."""

    @cached_property
    def nodes(self) -> list[Feature]:
        """All nodes, (hook name, index)."""
        return [
            (self.hooks[hook], index)
            for hook, index in zip(self.node_hook.tolist(), self.node_index.tolist(), strict=True)
        ]

    @cached_property
    def origins(self) -> list[str]:
        """Each node's origin, one of `ORIGINS`, or "" for features that are not of the stream or have no site before them."""
        names = ("", *ORIGINS)
        return [names[code] for code in self.node_origin.tolist()]

    def site(self, hook_name: str) -> FlowSite:
        """Give the layer and kind of a hook."""
        return flow_site(hook_name)

    def feature_indices(self) -> dict[str, list[int]]:
        """Give the graph's features by hook, ascending: what `top_activations(features=...)` takes."""
        found: dict[str, list[int]] = {}
        for hook, index in sorted(self.nodes, key=lambda node: (self.hooks.index(node[0]), node[1])):
            found.setdefault(hook, []).append(index)
        return found

    def chain(self, start: Feature | None = None) -> list[Feature]:
        """Follow the residual stream through a feature: its best predecessor, that one's, …, and its best successor, that one's, ….

        The successor is the best of the graph's: in what `flow_map` gives, of the features whose best predecessor this is.

        Args:
            start: A node of the residual stream; by default the graph's only start.

        Returns:
            Features by layer, ascending, the start among them.

        Raises:
            ValueError: There is no such node, or there is more than one start to choose from.
        """
        node = self.position(self._one_start(start))
        chain = [node]
        while (before := self._best(chain[0], self.edge_target, self.edge_source)) is not None:
            chain.insert(0, before)
        while (after := self._best(chain[-1], self.edge_source, self.edge_target)) is not None:
            chain.append(after)
        return [self.nodes[i] for i in chain]

    def subgraph(self, starts: Feature | Sequence[Feature]) -> "FlowGraph":
        """Keep what flows into some features and what they flow into, with the modules' features that join on the way.

        Args:
            starts: One node or several.

        Raises:
            ValueError: There is no such node.
        """
        chosen = [starts] if isinstance(starts[0], str) else list(starts)
        positions = [self.position(start) for start in chosen]  # pyright: ignore[reportArgumentType]
        keep = np.zeros(len(self.node_hook), dtype=bool)
        for ends, others in ((self.edge_target, self.edge_source), (self.edge_source, self.edge_target)):
            keep |= _reached(positions, ends.numpy(), others.numpy(), len(keep))
        of_module = torch.tensor([flow_site(name).kind != "residual" for name in self.hooks])[self.node_hook]
        joining = of_module[self.edge_source].numpy() & keep[self.edge_target.numpy()]
        keep[self.edge_source.numpy()[joining]] = True
        edges = keep[self.edge_source.numpy()] & keep[self.edge_target.numpy()]
        return self._selected(torch.from_numpy(keep), torch.from_numpy(edges), tuple(chosen))  # pyright: ignore[reportArgumentType]

    def stronger(self, *, score: float = 0.0, null_quantile: float = 0.0) -> "FlowGraph":
        """Keep the edges from these numbers on, and the nodes they join; starts stay."""
        edges = (self.edge_score >= score) & (self.edge_null_quantile >= null_quantile)
        keep = torch.zeros(len(self.node_hook), dtype=torch.bool)
        keep[self.edge_source[edges]] = True
        keep[self.edge_target[edges]] = True
        for start in self.starts:
            keep[self.position(start)] = True
        return self._selected(keep, edges, self.starts)

    def with_activations(self, activations: "TopActivations") -> "FlowGraph":
        """Give the graph with what its features fire on, as `top_activations` found it.

        Raises:
            ValueError: None of the graph's features is among those.
        """
        if self.nodes and not any(node in activations for node in self.nodes):
            raise ValueError(
                "The graph was given activations of other features than its own. Give top_activations(..., features=graph.feature_indices())."
            )
        return replace(self, activations=activations)

    def require_made_of(self, sites: FlowSites, *, edges: int = 64) -> None:
        """Raise ValueError unless these are the SAEs the graph was traced through, by the scores of its first edges."""
        for source, target, score in zip(
            self.edge_source[:edges].tolist(),
            self.edge_target[:edges].tolist(),
            self.edge_score[:edges].tolist(),
            strict=True,
        ):
            ends = [
                (hook, sites.index(hook, index)) for hook, index in (self.nodes[source], self.nodes[target])
            ]
            (a, b) = (sites.rows(hook)[index].cpu() for hook, index in ends)
            if abs(float(a @ b) - score) > _SAME_SCORE:
                raise ValueError(
                    f"The graph was traced through other SAEs than these: {ends[0]} and {ends[1]} have the cosine {float(a @ b):.3f}, and their edge "
                    f"the score {score:.3f}. Give the SAEs it was traced through, or trace again."
                )

    def position(self, feature: Feature) -> int:
        """Give a feature's position among the nodes.

        Raises:
            ValueError: It is no node of the graph.
        """
        found = self._positions.get((feature[0], int(feature[1])))
        if found is None:
            raise ValueError(
                f"The graph has no node {feature!r}. It has {len(self.node_hook)} nodes at {', '.join(map(repr, self.hooks))}; graph.nodes lists them."
            )
        return found

    def to_frame(self) -> "pd.DataFrame":
        """Give a row per edge: both ends' hook, layer, kind and index, score, null quantile."""
        import pandas as pd

        columns: dict[str, Any] = {}
        for end, positions in (("source", self.edge_source), ("target", self.edge_target)):
            hooks, index = self.node_hook[positions].numpy(), self.node_index[positions].numpy()
            columns |= {f"{end}_{name}": values for name, values in self._named(hooks).items()}
            columns[f"{end}_index"] = index
        return pd.DataFrame(
            {
                **columns,
                "score": self.edge_score.numpy(),
                "null_quantile": self.edge_null_quantile.numpy(),
            }
        )

    def node_frame(self) -> "pd.DataFrame":
        """Give a row per node: hook, layer, kind, index, origin and the three scores."""
        import pandas as pd

        return pd.DataFrame(
            {
                **self._named(self.node_hook.numpy()),
                "index": self.node_index.numpy(),
                "origin": np.array(("", *ORIGINS))[self.node_origin.long().numpy()],
                **{f"{kind}_score": self.node_scores[:, i].numpy() for i, kind in enumerate(KINDS)},
            }
        )

    def to_networkx(self) -> "nx.DiGraph":
        """Give a directed graph whose nodes are (hook name, index), with layer, kind, origin and scores; edges carry score and null_quantile."""
        from sae_lens_ext.analysis.flow.exports import to_networkx

        return to_networkx(self)

    def to_graphml(self, path: str | Path) -> None:
        """Write the graph as GraphML, for Gephi, Cytoscape and the like; a node is called "hook:index"."""
        from sae_lens_ext.analysis.flow.exports import write_graphml

        write_graphml(self, path)

    def to_json(self, path: str | Path) -> None:
        """Write the graph as plain JSON, a list of nodes and one of edges, for other programs; `save` is for this one."""
        from sae_lens_ext.analysis.flow.exports import write_json

        write_json(self, path)

    def plot(self) -> "go.Figure":
        """Draw the graph as a Sankey diagram: layers left to right, links as wide as their score."""
        from sae_lens_ext.analysis.flow.sankey import sankey

        return sankey(self)

    def write_html(self, path: str | Path, *, title: str | None = None) -> None:
        """Write the graph as one interactive page that needs no server and no network."""
        from sae_lens_ext.analysis.flow.page import write_page

        write_page(self, path, title=title)

    def save(self, path: str | Path) -> None:
        """Write the graph as JSON, its columns as safetensors beside it. Activations and SAEs are not part of it."""
        content = {
            "hooks": list(self.hooks),
            "starts": [list(start) for start in self.starts],
            "thresholds": self.thresholds,
            "missing": list(self.missing),
            "neuronpedia_ids": self.neuronpedia_ids,
            "provenance": self.provenance,
        }
        save_result_with_tensors(path, _FORMAT, content, {name: getattr(self, name) for name in _TENSORS})

    @classmethod
    def load(cls, path: str | Path) -> "FlowGraph":
        """Read a graph that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole graph.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> "FlowGraph":
            return cls(
                tuple(content["hooks"]),
                *(tensors[name] for name in _TENSORS),
                starts=tuple((hook, index) for hook, index in content["starts"]),
                thresholds=content["thresholds"],
                missing=tuple(content["missing"]),
                neuronpedia_ids=content["neuronpedia_ids"],
                provenance=content["provenance"],
            )

        return load_result_with_tensors(path, _FORMAT, build, "trace the features again")

    def __repr__(self) -> str:
        scores = self.edge_score
        middle = f", median score {scores.median().item():.2f}" if len(scores) else ""
        n = {origin: int((self.node_origin == i + 1).sum()) for i, origin in enumerate(ORIGINS)}
        return (
            f"FlowGraph of {len(self.node_hook)} features and {len(scores)} edges{middle}\n"
            f"  {', '.join(f'{count} {origin}' for origin, count in n.items())}\n"
            f"  {len(self.starts)} starts, {len(self.hooks)} sites of {self.provenance.get('model_name')}"
        )

    def _repr_html_(self) -> str:
        return notebook_view(self, self.to_frame().head(10).round(3).to_html(index=False))

    @cached_property
    def _positions(self) -> dict[Feature, int]:
        return {node: i for i, node in enumerate(self.nodes)}

    def _named(self, hooks: np.ndarray) -> dict[str, np.ndarray]:
        sites = [flow_site(name) for name in self.hooks]
        return {
            "hook": np.array(self.hooks, dtype=object)[hooks],
            "layer": np.array([site.layer for site in sites], dtype=np.int64)[hooks],
            "kind": np.array([site.kind for site in sites], dtype=object)[hooks],
        }

    def _one_start(self, start: Feature | None) -> Feature:
        if start is not None:
            return start
        if len(self.starts) != 1:
            raise ValueError(
                f"The graph has {len(self.starts)} starts. Say which feature's chain you want by chain(start=…), one of graph.nodes."
            )
        return self.starts[0]

    def _best(self, node: int, here: torch.Tensor, there: torch.Tensor) -> int | None:
        """Give the residual neighbour with the highest score on the `there` side of edges that have the node on the `here` side."""
        edges = torch.nonzero(here == node)[:, 0]
        residual = torch.tensor([flow_site(name).kind == "residual" for name in self.hooks])
        edges = edges[residual[self.node_hook[there[edges]]]]
        if len(edges) == 0:
            return None
        return int(there[edges[self.edge_score[edges].argmax()]])

    def _selected(self, nodes: torch.Tensor, edges: torch.Tensor, starts: tuple[Feature, ...]) -> "FlowGraph":
        new_position = torch.cumsum(nodes, 0) - 1
        return replace(
            self,
            node_hook=self.node_hook[nodes],
            node_index=self.node_index[nodes],
            node_scores=self.node_scores[nodes],
            node_origin=self.node_origin[nodes],
            edge_source=new_position[self.edge_source[edges]],
            edge_target=new_position[self.edge_target[edges]],
            edge_score=self.edge_score[edges],
            edge_null_quantile=self.edge_null_quantile[edges],
            starts=starts,
        )


def _reached(starts: list[int], ends: np.ndarray, beginnings: np.ndarray, n: int) -> np.ndarray:
    """Say which nodes are reached from `starts` along edges that lead from `ends` to `beginnings`, [n]."""
    found = np.zeros(n, dtype=bool)
    front = np.zeros(n, dtype=bool)
    front[starts] = True
    while front.any():
        found |= front
        following = np.zeros(n, dtype=bool)
        following[beginnings[front[ends]]] = True
        front = following & ~found
    return found
