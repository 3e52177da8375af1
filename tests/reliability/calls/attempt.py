"""Making one call and judging what came of it: a result, a refusal worth the name, or a fault."""

import re
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sae_lens_ext
from tests.reliability.calls.untouched import Before

REFUSALS = (ValueError, TypeError, NotImplementedError, FileNotFoundError, RuntimeError)
"""What a call may raise; a bare error of torch's is told from ours by who raised it."""
_PACKAGE = str(Path(sae_lens_ext.__file__).parent)
_REMEDY = re.compile(
    r"\b(Give|Mend|give|The names are|The modes are|Compare|Use|Choose|Leave|Load|Set|Call|Run|Detach|Name|Look|Keep|Take|Shorten|Act|Add|Measure|Tokenise|Attach|Stack|Move|Steer|Freeze|Train|There are|Layers are|Positions are|The phases are|give|leave)\b"
)


@dataclass(frozen=True)
class Outcome:
    """What came of a call."""

    kind: Literal["result", "refused", "fault"]
    what: Any
    """The result, the refusal's message, or what is wrong."""


def attempt(call: Callable[[], Any], *guarded: Any) -> Outcome:
    """Make a call.

    A fault is: an error that no statement of this package raised; a message without a remedy or that is no sentence; anything left
    changed in `guarded` models and tensors or in torch's state.
    """
    before = Before(*guarded)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            outcome = Outcome("result", call())
    except Exception as error:
        outcome = _judged(error)
    changed = before.changes()
    if changed:
        return Outcome("fault", f"changed {', '.join(changed)} ({outcome.kind}: {outcome.what!r:.200})")
    return outcome


def _judged(error: Exception) -> Outcome:
    message = str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}:{last.lineno}"
    if not last.filename.startswith(_PACKAGE) or not _was_raised(last.line):
        return Outcome("fault", f"{type(error).__name__} from {where}: {message:.200}")
    if not isinstance(error, REFUSALS):
        return Outcome("fault", f"{type(error).__name__} is no refusal, from {where}: {message:.200}")
    if not message.rstrip().endswith((".", "]", ")", "?")) or not _REMEDY.search(message):
        return Outcome("fault", f"the message has no remedy, from {where}: {message:.300}")
    return Outcome("refused", message)


def _was_raised(line: str | None) -> bool:
    return line is not None and line.lstrip().startswith("raise")
