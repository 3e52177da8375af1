"""Logs, warnings, progress and tables from one rank only."""

import contextlib
import io
import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from tqdm.std import tqdm

from sae_lens_ext.ranks.job import Ranks


@contextmanager
def one_voice(ranks: Ranks) -> Generator[None, None, None]:
    """Keep every rank but the first quiet while the block lasts: its bars, log lines, warnings and prints; errors are raised."""
    if ranks.is_first:
        yield
        return
    shown, quiet = tqdm.__init__, logging.root.manager.disable
    before = {
        name: tqdm.__dict__[name] for name in ("__init__", "write")
    }  # others put descriptors there, too

    def hidden(bar: Any, *arguments: Any, **settings: Any) -> None:
        shown(bar, *arguments, **{**settings, "disable": True})  # whatever the caller asked for

    # tqdm.auto's classes, of notebooks and of asyncio, derive from this one, and so do those of other libraries.
    tqdm.__init__ = hidden  # type: ignore[method-assign]
    tqdm.write = classmethod(lambda *_, **__: None)  # type: ignore[method-assign]
    logging.disable(max(quiet, logging.WARNING))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, own in before.items():
            setattr(tqdm, name, own)
        logging.disable(quiet)
