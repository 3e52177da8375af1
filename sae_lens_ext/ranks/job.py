"""Which processes make up this job."""

import atexit
import datetime
import os
import time
from dataclasses import dataclass
from functools import cache

import torch
import torch.distributed as dist

from sae_lens_ext.ranks.collectives import TIMEOUT_VARIABLE, Collectives

DEFAULT_TIMEOUT = 600.0
_own_timeout: float | None = None  # of the process group, if it is not the program's own


@dataclass(frozen=True)
class Ranks:
    """The processes of a job, as one of them sees it."""

    rank: int
    """This process's place, from 0."""
    size: int
    """How many there are; 1 for an ordinary process."""
    tell: Collectives
    """What they exchange."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0


def current_ranks() -> Ranks:
    """Give the ranks that `torchrun` started this process with, or a job of one.

    The first call joins them by torch's own process group, unless the program has done so. A rank that does not answer for
    `SAE_LENS_EXT_RANK_TIMEOUT` seconds, 600 if that is not set, ends the job with a message.

    Raises:
        ValueError: The time is not a positive number.
        RankError: See `Collectives`.
    """
    if dist.is_available() and dist.is_initialized():
        return _joined()
    if dist.is_available() and dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1:
        _join(_timeout())
        return _joined()
    return Ranks(0, 1, Collectives(0, 1, None))


def own_device(device: str) -> str:
    """Give the device of this rank: "cuda" is its own GPU, where there are several ranks; anything else is as it was.

    Raises:
        ValueError: There are fewer GPUs than ranks on this machine, or all ranks were given one and the same.
    """
    if not device.startswith("cuda") or current_ranks().size == 1:
        return device
    place, here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device != "cuda" and here > 1:
        raise ValueError(
            f'The device {device!r} is one GPU for the {here} ranks of this machine. Give "cuda": each rank then takes its own.'
        )
    if torch.cuda.is_available() and place >= torch.cuda.device_count():
        raise ValueError(
            f"Rank {place} of this machine has no GPU of its own: there are {torch.cuda.device_count()} for {here} ranks. Start as many ranks as "
            'there are GPUs, or give the device "cpu".'
        )
    return f"cuda:{place}" if device == "cuda" else device


def _join(timeout: float) -> None:
    """Join the ranks of this start of the job."""
    global _own_timeout
    _own_timeout = timeout
    place = int(os.environ["LOCAL_RANK"])
    cuda = torch.cuda.is_available() and place < torch.cuda.device_count()
    if cuda:
        torch.cuda.set_device(place)
    store, rank, size = next(dist.rendezvous("env://"))  # pyright: ignore[reportPrivateImportUsage]
    # torchrun gives a job that it starts anew the store of the start before, in which the addresses of dead processes are.
    start = f"start_{os.environ['TORCHELASTIC_RESTART_COUNT']}_of_{size}"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=dist.PrefixStore(start, store),  # pyright: ignore[reportPrivateImportUsage]
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=timeout),
    )
    atexit.register(_leave)


@cache
def _joined() -> Ranks:
    rank, size = dist.get_rank(), dist.get_world_size()
    return Ranks(rank, size, Collectives(rank, size, _own_timeout))


def _leave() -> None:
    if dist.is_initialized():
        time.sleep(
            0.1
        )  # torch 2.6 waits for its threads without letting go of the GIL, which one that is not done yet may want
        dist.destroy_process_group()


def _timeout() -> float:
    text = os.environ.get(TIMEOUT_VARIABLE, str(DEFAULT_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(
            f"{TIMEOUT_VARIABLE} is {text!r}. Give the seconds that a rank waits for the others, such as 600."
        )
    return seconds
