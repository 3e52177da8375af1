"""The order of the sequences follows from the seed and the step."""

from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.lime.training.order import BatchOrder


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(1, 7), st.integers(0, 5))
def test_every_epoch_reads_every_sequence_once_in_batches_of_one_group(
    sizes: list[int], batch_size: int, epoch: int
):
    order = BatchOrder(sizes, batch_size, seed=3)
    batches = [order.batch(epoch * order.per_epoch + i) for i in range(order.per_epoch)]

    assert all(1 <= len(rows) <= batch_size for _, rows in batches)
    assert sorted((group, int(row)) for group, rows in batches for row in rows) == [
        (group, row) for group, size in enumerate(sizes) for row in range(size)
    ]


def test_epochs_and_seeds_have_orders_of_their_own_and_steps_can_be_asked_for_in_any_order():
    order, again, other = (BatchOrder([40], 8, seed) for seed in (0, 0, 1))
    forwards = [order.batch(step)[1].tolist() for step in range(10)]

    assert forwards == [again.batch(step)[1].tolist() for step in reversed(range(10))][::-1]
    assert forwards[:5] != forwards[5:]
    assert forwards[0] != other.batch(0)[1].tolist()


def test_the_groups_are_mixed():
    order = BatchOrder([64, 64], 4, seed=0)
    groups = [order.batch(step)[0] for step in range(order.per_epoch)]

    assert groups != sorted(groups)
