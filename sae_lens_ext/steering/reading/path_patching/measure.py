"""A model's predictions in every mode, on the same tokens, and what they come to."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_lens_ext.bootstrap import Estimate, estimate, resamples
from sae_lens_ext.language_model import evaluating
from sae_lens_ext.steering.reading.path_patching.distances import MEASURES, distance_sums
from sae_lens_ext.steering.reading.path_patching.modes import PathMode
from sae_lens_ext.steering.reading.path_patching.paths import patched_paths
from sae_lens_ext.steering.reading.predictions import logits_at, predicting
from sae_lens_ext.steering.sequences import Sequences, padded_batches


@torch.no_grad()
def distances(
    model: Any,
    layer: int,
    vector: torch.Tensor,
    sequences: Sequences,
    modes: Sequence[PathMode],
    reference: PathMode,
    batch_size: int,
    after_each: Callable[[], Any],
) -> NDArray[np.float64]:
    """Run a model on sequences in every mode, and sum how far its predictions are from those of the reference, of base and of full.

    Args:
        model: The model.
        layer: After which the vector is added.
        vector: s, [d_model].
        sequences: What it reads; those without a generated token are left out.
        modes: The modes.
        reference: What they are compared with.
        batch_size: Sequences per forward pass, at most.
        after_each: Called after each mode of each batch.

    Returns:
        Sums over the generated tokens of a sequence, [modes, measures, sequences], in the order of `distances.MEASURES`.

    Raises:
        ValueError: There is NaN or infinity in the logits.
    """
    device = next(model.parameters()).device
    sums = np.zeros((len(modes), len(MEASURES), len(sequences)))
    kept = [row for row, n in enumerate(sequences.generated) if n > 0]
    for rows, tokens, _ in padded_batches(sequences, batch_size, device, rows=kept):
        where = predicting(sequences, rows)
        row, came = torch.tensor(rows)[where[0]], tokens.cpu()[where[0], where[1] + 1]

        def run(
            mode: PathMode, tokens: torch.Tensor = tokens, where: Any = where, rows: list[int] = rows
        ) -> torch.Tensor:
            with evaluating(model), patched_paths(model, vector, mode, layer=layer):
                return logits_at(model, tokens, where, rows, f"model in the mode {mode}")

        kinds = {"reference": reference, "base": PathMode.base(), "full": PathMode.full()}
        known: dict[PathMode, torch.Tensor] = {}
        for mode in kinds.values():
            known[mode] = known[mode] if mode in known else run(mode)
        of = {name: known[mode] for name, mode in kinds.items()}
        for i, mode in enumerate(modes):
            found = known[mode] if mode in known else run(mode)
            sums[i] += distance_sums(found, of, came, row, len(sequences))
            after_each()
    return sums


def estimates(
    sums: NDArray[np.float64],
    base: NDArray[np.float64],
    counts: Sequence[int],
    prompt_of: Sequence[int],
    n_resamples: int,
    seed: int,
) -> list[dict[str, Estimate | None]]:
    """Make means over tokens of sums over sequences, with intervals over prompts.

    Args:
        sums: Of each mode, [modes, measures, sequences].
        base: Of the mode base, [measures, sequences].
        counts: Generated tokens of each sequence.
        prompt_of: The prompt of each sequence, from 0; the completions of one are resampled together.
        n_resamples: Bootstrap samples of the prompts.
        seed: Of these.

    Returns:
        By mode, the measures of a `PathRow` but the reward.
    """
    of_prompt = np.eye(max(prompt_of) + 1)[list(prompt_of)]  # [sequences, prompts]
    sums, base, n_tokens = sums @ of_prompt, base @ of_prompt, np.array(counts) @ of_prompt
    kept = np.flatnonzero(n_tokens)
    samples = kept[resamples(len(kept), n_resamples, seed)]
    weights = n_tokens[samples].sum(axis=1)

    def means(of_mode: NDArray[np.float64]) -> Mapping[str, NDArray[np.float64]]:
        found = of_mode[:, samples].sum(axis=2) / weights  # [measures, 1 + n_resamples]
        return dict(zip(MEASURES, found, strict=True))

    whole = means(base)["kl_to_full"]
    rows: list[dict[str, Estimate | None]] = []
    for of_mode in sums:
        found = dict(means(of_mode))
        left = found.pop("kl_to_full")
        row: dict[str, Estimate | None] = {
            name: estimate(values, len(kept)) for name, values in found.items()
        }
        changes = bool((whole > 0).all())
        row["effect_kept"] = estimate(1 - left / whole, len(kept)) if changes else None
        rows.append(row)
    return rows
