"""What ranks exchange, against what one process would compute."""

import os
import time
from pathlib import Path

import pytest
import torch

from sae_lens_ext.ranks import RankError, current_ranks, divided, own_device, share_of
from tests.in_ranks import in_ranks


def test_one_process_is_a_job_of_one_and_exchanges_nothing() -> None:
    ranks = current_ranks()

    assert (ranks.rank, ranks.size, ranks.is_first) == (0, 1, True)
    x = torch.tensor([1.0, 2.0])
    assert ranks.tell.reduce_(x, "sum", "testing") is x
    torch.testing.assert_close(ranks.tell.gather(x, "testing"), x[None])
    torch.testing.assert_close(ranks.tell.exchange(x, [2], [2], "testing"), x)
    assert ranks.tell.gather_objects("a", "testing") == ["a"]
    assert ranks.tell.sent_bytes == 0
    assert own_device("cuda") == "cuda"


@pytest.mark.parametrize("n", [2, 3])
def test_reductions_are_the_same_on_every_rank(n: int) -> None:
    def reduce() -> list[torch.Tensor]:
        ranks = current_ranks()
        own = torch.tensor([1.0, -2.0]) * (ranks.rank + 1)
        return [ranks.tell.reduce_(own.clone(), how, "testing") for how in ("sum", "max", "min")]

    for sums, largest, smallest in in_ranks(n, reduce):
        torch.testing.assert_close(sums, torch.tensor([1.0, -2.0]) * (n * (n + 1) / 2))
        torch.testing.assert_close(largest, torch.tensor([float(n), -2.0]))
        torch.testing.assert_close(smallest, torch.tensor([1.0, -2.0 * n]))


def test_gathered_tensors_are_in_the_order_of_the_ranks_and_bytes_are_counted() -> None:
    def gather() -> tuple[torch.Tensor, int]:
        ranks = current_ranks()
        return ranks.tell.gather(torch.full((3,), float(ranks.rank)), "testing"), ranks.tell.sent_bytes

    for gathered, sent in in_ranks(2, gather):
        torch.testing.assert_close(gathered, torch.tensor([[0.0] * 3, [1.0] * 3]))
        assert sent == 12


def test_an_exchange_moves_each_row_to_its_rank() -> None:
    """Rank 0 has rows 0, 1, 2 and sends one to itself; rank 1 has rows 10, 11 and sends none to itself."""
    sent = [[1, 2], [2, 0]]

    def exchange() -> torch.Tensor:
        ranks = current_ranks()
        own = torch.tensor([[0.0], [1.0], [2.0]]) if ranks.rank == 0 else torch.tensor([[10.0], [11.0]])
        received = [sent[other][ranks.rank] for other in range(2)]
        return ranks.tell.exchange(own, sent[ranks.rank], received, "testing")

    first, second = in_ranks(2, exchange)
    assert first.flatten().tolist() == [0.0, 10.0, 11.0]
    assert second.flatten().tolist() == [1.0, 2.0]


def test_objects_go_to_all() -> None:
    def talk() -> tuple[list[str], str]:
        ranks = current_ranks()
        return ranks.tell.gather_objects(f"rank {ranks.rank}", "testing"), ranks.tell.from_first(
            f"from {ranks.rank}", "testing"
        )

    assert in_ranks(2, talk) == [(["rank 0", "rank 1"], "from 0")] * 2


@pytest.mark.parametrize("n_pieces", [0, 1, 2, 5])
def test_divided_work_comes_back_in_its_order(n_pieces: int) -> None:
    def work() -> tuple[list[int], list[int]]:
        ranks, done = current_ranks(), []

        def square(piece: int) -> int:
            done.append(piece)
            return piece**2

        return divided(range(n_pieces), square, ranks, "testing"), done

    found = in_ranks(2, work)
    assert [results for results, _ in found] == [[i**2 for i in range(n_pieces)]] * 2
    assert sorted(found[0][1] + found[1][1]) == list(range(n_pieces))


def test_share_is_every_nth() -> None:
    def share() -> list[int]:
        return share_of(range(5), current_ranks())

    assert in_ranks(2, share) == [[0, 2, 4], [1, 3]]


def test_a_rank_that_does_not_come_is_an_error_that_says_what_was_waited_for(tmp_path: Path) -> None:
    def hang() -> None:
        ranks = current_ranks()
        if ranks.rank == 1:
            time.sleep(4)
            os._exit(0)
        with pytest.raises(RankError) as caught:
            ranks.tell.reduce_(torch.ones(1), "sum", "averaging the gradients of step 3")
        (tmp_path / "message").write_text(str(caught.value))
        os._exit(0)

    with pytest.raises(FileNotFoundError):  # neither of them came to its end, and no result was written
        in_ranks(2, hang, timeout=2.0)
    assert (
        (tmp_path / "message")
        .read_text()
        .startswith(
            "Rank 0 of 2 got no answer from another rank while averaging the gradients of step 3: that one has ended, or did not come "
            "here in time (SAE_LENS_EXT_RANK_TIMEOUT)."
        )
    )


def test_a_fault_of_a_rank_s_own_is_not_blamed_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def fail() -> None:
        monkeypatch.setattr("torch.distributed.all_reduce", full)
        with pytest.raises(torch.OutOfMemoryError):
            current_ranks().tell.reduce_(torch.ones(3), "max", "testing")
        monkeypatch.undo()

    in_ranks(2, fail)


@pytest.mark.parametrize(
    ("device", "count", "message"),
    [
        ("cuda:0", 2, "The device 'cuda:0' is one GPU for the 2 ranks of this machine."),
        ("cuda", 1, "Rank 1 of this machine has no GPU of its own: there are 1 for 2 ranks."),
        ("cuda", 2, "cuda:1"),
    ],
)
def test_a_gpu_is_each_rank_s_own(
    device: str, count: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> str:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        try:
            return own_device(device)
        except ValueError as error:
            return str(error)

    assert message in in_ranks(2, ask)[1]
    assert own_device(device) == device
    assert in_ranks(2, lambda: own_device("cpu")) == ["cpu", "cpu"]
