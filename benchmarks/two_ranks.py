"""Run a function in two processes joined by gloo, one thread each."""

import multiprocessing
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


def of_two_ranks(function: Callable[[], Any]) -> Any:
    """Call a function in two processes that make up one job, forked from this one, and give what the first one returns."""

    def of_rank(rank: int, folder: str) -> None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
        torch.save(function(), f"{folder}/{rank}.pt")
        dist.destroy_process_group()

    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        processes = [fork.Process(target=of_rank, args=(rank, folder)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return torch.load(f"{folder}/0.pt")
