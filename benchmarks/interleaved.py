"""Timing several things fairly: in turns, so that whatever else the machine does falls on all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm.auto import tqdm


def interleaved(
    contestants: Mapping[str, Callable[[], Any]], *, rounds: int, warm_up: int = 2, against: str | None = None
) -> dict[str, dict[str, float]]:
    """Run every contestant once a round and give its times.

    Args:
        contestants: What to time, by name.
        rounds: Timed rounds.
        warm_up: Rounds before them that do not count.
        against: Name of the contestant that the others are compared with.

    Returns:
        For each name the median and the quartiles in milliseconds and, if `against` is given, `ratio`: the
        median over rounds of its time divided by this one's in the same round (above 1 is faster), with
        quartiles.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for i in tqdm(range(warm_up + rounds), desc="Rounds"):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if i >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - start))
    found = {name: _spread("ms", seen) for name, seen in times.items()}
    if against is not None:
        for name, seen in times.items():
            ratios = [theirs / ours for theirs, ours in zip(times[against], seen, strict=True)]
            found[name] |= _spread("ratio", ratios)
    return found


def _spread(name: str, numbers: list[float]) -> dict[str, float]:
    if len(numbers) == 1:
        return {name: numbers[0]}
    low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return {name: round(middle, 3), f"{name}_q1": round(low, 3), f"{name}_q3": round(high, 3)}
