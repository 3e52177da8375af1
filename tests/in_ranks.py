"""Run a function in several processes that make up one job, without starting Python anew."""

import datetime
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist


def in_ranks(n: int, function: Callable[..., Any], *arguments: Any, timeout: float = 60.0) -> list[Any]:
    """Call a function in `n` processes joined by gloo, and give their results, in the order of the ranks.

    The processes are forked, so that the function may be a closure; results come back by `torch.save`.
    """
    with tempfile.TemporaryDirectory() as folder:
        fork = multiprocessing.get_context("fork")
        processes = [
            fork.Process(target=_run, args=(rank, n, folder, timeout, function, arguments))
            for rank in range(n)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=4 * timeout)
            if process.is_alive():
                process.kill()
        failures = [path.read_text() for path in sorted(Path(folder).glob("*.error"))]
        if failures or any(process.exitcode for process in processes):
            pytest.fail("\n".join(failures) or f"exit codes {[process.exitcode for process in processes]}")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(n)]


def _run(
    rank: int, n: int, folder: str, timeout: float, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    try:
        torch.set_num_threads(1)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(n))
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(f"{folder}/store", n),
            rank=rank,
            world_size=n,
            timeout=datetime.timedelta(seconds=timeout),
        )
        torch.save(function(*arguments), Path(folder) / f"{rank}.pt")
        dist.barrier()  # and no destroy_process_group: in a forked process torch 2.6 waits in it for ever
    except BaseException:
        (Path(folder) / f"{rank}.error").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        os._exit(1)
    os._exit(0)
