"""From sums over prompts to means of cosines with bootstrap intervals over prompts, and their null values."""

import torch

from sae_lens_ext.steering.reading.effect.direction_sums import (
    DirectionSums,
    cosine_sums,
    null_local,
    null_mean,
)

_LEVELS = (0.025, 0.975)


def cosine_estimates(
    sums: DirectionSums, n_tokens: int, vector: torch.Tensor, local: torch.Tensor, weights: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Estimate all that `Persistence` holds of one vector.

    Args:
        sums: Of what the vector changes, at its block and those after it.
        n_tokens: Tokens that the sums are over.
        vector: s_i, [d_model], float64.
        local: s_j of each of these blocks, [n_blocks, d_model], float64; NaN where there is none.
        weights: As `bootstrap_weights` gives, a tensor.

    Returns:
        By field of `Persistence`, [n_blocks] each, and [n_blocks, 2] of intervals, float64; NaN where a number is not defined.
    """
    cosines = cosine_sums(sums, local)
    found = {
        "norm_ratio": sums.norms.sum(dim=1) / n_tokens / vector.norm(),
        "null_diff_vector": null_local(sums),
        "null_diff_diff": null_mean(sums),
        "vector_cosine": torch.nn.functional.normalize(local, dim=-1) @ (vector / vector.norm()),
    }
    for name, of_rows in (
        ("diff_vector", cosines.local),
        ("diff_diff", cosines.mean),
        ("diff_diff_others", cosines.others),
    ):
        # A mean over tokens, whichever prompts are drawn: [samples, n_blocks]. None drawn that changed gives 0 / 0, NaN.
        means = (weights @ of_rows.T) / (weights @ sums.directed.T)
        found[name] = means[0]
        found[f"{name}_interval"] = _interval(means[1:], n_rows=of_rows.shape[1])
    return found


def _interval(means: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Give the 95 % interval, [n_blocks, 2]; NaN for one prompt, of which nothing can be drawn."""
    if n_rows == 1:
        return means.new_full((means.shape[1], 2), torch.nan)
    return means.nanquantile(means.new_tensor(_LEVELS), dim=0).T
