"""Logs, warnings, progress and tables from one rank only."""

import contextlib
import io
import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import partialmethod

from tqdm import std, tqdm

from sae_lens_ext.ranks.job import Ranks


@contextmanager
def one_voice(ranks: Ranks) -> Generator[None, None, None]:
    """Keep every rank but the first quiet while the block lasts: its bars, log lines, warnings and prints; errors are raised."""
    if ranks.is_first:
        yield
        return
    shown, quiet = std.tqdm.__init__, logging.root.manager.disable
    write = tqdm.write
    std.tqdm.__init__ = partialmethod(shown, disable=True)  # type: ignore[method-assign]
    tqdm.write = classmethod(lambda *_, **__: None)  # type: ignore[method-assign]
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        std.tqdm.__init__, tqdm.write = shown, write  # type: ignore[method-assign]
        logging.disable(quiet)
