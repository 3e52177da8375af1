"""The flow graph of a whole model in several processes, against one process: equal to the bit, each opens its sites only."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_ext.analysis.flow import FlowGraph, FlowSites, flow_map, trace_feature
from tests.analysis.flow.dictionaries import ATT, MLP, RES, sae_of
from tests.in_ranks import in_ranks


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Five layers of the residual stream, three MLPs, one attention: 8 pairs of sites."""
    generator = torch.Generator().manual_seed(0)
    hooks = [RES.format(layer) for layer in range(5)] + [MLP.format(layer) for layer in (1, 2, 4)]
    for i, hook in enumerate([*hooks, ATT.format(3)]):
        rows = torch.randn(9 + i % 3, 5, generator=generator)
        sae_of(rows, hook).save_model(tmp_path / hook)
    return [tmp_path / hook for hook in [*hooks, ATT.format(3)]]


def mapped(sites: Any, **settings: Any) -> FlowGraph:
    return flow_map(sites, n_null=32, show_progress=False, **settings)


def tensors_of(graph: FlowGraph) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(graph).items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("thresholds", ["null", None])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_rank_has_the_graph_of_one_process_to_the_bit(folders, n: int, thresholds: Any) -> None:
    expected = mapped(folders, thresholds=thresholds, seed=4)

    def graph() -> tuple[dict[str, torch.Tensor], tuple[Any, ...]]:
        found = mapped(folders, thresholds=thresholds, seed=4)
        return tensors_of(found), (found.hooks, found.thresholds, found.missing, found.provenance)

    for tensors, rest in in_ranks(n, graph):
        assert tensors.keys() == tensors_of(expected).keys() and len(tensors) >= 8
        for name, tensor in tensors_of(expected).items():
            torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0, equal_nan=True)
        assert rest == (expected.hooks, expected.thresholds, expected.missing, expected.provenance)


def test_more_ranks_than_pairs_of_sites_leave_some_idle() -> None:
    sites = {RES.format(i): sae_of(torch.eye(4).roll(i, dims=0), RES.format(i)) for i in range(2)}
    expected = mapped(sites, thresholds=None)
    assert expected.edge_score.tolist() == [1.0] * 4

    for tensors in in_ranks(3, lambda: tensors_of(mapped(sites, thresholds=None))):
        assert torch.equal(tensors["edge_source"], expected.edge_source)
        assert torch.equal(tensors["edge_target"], expected.edge_target)


def test_each_rank_opens_the_sites_of_its_run_of_pairs_only(folders, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = FlowSites._open

    def noted(self: FlowSites, name: str) -> Any:
        opened.append(name)
        return real(self, name)

    monkeypatch.setattr(FlowSites, "_open", noted)

    def names() -> list[str]:
        mapped(folders)
        return opened

    first, second = in_ranks(2, names)
    # Layers 1 and 2, each from the stream and its MLP; layers 3 and 4, from the stream, the attention, and the MLP.
    assert sorted(first) == sorted(
        [RES.format(0), RES.format(1), RES.format(2), MLP.format(1), MLP.format(2)]
    )
    assert sorted(second) == sorted(
        [RES.format(2), RES.format(3), RES.format(4), ATT.format(3), MLP.format(4)]
    )


def test_a_trace_is_the_same_on_every_rank(folders) -> None:
    start = (RES.format(3), 2)
    expected = trace_feature(folders, start, thresholds=None, n_null=8)

    def nodes() -> list[Any]:
        return list(trace_feature(folders, start, thresholds=None, n_null=8).nodes)

    assert in_ranks(2, nodes) == [list(expected.nodes)] * 2


def test_sites_put_their_rows_on_the_device_asked_for(folders) -> None:
    sites = FlowSites.open("test", folders, device="meta")
    assert sites.rows(RES.format(0)).device.type == "meta"
    assert FlowSites.open("test", sites).rows(RES.format(0)).device.type == "meta"
    assert FlowSites.open("test", sites, device="cpu").rows(RES.format(0)).device.type == "cpu"
    assert sites[RES.format(0)].W_dec.device.type == "cpu"  # the SAE itself stays where it is


def test_flow_map_refuses_lone_sites_on_every_rank() -> None:
    sites = {RES.format(i): sae_of(torch.eye(4), RES.format(i)) for i in (0, 2)}

    def refuse() -> None:
        with pytest.raises(ValueError, match="none comes before another"):
            mapped(sites)

    in_ranks(2, refuse)
