"""Token sequences that a reading runs a model on: which of their tokens are prompt, and batches of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sae_lens_ext.analysis.provenance import tokens_read
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.number_checks import whole_number

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_KINDS = "Give token ids [batch, pos], a list of texts, a list of (prompt, completion) pairs of strings, or Sequences."


@dataclass(frozen=True, eq=False)
class Sequences:
    """Token sequences, each a prompt and what was generated after it.

    Sequences of ids are exact. A text that was generated and is tokenised again may come out as other tokens than those that were sampled;
    where that matters, keep the ids and use `Sequences.joined(prompt_ids, completion_ids)`.

    Raises:
        ValueError: There is none; one is no 1-D tensor of integers, is empty, or has a negative id; a prompt length is no whole number from
            1 to the length of its sequence, or there is another number of them.
    """

    tokens: tuple[torch.Tensor, ...]
    """Token ids, [pos] each, int64, on the CPU, as the model reads them: with BOS if it has one. Copies of what was given."""
    prompt_lengths: tuple[int, ...]
    """How many tokens of each are prompt, BOS counted; 1 to the length of the sequence."""

    def __post_init__(self) -> None:
        for name in ("tokens", "prompt_lengths"):
            value = getattr(self, name)
            if not _is_several(value) and not (name == "prompt_lengths" and isinstance(value, int)):
                raise ValueError(
                    f"Sequences was given {name} as {type(value).__name__}. Give a tuple with an entry for each sequence."
                )
        if isinstance(self.prompt_lengths, int) or len(self.prompt_lengths) != len(self.tokens):
            raise ValueError(
                f"Sequences was given {len(self.tokens)} sequences of tokens and {_count(self.prompt_lengths)}. Give one prompt length for each."
            )
        if len(self.tokens) == 0:
            raise ValueError("Sequences was given no sequence. Give at least one.")
        rows = tuple(_ids(row, one) for row, one in enumerate(self.tokens))
        lengths = tuple(
            _prompt_length(row, length, len(one))
            for row, (length, one) in enumerate(zip(self.prompt_lengths, rows, strict=True))
        )
        object.__setattr__(self, "tokens", rows)
        object.__setattr__(self, "prompt_lengths", lengths)

    @classmethod
    def joined(cls, prompts: Sequence[Any], completions: Sequence[Any]) -> "Sequences":
        """Put prompts and completions together, both as token ids.

        Args:
            prompts: Ids of each prompt, [n] each, with BOS if the model has one: tensors or lists of integers.
            completions: Ids of each completion, [m] each, of any length from 0 on.

        Raises:
            ValueError: There are more of one than of the other, or as for `Sequences`.
        """
        for name, value in (("prompts", prompts), ("completions", completions)):
            if not _is_several(value):
                raise ValueError(
                    f"Sequences.joined was given {name} as {type(value).__name__}. Give a list with the token ids of each."
                )
        if len(prompts) != len(completions):
            raise ValueError(
                f"Sequences.joined was given {len(prompts)} prompts and {len(completions)} completions. Give a completion for each prompt."
            )
        whole = tuple(
            torch.cat([_ids(row, prompt), _ids(row, completion, at_least=0)])
            for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        )
        return cls(whole, tuple(map(len, prompts)))

    @property
    def generated(self) -> tuple[int, ...]:
        """Number of tokens after each prompt."""
        return tuple(len(one) - prompt for one, prompt in zip(self.tokens, self.prompt_lengths, strict=True))

    @property
    def prompt_of(self) -> tuple[int, ...]:
        """Which prompt each sequence is a completion of, numbered from 0 in the order they come.

        Completions of one prompt are no independent texts: intervals are over prompts. A prompt of one token, as BOS before a text, is nobody's prompt, and
        each such sequence counts as one of its own.
        """
        prompts: list[Any] = [
            tuple(one[:length].tolist()) if length > 1 else row
            for row, (one, length) in enumerate(zip(self.tokens, self.prompt_lengths, strict=True))
        ]
        numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        return tuple(numbers[prompt] for prompt in prompts)

    @property
    def digest(self) -> str:
        """SHA-256 of lengths and ids, for the provenance of a result."""
        parts: list[int] = []
        for one, prompt in zip(self.tokens, self.prompt_lengths, strict=True):
            parts += [len(one), prompt, *one.tolist()]
        return tokens_read({"all": torch.tensor(parts)})["all"]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> "Sequences":
        """Give some of the sequences: `sequences[:10]`, `sequences[::4]`.

        Raises:
            ValueError: That is none of them, or no slice.
        """
        if not isinstance(rows, slice) or not self.tokens[rows]:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"Sequences was asked for [{rows!r}] of {len(self)} sequences. Give a slice that holds some, such as [:10]; one sequence is in .tokens."
            )
        return Sequences(self.tokens[rows], self.prompt_lengths[rows])

    def __repr__(self) -> str:
        lengths = sorted(map(len, self.tokens))
        return (
            f"Sequences: {len(self)} of {lengths[0]} to {lengths[-1]} tokens, {sum(self.prompt_lengths)} of prompts and "
            f"{sum(self.generated)} generated"
        )


def as_sequences(caller: str, model: Any, value: Any) -> Sequences:
    """Give what a user brought as sequences that the model can read.

    Args:
        caller: Function it was given to, for messages.
        model: The model that shall read them; its tokenizer is used for strings.
        value: `Sequences`; token ids [batch, pos]; a sequence of texts, each with BOS put first; or a sequence of (prompt, completion) pairs of
            strings, each tokenised for itself, BOS before the prompt, and joined. Of ids and of texts the first token counts as the prompt.

    Raises:
        ValueError: It is none of these, or one string; it is empty or has an empty text; the model has no tokenizer for strings; a sequence is
            longer than the model reads, or has an id that its vocabulary does not.
    """
    sequences = _sequences(caller, model, value)
    context, vocabulary = (getattr(model.cfg, name, None) for name in ("n_ctx", "d_vocab"))
    for row, one in enumerate(sequences.tokens):
        if isinstance(context, int) and len(one) > context:
            raise ValueError(
                f"{caller} was given {len(one)} tokens in row {row}, but this model reads {context}. Give at most {context} tokens in a row."
            )
        if isinstance(vocabulary, int) and vocabulary > 0 and int(one.max()) >= vocabulary:
            raise ValueError(
                f"{caller} was given the token id {int(one.max())} in row {row}, but this model's vocabulary has {vocabulary} tokens. Give ids of "
                "this model's tokenizer."
            )
    return sequences


def padded_batches(
    sequences: Sequences,
    batch_size: int,
    device: Any,
    *,
    rows: Sequence[int] | None = None,
    same_prompt_length: bool = False,
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Put sequences of about equal length together, padded on the right.

    What stands to the right changes nothing to the left in a causal model, so the model needs no mask; leave out what it gives where the mask
    is False.

    Args:
        sequences: The sequences.
        batch_size: Rows of a batch, at most.
        device: Where the batches shall be.
        rows: Which of the sequences; None for all.
        same_prompt_length: Put together only sequences whose prompts have equally many tokens, for steerings that must know where the
            prompt ends.

    Yields:
        Which sequences are in the batch, in order; their ids [batch, pos], padded with 0; which of them are real, [batch, pos], bool.

    Raises:
        ValueError: The batch size is no positive whole number.
    """
    require_positive_int("padded_batches", "batch_size", batch_size)
    prompts = sequences.prompt_lengths if same_prompt_length else (0,) * len(sequences)
    order = sorted(
        range(len(sequences)) if rows is None else rows,
        key=lambda row: (prompts[row], len(sequences.tokens[row])),
    )
    for group in _runs(order, prompts, batch_size):
        real = torch.zeros(len(group), max(len(sequences.tokens[row]) for row in group), dtype=torch.bool)
        tokens = torch.zeros(real.shape, dtype=torch.int64)
        for i, row in enumerate(group):
            one = sequences.tokens[row]
            tokens[i, : len(one)], real[i, : len(one)] = one, True
        yield group, tokens.to(device), real.to(device)


def _runs(order: Sequence[int], kinds: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Cut rows, in order, into groups of one kind and of `batch_size` at most."""
    group: list[int] = []
    for row in order:
        if group and (len(group) == batch_size or kinds[group[0]] != kinds[row]):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _sequences(caller: str, model: Any, value: Any) -> Sequences:
    if isinstance(value, Sequences):
        return value
    if isinstance(value, torch.Tensor):
        if value.ndim != 2 or value.numel() == 0 or value.dtype not in _INTEGERS:
            raise ValueError(f"{caller} was given a tensor {tuple(value.shape)}, {value.dtype}. {_KINDS}")
        return Sequences(tuple(value), (1,) * len(value))
    if isinstance(value, str):
        raise ValueError(
            f"{caller} was given one string, {value[:40]!r}. Give a list of texts, such as [{value[:40]!r}]."
        )
    if not isinstance(value, Sequence) or len(value) == 0:
        what = "an empty list" if isinstance(value, Sequence) else type(value).__name__
        raise ValueError(f"{caller} was given {what}. {_KINDS}")
    if getattr(model, "tokenizer", None) is None:
        raise ValueError(
            f"{caller} was given texts, but the model has no tokenizer. Set model.tokenizer, or give token ids [batch, pos]."
        )
    if all(isinstance(one, str) for one in value):
        rows = tuple(_text_ids(caller, model, row, text) for row, text in enumerate(value))
        return Sequences(rows, (1,) * len(rows))
    prompts: list[torch.Tensor] = []
    completions: list[torch.Tensor] = []
    for row, pair in enumerate(value):
        prompt, completion = _pair(caller, row, pair)
        prompts.append(_tokenised(model, prompt, bos=True))
        completions.append(_tokenised(model, completion, bos=False))
        if len(prompts[-1]) == 0:
            raise ValueError(
                f"{caller} was given an empty prompt in row {row}, and the tokenizer has no BOS to stand for it. Give a prompt."
            )
    return Sequences.joined(prompts, completions)


def _pair(caller: str, row: int, pair: Any) -> tuple[str, str]:
    if (
        not isinstance(pair, (tuple, list))
        or len(pair) != 2
        or not all(isinstance(text, str) for text in pair)
    ):
        raise ValueError(f"{caller} was given {pair!r:.60} in row {row}. {_KINDS}")
    return pair[0], pair[1]


def _text_ids(caller: str, model: Any, row: int, text: str) -> torch.Tensor:
    if not text:
        raise ValueError(f"{caller} was given an empty text in row {row}. Leave it out.")
    return _tokenised(model, text, bos=True)


def _tokenised(model: Any, text: str, *, bos: bool) -> torch.Tensor:
    if not text:
        start = model.tokenizer.bos_token_id if bos else None
        return torch.tensor([] if start is None else [start], dtype=torch.int64)
    return model.to_tokens(text, prepend_bos=bos, truncate=False)[0]


def _ids(row: int, value: Any, at_least: int = 1) -> torch.Tensor:
    """Give ids as a new int64 tensor [n] on the CPU."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    ids = torch.as_tensor(value, dtype=None if len(value) else torch.int64) if _is_list(value) else value
    if not isinstance(ids, torch.Tensor) or ids.ndim != 1 or ids.dtype not in _INTEGERS:
        what = f"{tuple(ids.shape)}, {ids.dtype}" if isinstance(ids, torch.Tensor) else type(ids).__name__
        raise ValueError(f"Sequences was given {what} in row {row}. Give token ids [pos], whole numbers.")
    if ids.is_meta:
        raise ValueError(
            f"Sequences was given a tensor on the meta device in row {row}, without its numbers. Give token ids [pos]."
        )
    if len(ids) < at_least:
        raise ValueError(f"Sequences was given no token in row {row}. Leave the row out.")
    if len(ids) and int(ids.min()) < 0:
        raise ValueError(
            f"Sequences was given the token id {int(ids.min())} in row {row}. Ids count from 0; leave padding out."
        )
    return ids.detach().to("cpu", torch.int64, copy=True)


def _is_several(value: Any) -> bool:
    array = isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim > 0
    return array or (isinstance(value, Sequence) and not isinstance(value, (str, bytes)))


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(whole_number(one) is not None for one in value)


def _prompt_length(row: int, length: Any, n: int) -> int:
    number = whole_number(length)
    if number is None or not 1 <= number <= n:
        raise ValueError(
            f"Sequences was given prompt length {length!r} in row {row}, which has {n} tokens. Give a whole number from 1 to {n}."
        )
    return number


def _count(lengths: Any) -> str:
    return f"the prompt length {lengths}" if isinstance(lengths, int) else f"{len(lengths)} prompt lengths"
