"""Fast routing against the loop that the formula is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.ops.layer_routing import LayerMemory, route_naive


def _leaves(n_layers: int, n_heads: int, batch: int = 2, pos: int = 3, d_head: int = 4):
    generator = torch.Generator().manual_seed(n_layers)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    keys = [draw(batch, pos, n_heads, d_head) for _ in range(n_layers)]
    return keys, [draw(n_heads, layer + 1, n_heads) for layer in range(n_layers)]


def _all_layers(keys: list[torch.Tensor], weights: list[torch.Tensor], *, naive: bool) -> list[torch.Tensor]:
    """Route layer by layer, each layer's own keys depending on what was routed before, as in a model."""
    memory = LayerMemory(len(keys))
    memory.start(keys[0])
    routed, own = [keys[0]], [keys[0]]
    for layer in range(1, len(keys)):
        own.append(keys[layer] + torch.tanh(routed[-1]).flip(-1))
        routed.append(route_naive(own, weights[layer]) if naive else memory.add(own[-1], weights[layer]))
    return routed


def test_route_naive_gives_the_hand_worked_sum():
    keys = [torch.tensor([[[[1.0], [2.0]]]]), torch.tensor([[[[10.0], [20.0]]]])]
    weights = torch.tensor([[[1.0, 0.0], [0.0, -1.0]], [[0.5, 2.0], [3.0, 0.0]]])

    assert route_naive(keys, weights).flatten().tolist() == [1 - 20, 0.5 + 4 + 30]


@given(n_layers=st.integers(1, 5), n_heads=st.integers(1, 3))
def test_layer_memory_equals_the_loop_with_every_gradient(n_layers: int, n_heads: int):
    results = []
    for naive in (True, False):
        keys, weights = _leaves(n_layers, n_heads)
        routed = _all_layers(keys, weights, naive=naive)
        sum((layer + 1) * (x**2).sin().sum() for layer, x in enumerate(routed)).backward()
        results.append([x.detach() for x in routed] + [leaf.grad for leaf in [*keys, *weights[1:]]])

    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_layer_memory_passes_gradcheck():
    keys, weights = _leaves(3, 2, batch=1, pos=2, d_head=2)

    assert torch.autograd.gradcheck(
        lambda *leaves: tuple(_all_layers(list(leaves[:3]), list(leaves[3:]), naive=False)), (*keys, *weights)
    )


@pytest.mark.parametrize("read", [0, 1, 2, 3])
def test_a_layer_that_nobody_reads_takes_no_part_in_the_gradient(read: int):
    keys, weights = _leaves(4, 2)
    expected = torch.autograd.grad(
        _all_layers(keys, weights, naive=True)[read].sum(),
        [*keys, *weights],
        allow_unused=True,
        materialize_grads=True,
    )
    found = torch.autograd.grad(
        _all_layers(keys, weights, naive=False)[read].sum(),
        [*keys, *weights],
        allow_unused=True,
        materialize_grads=True,
    )

    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a)


def test_backward_twice_through_one_pass_gives_the_same_gradient_again():
    keys, weights = _leaves(3, 2)
    loss = sum(x.pow(3).sum() for x in _all_layers(keys, weights, naive=False))
    first = torch.autograd.grad(loss, keys, retain_graph=True)

    for a, b in zip(first, torch.autograd.grad(loss, keys), strict=True):
        torch.testing.assert_close(a, b)


def test_two_passes_do_not_share_a_block():
    keys, weights = _leaves(2, 2)
    memory = LayerMemory(2)
    memory.start(keys[0])
    first = memory.add(keys[1], weights[1])
    before = first.detach().clone()
    memory.start(2 * keys[0])
    memory.add(2 * keys[1], weights[1])

    torch.testing.assert_close(first.detach(), before)
    first.sum().backward()
    torch.testing.assert_close(weights[1].grad[0, 0, 0], keys[0].detach()[:, :, 0].sum())


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_keys_give_half_precision_and_weights_keep_theirs(precision: torch.dtype):
    weights = torch.eye(2)[:, None].repeat(1, 2, 1).requires_grad_()
    keys = [torch.randn(1, 2, 2, 4).to(precision).requires_grad_() for _ in range(2)]
    memory = LayerMemory(2)
    memory.start(keys[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routed = memory.add(keys[1], weights)
    routed.sum().backward()

    assert routed.dtype == keys[0].grad.dtype == precision
    assert weights.grad.dtype == torch.float32
    torch.testing.assert_close(routed, keys[0] + keys[1])


def test_autocast_leaves_the_precision_of_full_keys_alone():
    keys, weights = _leaves(2, 2)
    keys, weights = [k.detach().float() for k in keys], [w.detach().float() for w in weights]
    memory = LayerMemory(2)
    memory.start(keys[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routed = memory.add(keys[1], weights[1])

    torch.testing.assert_close(routed, route_naive(keys, weights[1]))
