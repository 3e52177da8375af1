"""What a steering changes at the outputs of blocks: Δh_j(t) = h_j(t) steered − h_j(t) unsteered, on the same tokens."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sae_lens_ext.analysis.site_reading import activations_at
from sae_lens_ext.language_model import evaluating, find_hook_point
from sae_lens_ext.steering.intervention import Intervention, SingleIntervention
from sae_lens_ext.steering.reading.effect.token_choice import TokenChoice, counted
from sae_lens_ext.steering.sequences import Sequences, padded_batches
from sae_lens_ext.steering.steer import steer
from sae_lens_ext.steering.steered_tokens import (
    acting_on,
    depends_on_prompt,
    require_no_masks,
    require_none_idle,
)
from sae_lens_ext.steering.vectors import SteeringVectors


@dataclass(frozen=True, eq=False)
class Steering:
    """One steering, acting alone."""

    label: str
    """Its name, such as "layer 3"."""
    layer: int | None
    """The layer of a vector; None of anything else."""
    intervention: Intervention
    """What it does."""


@dataclass(frozen=True, eq=False)
class Differences:
    """What one steering changes on one batch."""

    steering: int
    """Which of the steerings."""
    rows: list[int]
    """Which sequences are in the batch, in order."""
    counted: torch.Tensor
    """Which tokens count, [batch, pos], bool, on the model's device."""
    at_block: dict[int, torch.Tensor]
    """Δh by block, [batch, pos, d_model], float64, 0 at tokens that do not count; on the device of the block, or the CPU if that has no float64."""


def block_output(layer: int) -> str:
    """Name the hook of a block's output."""
    return f"blocks.{layer}.hook_resid_post"


def n_blocks(caller: str, model: Any) -> int:
    """Give the number of a model's blocks; raise ValueError unless the output of its last one has a hook."""
    n = getattr(getattr(model, "cfg", None), "n_layers", None)
    if not isinstance(n, int) or n < 1:
        raise ValueError(
            f"{caller} was given {type(model).__name__}, whose cfg does not say how many blocks it has (n_layers). Give a HookedTransformer or a "
            "TransformerBridge."
        )
    find_hook_point(model, block_output(n - 1))
    return n


def single_steerings(caller: str, model: Any, vectors: SteeringVectors) -> list[Steering]:
    """Give a steering for each layer's vector.

    Args:
        caller: Function the vectors were given to, for messages.
        model: The model that shall be steered.
        vectors: The vectors.

    Raises:
        ValueError: A layer is absent from the model, a vector has another width, or is zero.
    """
    vectors.interventions(model)  # refuses what is not of this model
    for layer in vectors.layers:
        if not vectors[layer].any():
            raise ValueError(
                f"{caller} was given a vector of zeros at layer {layer}, which changes nothing and has no direction. Leave it out, with "
                "vectors.only(...)."
            )
    return [
        Steering(f"layer {layer}", layer, vectors.only(layer).interventions(model))
        for layer in vectors.layers
    ]


def batches(
    caller: str, steerings: Sequence[Steering], sequences: Sequences, batch_size: int, device: Any
) -> list[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Put sequences into batches; where a steering asks where the prompt ends, only those with equally long prompts go together.

    Returns:
        As `padded_batches` yields.

    Raises:
        ValueError: An intervention has a mask of one batch as its positions.
    """
    for steering in steerings:
        require_no_masks(caller, steering.intervention)
    same = any(map(depends_on_prompt, _parts(steerings)))
    return list(padded_batches(sequences, batch_size, device, same_prompt_length=same))


@torch.no_grad()
def differences(
    caller: str,
    model: Any,
    steerings: Sequence[Steering],
    blocks: Sequence[Sequence[int]],
    sequences: Sequences,
    *,
    tokens: TokenChoice,
    batch_size: int,
    tick: Callable[[], object],
) -> Iterator[Differences]:
    """Run a model over sequences, unsteered once and once for each steering, no further than the last block that is read.

    Prompts are steered as prompts and the rest as generated, as when it was. What is held in memory is one batch: `batch_size * pos * d_model`
    numbers for each block, twice in the model's precision and once in float64.

    Args:
        caller: Function that asks, for messages.
        model: A HookedTransformer or TransformerBridge, with no SAE attached.
        steerings: The steerings, each of which acts alone.
        blocks: The blocks to read, ascending, for each steering.
        sequences: What is read.
        tokens: Which tokens count.
        batch_size: Sequences per forward pass.
        tick: Called after each forward pass.

    Yields:
        Batch by batch, steering by steering.

    Raises:
        ValueError: There is NaN or infinity in a block's output; or an intervention has a mask of one batch as its positions.
        RuntimeError: A part of a steering acted on no token of any sequence.
    """
    device = next(model.parameters()).device
    every = sorted({block for of_one in blocks for block in of_one})
    idle = _parts(steerings)
    for rows, ids, real in batches(caller, steerings, sequences, batch_size, device):
        chosen = counted(sequences, rows, real, tokens)
        base = _outputs(model, ids, every, chosen, "unsteered")
        tick()
        for number, steering in enumerate(steerings):
            # Only a part that has positions or phases is told where the prompt ends: the width of its mask says it.
            asks = any(map(depends_on_prompt, steering.intervention.parts))
            prompt = real[:, : sequences.prompt_lengths[rows[0]]].cpu() if asks else None
            acting = acting_on(steering.intervention.parts, real.cpu(), prompt)
            idle = [part for part in idle if not any(part is one for one in acting)]
            steered = base
            if acting:
                with steer(model, *acting, attention_mask=prompt):
                    steered = _outputs(model, ids, blocks[number], chosen, f"steered by {steering.label!r}")
            tick()
            at_block = {block: _difference(steered[block], base[block], chosen) for block in blocks[number]}
            yield Differences(number, rows, chosen, at_block)
    require_none_idle(idle, len(sequences))


def _parts(steerings: Sequence[Steering]) -> list[SingleIntervention]:
    return [part for steering in steerings for part in steering.intervention.parts]


def _outputs(
    model: Any, ids: torch.Tensor, blocks: Sequence[int], chosen: torch.Tensor, how: str
) -> dict[int, torch.Tensor]:
    with evaluating(model):
        found = activations_at(model, ids, [block_output(block) for block in blocks])
    outputs = dict(zip(blocks, found.values(), strict=True))
    for block, x in outputs.items():
        if not torch.isfinite(x).all(dim=-1)[chosen.to(x.device)].all():
            raise ValueError(
                f"There is NaN or infinity in the output of block {block} of the model {how}. Give a weaker steering, or look at the precision: "
                "float16 overflows where bfloat16 does not."
            )
    return outputs


def _difference(steered: torch.Tensor, base: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    if steered.device.type == "mps":
        steered, base = steered.cpu(), base.cpu()
    gap = steered.double() - base.double()
    return gap.masked_fill(~chosen.to(gap.device)[..., None], 0.0)
