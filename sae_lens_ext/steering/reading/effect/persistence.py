"""Whether the effect of each layer's vector keeps its direction on the way up: Diff-Vector and Diff-Diff (arXiv 2509.06608)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.analysis.texts import require_detached
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.bootstrap import bootstrap_weights
from sae_lens_ext.number_checks import require_seed
from sae_lens_ext.steering.reading.effect.cosine_estimates import cosine_estimates
from sae_lens_ext.steering.reading.effect.differences import (
    Steering,
    batches,
    block_output,
    differences,
    n_blocks,
    single_steerings,
)
from sae_lens_ext.steering.reading.effect.direction_sums import DirectionSums
from sae_lens_ext.steering.reading.effect.persistence_result import Persistence
from sae_lens_ext.steering.reading.effect.token_choice import TokenChoice, n_counted, sequences_that_count
from sae_lens_ext.steering.sequences import Sequences, as_sequences
from sae_lens_ext.steering.vectors import SteeringVectors

CALLER = "persistence"
MEMORY = 2**29
"""Bytes that the sums may take; with more sequences the unsteered model runs more than once."""
LEAST_DIAGONAL = 0.9
"""Diff-Vector(i, i) below which rounding has destroyed the differences."""


def persistence(
    model: Any,
    vectors: SteeringVectors,
    sequences: Any,
    *,
    tokens: TokenChoice = "all",
    batch_size: int = 16,
    n_resamples: int = 1_000,
    seed: int = 0,
    show_progress: bool = True,
) -> Persistence:
    """Follow what each vector s_i, added alone, changes at the blocks j ≥ i: Δh_j(t) = h_j(t) steered − h_j(t), on the same token ids.

    Diff-Vector(i, j) = mean_t cos(Δh_j(t), s_j): does the effect of s_i arrive as what the vector of block j adds? It is 1 on the diagonal.
    Diff-Diff(i, j) = mean_t cos(Δh_j(t), mean_t' Δh_j(t')): does s_i do the same at every token? The paper finds the first near 0 off the
    diagonal, the second above 0.3.

    That mean holds the token t itself and those of its own text, which draws Diff-Diff upwards. So it is also measured against the mean of the
    OTHER sequences alone, which is 0 where directions are random, and the null value of Diff-Diff itself is given.

    These nulls are of random Δh. Random vectors of the same norms, measured by this same function, are the control that tells what is special to trained
    ones: a model carries any vector on along its residual stream, so that theirs too have a Diff-Vector near 0 and a Diff-Diff far above its null.

    The intervals are over sequences, by a bootstrap that keeps the mean directions as they were measured.

    Args:
        model: A HookedTransformer or TransformerBridge, with no SAE attached, in float32 at least: differences are small beside what they are of.
        vectors: The vectors; all layers' or some. Diff-Vector is known for the blocks that have one.
        sequences: What the model reads: `Sequences`, token ids [batch, pos], texts, or (prompt, completion) pairs; see `as_sequences`. The paper
            reads what the steered model wrote.
        tokens: Which tokens the means are over. "all": every token but the first of each sequence, which is BOS where a model has one, and unlike
            any other. "generated": those after the prompt.
        batch_size: Sequences per forward pass. It does not change the result.
        n_resamples: Bootstrap samples.
        seed: Of these.
        show_progress: Show a progress bar.

    Returns:
        The matrices, [vectors, blocks], with intervals and nulls.

    Raises:
        ValueError: A layer is absent from the model, a vector has another width, or is zero; no token counts; the model's last block has no
            hook, or SAEs are attached; there is NaN or infinity in a block's output; the model is too imprecise for the vectors.
    """
    require_positive_int(CALLER, "batch_size", batch_size)
    require_positive_int(CALLER, "n_resamples", n_resamples)
    seed = require_seed(CALLER, seed)
    if not isinstance(vectors, SteeringVectors):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"{CALLER} was given {type(vectors).__name__} as vectors. Give SteeringVectors, one vector per layer, such as SteeringVectors({{3: v}})."
        )
    n = n_blocks(CALLER, model)
    require_detached(model)
    steerings = single_steerings(CALLER, model, vectors)
    given = as_sequences(CALLER, model, sequences)
    counting = sequences_that_count(CALLER, given, tokens)
    local = torch.full((n, vectors.d_model), torch.nan, dtype=torch.float64)
    for layer in vectors.layers:
        local[layer] = vectors[layer].double()
    weights = torch.from_numpy(bootstrap_weights(max(counting.prompt_of) + 1, n_resamples, seed))
    n_tokens = n_counted(counting, tokens)
    chunks = _chunks(steerings, vectors.layers, n, len(weights.T) * vectors.d_model)
    n_passes = len(batches(CALLER, steerings, counting, batch_size, "cpu")) * (len(chunks) + len(steerings))
    found: list[dict[str, torch.Tensor]] = []
    with tqdm(total=n_passes, desc="Persistence", disable=not show_progress) as bar:
        for chunk, layers in chunks:
            for layer, sums in zip(
                layers,
                _sums(model, chunk, layers, n, counting, tokens, batch_size, bar.update),
                strict=True,
            ):
                one = cosine_estimates(sums, n_tokens, local[layer], local[layer:], weights)
                _require_precise(model, layer, float(one["diff_vector"][0]))
                found.append({name: _from_block(layer, values) for name, values in one.items()})
    return Persistence(
        layers=vectors.layers,
        n_tokens=n_tokens,
        n_sequences=len(counting),
        **{name: torch.stack([one[name] for one in found]) for name in found[0]},
        provenance={
            **versions(),
            "model_name": getattr(model.cfg, "model_name", None),
            "hook_names": [block_output(block) for block in range(n)],
            "tokens": tokens,
            "sequences_sha256": given.digest,
            "batch_size": batch_size,
            "n_resamples": n_resamples,
            "seed": seed,
            "vectors": dict(vectors.provenance),
        },
    )


def _from_block(first: int, values: torch.Tensor) -> torch.Tensor:
    """Give values of the blocks from the first on as values of all blocks, NaN before it."""
    before = values.new_full((first, *values.shape[1:]), torch.nan)
    return torch.cat([before, values])


def _chunks(
    steerings: Sequence[Steering], layers: Sequence[int], n: int, numbers: int
) -> list[tuple[list[Steering], list[int]]]:
    """Cut the vectors, in order, into groups whose sums fit in `MEMORY`, or of one.

    Args:
        steerings: One for each vector.
        layers: Their layers.
        n: Blocks.
        numbers: How many the sums of a vector at a block hold, of either kind.
    """
    chunks: list[tuple[list[Steering], list[int]]] = []
    room = 0
    for steering, layer in zip(steerings, layers, strict=True):
        needed = 2 * 8 * numbers * (n - layer)
        if needed > room or not chunks:
            chunks.append(([], []))
            room = MEMORY
        chunks[-1][0].append(steering)
        chunks[-1][1].append(layer)
        room -= needed
    return chunks


def _sums(
    model: Any,
    steerings: Sequence[Steering],
    layers: Sequence[int],
    n: int,
    sequences: Sequences,
    tokens: TokenChoice,
    batch_size: int,
    tick: Callable[[], object],
) -> list[DirectionSums]:
    """Sum what some vectors change, from the block of each to the last."""
    prompt_of = sequences.prompt_of
    sums = [DirectionSums(n - layer, max(prompt_of) + 1, model.cfg.d_model) for layer in layers]
    for found in differences(
        CALLER,
        model,
        steerings,
        [range(layer, n) for layer in layers],
        sequences,
        tokens=tokens,
        batch_size=batch_size,
        tick=tick,
    ):
        for block, gap in found.at_block.items():
            sums[found.steering].add(
                block - layers[found.steering], [prompt_of[row] for row in found.rows], gap
            )
    return sums


def _require_precise(model: Any, layer: int, diagonal: float) -> None:
    """Raise ValueError if a block's output does not change by the vector that is added to it."""
    if not diagonal >= LEAST_DIAGONAL:
        precision = next(model.parameters()).dtype
        raise ValueError(
            f"Adding the vector of layer {layer} changes the output of block {layer} in directions whose mean cosine with the vector is {diagonal:.3f}, not 1: "
            f"beside the activations there the vector is lost in the rounding of {precision}. Load the model in a higher precision, or give a "
            "larger vector."
        )
