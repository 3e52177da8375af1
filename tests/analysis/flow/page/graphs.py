"""Made-up flow graphs for the pictures: small ones to count by hand, and ones that look like a real trace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sae_lens_ext.analysis.flow.graph import FlowGraph
from sae_lens_ext.analysis.top_contexts import Context

TOPICS = [
    [" coin", " coins", " cents", "dime", " nickel", " penny"],
    [" Paris", " France", " French", " Seine", " Louvre", " Lyon"],
    [" music", " song", " album", " melody", " chord", "Tune"],
    [" if", " else", "\n", "\t", " return", "  "],
    [" London", " England", " Thames", " British", " UK", " Oxford"],
    [" rain", " storm", " cloud", " weather", " wind", " snow"],
    [" gold", " silver", " bronze", " medal", " copper", " iron"],
    [" doctor", " nurse", " hospital", " patient", " clinic", " surgery"],
    [" happy", " joy", " glad", " smile", " delight", " cheerful"],
    [" seven", " eight", " nine", " ten", " eleven", " twelve"],
]
FILLER = "the quick reader of this page sees that a feature fires on some of its words , and not on others ."
SUFFIX = {"residual": "hook_resid_post", "mlp": "hook_mlp_out", "attention": "hook_attn_out"}
KINDS = ("residual", "mlp", "attention")


def hook(layer: int, kind: str = "residual") -> str:
    return f"blocks.{layer}.{SUFFIX[kind]}"


@dataclass
class MadeUpActivations:
    """Stands in for TopActivations: what features fire on, by (hook, index)."""

    tops: Mapping[tuple[str, int], Sequence[tuple[str, float]]]
    found: Mapping[tuple[str, int], Sequence[Context]]

    def __contains__(self, feature: object) -> bool:
        return feature in self.tops

    def tokens(self, hook_name: str, index: int, n: int = 10) -> list[tuple[str, float]]:
        return list(self.tops[hook_name, index])[:n]

    def contexts(self, hook_name: str, index: int, n: int = 5) -> list[Context]:
        return list(self.found.get((hook_name, index), ()))[:n]

    def firing_rate(self, hook_name: str, index: int) -> float:
        assert (hook_name, index) in self.tops
        return 0.0123


def graph_of(
    edges: Sequence[tuple[tuple[str, int], tuple[str, int], float, float]],
    *,
    starts: Sequence[tuple[str, int]] = (),
    origins: Mapping[tuple[str, int], int] | None = None,
    extra_hooks: Sequence[str] = (),
    activations: MadeUpActivations | None = None,
    **fields: object,
) -> FlowGraph:
    """Build a graph from edges (source, target, score, null quantile); its nodes are their ends and the starts."""
    nodes = list(dict.fromkeys([node for s, t, *_ in edges for node in (s, t)] + list(starts)))
    order = {kind: i for i, kind in enumerate(SUFFIX.values())}
    hooks = sorted(
        {name for name, _ in nodes} | set(extra_hooks),
        key=lambda name: (int(name.split(".")[1]), order[name.split(".")[2]]),
    )
    kind_of = {suffix: i for i, suffix in enumerate(SUFFIX.values())}
    scores = np.full((len(nodes), 3), np.nan, dtype=np.float32)
    for source, target, score, _ in edges:
        scores[nodes.index(target), kind_of[source[0].split(".")[2]]] = score
    return FlowGraph(
        hooks=tuple(hooks),
        node_hook=torch.tensor([hooks.index(name) for name, _ in nodes], dtype=torch.int64),
        node_index=torch.tensor([index for _, index in nodes], dtype=torch.int64),
        node_scores=torch.from_numpy(scores),
        node_origin=torch.tensor([(origins or {}).get(node, 0) for node in nodes], dtype=torch.int8),
        edge_source=torch.tensor([nodes.index(e[0]) for e in edges], dtype=torch.int64),
        edge_target=torch.tensor([nodes.index(e[1]) for e in edges], dtype=torch.int64),
        edge_score=torch.tensor([e[2] for e in edges], dtype=torch.float32),
        edge_null_quantile=torch.tensor([e[3] for e in edges], dtype=torch.float32),
        starts=tuple(starts),
        activations=activations,  # pyright: ignore[reportArgumentType]
        **fields,  # pyright: ignore[reportArgumentType]
    )


def traced(
    n_layers: int, n_starts: int, *, first: int = 0, share_modules: float = 0.75, seed: int = 0
) -> FlowGraph:
    """A graph like a trace of some features: straight chains, some of which join further back, and modules beside them."""
    rng = np.random.default_rng(seed)
    edges: dict[tuple[tuple[str, int], tuple[str, int]], tuple[float, float]] = {}
    topic: dict[tuple[str, int], int] = {}
    origins: dict[tuple[str, int], int] = {}
    starts: list[tuple[str, int]] = []
    layers = range(first, first + n_layers)
    for s in range(n_starts):
        at = int(rng.integers(first + n_layers // 2, first + n_layers - 1)) if n_layers > 2 else first
        index = {layer: int(rng.integers(16384)) for layer in layers}
        joins = (
            int(rng.integers(first, at)) if s and at > first and rng.random() < 0.5 else -1
        )  # up to there another's chain
        chain = [(hook(layer), index[layer]) for layer in layers]
        if joins >= first:
            other = [f for f in topic if f[0] == hook(joins)]
            if other:
                chain = [chain[i] if layer > joins else (hook(layer), -1) for i, layer in enumerate(layers)]
                back = other[int(rng.integers(len(other)))]
                while back is not None:
                    chain[int(back[0].split(".")[1]) - first] = back
                    back = next((a for (a, b) in edges if b == back and "resid" in a[0]), None)
                chain = [f for f in chain if f[1] >= 0]
        starts.append(next(f for f in chain if f[0] == hook(at)))
        for before, after in zip([None, *chain], chain, strict=False):
            layer = int(after[0].split(".")[1])
            if after in topic:
                continue
            topic[after] = s % len(TOPICS)
            stays = before is not None and rng.random() < 0.85
            if stays and before is not None:
                edges[before, after] = (float(rng.beta(8, 2)), float(rng.choice([0.995, 0.999, 1.0])))
            for kind in ("mlp", "attention"):
                if rng.random() < share_modules * (1 if kind == "mlp" else 0.6):
                    module = (hook(layer, kind), int(rng.integers(16384)))
                    edges[module, after] = (
                        float(rng.beta(3, 5)),
                        float(rng.choice([0.93, 0.97, 0.995, 0.999])),
                    )
                    topic[module] = s % len(TOPICS)
            fed = [edges[e][0] for e in edges if e[1] == after and "resid" not in e[0][0]]
            origins[after] = (
                0
                if before is None
                else 2
                if stays and fed and max(fed) > 0.4
                else 1
                if stays
                else 3
                if fed
                else 4
            )
    tops = {
        f: [(TOPICS[t][i], float(30 / (1 + i) + rng.random())) for i in range(6)] for f, t in topic.items()
    }
    found = {f: [_context(TOPICS[t], rng) for _ in range(4)] for f, t in topic.items()}
    return graph_of(
        [(s, t, score, quantile) for (s, t), (score, quantile) in edges.items()],
        starts=starts,
        origins=origins,
        activations=MadeUpActivations(tops, found),
        thresholds={"residual": 0.5, "mlp": 0.15, "attention": 0.15, "null_quantile": 0.0},
        neuronpedia_ids={
            hook(layer, kind): f"gemma-2-2b/{layer}-gemmascope-{short}-16k"
            for layer in layers
            for kind, short in (("residual", "res"), ("mlp", "mlp"), ("attention", "att"))
        },
        provenance={
            "model_name": "gemma-2-2b",
            "null": "shuffled",
            "n_null": 1000,
            "seed": 0,
            "torch_version": torch.__version__,
        },
        missing=("No SAE of the attention output at layers 3, 4.",),
    )


def _context(words: Sequence[str], rng: np.random.Generator) -> Context:
    tokens = [f" {word}" for word in FILLER.split()]
    peak = int(rng.integers(4, len(tokens)))
    activations = [0.0] * len(tokens)
    for place, value in (
        (peak, 20 + 10 * rng.random()),
        (max(0, peak - 3), 6 * rng.random()),
        (1, 3 * rng.random()),
    ):
        tokens[place] = words[int(rng.integers(len(words)))]
        activations[place] = float(value)
    return Context(text="stories", tokens=tuple(tokens), activations=tuple(activations), peak=peak)
