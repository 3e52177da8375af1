"""Reading stops at the hook; one head, or all of them flattened."""

from typing import Any

import pytest
import torch

from sae_lens_ext.language_model import Site, find_hook_point, read_activations
from tests.language_model.test_hook_points import hooks_left, own_name

RESIDUAL = ("blocks.0.hook_resid_post", "blocks.0.hook_out")
HEADS = (
    "blocks.0.attn.hook_z",
    "blocks.0.attn.o.hook_in",
)  # of the hooked and native models, of Hugging Face's


def cached(model: Any, tokens: torch.Tensor, name: str) -> torch.Tensor:
    with torch.no_grad():
        return model.run_with_cache(tokens, names_filter=[name])[1][name]


@pytest.mark.parametrize(
    "names", [RESIDUAL, ("blocks.1.hook_mlp_out", "blocks.1.mlp.hook_out"), ("ln_final.hook_scale",)]
)
def test_read_activations_is_what_run_with_cache_gives(any_model: Any, tokens, names) -> None:
    expected = cached(any_model, tokens, own_name(any_model, *names))
    for name in names:
        assert torch.equal(read_activations(any_model, tokens, Site(name)), expected)


def test_read_activations_runs_nothing_past_the_hook_and_leaves_no_hooks(any_model: Any, tokens) -> None:
    fired = dict.fromkeys(
        ["blocks.0.hook_in", "blocks.0.hook_mlp_out", "blocks.1.hook_in", "blocks.1.hook_out"], 0
    )
    for name in fired:
        point = find_hook_point(any_model, name)
        point.add_hook(lambda x, hook, name=name: fired.update({name: fired[name] + 1}))
    read_activations(any_model, tokens, Site(RESIDUAL[0]))
    assert fired == {
        "blocks.0.hook_in": 1,
        "blocks.0.hook_mlp_out": 1,
        "blocks.1.hook_in": 0,
        "blocks.1.hook_out": 0,
    }
    any_model.reset_hooks()
    read_activations(any_model, tokens, Site(RESIDUAL[1]))
    assert hooks_left(any_model) == []


def test_read_activations_leaves_the_model_and_asks_for_no_gradient(any_model: Any, tokens) -> None:
    plain = any_model(tokens)
    activations = read_activations(any_model, tokens, Site("blocks.0.hook_in"))
    assert not activations.requires_grad
    activations.zero_()
    assert torch.equal(any_model(tokens), plain)


def test_read_activations_gives_one_head_or_all_flattened(any_model: Any, tokens) -> None:
    name = own_name(any_model, *HEADS)
    heads = cached(any_model, tokens, name)
    assert heads.shape == (4, 16, 2, 8)
    everything = read_activations(any_model, tokens, Site(name))
    assert torch.equal(everything, torch.cat([heads[:, :, 0], heads[:, :, 1]], dim=-1))
    assert torch.equal(read_activations(any_model, tokens, Site(name, head=1)), heads[:, :, 1])
    assert torch.equal(read_activations(any_model, tokens, Site(name, head=0)), heads[:, :, 0])


def test_read_activations_with_autocast_runs_the_model_in_bfloat16(any_model: Any, tokens) -> None:
    name = own_name(any_model, "blocks.0.mlp.hook_post", "blocks.0.mlp.out.hook_in")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = cached(any_model, tokens, name)
    rounded = read_activations(any_model, tokens, Site(name), autocast=True)
    assert expected.dtype == rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, expected)
    assert read_activations(any_model, tokens, Site(name)).dtype == torch.float32


def test_read_activations_at_a_hook_that_never_fires_raises(any_model: Any, tokens) -> None:
    with pytest.raises(RuntimeError, match=r"'blocks.0.hook_mlp_in' never fired"):
        read_activations(any_model, tokens, Site("blocks.0.hook_mlp_in"))
    with pytest.raises(ValueError, match=r"no hook 'blocks.9.hook_out'"):
        read_activations(any_model, tokens, Site("blocks.9.hook_out"))


def test_Site_reads_by_hand() -> None:
    activations = torch.arange(12).reshape(1, 2, 3, 2)  # one sequence of two tokens, three heads of width two
    assert Site("h").read(activations).tolist() == [[[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]]
    assert Site("h", head=1).read(activations).tolist() == [[[2, 3], [8, 9]]]
    assert Site("h").read(activations[:, :, 0]).tolist() == [[[0, 1], [6, 7]]]


def test_Site_writes_by_hand() -> None:
    activations = torch.arange(12.0).reshape(1, 2, 3, 2)
    written = Site("h", head=2).write(activations, -torch.ones(1, 2, 2))
    assert written.tolist() == [[[[0, 1], [2, 3], [-1, -1]], [[6, 7], [8, 9], [-1, -1]]]]
    assert activations[0, 0, 2].tolist() == [4, 5]  # not in place
    assert torch.equal(Site("h").write(activations, 2 * activations.reshape(1, 2, 6)), 2 * activations)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_Site_write_undoes_read_and_keeps_shape_and_precision(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    activations = torch.randn(shape).to(dtype)
    for site in [Site("h")] + [Site("h", head=i) for i in range(4) if len(shape) == 4]:
        written = site.write(activations, site.read(activations).float())
        assert written.dtype == dtype and torch.equal(written, activations)


def test_Site_is_one_key_for_one_place() -> None:
    assert len({Site("a"), Site("a"), Site("a", head=0), Site("b"), Site("a", 0)}) == 3
