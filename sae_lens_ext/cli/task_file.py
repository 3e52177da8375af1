"""A file of tasks: a prompt and, where a reward needs it, an answer on each line."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.json_file import parse_json


@dataclass(frozen=True)
class Task:
    """One line of a task file."""

    prompt: str
    """What the model is given."""
    answer: Any = None
    """The right answer; None where the reward needs none."""


def read_tasks(path: Path, reward_for: Callable[[str, Any], object] | None) -> list[Task]:
    """Read a file of JSON lines, such as `{"prompt": "2 + 3 =", "answer": 5}`; empty lines and other fields are left out.

    Args:
        path: The file.
        reward_for: Makes the reward of a prompt and its answer, to see that the answer will do; None where answers are not needed.

    Raises:
        CommandError: There is no such file, a line is broken, has no prompt or an unusable answer, or repeats a prompt (it says which
            line), or there is no task.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a name with a NUL in it
        raise CommandError(
            f"The task file {path} cannot be read as UTF-8 text: {error}. Give a file of JSON lines."
        ) from error
    tasks: list[Task] = []
    first_with: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            task = _task(line, needs_answer=reward_for is not None)
            if reward_for is not None:
                reward_for(task.prompt, task.answer)
        except ValueError as error:
            raise CommandError(f"Line {number} of {path}: {error}") from error
        if task.prompt in first_with:
            raise CommandError(
                f"Line {number} of {path} has the prompt of line {first_with[task.prompt]}, {task.prompt!r:.80}. Give each prompt once, so that none is both "
                "trained on and held out."
            )
        first_with[task.prompt] = number
        tasks.append(task)
    if not tasks:
        raise CommandError(
            f'The task file {path} holds no task. Give lines such as {{"prompt": "2 + 3 =", "answer": 5}}.'
        )
    return tasks


def split_tasks(tasks: Sequence[Task], n_held_out: int) -> tuple[list[Task], list[Task]]:
    """Split tasks into training and held-out ones, by a hash of the prompt: whatever the seed, and whatever their order, the same."""
    by_hash = sorted(
        tasks, key=lambda task: hashlib.sha256(task.prompt.encode(errors="surrogatepass")).hexdigest()
    )
    held_out = by_hash[:n_held_out]
    chosen = {task.prompt for task in held_out}
    return [task for task in tasks if task.prompt not in chosen], held_out


def _task(line: str, *, needs_answer: bool) -> Task:
    try:
        content = parse_json(line)
    except ValueError as error:
        raise ValueError(
            f"it is no JSON ({error}). Give one object, such as {_example(needs_answer)}."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"it is no JSON object. Give one, such as {_example(needs_answer)}.")
    prompt = content.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(
            f'its "prompt" is {prompt!r:.60} and no text. Give one, as in {_example(needs_answer)}.'
        )
    if needs_answer and content.get("answer") is None:
        raise ValueError(
            f'it has no "answer", which this reward needs. Give one, as in {_example(needs_answer)}.'
        )
    return Task(prompt, content.get("answer") if needs_answer else None)


def _example(needs_answer: bool) -> str:
    return json.dumps({"prompt": "2 + 3 =", "answer": 5} if needs_answer else {"prompt": "Name a town."})
