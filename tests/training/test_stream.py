"""The stream against SAELens' own store, replayed, and divided over ranks."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens.training.activations_store import ActivationsStore

from sae_lens_ext.ranks import current_ranks
from sae_lens_ext.training.held_rows import HeldRows
from sae_lens_ext.training.stream import ActivationStream
from tests.in_ranks import in_ranks

HOOK, OTHER = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
VARIETIES = [
    {},
    {"activations_mixing_fraction": 0.0},
    {"activations_mixing_fraction": 0.9},
    {"exclude_special_tokens": torch.tensor([0, 5])},
    {"seqpos_slice": (2, 14)},
    {"store_batch_size_prompts": 3, "n_batches_in_buffer": 4},
]


@pytest.fixture
def store(hooked_model, token_dataset) -> Any:
    """Makes stores of one hook, all alike."""

    def make(dataset: Dataset = token_dataset, **overrides: Any) -> ActivationsStore:
        fields = {
            "streaming": False,
            "hook_name": HOOK,
            "hook_head_index": None,
            "context_size": 16,
            "d_in": 16,
            "n_batches_in_buffer": 24,
            "total_training_tokens": 1,
            "store_batch_size_prompts": 4,
            "train_batch_size_tokens": 48,
            "prepend_bos": True,
            "normalize_activations": "none",
            "device": torch.device("cpu"),
            "dtype": "float32",
        }
        return ActivationsStore(hooked_model, dataset, **{**fields, **overrides})

    return make


@pytest.fixture
def two_hooks(hooked_model, token_dataset) -> Any:
    def make() -> ActivationsStore:
        return ActivationsStore.from_config_multi_hook(
            hooked_model,
            dataset=token_dataset,
            hook_names=[HOOK, OTHER],
            hook_d_ins={HOOK: 16, OTHER: 16},
            context_size=16,
            n_batches_in_buffer=24,
            store_batch_size_prompts=4,
            train_batch_size_tokens=48,
        )

    return make


def saelens_batches(store: ActivationsStore, n: int, seed: int = 3) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.stack([next(store).clone() for _ in range(n)])


def batches(stream: ActivationStream, n: int) -> torch.Tensor:
    return torch.stack([next(stream)[HOOK] for _ in range(n)])


@pytest.mark.parametrize("variety", VARIETIES)
def test_stream_gives_saelens_batches_to_the_bit_over_several_epochs(store, variety: dict[str, Any]) -> None:
    n = 60
    expected = saelens_batches(store(**variety), n)
    assert torch.equal(batches(ActivationStream(store(**variety), 3), n), expected)


def test_stream_of_two_hooks_gives_saelens_batches(two_hooks) -> None:
    torch.manual_seed(3)
    loader = two_hooks().get_multi_hook_data_loader()
    expected = [next(loader) for _ in range(20)]
    stream = ActivationStream(two_hooks(), 3)
    for batch in expected:
        found = next(stream)
        assert all(torch.equal(found[hook], batch[hook]) for hook in (HOOK, OTHER))


def test_stream_neither_sees_nor_moves_torch_s_generator(store) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = ActivationStream(store(), 3)
    first = batches(one, 5)
    assert torch.equal(torch.get_rng_state(), state)
    other, second = ActivationStream(store(), 3), []
    for _ in range(5):
        torch.rand(7)
        second.append(next(other)[HOOK])
    assert torch.equal(first, torch.stack(second))


@pytest.mark.parametrize("variety", VARIETIES)
@pytest.mark.parametrize("skipped", [0, 1, 7, 31])
def test_skipping_gives_the_batches_that_follow_to_the_bit(
    store, variety: dict[str, Any], skipped: int
) -> None:
    stream = ActivationStream(store(**variety), 3)
    expected = batches(stream, skipped + 10)[skipped:]
    taken_up = ActivationStream(store(**variety), 3)
    taken_up.skip(skipped)
    assert torch.equal(batches(taken_up, 10), expected)


def test_skipping_reads_only_what_is_still_wanted(store, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    get = ActivationsStore.get_activations

    def counting(self: ActivationsStore, tokens: torch.Tensor) -> torch.Tensor:
        read.append(len(tokens))
        return get(self, tokens)

    monkeypatch.setattr(ActivationsStore, "get_activations", counting)
    stream = ActivationStream(store(), 3)
    stream.skip(100)
    assert read == []
    next(stream)
    assert 1 <= len(read) <= 40  # 100 batches are 75 batches of prompts; half of each refill is kept


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("variety", [VARIETIES[0], VARIETIES[1], VARIETIES[3]])
def test_ranks_parts_joined_are_the_batch_of_one_process(store, n: int, variety: dict[str, Any]) -> None:
    expected = batches(ActivationStream(store(**variety), 3), 30)

    def parts() -> torch.Tensor:
        return batches(ActivationStream(store(**variety), 3, current_ranks()), 30)

    assert torch.equal(torch.cat(in_ranks(n, parts), dim=1), expected)


def test_each_rank_runs_the_model_on_its_share(store, monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        read: list[int] = []
        get = ActivationsStore.get_activations
        monkeypatch.setattr(
            ActivationsStore,
            "get_activations",
            lambda self, tokens: (read.append(len(tokens)), get(self, tokens))[1],
        )
        batches(ActivationStream(store(), 3, current_ranks()), 30)
        return sum(read)

    first, second = in_ranks(2, count)
    assert abs(first - second) <= 4 and first + second < 30 * 48 / 16 + 24 + 8


def test_whole_batches_come_to_every_rank_and_count_as_batches(store) -> None:
    expected = batches(ActivationStream(store(), 3), 12)

    def mixed() -> torch.Tensor:
        stream = ActivationStream(store(), 3, current_ranks())
        wholes = stream.whole_batches()
        first = [next(wholes)[HOOK] for _ in range(2)]
        middle = batches(stream, 2)
        return torch.cat([*first, *middle])

    for rank, found in enumerate(in_ranks(2, mixed)):
        own = slice(24 * rank, 24 * rank + 24)
        assert torch.equal(found, torch.cat([*expected[:2], expected[2][own], expected[3][own]]))


@pytest.mark.parametrize("skipped", [9, 10])
def test_a_divided_stream_can_be_taken_up_by_another_number_of_ranks(store, skipped: int) -> None:
    expected = batches(ActivationStream(store(), 3), skipped + 5)[skipped:]

    def rest() -> torch.Tensor:
        stream = ActivationStream(store(), 3, current_ranks())
        stream.skip(skipped)
        return batches(stream, 5)

    assert torch.equal(torch.cat(in_ranks(3, rest), dim=1), expected)


def test_a_rank_that_has_read_nothing_yet_gets_its_rows_all_the_same(store) -> None:
    """Four ranks, and a buffer of two batches of prompts."""
    few = {"n_batches_in_buffer": 4, "store_batch_size_prompts": 2, "train_batch_size_tokens": 16}
    expected = batches(ActivationStream(store(**few), 3), 3)

    def parts() -> torch.Tensor:
        return batches(ActivationStream(store(**few), 3, current_ranks()), 3)

    assert torch.equal(torch.cat(in_ranks(4, parts), dim=1), expected)


def test_uneven_batches_are_refused(store) -> None:
    def make() -> str:
        with pytest.raises(ValueError) as caught:
            ActivationStream(store(train_batch_size_tokens=49), 3, current_ranks())
        return str(caught.value)

    assert in_ranks(2, make)[0] == (
        "A batch of train_batch_size_tokens = 49 cannot be divided evenly over 2 ranks. Give a multiple of 2."
    )


def test_held_rows_by_hand() -> None:
    held = HeldRows()
    held.add(torch.tensor([0, 1, 2]), {"a": torch.tensor([[0.0], [1.0], [2.0]])})
    held.add(torch.tensor([5, 6]), {"a": torch.tensor([[5.0], [6.0]])})
    assert len(held) == 5
    assert held.take(torch.tensor([6, 1]))["a"].flatten().tolist() == [6.0, 1.0]
    held.add(torch.tensor([7]), {"a": torch.tensor([[7.0]])})
    assert len(held) == 4
    assert held.take(torch.tensor([7, 0, 5, 2]))["a"].flatten().tolist() == [7.0, 0.0, 5.0, 2.0]
    assert len(held) == 0
