"""How many expressions a model works out rightly, reading greedily from the first "=" on."""

from typing import Any

import torch
from tqdm.auto import tqdm

from sae_lens_ext.analysis.provenance import tokens_read, versions
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.language_model import by_length, evaluating, read_texts
from sae_lens_ext.language_model.weights_hash import weights_hash
from sae_lens_ext.lime.arithmetic.chains import longest
from sae_lens_ext.lime.arithmetic.examples import ArithmeticExamples
from sae_lens_ext.lime.arithmetic.result import ArithmeticAccuracy
from sae_lens_ext.number_checks import require_bool

OWNER = "arithmetic_accuracy"


@torch.no_grad()
def arithmetic_accuracy(
    model: Any,
    examples: ArithmeticExamples,
    *,
    batch_size: int = 500,
    shortcut: bool = True,
    show_progress: bool = True,
) -> ArithmeticAccuracy:
    """Let a model work expressions out, token by token, the likeliest each time, and compare with the reference.

    The accuracy by operand count that arXiv 2502.09245 gives for its arithmetic task. A text ends with the end token, or when it is as long as the longest
    that its operand count can need; then it is wrong.

    Args:
        model: A HookedTransformer or TransformerBridge whose tokens are those of `examples.vocabulary`.
        examples: The expressions.
        batch_size: Texts read at once.
        shortcut: Read the references first, all tokens in one pass: as long as each token is the one the model finds likeliest, it would have written the reference
            itself. Only from the first other token on is anything generated. The result is the same as without, but where two logits are equal to rounding.
        show_progress: Show a progress bar.

    Returns:
        Which answers and which chains of steps are right.

    Raises:
        ValueError: The model has too few tokens or too short a context, gives NaN, or an argument is out of range.
    """
    require_positive_int(OWNER, "batch_size", batch_size)
    require_bool(OWNER, "shortcut", shortcut)
    _require_fitting(model, examples)
    references, vocabulary = [row.tolist() for row in examples.sequences], examples.vocabulary
    limits = [longest(k) for k in examples.n_operands.tolist()]
    with evaluating(model), tqdm(total=len(references), desc="Arithmetic", disable=not show_progress) as bar:
        if shortcut:
            found = _until_it_departs(model, examples, batch_size)
        else:
            lengths = examples.prompt_lengths.tolist()
            found = [row[:length] for row, length in zip(references, lengths, strict=True)]
        open_rows = [i for i, row in enumerate(found) if row[-1] != vocabulary.end and len(row) < limits[i]]
        bar.update(len(found) - len(open_rows))
        for batch in by_length(open_rows, [len(found[i]) for i in open_rows], batch_size):
            _write_on(model, [found[i] for i in batch], [limits[i] for i in batch], vocabulary.end)
            bar.update(len(batch))
    pairs = list(zip(found, references, strict=True))
    provenance = {
        **versions(),
        "model_name": getattr(getattr(model, "cfg", None), "model_name", None),
        "model_weights": weights_hash(model),
        "examples": dict(examples.provenance),
        "tokens_sha256": tokens_read({f"length {group.shape[1]}": group for group in examples.tokens}),
    }
    return ArithmeticAccuracy(
        answer_right=torch.tensor([row[-3:] == [vocabulary.equals, *own[-2:]] for row, own in pairs]),
        chain_right=torch.tensor([row == own for row, own in pairs]),
        n_operands=examples.n_operands.clone(),
        texts=tuple(vocabulary.decode(row[1:]) for row in found),
        provenance=provenance,
    )


def _until_it_departs(model: Any, examples: ArithmeticExamples, batch_size: int) -> list[list[int]]:
    """Give of each reference what the model would have written as well, and its own token after it, if there is one."""
    found: list[list[int]] = []
    for group, prompts in zip(
        examples.tokens, examples.prompt_lengths.split([len(g) for g in examples.tokens]), strict=True
    ):
        for tokens, lengths in zip(group.split(batch_size), prompts.split(batch_size), strict=True):
            logits = model(tokens.to(_device(model)), return_type="logits")
            own = _likeliest(logits).cpu()[:, :-1]
            departs = (own != tokens[:, 1:]) & (torch.arange(own.shape[1]) >= lengths[:, None] - 1)
            first = torch.where(departs.any(dim=1), departs.int().argmax(dim=1), own.shape[1])
            for row, likeliest, at in zip(tokens.tolist(), own.tolist(), first.tolist(), strict=True):
                found.append(row[: at + 1] + likeliest[at : at + 1])
    return found


def _write_on(model: Any, rows: list[list[int]], limits: list[int], end: int) -> None:
    """Write texts of one length on, each until its end token or its limit; they grow in place."""
    texts = read_texts(model, [torch.tensor(row) for row in rows])
    writing = list(range(len(rows)))
    while True:
        chosen = _likeliest(texts.last_logits)
        for row, token in zip(writing, chosen.tolist(), strict=True):
            rows[row].append(token)
        kept = [i for i, row in enumerate(writing) if rows[row][-1] != end and len(rows[row]) < limits[row]]
        if not kept:
            return
        if len(kept) < len(writing):
            writing = [writing[i] for i in kept]
            texts.keep(torch.tensor(kept))
            chosen = chosen[torch.tensor(kept, device=chosen.device)]
        texts.go_on(chosen[:, None])


def _likeliest(logits: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(logits).all():
        raise ValueError(
            f"{OWNER}: the model gave logits that are NaN or infinite, so that no token is the likeliest. Look for an overflow in its weights."
        )
    return logits.argmax(dim=-1)


def _require_fitting(model: Any, examples: ArithmeticExamples) -> None:
    cfg = getattr(model, "cfg", None)
    needed = {
        "d_vocab": (examples.vocabulary.size, "tokens of the examples' vocabulary"),
        "n_ctx": (longest(int(examples.n_operands.max())), "tokens that the longest steps can have"),
    }
    for name, (least, what) in needed.items():
        given = getattr(cfg, name, None)
        if given is not None and given < least:
            raise ValueError(
                f"{OWNER} was given a model whose {name} is {given}, fewer than the {least} {what}. Give a model with {name} of at least {least}."
            )


def _device(model: Any) -> torch.device:
    return next(model.parameters()).device
