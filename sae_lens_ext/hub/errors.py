"""What the hub and the network answer, in sentences that say what is there already and what to do."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled, RevisionNotFoundError

_NETWORK = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
"""Packages of which one speaks to the hub, by the version of huggingface_hub."""
_LONGEST = 300  # characters of what others say
_LOG_IN = "Log in with `hf auth login`, set HF_TOKEN, or give token=."


class HubUploadError(OSError):
    """An upload could not be begun, or not be ended; the message says why, what is on the hub, and what to do."""

    def __init__(self, message: str, uploaded: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.uploaded = tuple(uploaded)
        """What this call had put on the hub before, each whole: ids of SAEs."""


@contextmanager
def in_sentences(
    repo_id: str, progress: Callable[[], str], uploaded: Sequence[str] = ()
) -> Generator[None, None, None]:
    """Raise what the hub's client raises as one HubUploadError; an interruption says the same of its progress.

    Args:
        repo_id: The repository.
        progress: Gives sentences on what is on the hub by now.
        uploaded: SAEs that are, a list that grows.

    Raises:
        HubUploadError: Something failed.
        KeyboardInterrupt: The user interrupted.
    """
    try:
        yield
    except HubUploadError:
        raise
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"The upload to {repo_id} was interrupted. {progress()}") from stop
    except (OSError, RuntimeError, ValueError, LookupError) as error:
        raise HubUploadError(f"{_sentence(error, repo_id)} {progress()}", uploaded) from error
    except Exception as error:
        if not is_of_network(error):
            raise
        raise HubUploadError(f"{_sentence(error, repo_id)} {progress()}", uploaded) from error


def _sentence(error: BaseException, repo_id: str) -> str:
    """Say what is wrong: the error itself, or what it came from, whichever is known first."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, OfflineModeIsEnabled):
            return "The hub may not be asked, because HF_HUB_OFFLINE is set. Unset it to upload."
        if isinstance(cause, LocalTokenNotFoundError):
            return f"The hub asks who writes to {repo_id}, and there is no token on this machine. {_LOG_IN}"
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return _of_status(status, cause, repo_id)
    for cause in causes:
        if is_of_network(cause) or isinstance(cause, ConnectionError | TimeoutError):
            return f"The hub cannot be reached, or the connection broke ({_said(cause)}). Look at the network, and at HF_ENDPOINT if it is set."
    return f"Sending to {repo_id} failed ({_said(causes[-1])})."


def _of_status(status: int, error: BaseException, repo_id: str) -> str:
    said = _said(error)
    if isinstance(error, RevisionNotFoundError):
        return f"The repository {repo_id} has no such revision ({said}). Give the name of a branch."
    if status == 401:
        return f"The hub asks who writes to {repo_id}: no token was given, or it is not valid ({said}). {_LOG_IN}"
    if status in (402, 403):
        return (
            f"This token may not write to {repo_id} ({said}). Give one with the right to write in the namespace {repo_id.partition('/')[0]!r}, or a repo_id in a "
            "namespace of yours."
        )
    if status == 404:
        return f"The hub knows no repository {repo_id}, or does not show it to this token ({said}). Look at its name and at the token."
    if status == 409:
        return (
            f"The hub has something named {repo_id} already, which this token may not see, or is busy with it ({said}). Look at its page, or give another "
            "repo_id."
        )
    if status == 412:
        return f"Somebody else has changed {repo_id} meanwhile ({said}). Look at what they did, and repeat the call."
    if status == 429:
        return f"The hub asks for a pause: there were too many requests ({said}). Wait, and repeat the call."
    if status >= 500:
        return f"The hub is in trouble: it answered {status} ({said}). Wait, and repeat the call."
    return f"The hub refused what was sent to {repo_id}: it answered {status} ({said})."


def _said(error: BaseException) -> str:
    """Give what an error says, in one line."""
    text: Any = getattr(error, "server_message", None) or str(error)
    line = " ".join(str(text).split()).rstrip(".") or "nothing more is known"
    return f"{type(error).__name__}: {line[:_LONGEST]}"


def _causes(error: BaseException | None) -> Generator[BaseException, None, None]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_of_network(error: BaseException) -> bool:
    """Tell whether an error is of the packages that speak to the hub."""
    return any(cls.__module__.partition(".")[0] in _NETWORK for cls in type(error).__mro__)
