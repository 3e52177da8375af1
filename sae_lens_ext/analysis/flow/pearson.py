"""Matching features by how their activations go together on a text: the data-based rival of the cosine (arXiv 2502.03032, Table 1)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array, vstack

from sae_lens_ext.analysis.flow.match import FeatureMatch
from sae_lens_ext.analysis.flow.pearson_sums import most_correlated
from sae_lens_ext.analysis.flow.sites import FlowSites, FlowSources, Kind
from sae_lens_ext.analysis.provenance import tokens_read, versions
from sae_lens_ext.analysis.site_reading import latents, read_sites
from sae_lens_ext.analysis.texts import pack_texts, require_detached, require_documents
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.language_model import Site, find_hook_point

if TYPE_CHECKING:
    pass


@torch.no_grad()
def pearson_matches(
    model: Any,
    sites: FlowSources | FlowSites,
    texts: Sequence[str],
    hook_name: str,
    *,
    features: Sequence[int] | None = None,
    top_k: int = 1,
    context_size: int = 128,
    max_tokens: int = 65_536,
    batch_size: int = 16,
    autocast: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> dict[Kind, FeatureMatch]:
    """Match each feature of a residual site with those features of its predecessors whose activations correlate most with its own.

    Model and SAEs run once on every token. What is held in memory is every activation that is not 0, 12 bytes each (of SAEs with 100
    active features, 1.2 kB for each token and site), and sums in float64 of some 64 MB of pairs at a time. Rare features correlate
    by chance: one that fires on three tokens has a perfect partner among thousands.

    Args:
        model: A HookedTransformer, a TransformerBridge or SAELens' HookedProxyLM, with a tokenizer and no SAE attached.
        sites: SAEs by hook name, or in a row.
        texts: Documents. They are packed into contexts, BOS first and between them; special tokens do not count.
        hook_name: A residual hook among the sites.
        features: Which of its features, by index; all by default.
        top_k: Partners of each feature.
        context_size: Tokens per context.
        max_tokens: Tokens read, at most.
        batch_size: Contexts per forward pass.
        autocast: Run the model in bfloat16; the SAEs keep their precision.
        seed: Which contexts of the text are read.
        show_progress: Show a progress bar.

    Returns:
        For each kind of predecessor that there is, its matches.

    Raises:
        ValueError: There is no SAE at the hook, or none at a predecessor; a feature or top_k is out of range; the texts are one
            string, too short, or nothing but special tokens; the model lacks a hook, or has SAEs attached; an SAE is a transcoder or
            of another width; an activation is NaN or infinite.
    """
    for name, value in (("max_tokens", max_tokens), ("context_size", context_size), ("top_k", top_k)):
        require_positive_int("pearson_matches", name, value)
    require_documents("pearson_matches", texts)
    require_detached(model)
    flow = FlowSites.open("pearson_matches", sites, model=model)
    hook = flow.name_of(hook_name)
    predecessors = flow.predecessors(hook)
    if not predecessors:
        raise ValueError(
            f"pearson_matches was given no SAE at a predecessor of {hook_name!r}. Give a residual hook, and the SAE of the residual stream one layer "
            "before, or of this layer's MLP or attention output."
        )
    wanted = range(flow.d_sae(hook)) if features is None else sorted({flow.index(hook, i) for i in features})
    contexts = pack_texts(
        model, {"texts": texts}, context_size=context_size, max_tokens=max_tokens, seed=seed
    )["texts"]
    found = correlated(
        model,
        flow,
        contexts,
        {hook: (wanted, predecessors)},
        top_k=top_k,
        batch_size=batch_size,
        autocast=autocast,
        show_progress=show_progress,
    )[hook]
    for match in found.values():
        match.provenance.update(context_size=context_size, max_tokens=max_tokens, seed=seed)
    return found


def correlated(
    model: Any,
    sites: FlowSites,
    contexts: torch.Tensor,
    wanted: Mapping[str, tuple[Sequence[int], Mapping[Kind, str]]],
    *,
    top_k: int = 1,
    batch_size: int = 16,
    autocast: bool = False,
    show_progress: bool = True,
) -> dict[str, dict[Kind, FeatureMatch]]:
    """Do as `pearson_matches` for several targets, in one pass over contexts.

    Args:
        model: The language model.
        sites: The SAEs.
        contexts: Token ids [n, pos].
        wanted: By target hook, which of its features, and the predecessors' hooks by kind.
        top_k: Partners of each feature.
        batch_size: Contexts per forward pass.
        autocast: Run the model in bfloat16.
        show_progress: Show a progress bar.
    """
    for hook, (_, predecessors) in wanted.items():
        for name in predecessors.values():
            if top_k > sites.d_sae(name):
                raise ValueError(
                    f"top_k = {top_k} is out of range. The predecessor {name!r} of {hook!r} has {sites.d_sae(name)} features: give at most these."
                )
    hooks = list(
        dict.fromkeys(name for hook, (_, before) in wanted.items() for name in (hook, *before.values()))
    )
    acts, n_tokens = _firings(model, sites, hooks, contexts, batch_size, autocast, show_progress)
    provenance = {
        **versions(),
        "model_name": getattr(getattr(model, "cfg", None), "model_name", None) or sites.model_name,
        "tokens_sha256": tokens_read({"texts": contexts})["texts"],
        "autocast": autocast,
    }
    return {
        hook: {
            kind: FeatureMatch(
                *most_correlated(acts[hook], acts[name], features, top_k),
                sites.d_sae(name),
                False,
                {"hook_a": hook, "hook_b": name, "n_tokens": n_tokens, **provenance},
                "correlation",
            )
            for kind, name in predecessors.items()
        }
        for hook, (features, predecessors) in wanted.items()
    }


def own_site(caller: str, sites: FlowSites, hook_name: str) -> Site:
    """Give the place where the SAE of a flow site reads the model.

    Raises:
        ValueError: It is a transcoder, which reads elsewhere than it writes.
    """
    metadata = sites[hook_name].cfg.metadata
    if metadata.hook_name_out not in (None, metadata.hook_name) or (
        "transcoder" in sites[hook_name].cfg.architecture()
    ):
        raise ValueError(
            f"{caller} was given at {hook_name!r} a transcoder, which reads {metadata.hook_name!r}. Its activations are not those of what it "
            "writes: give an SAE of that hook."
        )
    return Site(sites.name_of(hook_name), metadata.hook_head_index)


def _firings(
    model: Any,
    sites: FlowSites,
    hooks: Sequence[str],
    contexts: torch.Tensor,
    batch_size: int,
    autocast: bool,
    show_progress: bool,
) -> tuple[dict[str, csc_array], int]:
    """Give the activations at each hook, [n_tokens, d_sae] float64, of the tokens that count."""
    places = {name: own_site("pearson_matches", sites, name) for name in hooks}
    for name in hooks:
        find_hook_point(model, name)
    parts: dict[str, list[csr_array]] = {name: [] for name in hooks}
    n_tokens = 0
    for batch in read_sites(
        model,
        list(places.values()),
        contexts,
        batch_size=batch_size,
        autocast=autocast,
        show_progress=show_progress,
        description="Correlating activations",
    ):
        n_tokens += int(batch.counted.sum())
        for name, x in batch.activations.items():
            counted = x[batch.counted.to(x.device)]
            acts = latents(name, sites[name], places[name], counted[None])[0]
            parts[name].append(csr_array(acts.float().cpu().numpy()))
    if n_tokens == 0:
        raise ValueError(
            "pearson_matches was given texts with nothing but special tokens, which do not count. Give documents with words in them."
        )
    return {name: csc_array(vstack(part, dtype=np.float64)) for name, part in parts.items()}, n_tokens
