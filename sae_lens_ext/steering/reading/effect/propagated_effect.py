"""What is left of each vector at the model's last block: the mean difference it makes there (arXiv 2509.06608)."""

from typing import Any

import torch
from tqdm.auto import tqdm

from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.analysis.texts import require_detached
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.language_model.hook_points import hook_points_of
from sae_lens_ext.steering.intervention import Intervention
from sae_lens_ext.steering.reading.effect.differences import (
    Steering,
    batches,
    block_output,
    differences,
    n_blocks,
    single_steerings,
)
from sae_lens_ext.steering.reading.effect.propagated_result import PropagatedEffect
from sae_lens_ext.steering.reading.effect.token_choice import TokenChoice, n_counted, sequences_that_count
from sae_lens_ext.steering.reading.precision import warn_of_half_precision
from sae_lens_ext.steering.sequences import as_sequences
from sae_lens_ext.steering.vectors import SteeringVectors

CALLER = "propagated_effect"
REPR_LENGTH = 300
"""Characters of an intervention's repr that the provenance keeps."""


def propagated_effect(
    model: Any,
    vectors: SteeringVectors | Intervention,
    sequences: Any,
    *,
    tokens: TokenChoice = "all",
    batch_size: int = 16,
    show_progress: bool = True,
) -> PropagatedEffect:
    """Measure what each vector alone changes at the last block's output, in the mean over tokens, on the same token ids.

    This is what the paper's figures read with the logit lens in place of the vector itself: `logit_lens(model, propagated_effect(...))`.
    Of the last layer's vector it is the vector.

    Args:
        model: A HookedTransformer or TransformerBridge, with no SAE attached.
        vectors: Vectors by layer, each of which is added alone, at every position; or an intervention, such as `vectors.interventions()` for all
            layers together or a feature's `AddFeature`, which counts as one.
        sequences: What the model reads: `Sequences`, token ids [batch, pos], texts, or (prompt, completion) pairs; see `as_sequences`. The paper
            reads what the steered model wrote.
        tokens: Which tokens the mean is over. "all": every token but the first of each sequence, which is BOS where a model has one, and unlike
            any other. "generated": those after the prompt. The difference at a token is what changes the prediction of the next.
        batch_size: Sequences per forward pass. It does not change the result.
        show_progress: Show a progress bar.

    Returns:
        The mean differences, and how much the tokens agree on them.

    Raises:
        ValueError: A layer is absent from the model, a vector has another width, or is zero; what was given is neither vectors nor an intervention;
            no token counts; the model's last block has no hook, or SAEs are attached; there is NaN or infinity in its output.
        RuntimeError: The intervention acted on no token.
    """
    hook_points_of(model)  # raises if it has none
    warn_of_half_precision(CALLER, model)
    require_positive_int(CALLER, "batch_size", batch_size)
    last = n_blocks(CALLER, model) - 1
    require_detached(model)
    steerings = _steerings(model, vectors)
    given = as_sequences(CALLER, model, sequences)
    counting = sequences_that_count(CALLER, given, tokens)
    total = torch.zeros(len(steerings), model.cfg.d_model, dtype=torch.float64)
    norms, squares = torch.zeros(2, len(steerings), dtype=torch.float64)
    n_tokens = n_counted(counting, tokens)
    passes = len(batches(CALLER, steerings, counting, batch_size, "cpu")) * (1 + len(steerings))
    with tqdm(total=passes, desc="Propagated effect", disable=not show_progress) as bar:
        for found in differences(
            CALLER,
            model,
            steerings,
            [[last]] * len(steerings),
            counting,
            tokens=tokens,
            batch_size=batch_size,
            tick=bar.update,
        ):
            gap = found.at_block[last]
            total[found.steering] += gap.sum(dim=(0, 1)).cpu()
            norm = gap.norm(dim=-1)
            norms[found.steering] += norm.sum().cpu()
            squares[found.steering] += norm.square().sum().cpu()
    return PropagatedEffect(
        labels=tuple(steering.label for steering in steerings),
        layers=tuple(steering.layer for steering in steerings),
        mean=(total / n_tokens).float(),
        mean_norm=norms / n_tokens,
        share=_ratio(total.norm(dim=1), norms),
        null_share=_ratio(squares.sqrt(), norms),
        n_tokens=n_tokens,
        provenance={
            **versions(),
            "model_name": getattr(model.cfg, "model_name", None),
            "hook_name": block_output(last),
            "tokens": tokens,
            "n_sequences": len(counting),
            "sequences_sha256": given.digest,
            "batch_size": batch_size,
            "vectors": dict(vectors.provenance)
            if isinstance(vectors, SteeringVectors)
            else repr(vectors)[:REPR_LENGTH],
        },
    )


def _steerings(model: Any, vectors: Any) -> list[Steering]:
    if isinstance(vectors, SteeringVectors):
        return single_steerings(CALLER, model, vectors)
    if isinstance(vectors, Intervention):
        return [Steering("intervention", None, vectors)]
    raise ValueError(
        f"{CALLER} was given {type(vectors).__name__} as vectors. Give SteeringVectors, or an intervention such as AddVector or AddFeature."
    )


def _ratio(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Give one / other, NaN where the other is 0."""
    return torch.where(other > 0, one / other, torch.nan)
