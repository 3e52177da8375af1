"""What must hold of patched paths whatever the model: checked on its own tokens before anything is measured."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from sae_lens_ext.steering.add_vector import AddVector
from sae_lens_ext.steering.reading.path_patching.modes import Part, PathMode
from sae_lens_ext.steering.reading.path_patching.patched_block import Reads
from sae_lens_ext.steering.reading.path_patching.paths import patched_paths, reading
from sae_lens_ext.steering.reading.path_patching.projections import NoSplitError, Projections
from sae_lens_ext.steering.steer import steer

TOLERANCE = 1e-4
"""Share of the largest logit by which two ways to one thing may differ in float32."""
_OF_EFFECT = 0.05
"""Share of what the vector itself changes by which two ways may differ, so that rounding does not pass for an effect."""

FULL = "full = plain steering"
BASE = "base = no steering"
SKIP_LAYER = "skip_layer = adding the vector after the block"
ALL_VANILLA = "all heads' q, k and v vanilla = skip_attn"
ALL_STEERED = "all heads' q, k and v steered = full"

Run = Callable[[], torch.Tensor]


def tolerance_of(dtype: torch.dtype) -> float:
    """Give the share of the largest logit by which two ways may differ: `TOLERANCE`, or ten roundings in lower precision."""
    return max(TOLERANCE, 10 * torch.finfo(dtype).eps)


def check_identities(
    model: object, layer: int, vector: torch.Tensor, run: Run, *, heads: bool
) -> dict[str, float]:
    """Check that modes which must agree do.

    Plain steering is `steer` with an AddVector after the layer, or after the next one for skip_layer. The heads' identities take all heads one by one, by their
    own projections, and compare with patching the input of attention as a whole.

    Args:
        model: The model.
        layer: After which the vector is added.
        vector: s, [d_model].
        run: Runs the model on some tokens and gives the logits to compare.
        heads: Whether single heads must be patched; if not, a model in which they cannot be is not asked.

    Returns:
        By identity, the largest difference of a logit as a share of the largest logit.

    Raises:
        RuntimeError: An identity does not hold; it says which, and by how much.
        NotImplementedError: The block is of a kind whose paths cannot be told apart exactly.
    """

    def steered(after: int) -> AbstractContextManager[None]:
        return steer(model, AddVector(f"blocks.{after}.hook_resid_post", vector))

    def patched(mode: PathMode) -> AbstractContextManager[None]:
        return patched_paths(model, vector, mode, layer=layer)

    full = _logits(run, patched(PathMode.full()))
    found = {
        FULL: _difference(full, _logits(run, steered(layer))),
        SKIP_LAYER: _difference(
            _logits(run, patched(PathMode.skip_layer())), _logits(run, steered(layer + 1))
        ),
    }
    # Of skip_attn no other identity is known, so it is checked by heads wherever the block has them apart.
    try:
        found |= _of_heads(model, layer, vector, run, full, _logits(run, patched(PathMode.skip_attn())))
    except (NoSplitError, NotImplementedError):
        if heads:
            raise
    plain = _logits(run, nullcontext())
    found[BASE] = _difference(_logits(run, patched(PathMode.base())), plain)
    _require_hold(found, full.dtype, _difference(full, plain))
    return found


def _of_heads(
    model: object, layer: int, vector: torch.Tensor, run: Run, full: torch.Tensor, skip_attn: torch.Tensor
) -> dict[str, float]:
    every: dict[Part, range] = {part: range(n) for part, n in Projections(model, layer + 1).heads.items()}
    vanilla = _logits(run, reading(model, layer, vector, Reads(True, True, every)))
    steered = _logits(run, reading(model, layer, vector, Reads(False, True, every)))
    return {ALL_VANILLA: _difference(vanilla, skip_attn), ALL_STEERED: _difference(steered, full)}


def _logits(run: Run, block: AbstractContextManager[None]) -> torch.Tensor:
    with block:
        return run()


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Give the largest difference of a logit as a share of the largest one."""
    known = torch.isfinite(one) & torch.isfinite(other)  # a token that cannot come has the logit −∞
    one, other = one[known].double(), other[known].double()
    return float((one - other).abs().max() / other.abs().max().clamp(min=torch.finfo(torch.float32).tiny))


def _require_hold(found: dict[str, float], precision: torch.dtype, effect: float) -> None:
    tolerance, coarse = tolerance_of(precision), precision in (torch.float16, torch.bfloat16)
    for identity, difference in found.items():
        if not difference <= tolerance:
            raise RuntimeError(
                f"path_patching measured nothing, for {identity} does not hold: a logit differs by {difference:.1e} of the largest, where {tolerance:.1e} is allowed "
                f"(the vector itself changes one by {effect:.1e}). Remove other hooks from the model, and switch off what makes it run "
                "otherwise each time; if there is none, its paths cannot be patched exactly."
            )
        if coarse and difference > _OF_EFFECT * effect:
            raise RuntimeError(
                f"path_patching measured nothing, for {identity} holds only up to {difference:.1e} of the largest logit, and the vector itself changes one by "
                f"{effect:.1e}: beside that {precision} is too coarse. Load the model in float32, or give a larger vector."
            )
