"""Which predecessors are active where a feature is, on tokens drawn from texts (arXiv 2502.03032)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sae_lens_ext.analysis.flow.activity.groups import group_codes
from sae_lens_ext.analysis.flow.activity.occurrences import Occurrences
from sae_lens_ext.analysis.flow.activity.result import PredecessorActivity
from sae_lens_ext.analysis.flow.links import N_NULL, Links
from sae_lens_ext.analysis.flow.null import NullModel
from sae_lens_ext.analysis.flow.origins import origins_at
from sae_lens_ext.analysis.flow.sites import FlowSites, FlowSources, Kind
from sae_lens_ext.analysis.flow.thresholds import ThresholdsLike, thresholds_of
from sae_lens_ext.analysis.flow.top_activations.measure import TEXTS
from sae_lens_ext.analysis.provenance import model_name, tokens_read, versions
from sae_lens_ext.analysis.site_reading import SiteBatch, latents, read_sites, reading_site
from sae_lens_ext.analysis.texts import pack_texts, require_texts, special_tokens
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.architectures.validation import require_positive_int

_CALLER = "predecessor_activity"


@torch.no_grad()
def predecessor_activity(
    model: Any,
    sites: FlowSources | FlowSites,
    texts: Sequence[str] | Mapping[str, Sequence[str]],
    *,
    layers: Sequence[int] | None = None,
    n_samples: int = 250,
    tokens_per_sample: int = 5,
    context_size: int = 128,
    thresholds: ThresholdsLike = "null",
    null: NullModel = "shuffled",
    n_null: int = N_NULL,
    batch_size: int = 16,
    autocast: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> PredecessorActivity:
    """See which top-1 predecessors of every active residual feature are active at the same token.

    A predecessor is the feature with the largest cosine of decoder directions at the stream one layer before (R), this layer's MLP
    output (M) and its attention output (A); a cosine of 0 or less is no predecessor, and none is never active. Active is a latent that
    is not 0. The seven combinations and "from nowhere" are the eight groups of arXiv 2502.03032 (data-based check; 250 samples
    × 5 random tokens of four data sets, never BOS). A sample here is a packed context; contexts of one long document are less than
    independent. Where a layer has no SAE of one kind, that kind is never active, which makes more features come from nowhere:
    `missing` says so.

    The model runs once over the samples, for all layers together. Memory: the SAEs; the activations of one batch at every hook; and 17
    bytes for each active feature at a drawn token.

    Args:
        model: A HookedTransformer, a TransformerBridge or SAELens' HookedProxyLM, with no SAE attached.
        sites: SAEs by hook name, or in a row.
        texts: Documents, or documents by the name of the text.
        layers: Layers of the residual features; by default all that have a residual SAE and one of a predecessor.
        n_samples: Contexts read of each text; fewer if the text is shorter.
        tokens_per_sample: Tokens drawn of each context, without replacement, never special ones; fewer if it has fewer.
        context_size: Tokens per context.
        thresholds: From which score on a predecessor counts for the origin by scores, as for `feature_origins`.
        null: How made-up features are made, as for `feature_origins`.
        n_null: How many of them.
        batch_size: Contexts per forward pass.
        autocast: Run the model in bfloat16, as SAELens' `autocast_lm` does.
        seed: Which contexts and tokens, and which made-up features.
        show_progress: Show a progress bar.

    Returns:
        Every active residual feature at every drawn token, with its group.

    Raises:
        ValueError: A number is not a positive int; the SAEs are none, of different models, or of hooks that features do not flow through; a
            layer has no residual SAE or no predecessor; a text is too short or one string; no residual feature is active at any drawn
            token; the model has no such hook, another width there, or SAEs attached; an activation is NaN or infinite.
        RuntimeError: A hook never fired.
    """
    for name, value in (
        ("n_samples", n_samples),
        ("tokens_per_sample", tokens_per_sample),
        ("context_size", context_size),
        ("n_null", n_null),
        ("batch_size", batch_size),
    ):
        require_positive_int(_CALLER, name, value)
    limits = thresholds_of(_CALLER, thresholds)
    named = texts if isinstance(texts, Mapping) else {TEXTS: texts}
    require_texts(_CALLER, named)
    opened = FlowSites.open(_CALLER, sites, model=model)
    targets = _targets(opened, layers)
    needed = [
        name
        for name in opened
        if name in targets or any(name in opened.predecessors(t).values() for t in targets)
    ]
    packed = pack_texts(
        model, named, context_size=context_size, max_tokens=n_samples * context_size, seed=seed
    )
    contexts = torch.cat(list(packed.values()))
    chosen = draw_tokens(contexts, special_tokens(model), tokens_per_sample, seed)
    links = Links(opened, null, n_null, seed)
    origins = {hook: origins_at(links, hook, limits) for hook in targets}
    reading = {name: reading_site(name, opened[name]) for name in needed}

    parts: list[Occurrences] = []
    for batch in read_sites(
        model,
        list(dict.fromkeys(reading.values())),
        contexts,
        batch_size=batch_size,
        autocast=autocast,
        show_progress=show_progress,
        description="Predecessors' activity",
    ):
        here = chosen[batch.first : batch.first + len(batch.tokens)]
        active = {
            name: latents(name, opened[name], site, _at(batch, site.hook_name, here)).ne(0).cpu()
            for name, site in reading.items()
        }
        context, position = here.nonzero(as_tuple=True)
        for number, hook in enumerate(targets):
            parts.append(
                _occurrences(
                    number,
                    context + batch.first,
                    position,
                    active[hook],
                    {
                        kind: (active[name], origins[hook].indices[kind])
                        for kind, name in opened.predecessors(hook).items()
                    },
                )
            )
    occurrences = Occurrences.joined(parts)
    if len(occurrences.feature) == 0:
        raise ValueError(
            f"No residual feature is active at any of the {int(chosen.sum())} tokens drawn, so that there is nothing to see. See that the model is the "
            "one the SAEs were trained on, and that the texts are more than special tokens."
        )
    return PredecessorActivity(
        occurrences=occurrences,
        hooks=tuple(targets),
        layers=tuple(opened.site(hook).layer for hook in targets),
        origins=origins,
        text_sizes={name: len(tokens) for name, tokens in packed.items()},
        n_tokens=int(chosen.sum()),
        missing=opened.missing,
        provenance={
            **versions(),
            "model_name": model_name(model, opened[targets[0]]),
            "hook_names": needed,
            "sae_fingerprints": {name: weights_fingerprint(opened[name]) for name in needed},
            "tokens_sha256": tokens_read(packed),
            "n_samples": n_samples,
            "tokens_per_sample": tokens_per_sample,
            "context_size": context_size,
            "null": null,
            "n_null": n_null,
            "autocast": autocast,
            "seed": seed,
        },
    )


def draw_tokens(contexts: torch.Tensor, special: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """Draw n tokens of each context, without replacement, none of them special.

    Args:
        contexts: Token ids [n_contexts, pos].
        special: Ids of the special tokens, [n_special].
        n: How many; fewer where there are fewer.
        seed: Which.

    Returns:
        bool [n_contexts, pos].
    """
    counted = ~torch.isin(contexts, special)
    order = torch.rand(contexts.shape, generator=torch.Generator().manual_seed(seed))
    order = order.masked_fill(~counted, 2.0)
    return (order.argsort(dim=1).argsort(dim=1) < n) & counted


def _at(batch: SiteBatch, hook_name: str, chosen: torch.Tensor) -> torch.Tensor:
    x = batch.activations[hook_name]
    return x[chosen.to(x.device)]


def _targets(sites: FlowSites, layers: Sequence[int] | None) -> list[str]:
    """Give the residual hooks of the layers, ascending."""
    known = {
        sites.site(name).layer: name
        for name in sites
        if sites.site(name).kind == "residual" and sites.predecessors(name)
    }
    if not known:
        raise ValueError(
            f"{_CALLER} was given SAEs of which none is on the residual stream with one of a predecessor: the stream one layer before, or the same "
            "layer's MLP or attention output. Give such a pair at least."
        )
    if layers is None:
        return [known[layer] for layer in sorted(known)]
    absent = [layer for layer in layers if layer not in known]
    if absent or not layers:
        raise ValueError(
            f"{_CALLER} was given layers = {list(layers)}. A residual SAE and one of a predecessor are at the layers {', '.join(map(str, sorted(known)))}. "
            "Give some of these."
        )
    return [known[layer] for layer in sorted(set(layers))]


def _occurrences(
    hook: int,
    context: torch.Tensor,
    position: torch.Tensor,
    active: torch.Tensor,
    predecessors: Mapping[Kind, tuple[torch.Tensor, torch.Tensor]],
) -> Occurrences:
    """Give the occurrences at one hook.

    Args:
        hook: Which of the target hooks.
        context: Row of each token's context, [n].
        position: Its position there, [n].
        active: Which features of the hook are active at it, [n, d_sae], bool.
        predecessors: By kind: which features are active at that site, [n, d_sae of the site], and each feature's predecessor, [d_sae].
    """
    token, feature = active.nonzero(as_tuple=True)
    flags: dict[Kind, torch.Tensor] = {}
    for kind, (there, indices) in predecessors.items():
        index = indices[feature]
        flags[kind] = there[token, index.clamp(min=0)] & (index >= 0)
    return Occurrences(
        hook=torch.full_like(feature, hook).int(),
        context=context[token].int(),
        position=position[token].int(),
        feature=feature.int(),
        group=group_codes(flags),
    )
