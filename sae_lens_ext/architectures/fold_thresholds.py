"""Threshold folding: a JumpReLU SAE whose every threshold is 1, with its output unchanged (SAE Match, arXiv 2410.07656).

    W_enc ← W_enc / θ (columns)    b_enc ← b_enc / θ    W_dec ← W_dec · θ (rows)    θ ← 1

of an SAE with unit-norm decoder rows. A latent's activation is then counted in units of its threshold, so that the latents of SAEs
of several layers compare, and the row that a steering adds carries θ.

Of decoder rows with norms n the paper's two steps make θ = n t out of a raw threshold t, and the norms cancel: together they divide
W_enc by t and multiply W_dec by t. That is how it is computed, with one rounding in place of two. The folded rows have the norm θ.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_ext.architectures.inference import as_inference, assemble
from sae_lens_ext.architectures.sae_checks import require_sae
from sae_lens_ext.architectures.validation import ESTIMATED_NORMALIZATIONS

FOLDED_METADATA_KEY = "thresholds_folded"
"""Set to True in the metadata of an SAE that was folded."""

_FOLDED_TENSORS = ("W_enc", "b_enc", "W_dec", "threshold")


@torch.no_grad()
def fold_thresholds(sae: SAE[Any]) -> SAE[Any]:
    """Fold the thresholds of a JumpReLU SAE into its weights (SAE Match, arXiv 2410.07656).

    The same latents fire and `decode(encode(x))` is the same, up to rounding: a pre-activation that is within the SAE's precision of
    its threshold may fall on the other side of it. An activation is divided by the threshold that `sae` has.

    Args:
        sae: A `jumprelu` SAE, or a training SAE that is saved as one (BatchTopK, JumpReLU, Residual). It is left as it is.

    Returns:
        A new `jumprelu` SAE with weights of its own, in the same precision, with threshold 1 everywhere, decoder rows of norm
        θ = ‖row‖ · threshold, the metadata of `sae`, and `metadata.thresholds_folded = True`. Folding it again changes nothing.

    Raises:
        ValueError: The SAE is no JumpReLU; its activation normalisation was never folded into its weights; a threshold is not above
            0 or not finite; a decoder row is zero; or a folded weight does not fit the SAE's precision.
    """
    inference = _require_jumprelu(sae)
    threshold = inference.threshold.detach()
    _require_thresholds(threshold, range(len(threshold)))
    _require_rows(inference.W_dec.detach(), range(len(threshold)))
    t = threshold.double()
    weights = {name: tensor.detach().clone() for name, tensor in inference.state_dict().items()}
    folded = {
        "W_enc": weights["W_enc"].double() / t,
        "b_enc": weights["b_enc"].double() / t,
        "W_dec": weights["W_dec"].double() * t[:, None],
        "threshold": torch.ones_like(t),
    }
    for name, exact in folded.items():
        rounded = exact.to(weights[name].dtype)
        _require_fits(name, exact, rounded)
        weights[name] = rounded
    cfg = copy.deepcopy(inference.cfg)
    cfg.metadata[FOLDED_METADATA_KEY] = True
    return assemble(cfg, weights).train(inference.training)


@torch.no_grad()
def unit_row_thresholds(sae: SAE[Any], indices: Sequence[int]) -> torch.Tensor:
    """Give the thresholds θ that latents of a JumpReLU SAE have if its decoder rows are made unit norm, folded or not.

    θ · d, with the unit row d, is the decoder row after folding: what a latent just above its threshold adds.

    Args:
        sae: As for `fold_thresholds`.
        indices: Which latents.

    Returns:
        θ = ‖row‖ · threshold, [n], float32, on the SAE's device.

    Raises:
        ValueError: As for `fold_thresholds`, of these latents alone.
    """
    inference = _require_jumprelu(sae)
    chosen = torch.as_tensor(indices, dtype=torch.long, device=inference.W_dec.device)
    rows, threshold = inference.W_dec.detach()[chosen], inference.threshold.detach()[chosen]
    _require_thresholds(threshold, indices)
    _require_rows(rows, indices)
    return rows.float().norm(dim=1) * threshold.float()


def has_folded_thresholds(sae: SAE[Any]) -> bool:
    """Tell whether an SAE is marked as one whose thresholds were folded."""
    return sae.cfg.metadata[FOLDED_METADATA_KEY] is True


def _require_jumprelu(sae: Any) -> Any:
    if not isinstance(sae, SAE):
        raise ValueError(
            f"Thresholds of {type(sae).__name__} cannot be folded. Give an SAE; load_sae(folder) loads one."
        )
    inference = as_inference(require_sae("fold_thresholds", "sae", sae))
    architecture = inference.cfg.architecture()
    if architecture != "jumprelu" or any(not hasattr(inference, name) for name in _FOLDED_TENSORS):
        raise ValueError(
            f"An SAE of the architecture {architecture!r} has no threshold for each latent that could be folded. Give a "
            "JumpReLU SAE (BatchTopK and residual SAEs are saved as such)."
        )
    if inference.cfg.normalize_activations in ESTIMATED_NORMALIZATIONS:
        raise ValueError(
            f"The thresholds of an SAE with normalize_activations = {inference.cfg.normalize_activations!r}, which was never folded into its "
            "weights, are not in the units of the model's activations. Fold the normalisation first, as SAELens' runner does at the end of "
            "training."
        )
    return inference


def _require_thresholds(threshold: torch.Tensor, indices: Sequence[int]) -> None:
    bad = (~(torch.isfinite(threshold) & (threshold > 0))).nonzero()[:, 0]
    if len(bad):
        first = int(bad[0])
        raise ValueError(
            f"{len(bad):,} of {len(threshold):,} thresholds of the SAE are not finite numbers above 0, such as latent {indices[first]} with "
            f"{float(threshold[first])}, and cannot be folded: weights are divided by them. Give an SAE that was trained to have positive "
            "thresholds, or leave these latents out."
        )


def _require_rows(rows: torch.Tensor, indices: Sequence[int]) -> None:
    zero = (rows == 0).all(dim=1).nonzero()[:, 0]
    if len(zero):
        raise ValueError(
            f"{len(zero):,} of {len(rows):,} decoder rows of the SAE are zero, such as that of latent {indices[int(zero[0])]}, so that they have no "
            "unit norm and their thresholds cannot be folded. Give an SAE without such latents, or leave them out."
        )


def _require_fits(name: str, exact: torch.Tensor, rounded: torch.Tensor) -> None:
    if not torch.isfinite(rounded).all():
        what = "is NaN or infinite"
    elif name == "W_dec" and bool(((rounded == 0).all(dim=1) & (exact != 0).any(dim=1)).any()):
        what = "has rows that are rounded to zero"
    else:
        return
    raise ValueError(
        f"Folding the thresholds gives a {name} that {what} in {rounded.dtype}. If the SAE itself is whole, its thresholds are too small or too "
        "large for that precision: convert it first, with sae.to(dtype=torch.float32)."
    )
