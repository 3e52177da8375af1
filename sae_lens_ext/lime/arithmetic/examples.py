"""Arithmetic expressions worked out step by step, as token sequences to train and to measure on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.lime.arithmetic.draw import draw
from sae_lens_ext.lime.arithmetic.vocabulary import ArithmeticVocabulary
from sae_lens_ext.number_checks import require_seed, whole_number

if TYPE_CHECKING:
    import pandas as pd

MOST_OPERANDS = 8
"""The structures of longer expressions would be too many to list."""
IN_NOTEBOOK = 8
"""Examples in a notebook's table."""


@dataclass(frozen=True, eq=False, repr=False)
class ArithmeticExamples:
    """Expressions with their steps. See `arithmetic_examples`.

    Examples are numbered from the first of the first group to the last of the last.
    """

    tokens: tuple[torch.Tensor, ...]
    """Token ids of groups of one length each, [n_i, t_i], int64, from short to long: BOS, expression, "=", steps with "=" between them, answer, end."""
    loss_masks: tuple[torch.Tensor, ...]
    """Which tokens' prediction counts, [n_i, t_i], bool: those after the first "=", the end token too."""
    n_operands: torch.Tensor
    """Numbers in each expression, [n], int64."""
    prompt_lengths: torch.Tensor
    """Tokens up to the first "=", BOS and this included, [n], int64."""
    modulus: int
    """The prime."""
    provenance: Mapping[str, Any]
    """Versions, seed, modulus, operand counts, and how many examples of each."""

    def __len__(self) -> int:
        return len(self.n_operands)

    @property
    def vocabulary(self) -> ArithmeticVocabulary:
        """The tokens."""
        return ArithmeticVocabulary(self.modulus)

    @property
    def sequences(self) -> list[torch.Tensor]:
        """Token ids of every example, each [t], int64."""
        return [row for group in self.tokens for row in group]

    @property
    def answers(self) -> torch.Tensor:
        """The answers, [n], int64."""
        return torch.cat([group[:, -2] for group in self.tokens])

    @property
    def prompts(self) -> tuple[str, ...]:
        """The expressions as text, with "=", such as "(7−2)×3="."""
        return tuple(map(self.vocabulary.decode, self._prompts()))

    @property
    def texts(self) -> tuple[str, ...]:
        """The expressions with their steps as text, such as "(7−2)×3=5×3=4"."""
        return tuple(self.vocabulary.decode(row[1:-1].tolist()) for row in self.sequences)

    def expression_keys(self) -> Iterator[bytes]:
        """Give what tells expressions apart, for each example."""
        return (row.numpy().tobytes() for row in self._prompts())

    def _prompts(self) -> Iterator[torch.Tensor]:
        """Give expressions with "=", without BOS."""
        lengths = self.prompt_lengths.tolist()
        return (row[1:length] for row, length in zip(self.sequences, lengths, strict=True))

    def to_frame(self) -> pd.DataFrame:
        """Give a data frame with a row per example: `n_operands`, `prompt`, `answer`, `text`, `tokens` (how many)."""
        import pandas as pd

        return pd.DataFrame(
            {
                "n_operands": self.n_operands.numpy(),
                "prompt": self.prompts,
                "answer": self.answers.numpy(),
                "text": self.texts,
                "tokens": [len(row) for row in self.sequences],
            }
        )

    def __repr__(self) -> str:
        counts = ", ".join(f"{n:,} of {k}" for k, n in self.provenance["examples"].items())
        scored = sum(int(mask.sum()) for mask in self.loss_masks)
        return (
            f"ArithmeticExamples modulo {self.modulus}: {counts} operands\n"
            f"  {sum(group.numel() for group in self.tokens):,} tokens, {scored:,} of them after the first '='\n"
            f"  {self.vocabulary.decode(self.tokens[0][0, 1:-1].tolist())}"
        )

    def _repr_html_(self) -> str:
        step = max(1, len(self) // IN_NOTEBOOK)
        return notebook_view(self, self.to_frame()[::step].head(IN_NOTEBOOK).to_html(index=False))


def arithmetic_examples(
    n_operands: int | Sequence[int],
    n: int,
    *,
    modulus: int = 11,
    distinct_from: ArithmeticExamples | Iterable[ArithmeticExamples] | None = None,
    seed: int = 0,
) -> ArithmeticExamples:
    """Draw arithmetic expressions and work each out, one operation a step: "7÷2+3×4=9+3×4=9+1=10".

    The arithmetic task of arXiv 2502.09245. What we have from that paper: expressions of several operand counts up to six, 50,000 training examples of each, and
    the model that learns it (4 layers, 4 heads, d_model 32). What an expression looks like is our choice, after the well-known benchmark of this kind
    (arXiv 2305.15408): integers modulo 11, each one token; + − × ÷, where ÷ multiplies with the inverse and never meets a zero; parentheses; the steps
    written out up to the answer, then the end token.
    Also our choice:

    - Expressions are drawn uniformly from all that there are (see `count_expressions`). They have no more parentheses than they need: a − (b − c) has them,
      (a × b) × c does not. Operators of equal rank group from left to right. So there is one way to write a tree.
    - The order of steps: the leftmost of the innermost parentheses first; in it, × and ÷ before + and −, and from left to right. Parentheses go with the step
      that leaves one number in them.

    Without `distinct_from`, expressions are drawn independently, so some are drawn twice: modulo 11 there are only 40,568 of 3 operands. With it, the new
    expressions are none of those given, and no two of them are equal. Whole expressions are compared: the last steps of a longer training example may well be
    the same as a short held-out example, as all short expressions occur there.

    Args:
        n_operands: Numbers in an expression, 2 to 8; or several such counts.
        n: Examples, of each operand count.
        modulus: The prime that numbers are taken modulo.
        distinct_from: Examples whose expressions must not be among the new ones, such as those trained on.
        seed: Of the draw. The examples of one operand count do not depend on which others are drawn.

    Returns:
        The examples, grouped by length.

    Raises:
        ValueError: A number is out of range, the modulus is no prime, `distinct_from` is empty or has another modulus, or there are fewer than n expressions left.
    """
    counts = _operand_counts(n_operands)
    require_positive_int("arithmetic_examples", "n", n)
    own_seed = require_seed("arithmetic_examples", seed)
    vocabulary = ArithmeticVocabulary(modulus)
    taken = None if distinct_from is None else _taken(distinct_from, modulus)
    groups: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for k in counts:
        for length, (tokens, prompt_lengths) in draw(k, n, vocabulary, own_seed, taken).items():
            groups.setdefault(length, []).append((k, tokens, prompt_lengths))
    tokens, masks, operands, lengths = [], [], [], []
    for _, parts in sorted(groups.items()):
        group = torch.from_numpy(np.concatenate([own for _, own, _ in parts]))
        prompts = torch.from_numpy(np.concatenate([own for _, _, own in parts]))
        tokens.append(group)
        masks.append(torch.arange(group.shape[1]) >= prompts[:, None])
        operands.append(torch.cat([torch.full((len(own),), k) for k, own, _ in parts]))
        lengths.append(prompts)
    provenance = {
        **versions(),
        "seed": own_seed,
        "modulus": vocabulary.modulus,
        "examples": {str(k): n for k in counts},
        "distinct_from_expressions": None if taken is None else len(taken),
    }
    return ArithmeticExamples(
        tuple(tokens), tuple(masks), torch.cat(operands), torch.cat(lengths), vocabulary.modulus, provenance
    )


def _operand_counts(given: int | Sequence[int]) -> list[int]:
    several = list(given) if isinstance(given, Sequence) else [given]
    counts = [whole_number(k) for k in several]
    if (
        not counts
        or len(set(counts)) < len(counts)
        or any(k is None or not 2 <= k <= MOST_OPERANDS for k in counts)
    ):
        raise ValueError(
            f"arithmetic_examples was given n_operands = {given!r}. Give a whole number from 2 to {MOST_OPERANDS}, or several different ones."
        )
    return [k for k in counts if k is not None]


def _taken(given: ArithmeticExamples | Iterable[ArithmeticExamples], modulus: int) -> frozenset[bytes]:
    several: list[Any] = (
        list(given)
        if isinstance(given, Iterable) and not isinstance(given, (ArithmeticExamples, torch.Tensor))
        else [given]
    )
    if not all(isinstance(one, ArithmeticExamples) for one in several):
        raise ValueError(
            f"arithmetic_examples was given distinct_from = {given!r:.100}. Give ArithmeticExamples, or several of them, or None."
        )
    if not several:
        raise ValueError(
            "arithmetic_examples was given distinct_from without any examples in it. Give examples, or leave distinct_from out."
        )
    for examples in several:
        if examples.modulus != modulus:
            raise ValueError(
                f"arithmetic_examples was given modulus = {modulus}, and distinct_from with examples modulo {examples.modulus}, which have other tokens. "
                "Give the same modulus."
            )
    return frozenset(key for examples in several for key in examples.expression_keys())
