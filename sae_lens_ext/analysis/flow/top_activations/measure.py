"""The contexts and tokens that every feature fires on most, for all layers in one pass of the model."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_ext.analysis.flow.sites import FlowSites, FlowSources
from sae_lens_ext.analysis.flow.top_activations.result import SiteTops, TopActivations
from sae_lens_ext.analysis.flow.top_activations.running import TopTokens, TopWindows
from sae_lens_ext.analysis.provenance import model_name, tokens_read, versions
from sae_lens_ext.analysis.site_reading import latents, read_sites, reading_site
from sae_lens_ext.analysis.texts import pack_texts, require_texts
from sae_lens_ext.analysis.top_contexts import token_text
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.language_model import Site

_CALLER = "top_activations"
TEXTS = "texts"
"""Name of the text where documents are given without one."""


@torch.no_grad()
def top_activations(
    model: Any,
    sites: FlowSources | FlowSites,
    texts: Sequence[str] | Mapping[str, Sequence[str]],
    *,
    features: Mapping[str, Iterable[int]] | None = None,
    n_contexts: int = 10,
    n_tokens: int = 20,
    context_size: int = 128,
    window: int = 24,
    max_tokens: int = 65_536,
    batch_size: int = 16,
    autocast: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> TopActivations:
    """Find on which contexts and which tokens of the vocabulary features fire most, and how often they fire.

    The model runs once over the texts, for all hooks together. Documents are packed into contexts, BOS first and between them; special
    tokens do not count, and an activation there is taken as 0. A feature has at most one entry for each packed context, so that its
    contexts differ; of equal activations the earlier context, and the earlier position, comes first.

    Memory: for every feature `n_contexts * (4 * window + 20) + 12 * n_tokens` bytes, 1.4 kB by default, that is 23 MB for an SAE of
    16,384 features; the SAEs; and of one batch the activations at every hook, and twice the latents of one SAE,
    `batch_size * context_size * d_sae` numbers. It does not grow with the length of the texts, of which only the token ids are kept.

    Args:
        model: A HookedTransformer, a TransformerBridge or SAELens' HookedProxyLM, with no SAE attached.
        sites: SAEs by hook name, or in a row.
        texts: Documents, or documents by the name of the text.
        features: Which features of which hook; by default all of all. SAEs of other hooks are not opened.
        n_contexts: Contexts kept of each feature, at most.
        n_tokens: Tokens of the vocabulary kept of each feature, at most.
        context_size: Tokens per context.
        window: Tokens shown of a context, the peak in the middle as far as the context allows; at most `context_size`.
        max_tokens: Tokens read of each text, at most.
        batch_size: Contexts per forward pass.
        autocast: Run the model in bfloat16, as SAELens' `autocast_lm` does.
        seed: Which contexts of a text are read, and in which order.
        show_progress: Show a progress bar.

    Returns:
        What was found. A feature that never fires has no contexts, no tokens and a firing rate of 0.

    Raises:
        ValueError: A number is not a positive int; the SAEs are none, of different models, or of hooks that features do not flow through; a
            feature is out of range or of another hook; a text is too short, one string, or there are none but special tokens; the model
            has no such hook, another width there, or SAEs attached; an activation is NaN or infinite.
        RuntimeError: A hook never fired.
    """
    for name, value in (
        ("n_contexts", n_contexts),
        ("n_tokens", n_tokens),
        ("context_size", context_size),
        ("window", window),
        ("max_tokens", max_tokens),
        ("batch_size", batch_size),
    ):
        require_positive_int(_CALLER, name, value)
    named = texts if isinstance(texts, Mapping) else {TEXTS: texts}
    require_texts(_CALLER, named)
    opened = FlowSites.open(_CALLER, sites, model=model)
    wanted = _wanted(opened, features)
    saes = {name: opened[name] for name in wanted}
    reading = {name: reading_site(name, sae) for name, sae in saes.items()}
    packed = pack_texts(model, named, context_size=context_size, max_tokens=max_tokens, seed=seed)
    contexts = torch.cat(list(packed.values()))
    window = min(window, context_size)
    running = {
        name: _Running(name, sae, reading[name], wanted[name], (n_contexts, n_tokens, window))
        for name, sae in saes.items()
    }
    n_counted = 0
    for batch in read_sites(
        model,
        list(dict.fromkeys(reading.values())),
        contexts,
        batch_size=batch_size,
        autocast=autocast,
        show_progress=show_progress,
        description="Top activations",
    ):
        n_counted += int(batch.counted.sum())
        for own in running.values():
            own.add(batch.activations[own.site.hook_name], batch.tokens, batch.counted, batch.first)
    if n_counted == 0:
        raise ValueError(
            f"{_CALLER} was given texts with nothing but special tokens, which do not count. Give documents with words in them."
        )
    return TopActivations(
        sites={name: own.result() for name, own in running.items()},
        contexts_read=contexts.int(),
        text_sizes={name: len(tokens) for name, tokens in packed.items()},
        vocabulary={token: token_text(model.tokenizer, token) for token in contexts.unique().tolist()},
        n_tokens=n_counted,
        provenance={
            **versions(),
            "model_name": model_name(model, next(iter(saes.values()))),
            "hook_names": list(saes),
            "sae_fingerprints": {name: weights_fingerprint(sae) for name, sae in saes.items()},
            "tokens_sha256": tokens_read(packed),
            "features_given": features is not None,
            "context_size": context_size,
            "max_tokens": max_tokens,
            "autocast": autocast,
            "seed": seed,
        },
    )


class _Running:
    """What is kept of one SAE's features while batches come."""

    def __init__(
        self,
        name: str,
        sae: SAE[Any],
        site: Site,
        features: torch.Tensor | None,
        sizes: tuple[int, int, int],
    ) -> None:
        n_contexts, n_tokens, window = sizes
        self.name, self.sae, self.site = name, sae, site
        self.columns = None if features is None else features.to(sae.device)
        self.features = torch.arange(sae.cfg.d_sae) if features is None else features
        n = len(self.features)
        self.windows = TopWindows(n, n_contexts, window, sae.device)
        self.tokens = TopTokens(n, n_tokens, sae.device)
        self.fired = torch.zeros(n, dtype=torch.long, device=sae.device)

    def add(self, x: torch.Tensor, tokens: torch.Tensor, counted: torch.Tensor, first: int) -> None:
        acts = latents(self.name, self.sae, self.site, x)
        if self.columns is not None:
            acts = acts[..., self.columns]
        acts = acts.masked_fill(~counted.to(acts.device)[..., None], 0.0)
        self.fired += (acts != 0).sum(dim=(0, 1))
        self.windows.add(acts, first)
        self.tokens.add(acts, tokens.to(acts.device))

    def result(self) -> SiteTops:
        top = self.windows.top
        return SiteTops(
            features=self.features,
            fired=self.fired.cpu(),
            context=top.context.int().cpu(),
            peak=top.position.int().cpu(),
            activation=top.activation.cpu(),
            windows=self.windows.windows.cpu(),
            token=self.tokens.token.int().cpu(),
            token_activation=self.tokens.activation.cpu(),
        )


def _wanted(sites: FlowSites, features: Mapping[str, Iterable[int]] | None) -> dict[str, torch.Tensor | None]:
    """Give the features to look at by hook, ascending, each once; None for all of a hook."""
    if features is None:
        return dict.fromkeys(sites)
    if not isinstance(features, Mapping) or not features:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"{_CALLER} was given features = {features!r:.80}. Give indices by hook name, such as "
            f"{{{next(iter(sites))!r}: [0, 3]}}, or leave them out for all."
        )
    found: dict[str, set[int]] = {}
    for given, indices in features.items():
        name = sites.name_of(given)
        try:
            whole = list(indices)
            _ = [operator.index(index) for index in whole]
        except TypeError as error:
            raise ValueError(
                f"{_CALLER} was given features of {given!r} that are no whole numbers, {indices!r:.80}. Give a sequence of indices, such as [0, 3]."
            ) from error
        found.setdefault(name, set()).update(sites.index(name, index) for index in whole)
    empty = [name for name, indices in found.items() if not indices]
    if empty:
        raise ValueError(
            f"{_CALLER} was given no features of {', '.join(map(repr, empty))}. Leave the hook out, or give indices."
        )
    return {name: torch.tensor(sorted(found[name])) for name in sites if name in found}
