"""The reward "the last number written is the right answer"."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sae_lens_ext.steering.rewards.answers import answer_to, describe_answers, read_answers
from sae_lens_ext.steering.rewards.numbers import as_number, last_number


@dataclass(frozen=True, repr=False)
class LastNumberEquals:
    r"""1.0 if the last number in a completion equals the answer to its prompt, else 0.0.

    Numbers are compared exactly, as decimal fractions: "1.0" equals 1, "3.14" does not equal 3.14159. What counts as a number, and what as its
    sign, `numbers.last_number` says: "5-3" ends in 3.

    Example:
        ```python
        reward = LastNumberEquals({"2 + 3 =": 5, "4 + 4 =": 8}, stop="\n")
        reward("2 + 3 =", " 5\n4 + 4 = 8")  # 1.0
        ```

    Args:
        answers: The answer by prompt, or a function from the prompt to it: an int, a float, or a text such as "1,234.5". The prompt is the text exactly
            as the model is given it, so with its chat template, if there is one.
        stop: Only what is written before the first of these counts, such as a line break for models that write on with a question of their own; a completion
            that begins with it has no number. None reads all.

    Raises:
        ValueError: An answer is no number, or `stop` is empty. When called: there is no answer to the prompt.
    """

    answers: Mapping[str, Any] | Callable[[str], Any]
    """Answers by prompt, as decimals; or the function."""
    stop: str | None = None
    """Where reading ends."""

    def __post_init__(self) -> None:
        if self.stop is not None and (not isinstance(self.stop, str) or not self.stop):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f'LastNumberEquals was given stop = {self.stop!r}. Give a text such as "\\n", or None to read all of a completion.'
            )
        object.__setattr__(self, "answers", read_answers(type(self).__name__, self.answers, _number))

    def __call__(self, prompt: str, completion: str) -> float:
        """Score a completion: 1.0 or 0.0."""
        answer = answer_to(type(self).__name__, self.answers, prompt, _number)
        read = completion if self.stop is None else completion.partition(self.stop)[0]
        return float(last_number(read) == answer)

    def __repr__(self) -> str:
        return f"LastNumberEquals({describe_answers(self.answers)}, stop={self.stop!r})"


def _number(prompt: str, answer: Any) -> Decimal:
    number = as_number(answer)
    if number is None:
        raise ValueError(
            f"LastNumberEquals was given {answer!r:.80} as the answer to {prompt!r:.80}, which is not one finite number. Give one, such as 12 or "
            '"1,234.5"; for other answers there is BoxedEquals.'
        )
    return number
