"""Reading many hooks over packed contexts, with one forward pass for each batch."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from tqdm.auto import tqdm

from sae_lens_ext.analysis.splicing import require_width
from sae_lens_ext.analysis.texts import require_detached, special_tokens
from sae_lens_ext.architectures.head_reshaping import flat_heads
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.language_model import Site, find_hook_point, hooked, same_hook


@dataclass(frozen=True, eq=False)
class SiteBatch:
    """What some sites of a model hold on one batch of contexts."""

    first: int
    """Row of the batch's first context in the contexts."""
    tokens: torch.Tensor
    """Token ids [batch, pos], on the model's device."""
    counted: torch.Tensor
    """Which tokens count, [batch, pos], bool, on the model's device: all but the special ones."""
    activations: dict[str, torch.Tensor]
    """By hook name, [batch, pos, d_in], heads flattened, in the model's precision, on the device the hook is on."""


def read_sites(
    model: Any,
    sites: Sequence[str | Site],
    contexts: torch.Tensor,
    *,
    batch_size: int = 16,
    autocast: bool = False,
    show_progress: bool = True,
    description: str = "Reading activations",
) -> Iterator[SiteBatch]:
    """Run a model over contexts and give its activations at many hooks, batch by batch.

    The model runs once for each batch, and no further than the last hook that is read. What is held in memory is one batch:
    `batch_size * pos * d_in` numbers for each hook.

    Args:
        model: A HookedTransformer, a TransformerBridge or SAELens' HookedProxyLM, with a tokenizer and no SAE attached.
        sites: Hook names, or sites where one head is read. Each hook once.
        contexts: Token ids [n, pos], such as `pack_texts` gives.
        batch_size: Contexts per forward pass.
        autocast: Run the model in bfloat16, as SAELens' `autocast_lm` does.
        show_progress: Show a progress bar.
        description: What the progress bar says.

    Returns:
        The batches, in the order of the contexts. Checks are made at once, before the first is asked for.

    Raises:
        ValueError: No hook is given, one twice, or one the model does not have; the contexts are no token ids [n, pos]; the model
            has SAEs attached. While reading: an activation of a token that counts is NaN or infinite.
        RuntimeError: While reading: a hook never fired.
    """
    require_positive_int("read_sites", "batch_size", batch_size)
    by_hook = _by_hook(sites)
    if contexts.ndim != 2 or contexts.numel() == 0 or contexts.is_floating_point():
        raise ValueError(
            f"read_sites was given contexts of the shape {tuple(contexts.shape)} and type {contexts.dtype}. Give token ids [n, pos], "
            "such as pack_texts gives."
        )
    require_detached(model)
    for name in by_hook:
        find_hook_point(model, name)
    special = special_tokens(model)

    def batches() -> Iterator[SiteBatch]:
        device = next(model.parameters()).device
        starts = range(0, len(contexts), batch_size)
        for first in tqdm(starts, desc=description, disable=not show_progress):
            tokens = contexts[first : first + batch_size].to(device)
            counted = ~torch.isin(tokens, special.to(device))
            found = activations_at(model, tokens, list(by_hook.values()), autocast=autocast)
            for name, x in found.items():
                _require_finite(name, x, counted)
            yield SiteBatch(first, tokens, counted, found)

    return batches()


@torch.no_grad()
def activations_at(
    model: Any, tokens: torch.Tensor, sites: Sequence[str | Site], *, autocast: bool = False
) -> dict[str, torch.Tensor]:
    """Run a model once, up to the last of some hooks, and give the activations at each.

    Args:
        model: As for `read_sites`.
        tokens: Token ids [batch, pos].
        sites: As for `read_sites`.
        autocast: Run the model in bfloat16.

    Returns:
        By hook name, in the order given, [batch, pos, d_in].

    Raises:
        ValueError: No hook is given, one twice, or one the model does not have.
        RuntimeError: A hook never fired.
    """
    by_hook = _by_hook(sites)
    found: dict[str, torch.Tensor] = {}

    def keep(site: Site, activations: torch.Tensor) -> None:
        found[site.hook_name] = site.read(activations).clone()
        if len(found) == len(by_hook):
            raise _AllReached

    device = next(model.parameters()).device
    with (
        hooked(model, {name: lambda x, site=site: keep(site, x) for name, site in by_hook.items()}),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast),
        suppress(_AllReached),
    ):
        model(tokens.to(device), return_type="logits")
    return {name: found[name] for name in by_hook}


def reading_site(hook_name: str, sae: SAE[Any]) -> Site:
    """Give the site that an SAE reads whose features are at a hook: the hook itself, but for a transcoder where it reads.

    Args:
        hook_name: The hook, under the name by which it shall be read.
        sae: The SAE or transcoder.

    Raises:
        ValueError: A transcoder does not say where it reads.
    """
    metadata = sae.cfg.metadata
    if metadata.hook_name_out is None or same_hook(metadata.hook_name, metadata.hook_name_out):
        return Site(hook_name, metadata.hook_head_index)
    if metadata.hook_name is None:
        raise ValueError(
            f"The transcoder at {hook_name!r} does not say where it reads. Set sae.cfg.metadata.hook_name."
        )
    return Site(metadata.hook_name, metadata.hook_head_index)


@torch.no_grad()
def latents(name: str, sae: SAE[Any], site: Site, x: torch.Tensor) -> torch.Tensor:
    """Encode activations as they were read.

    Args:
        name: The SAE's name, for messages.
        sae: An inference SAE.
        site: Where the activations were read, for messages.
        x: [..., d_in], heads flattened, of any precision.

    Returns:
        [..., d_sae], dense, float32 (or float64), on the SAE's device.

    Raises:
        ValueError: The width is another than the SAE reads, or a latent is NaN.
    """
    require_width(name, sae, site, x)
    with flat_heads(sae):
        acts = sae.encode(x.to(sae.device, sae.dtype))
    acts = acts.to_dense() if acts.is_sparse else acts
    if acts.isnan().any():
        raise ValueError(
            f"The SAE {name!r} gives NaN on the model's activations, so that nothing can be measured. Look at its weights and their precision."
        )
    return acts.to(torch.promote_types(acts.dtype, torch.float32))


class _AllReached(Exception):  # noqa: N818  it is no error
    """Every hook has fired: the rest of the forward pass is not needed."""


def _by_hook(sites: Sequence[str | Site]) -> dict[str, Site]:
    if isinstance(sites, str):
        raise ValueError(f"One hook name, {sites!r}, was given. Give a list of them, [{sites!r}].")
    found: dict[str, Site] = {}
    for given in sites:
        site = Site(given) if isinstance(given, str) else given
        if site.hook_name in found:
            raise ValueError(f"The hook {site.hook_name!r} is given twice. Give each hook once.")
        found[site.hook_name] = site
    if not found:
        raise ValueError("No hook was given to read at. Give one or more hook names.")
    return found


def _require_finite(name: str, x: torch.Tensor, counted: torch.Tensor) -> None:
    if not torch.isfinite(x).all(dim=-1)[counted.to(x.device)].all():
        raise ValueError(
            f"There is NaN or infinity in the model's activations at {name!r}. Look at the precision: float16 overflows where "
            "bfloat16 does not."
        )
