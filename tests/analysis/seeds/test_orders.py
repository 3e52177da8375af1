"""One stream in several orders: the same rows, by pools, aligned over hooks."""

import itertools
from collections.abc import Iterator

import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.analysis.seeds.orders import SeededOrders

B = 4


def stream(asked: list[int] | None = None) -> Iterator[dict[str, torch.Tensor]]:
    """Rows 0, 1, 2, … at "a"; at "b" the same rows, negative and twice as wide."""
    i = 0
    while True:
        if asked is not None:
            asked.append(i)
        x = torch.arange(i * B, (i + 1) * B).float()[:, None]
        yield {"a": x, "b": torch.cat([-x, -x], dim=1)}
        i += 1


def orders(seeds: dict[str, int], hooks: dict[str, str] | None = None, **settings: int) -> SeededOrders:
    settings = {"pool_batches": 3, "n_batches": 7, **settings}
    hooks = hooks or dict.fromkeys(seeds, "a")
    return SeededOrders(stream(), hook_names=hooks, seeds=seeds, **settings)


def take(source: SeededOrders, n: int) -> dict[str, torch.Tensor]:
    """n batches of every SAE, [n, B, d_in]."""
    batches = [next(source) for _ in range(n)]
    return {name: torch.stack([batch[name] for batch in batches]) for name in batches[0]}


def test_SeededOrders_gives_every_sae_the_rows_of_each_pool_in_an_order_of_its_own() -> None:
    seen = take(orders({"x": 0, "y": 1}), 7)
    for pool, (first, last) in {"first": (0, 3), "second": (3, 6), "what is left": (6, 7)}.items():
        expected = [float(row) for row in range(first * B, last * B)]
        for name in ("x", "y"):
            assert sorted(seen[name][first:last].flatten().tolist()) == expected, (pool, name)
    assert not torch.equal(seen["x"], seen["y"])
    assert set(seen["x"][0].flatten().tolist()) != set(
        seen["y"][0].flatten().tolist()
    )  # no mere order in a batch


def test_SeededOrders_equal_seeds_give_equal_orders_whatever_else_is_trained() -> None:
    together = take(orders({"x": 5, "y": 1, "z": 5}), 7)
    assert torch.equal(together["x"], together["z"])
    alone = take(orders({"y": 1}), 7)
    assert torch.equal(alone["y"], together["y"])


def test_SeededOrders_keeps_hooks_aligned() -> None:
    seen = take(orders({"x": 3, "y": 3}, {"x": "a", "y": "b"}), 7)
    assert seen["y"].shape == (7, B, 2)
    assert torch.equal(seen["y"], -seen["x"].expand(-1, -1, 2))


def test_SeededOrders_permutes_every_pool_otherwise() -> None:
    seen = take(orders({"x": 0}), 6)["x"]
    assert not torch.equal(seen[:3].flatten(), seen[3:].flatten() - 3 * B)


def test_SeededOrders_asks_for_no_more_than_is_left() -> None:
    asked: list[int] = []
    source = SeededOrders(
        stream(asked), hook_names={"x": "a"}, seeds={"x": 0}, pool_batches=3, n_batches=7, first_batch=2
    )
    take(source, 3)
    assert asked == [0, 1, 2]
    take(source, 2)
    assert asked == [0, 1, 2, 3, 4]


def test_SeededOrders_goes_on_past_the_end_by_single_batches() -> None:
    assert take(orders({"x": 0}, n_batches=2), 4)["x"].shape == (4, B, 1)


def test_SeededOrders_taken_up_again_at_a_pool_s_beginning_is_the_order_it_was() -> None:
    whole = take(orders({"x": 0}), 6)["x"]
    later = SeededOrders(
        itertools.islice(stream(), 3, None),
        hook_names={"x": "a"},
        seeds={"x": 0},
        pool_batches=3,
        n_batches=7,
        first_batch=3,
    )
    assert torch.equal(take(later, 3)["x"], whole[3:])


def test_SeededOrders_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    take(orders({"x": 0, "y": 1}), 7)
    assert torch.equal(torch.get_rng_state(), before)


@given(
    pool=st.integers(1, 6),
    n=st.integers(1, 14),
    first=st.integers(0, 5),
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3),
)
def test_SeededOrders_loses_and_doubles_no_row(pool: int, n: int, first: int, seeds: list[int]) -> None:
    names = {f"sae {i}": seed for i, seed in enumerate(seeds)}
    seen = take(orders(names, pool_batches=pool, n_batches=first + n, first_batch=first), n)
    for stacked in seen.values():
        assert sorted(stacked.flatten().tolist()) == list(range(n * B))
