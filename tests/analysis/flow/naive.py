"""The trace of a feature as a loop that a reader believes."""

import torch
from sae_lens import SAE

from tests.analysis.flow.dictionaries import ATT, MLP, RES


def naive_chain(saes: dict[str, SAE], layer: int, index: int, n_layers: int) -> tuple[set, dict]:
    """Give the nodes and the edges' cosines of a feature's full trace, without thresholds."""
    nodes, edges = {(RES.format(layer), index)}, {}

    def best(hook: str, i: int, other: str) -> tuple[int, float]:
        row, most = saes[hook].W_dec.detach()[i], (-1, 0.0)
        for j, candidate in enumerate(saes[other].W_dec.detach()):
            cosine = float(torch.cosine_similarity(row, candidate, dim=0))
            if cosine > most[1]:
                most = (j, cosine)
        return most

    def add_modules(hook: str, i: int, at: int) -> None:
        for kind in (MLP, ATT):
            other = kind.format(at)
            if other in saes:
                j, cosine = best(hook, i, other)
                if j >= 0:
                    nodes.add((other, j))
                    edges[(other, j), (hook, i)] = cosine

    add_modules(RES.format(layer), index, layer)
    i = index
    for at in range(layer, 0, -1):
        j, cosine = best(RES.format(at), i, RES.format(at - 1))
        if j < 0:
            break
        nodes.add((RES.format(at - 1), j))
        edges[(RES.format(at - 1), j), (RES.format(at), i)] = cosine
        add_modules(RES.format(at - 1), j, at - 1)
        i = j
    i = index
    for at in range(layer, n_layers - 1):
        j, cosine = best(RES.format(at), i, RES.format(at + 1))
        if j < 0:
            break
        nodes.add((RES.format(at + 1), j))
        edges[(RES.format(at), i), (RES.format(at + 1), j)] = cosine
        add_modules(RES.format(at + 1), j, at + 1)
        i = j
    return nodes, edges
