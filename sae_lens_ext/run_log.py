"""The log of a training: one JSON object a line, cut back to the checkpoint when the training goes on."""

import json
import logging
from pathlib import Path
from types import TracebackType
from typing import Any

from sae_lens_ext.files import naming, write_whole

LOG_FILE = "log.jsonl"
_logger = logging.getLogger(__name__)


class RunLog:
    """Writes the lines of a training that has done some steps.

    Args:
        folder: Where the log is.
        step: Steps that count as done. Lines of later ones, which a crash left behind, are dropped, and those that a crash has torn.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / LOG_FILE
        kept = _whole_lines(self._path)[:step] if step else []
        if len(kept) < step:
            _logger.warning(
                "%s has lost the lines of %d steps before step %d. The training goes on; only its log lacks them.",
                self._path,
                step - len(kept),
                step + 1,
            )
        write_whole(self._path, "".join(f"{line}\n" for line in kept))
        self._file = self._path.open("ab", buffering=0)

    def write(self, line: dict[str, Any]) -> None:
        """Add a line.

        Raises:
            ValueError: A number in it is NaN or infinite.
            OSError: It cannot be written; the message names the log, which holds the lines before.
        """
        data, before = (json.dumps(line, allow_nan=False) + "\n").encode(), self._path.stat().st_size
        with naming(self._path):
            try:
                while data:  # a disk that fills up takes a part
                    data = data[self._file.write(data) :]
            except OSError:
                self._file.truncate(before)
                raise

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _whole_lines(path: Path) -> list[str]:
    """Give the lines of a log up to the first that is torn."""
    whole: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            json.loads(line)
        except ValueError:
            break
        whole.append(line)
    return whole
