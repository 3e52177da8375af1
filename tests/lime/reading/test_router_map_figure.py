"""What the pictures of a router map hold is what its tables say."""

import math

import numpy as np
import pytest

from sae_lens_ext.lime import LimeRouters
from sae_lens_ext.lime.reading import router_map


@pytest.mark.parametrize("off_diagonal", [False, True])
@pytest.mark.parametrize("n_layers", [3, 14])
def test_layer_figure_shows_the_shares_and_leaves_the_rest_blank(n_layers: int, off_diagonal: bool) -> None:
    found = router_map(LimeRouters(n_layers, 2, initial="random"), off_diagonal=off_diagonal)
    z = np.array(found.plot().data[0].z)
    for target in range(n_layers):
        for source in range(n_layers):
            if source > target or (off_diagonal and source == target):
                assert math.isnan(z[target, source])
            else:
                assert z[target, source] == float(found.by_layer[target, source])


def test_layer_figure_says_where_its_colours_end() -> None:
    drawing = router_map(LimeRouters(14, 2, initial="average")).plot()
    assert drawing.data[0].zmax == pytest.approx(1 / 8)  # the second half's largest share
    assert "darkest: 0.12 and above" in drawing.layout.title.text
    assert "darkest" not in router_map(LimeRouters(14, 2)).plot().layout.title.text


@pytest.mark.parametrize("off_diagonal", [False, True])
@pytest.mark.parametrize("n_layers", [3, 14])
def test_head_figure_shows_the_signed_weights_of_the_frame(n_layers: int, off_diagonal: bool) -> None:
    found = router_map(LimeRouters(n_layers, 2, initial="random"), off_diagonal=off_diagonal)
    heat = found.plot(per_head=True).data[0]
    expected = np.full((2 * n_layers, 2 * n_layers), np.nan)
    for row in found.to_frame().itertuples():
        if not (off_diagonal and row.source_layer == row.layer):
            expected[2 * row.layer + row.head, 2 * row.source_layer + row.source_head] = row.weight
    np.testing.assert_array_equal(np.array(heat.z, dtype=float), expected)
    assert heat.zmax == -heat.zmin == np.nanmax(np.abs(expected))
    assert list(heat.customdata[3][0]) == ["layer 1 head 1", "layer 0 head 0"]


def test_head_figure_has_lines_between_the_layers() -> None:
    lines = router_map(LimeRouters(3, 4)).plot(per_head=True).layout.shapes
    assert {line.y0 for line in lines if line.y0 == line.y1} == {3.5, 7.5}
    assert {line.x0 for line in lines if line.x0 == line.x1} == {3.5, 7.5}


def test_figures_of_routers_without_other_layers_can_be_drawn() -> None:
    found = router_map(LimeRouters(1, 1), off_diagonal=True)
    assert found.plot().data
    assert found.plot(per_head=True).data


def test_only_true_and_false_choose_the_figure() -> None:
    with pytest.raises(ValueError, match="per_head = 'yes'. Give True or False"):
        router_map(LimeRouters(2, 1)).plot(per_head="yes")  # type: ignore[arg-type]
