"""What every rank but the first keeps from the screen, and that all is as before afterwards."""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable

import pytest
import tqdm as tqdm_package
from tqdm import asyncio as tqdm_asyncio
from tqdm import auto, std

from sae_lens_ext.ranks import Ranks, one_voice
from sae_lens_ext.ranks.collectives import Collectives


def rank(number: int) -> Ranks:
    return Ranks(number, 2, Collectives(number, 2, 1.0))


def said(ranks: Ranks, speak: Callable[[], None]) -> tuple[str, str]:
    """Give what comes out while `speak` runs with one voice."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), one_voice(ranks):
        speak()
    return out.getvalue(), err.getvalue()


BARS = {
    "tqdm.tqdm": lambda: list(tqdm_package.tqdm(range(3), disable=False)),
    "tqdm.trange": lambda: list(tqdm_package.trange(3, disable=False)),
    "tqdm.std": lambda: list(std.tqdm(range(3), disable=False)),
    "tqdm.auto": lambda: list(auto.tqdm(range(3), disable=False)),
    "tqdm.auto.trange": lambda: list(auto.trange(3, disable=False)),
    "tqdm.asyncio": lambda: list(tqdm_asyncio.tqdm_asyncio(range(3), disable=False)),
    "by hand": lambda: auto.tqdm(total=3, disable=False).update(3),
    "write": lambda: auto.tqdm.write("a line"),
    "write of tqdm.tqdm": lambda: tqdm_package.tqdm.write("a line"),
}


@pytest.mark.parametrize("bar", BARS.values(), ids=BARS)
def test_bars_are_the_first_ranks_alone(bar: Callable[[], object]) -> None:
    assert said(rank(1), bar) == ("", "")
    assert said(rank(0), bar) != ("", "")  # also: the other rank's silence has ended with its block


def test_prints_and_warnings_are_the_first_ranks_alone() -> None:
    def speak() -> None:
        sys.stdout.write("a table\n")
        warnings.warn("a warning", stacklevel=1)

    with pytest.warns(UserWarning, match="a warning"):
        assert said(rank(0), speak)[0] == "a table\n"
    assert said(rank(1), speak) == ("", "")  # a warning that is shown would be an error in these tests


def test_log_lines_are_the_first_ranks_alone_but_errors_are_not(caplog: pytest.LogCaptureFixture) -> None:
    def speak() -> None:
        for level in (logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger("somebody").log(level, "level %d", level)

    with caplog.at_level(logging.INFO):
        said(rank(1), speak)
        assert caplog.messages == ["level 40"]
        caplog.clear()
        said(rank(0), speak)
        assert caplog.messages == ["level 20", "level 30", "level 40"]


def test_errors_are_raised_and_all_is_as_before() -> None:
    before = std.tqdm.__dict__["__init__"], std.tqdm.__dict__["write"], logging.root.manager.disable
    with pytest.raises(ValueError, match="wrong"), one_voice(rank(1)):
        raise ValueError("wrong")
    assert (std.tqdm.__dict__["__init__"], std.tqdm.__dict__["write"], logging.root.manager.disable) == before
    assert "write" not in vars(auto.tqdm)


def test_what_was_silenced_more_stays_so() -> None:
    logging.disable(logging.ERROR)
    try:
        with one_voice(rank(1)):
            assert logging.root.manager.disable == logging.ERROR
        assert logging.root.manager.disable == logging.ERROR
    finally:
        logging.disable(logging.NOTSET)


def test_one_voice_within_one_voice_ends_as_it_began() -> None:
    with one_voice(rank(1)):
        assert said(rank(1), BARS["tqdm.auto"]) == ("", "")
        assert said(rank(1), BARS["tqdm.tqdm"]) == ("", "")
    assert said(rank(0), BARS["tqdm.auto"]) != ("", "")
