"""Router maps: shares of layers by hand, of known routers, and on the way to a file and back."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.lime import LimeRouters
from sae_lens_ext.lime.reading import RouterMap, router_map

BY_HAND = torch.tensor([[[0.5, -0.5], [1.0, 0.0]], [[0.0, 0.25], [0.0, 1.0]]])
"""Two target heads of layer 1, each with two source heads of layers 0 and 1."""


def hand_worked() -> LimeRouters:
    routers = LimeRouters(2, 2)
    routers.set_weights({1: BY_HAND})
    return routers


def test_shares_are_mean_sizes_over_heads_normalised_by_target_layer() -> None:
    found = router_map(hand_worked())
    assert found.by_layer.dtype == torch.float64
    assert found.mean_size.tolist() == [[0.5, 0.0], [1.25 / 4, 2 / 4]]
    assert found.by_layer[1].tolist() == pytest.approx([1.25 / 3.25, 2 / 3.25])
    assert found.by_layer[0].tolist() == [1.0, 0.0]
    assert torch.equal(found.by_head[1], BY_HAND)


def test_shares_of_own_first_and_preceding_layer_are_those_of_the_map() -> None:
    found = router_map(LimeRouters(4, 3, initial="random", seed=2))
    shares = found.by_layer
    assert found.share_of_own_layer.tolist() == [float(shares[i, i]) for i in range(4)]
    assert found.share_of_first_layer.tolist() == [float(shares[i, 0]) for i in range(4)]
    assert found.share_of_predecessor.tolist() == [0.0, *(float(shares[i, i - 1]) for i in (1, 2, 3))]


def test_identity_routers_lie_on_the_diagonal() -> None:
    found = router_map(LimeRouters(4, 2))
    assert torch.equal(found.by_layer, torch.eye(4, dtype=torch.float64))
    assert found.pattern()["sources"].tolist() == [(), (), ()]


def test_averaging_routers_have_the_share_of_a_uniform_one_everywhere() -> None:
    found = router_map(LimeRouters(4, 2, initial="average"))
    for layer in range(4):
        assert found.by_layer[layer, : layer + 1].tolist() == pytest.approx([1 / (layer + 1)] * (layer + 1))
    pattern = found.pattern()
    assert pattern["predecessor"].tolist() == pytest.approx(pattern["uniform"].tolist())
    assert pattern["sources"].tolist() == [(0,), (0, 1), (0, 1, 2)]


def test_off_diagonal_shares_the_weight_on_other_layers_alone() -> None:
    routers = LimeRouters(3, 1)
    routers.set_weights({2: torch.tensor([[[0.03], [-0.01], [5.0]]])})
    found = router_map(routers, off_diagonal=True)
    assert found.by_layer[2].tolist() == pytest.approx([0.75, 0.25, 0.0])
    assert found.by_layer[:2].abs().sum() == 0  # nothing but their own layer
    assert found.pattern()["uniform"].tolist() == [1.0, 0.5]


def test_pattern_ranks_the_other_layers() -> None:
    routers = LimeRouters(4, 1)
    routers.set_weights({3: torch.tensor([[[0.2], [-0.5], [0.1], [0.2]]])})
    row = router_map(routers).pattern().set_index("layer").loc[3]
    assert row["sources"] == (1, 0, 2)
    assert row["shares"] == pytest.approx((0.5, 0.2, 0.1))
    assert (row["own"], row["first"], row["first_two"], row["predecessor"], row["uniform"]) == pytest.approx(
        (0.2, 0.2, 0.7, 0.1, 0.25)
    )


@given(
    n_layers=st.integers(1, 5), n_heads=st.integers(1, 3), seed=st.integers(0, 99), off_diagonal=st.booleans()
)
def test_shares_sum_to_one_and_never_come_from_later_layers(
    n_layers: int, n_heads: int, seed: int, off_diagonal: bool
) -> None:
    found = router_map(LimeRouters(n_layers, n_heads, initial="random", seed=seed), off_diagonal=off_diagonal)
    shares = found.by_layer
    assert bool(shares.isfinite().all())
    assert shares.triu(0 if off_diagonal else 1).abs().sum() == 0
    rows = shares.sum(dim=1)[1 if off_diagonal else 0 :]
    assert torch.allclose(rows, torch.ones_like(rows))


def test_a_layer_without_any_weight_has_shares_of_zero() -> None:
    routers = LimeRouters(2, 1)
    routers.set_weights({1: torch.zeros(1, 2, 1)})
    assert router_map(routers).by_layer.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_frame_has_a_row_for_each_weight() -> None:
    frame = router_map(hand_worked()).to_frame()
    assert list(frame.columns) == ["layer", "head", "source_layer", "source_head", "weight"]
    assert len(frame) == 4 + 8
    for row in frame.itertuples():
        R = torch.eye(2)[:, None] if row.layer == 0 else BY_HAND
        assert row.weight == float(R[row.head, row.source_layer, row.source_head])


def test_map_is_a_copy_of_the_weights() -> None:
    routers = hand_worked()
    found = router_map(routers)
    routers.set_weights({1: torch.zeros(2, 2, 2)})
    assert torch.equal(found.by_head[1], BY_HAND)
    assert not found.by_head[1].requires_grad


@pytest.mark.parametrize("off_diagonal", [False, True])
def test_map_is_the_same_after_saving_and_loading(tmp_path: Path, off_diagonal: bool) -> None:
    found = router_map(LimeRouters(12, 2, initial="random", seed=3), off_diagonal=off_diagonal)
    found.save(tmp_path / "map.json")
    loaded = RouterMap.load(tmp_path / "map.json")
    assert torch.equal(loaded.by_layer, found.by_layer)
    assert loaded.to_frame().equals(found.to_frame())
    assert loaded.off_diagonal is off_diagonal
    assert dict(loaded.provenance) == found.provenance
    assert loaded.provenance["routers"] == {"initial": "random", "seed": 3}


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a RouterMap that this version can read"):
        RouterMap.load(tmp_path / "map.json")


def test_map_shows_itself_in_three_lines_and_a_table() -> None:
    found = router_map(LimeRouters(3, 2, initial="random"))
    assert len(repr(found).splitlines()) == 3
    assert "<table" in found._repr_html_()
    assert len(repr(router_map(LimeRouters(1, 1))).splitlines()) == 3


def test_weights_that_are_no_numbers_are_refused() -> None:
    routers = LimeRouters(3, 2)
    with torch.no_grad():
        routers.weights[2][0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="weights of layer 2 have NaN or infinity"):
        router_map(routers)


def test_what_is_no_router_is_refused() -> None:
    with pytest.raises(ValueError, match="was given Linear, which has no router weights by layer"):
        router_map(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"shape \(2, 1, 2\) for layer 1, where those of layer 1 are due"):
        router_map(
            SimpleNamespace(weights={0: torch.eye(2)[:, None], 1: torch.eye(2)[:, None]}, provenance={})
        )
    with pytest.raises(ValueError, match="for layer 1, where those of layer 0 are due"):
        router_map(SimpleNamespace(weights={1: torch.zeros(2, 2, 2)}, provenance={}))
    with pytest.raises(ValueError, match="off_diagonal = 1. Give True or False"):
        router_map(hand_worked(), off_diagonal=1)
