"""The right answers of a task: by prompt, or by a function of the prompt."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sae_lens_ext.steering.dose_response.behaviour import behaviour_name

T = TypeVar("T")


def read_answers(
    owner: str, answers: Any, read: Callable[[str, Any], T]
) -> dict[str, T] | Callable[[str], Any]:
    """Give answers by prompt as a new dict, each read by `read(prompt, answer)`; a function as it is.

    Raises:
        ValueError: They are neither, there are none, a prompt is no text, or `read` refuses an answer.
    """
    if isinstance(answers, Mapping):
        if not answers:
            raise ValueError(f"{owner} was given no answers. Give a mapping from each prompt to its answer.")
        other = next((prompt for prompt in answers if not isinstance(prompt, str)), None)
        if other is not None:
            raise ValueError(f"{owner} was given {other!r:.80} as a prompt in its answers. Give texts.")
        return {prompt: read(prompt, answer) for prompt, answer in answers.items()}
    if callable(answers):
        return answers
    raise ValueError(
        f"{owner} was given answers = {answers!r:.80}. Give a mapping from each prompt to its answer, or a function of the prompt."
    )


def answer_to(
    owner: str,
    answers: Mapping[str, T] | Callable[[str], Any],
    prompt: str,
    read: Callable[[str, Any], T],
) -> T:
    """Look up, or compute, the answer to a prompt.

    Args:
        owner: The reward, for messages.
        answers: What `read_answers` gave.
        prompt: The prompt.
        read: As for `read_answers`; reads what a function gives.

    Raises:
        ValueError: There is none for this prompt, or `read` refuses it.
    """
    if not isinstance(answers, Mapping):
        return read(prompt, answers(prompt))
    if prompt not in answers:
        raise ValueError(
            f"{owner} has no answer to the prompt {prompt!r:.120}, only to {len(answers)} others. Give one for every prompt, under the text exactly as "
            "the model is given it."
        )
    return answers[prompt]


def describe_answers(answers: Mapping[str, Any] | Callable[[str], Any]) -> str:
    """Name answers equally in every run: their number and the SHA-256 of their JSON, or the function's name."""
    if not isinstance(answers, Mapping):
        return behaviour_name(answers)
    content = json.dumps({prompt: str(answer) for prompt, answer in answers.items()}, sort_keys=True)
    return f"{len(answers)} answers, sha256 {hashlib.sha256(content.encode()).hexdigest()[:12]}"
