"""The task of the steering-vector benchmarks: small sums, the answer right after "The answer is", in few tokens.

The base model gives the right number in a fifth of its samples. Nothing but the sum decides the reward: 1 if the last number among the tokens written
is it, 0 otherwise.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens_ext import LastNumberEquals

MAX_NEW_TOKENS, GROUP_SIZE, PROMPTS_PER_STEP, STEPS = 6, 16, 8, 16
SAMPLES, N_HELD_OUT, N_VALIDATION = 16, 40, 16
LAST, PENULTIMATE, MIDDLE = 29, 28, 14
VECTORS = Path(__file__).with_name("rl_vectors")
"""The vectors trained by rl_vectors.py and the logs of their training."""
GENERATION: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS, "prepend_bos": False}
"""The chat template has no BOS."""


def question(a: int, b: int) -> str:
    """Give the prompt of a sum, in the model's chat template."""
    return f"<|im_start|>user\nWhat is {a} + {b}?<|im_end|>\n<|im_start|>assistant\nThe answer is"


@dataclass(frozen=True)
class Sums:
    """Prompts, and the reward. Of 3 + 5 and 5 + 3 both are trained on, or one is in one of the other two sets."""

    train: list[str]
    """Trained on."""
    validation: list[str]
    """Learning rates are chosen by these."""
    held_out: list[str]
    """Everything is measured on these."""
    reward: LastNumberEquals
    """1 if the last number is the sum."""


def sums() -> Sums:
    """Give the sums of 2 to 19 and 2 to 9."""
    pairs = [(a, b) for a in range(2, 20) for b in range(2, 10)]
    either = sorted(
        {(max(pair), min(pair)) for pair in pairs}
    )  # of these the second number is 9 at most, as in all
    random.Random(0).shuffle(either)
    held_out, validation = either[:N_HELD_OUT], either[N_HELD_OUT : N_HELD_OUT + N_VALIDATION]
    train = [pair for pair in pairs if (max(pair), min(pair)) not in {*held_out, *validation}]
    answers = {question(a, b): a + b for a, b in [*train, *validation, *held_out]}
    return Sums(
        train=[question(*pair) for pair in train],
        validation=[question(*pair) for pair in validation],
        held_out=[question(*pair) for pair in held_out],
        reward=LastNumberEquals(answers),
    )
