r"""The reward "the last \boxed{...} holds the right answer"."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sae_lens_ext.steering.rewards.answers import answer_to, describe_answers, read_answers

_OPENING = re.compile(r"\\boxed\s*\{")
_BRACE_OR_ESCAPE = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclass(frozen=True, repr=False)
class BoxedEquals:
    r"""1.0 if what is inside the last `\boxed{...}` of a completion is the answer to its prompt, letter by letter, else 0.0.

    White space and dollar signs around the answer do not count, on either side; inside it they do, so that `\frac12` is not `\frac{1}{2}`. A last
    box that is not closed gives 0.0, whatever boxes were before it; so does a completion without a box.

    Example:
        ```python
        reward = BoxedEquals({"What is 1/2 + 1/3?": r"\frac{5}{6}"})
        reward("What is 1/2 + 1/3?", r"It is $\boxed{\frac{5}{6}}$.")  # 1.0
        ```

    Args:
        answers: The answer by prompt, or a function from the prompt to it: a text, or an int. The prompt is the text exactly as the model is given it.

    Raises:
        ValueError: An answer is empty, or neither text nor int. When called: there is no answer to the prompt.
    """

    answers: Mapping[str, Any] | Callable[[str], Any]
    """Answers by prompt, as texts; or the function."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "answers", read_answers(type(self).__name__, self.answers, _text))

    def __call__(self, prompt: str, completion: str) -> float:
        """Score a completion: 1.0 or 0.0."""
        answer = answer_to(type(self).__name__, self.answers, prompt, _text)
        boxed = last_boxed(completion)
        return float(boxed is not None and _bare(boxed) == answer)

    def __repr__(self) -> str:
        return f"BoxedEquals({describe_answers(self.answers)})"


def last_boxed(text: str) -> str | None:
    r"""Give what is inside the last `\boxed{...}`; None if there is none, or if it is not closed.

    Braces nest; escaped ones, `\{` and `\}`, are text. Of a box inside a box the inner one is the last.
    """
    openings = list(_OPENING.finditer(text))
    if not openings:
        return None
    start, depth = openings[-1].end(), 1
    for found in _BRACE_OR_ESCAPE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return text[start : found.start()]
    return None


def _bare(text: str) -> str:
    return text.strip().strip("$").strip()


def _text(prompt: str, answer: Any) -> str:
    usable = isinstance(answer, (str, int)) and not isinstance(answer, bool)
    bare = _bare(str(answer)) if usable else ""
    if not bare:
        raise ValueError(
            f"BoxedEquals was given {answer!r:.80} as the answer to {prompt!r:.80}, which it cannot compare letter by letter with what a box holds. Give a "
            "text that is not empty, or an int."
        )
    return bare
