"""How often each latent fires: what tells a latent that was never learnt from one that is unstable."""

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from sae_lens import SAE
from tqdm.auto import tqdm

from sae_lens_ext.analysis.dictionaries import (
    SAESources,
    open_saes,
    require_folded,
    require_same_site,
)
from sae_lens_ext.analysis.provenance import model_name, tokens_read, versions
from sae_lens_ext.analysis.stability.firing_counts import FiringCounts, count_firings
from sae_lens_ext.analysis.stability.firing_result import FiringRates
from sae_lens_ext.analysis.texts import pack_texts, require_detached, require_texts, special_tokens
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.language_model import Site, read_activations
from sae_lens_ext.ranks import current_ranks, share_of

MIN_FIRINGS = 100
"""Firings without which a latent does not count, by default (the card's floor): fewer tell little of a latent."""


@torch.no_grad()
def measure_firing_rates(
    model: Any,
    saes: SAESources,
    texts: Sequence[str],
    *,
    context_size: int = 128,
    max_tokens: int = 65_536,
    batch_size: int = 16,
    autocast: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> FiringRates:
    """Count on how many tokens each latent of each SAE fires, in one pass of the model for all.

    In a job of several ranks (`torchrun`) each, given the same arguments, reads its share of the batches, and all give the same rates:
    to the bit those of one process on such a device, as the batches are the same.

    Args:
        model: A HookedTransformer, a TransformerBridge or SAELens' HookedProxyLM, with no SAE attached.
        saes: Two or more SAEs of one hook, as for `feature_stability`.
        texts: Documents.
        context_size: Tokens per context.
        max_tokens: Tokens read, at most. A latent that fires on one token in a thousand needs 100,000 for 100 firings.
        batch_size: Contexts per forward pass.
        autocast: Run the model in bfloat16, as SAELens' `autocast_lm` does.
        seed: Which contexts of the text are read.
        show_progress: Show a progress bar.

    Returns:
        The rates, in the order of the SAEs.

    Raises:
        ValueError: There are fewer than two SAEs, or of different hooks; none names its hook; one has a normalisation that was not
            folded; the model has no such hook, another width there or SAEs attached; the text is too short, one string, or has
            nothing but special tokens; an activation is NaN or infinite.
    """
    for name, value in (
        ("context_size", context_size),
        ("max_tokens", max_tokens),
        ("batch_size", batch_size),
    ):
        require_positive_int("measure_firing_rates", name, value)
    require_texts("measure_firing_rates", {"texts": texts})
    require_detached(model)
    opened = open_saes("measure_firing_rates", saes)
    require_same_site("measure_firing_rates", opened)
    require_folded("measure_firing_rates", opened)
    metadata = [sae.cfg.metadata for sae in opened.values()]
    hook_name = next((own.hook_name for own in metadata if own.hook_name), None)
    if hook_name is None:
        raise ValueError(
            "measure_firing_rates was given SAEs that name no hook in their metadata. Set sae.cfg.metadata.hook_name to where they read."
        )
    head = next((own.hook_head_index for own in metadata if own.hook_head_index is not None), None)
    site = Site(hook_name, head)
    tokens = pack_texts(model, {"texts": texts}, context_size=context_size, max_tokens=max_tokens, seed=seed)
    special = special_tokens(model)
    ranks = current_ranks()

    def activations() -> Iterator[torch.Tensor]:
        batches = share_of(tokens["texts"].split(batch_size), ranks)
        for batch in tqdm(batches, desc="Firing rates", disable=not (show_progress and ranks.is_first)):
            x = read_activations(model, batch, site, autocast=autocast)
            yield x[~torch.isin(batch, special).to(x.device)]

    return _rates(
        count_firings(opened, activations()).summed(ranks),
        opened,
        {
            **versions(),
            "model_name": model_name(model, next(iter(opened.values()))),
            "hook_name": hook_name,
            "tokens_sha256": tokens_read(tokens)["texts"],
            "context_size": context_size,
            "seed": seed,
        },
    )


@torch.no_grad()
def firing_rates_on(
    saes: SAESources, activations: torch.Tensor, *, batch_size_tokens: int = 4096
) -> FiringRates:
    """Do as `measure_firing_rates` on activations that are at hand.

    Args:
        saes: Two or more SAEs of one hook, as for `feature_stability`.
        activations: [n, d_in], as the SAEs read them, special tokens left out.
        batch_size_tokens: Activations encoded at once.

    Raises:
        ValueError: There are fewer than two SAEs, or of different hooks; one has a normalisation that was not folded; the
            activations have another width, are none, NaN or infinite.
    """
    require_positive_int("firing_rates_on", "batch_size_tokens", batch_size_tokens)
    opened = open_saes("firing_rates_on", saes)
    require_same_site("firing_rates_on", opened)
    require_folded("firing_rates_on", opened)
    if not isinstance(activations, torch.Tensor) or activations.is_complex() or activations.is_meta:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"firing_rates_on was given activations of type {type(activations).__name__} ({getattr(activations, 'dtype', None)}, {getattr(activations, 'device', None)}). "
            "Give a tensor of real numbers, [n, d_in]."
        )
    if activations.ndim != 2 or len(activations) == 0:
        raise ValueError(
            f"firing_rates_on was given activations of the shape {tuple(activations.shape)}. Give [n, d_in], a row for each token."
        )
    metadata = next(iter(opened.values())).cfg.metadata
    return _rates(
        count_firings(opened, activations.split(min(batch_size_tokens, len(activations)))),
        opened,
        {**versions(), "model_name": metadata.model_name, "hook_name": metadata.hook_name},
    )


def rates_of(
    given: "FiringRates | Sequence[torch.Tensor] | Mapping[str, torch.Tensor] | None",
    saes: Mapping[str, SAE[Any]],
) -> tuple[torch.Tensor, ...] | None:
    """Give the firing rates [d_sae] of each SAE, in the order of the SAEs; None if none were given.

    Raises:
        ValueError: They are missing for an SAE, of another SAE of the same name, of the wrong length, or not from 0 to 1.
    """
    if given is None:
        return None
    by_name: Mapping[str, torch.Tensor]
    fingerprints: Mapping[str, str] = {}
    if isinstance(given, FiringRates):
        by_name = dict(zip(given.names, given.rates, strict=True))
        fingerprints = given.provenance.get("sae_fingerprints", {})
    elif isinstance(given, Mapping):
        by_name = given
    else:
        if not isinstance(given, (Sequence, torch.Tensor)) or isinstance(given, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"firing_rates is of type {type(given).__name__}. Give what measure_firing_rates found, or one tensor [d_sae] for each SAE."
            )
        if len(given) != len(saes):
            raise ValueError(
                f"firing_rates has {len(given)} entries for {len(saes)} SAEs. Give one tensor [d_sae] for each, in the same order."
            )
        by_name = dict(zip(saes, given, strict=True))
    found: list[torch.Tensor] = []
    for name, sae in saes.items():
        if name not in by_name:
            raise ValueError(
                f"firing_rates has no entry for the SAE {name!r}. It has {', '.join(map(repr, by_name))}. Give the rates of the same SAEs, by the "
                "same names."
            )
        if name in fingerprints and fingerprints[name] != weights_fingerprint(sae):
            raise ValueError(
                f"The firing rates of {name!r} were measured on an SAE with other weights than the {name!r} given here. SAEs in a list are named by "
                "seed or position: give all of them by name, or measure the firing rates of these."
            )
        try:
            rates = torch.as_tensor(by_name[name]).detach().float().cpu()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"The firing rates of the SAE {name!r} are no numbers, but of type {type(by_name[name]).__name__}. Give a tensor [{sae.cfg.d_sae}]."
            ) from None
        if rates.shape != (sae.cfg.d_sae,):
            raise ValueError(
                f"The firing rates of the SAE {name!r} have the shape {tuple(rates.shape)}. Give [{sae.cfg.d_sae}], one for each latent."
            )
        if not ((rates >= 0) & (rates <= 1)).all():
            raise ValueError(
                f"The firing rates of the SAE {name!r} go from {rates.min():.3g} to {rates.max():.3g}. Give shares of tokens, 0 to 1 (SAELens' "
                "sparsity.safetensors holds their logarithms to base 10)."
            )
        found.append(rates)
    return tuple(found)


def firing_floor(min_firing_rate: float | None, given: Any) -> float:
    """Give the firing rate below which a latent does not count.

    Raises:
        ValueError: It is out of range, or given without firing rates.
    """
    if min_firing_rate is None:
        return min(1.0, MIN_FIRINGS / given.n_tokens) if isinstance(given, FiringRates) else 0.0
    if (
        isinstance(min_firing_rate, bool)
        or not isinstance(min_firing_rate, Real)
        or not 0 <= min_firing_rate <= 1
    ):
        raise ValueError(
            f"min_firing_rate = {min_firing_rate!r} is out of range. Give a share of tokens, 0 to 1, such as 1e-4."
        )
    if given is None:
        raise ValueError(
            f"min_firing_rate = {min_firing_rate!r} was given without firing rates, so that no latent could be left out. Give firing_rates as well, "
            "from measure_firing_rates."
        )
    return float(min_firing_rate)


def _rates(
    counts: FiringCounts, opened: Mapping[str, SAE[Any]], provenance: Mapping[str, Any]
) -> FiringRates:
    n_tokens = counts.n_tokens
    if n_tokens == 0:
        raise ValueError(
            "measure_firing_rates was given texts with nothing but special tokens, which do not count. Give documents with words in them."
        )
    return FiringRates(
        names=tuple(opened),
        rates=tuple((count.double() / n_tokens).float() for count in counts.fired.values()),
        n_tokens=n_tokens,
        provenance={
            **provenance,
            "n_tokens": n_tokens,
            "sae_fingerprints": {name: weights_fingerprint(sae) for name, sae in opened.items()},
        },
    )
