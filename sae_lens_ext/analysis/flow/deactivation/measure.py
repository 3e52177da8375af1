"""The causal check of a feature's predecessors: deactivate them at a token and read the feature again (arXiv 2502.03032, Table 1).

    h_t ← h_t + (r − 1) a_t v        AC = 1 − z_new / z_old        success: z_new = 0

A feature that is not active cannot be deactivated, so a target counts for a method only where the predecessor it names is active;
methods that name predecessors which are rarely active look good on their few targets. So the share of targets is measured as well,
and all methods are compared on the targets they have in common. Left out: several predecessors taken away together.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sae_lens_ext.analysis.flow.deactivation.interventions import Interventions
from sae_lens_ext.analysis.flow.deactivation.layer import Outcome, PredecessorSite, take_away
from sae_lens_ext.analysis.flow.deactivation.naming import METHODS, Method, Naming
from sae_lens_ext.analysis.flow.deactivation.plan import Plan, make_plan
from sae_lens_ext.analysis.flow.deactivation.result import DeactivationResult, TestedSite
from sae_lens_ext.analysis.flow.deactivation.rows import assemble
from sae_lens_ext.analysis.flow.deactivation.sampling import Choice, sample_positions
from sae_lens_ext.analysis.flow.deactivation.targets import choose_targets, read_tokens
from sae_lens_ext.analysis.flow.match import FeatureMatch
from sae_lens_ext.analysis.flow.pearson import correlated
from sae_lens_ext.analysis.flow.sites import FlowSites, FlowSources, Kind
from sae_lens_ext.analysis.provenance import tokens_read, versions
from sae_lens_ext.analysis.texts import special_tokens


@torch.no_grad()
def deactivation_test(
    model: Any,
    sites: FlowSources | FlowSites,
    texts: Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    predecessors: Sequence[Kind] = ("residual",),
    methods: Sequence[Method] = METHODS,
    factor: float = 0.0,
    n_texts: int = 35,
    tokens_per_text: int = 5,
    max_features: int = 25,
    choice: Choice = "random",
    max_exhaustive: int = 256,
    pearson_tokens: int = 16_384,
    context_size: int = 128,
    batch_size: int = 8,
    batch_size_interventions: int = 64,
    autocast: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> DeactivationResult:
    """Take the predecessors that each method names away from active features, one at a time, and measure what is left of these.

    At sampled tokens some features active at the residual site of a layer are the targets. For each target, kind of predecessor site
    and method, the predecessor's contribution a v is scaled by r at its own site, at that token only, and the model runs on to the
    target. Activation change and success are as in the paper; the intervals are our addition.

    Methods: "cosine", the predecessor with the largest cosine of decoder rows; "permutation", the one-to-one assignment of SAE Match;
    "random_of_top_5", one of the five largest cosines, drawn for each target anew; "pearson", the largest correlation of activations, on
    texts that are not tested; "exhaustive", every active feature of the site by itself, and the one with the largest activation change
    taken: it is chosen by what is measured, so it bounds the others from above and is no method to rank with them. The control
    "random_active", always measured, is a feature drawn from those active at the site at that token. A cosine or correlation of 0 or
    less names nothing. A mean activation change may be negative, since a target may grow without bound but shrink only to 0: look at
    the median too.

    For each token and site the model runs once, with a row for every different predecessor: up to the predecessor's site with one row,
    and from there, one block at most, with all. Nothing after the token is run. Memory: `batch_size_interventions + 1` rows of the context.

    Args:
        model: A HookedTransformer, a TransformerBridge or SAELens' HookedProxyLM, causal, with a tokenizer and no SAE attached.
        sites: SAEs by hook name, or in a row. Those of the layers tested stay in memory.
        texts: Documents. They are packed into contexts of `context_size`, BOS first and between them: "a text" below is such a context.
        layers: Layers whose residual features are targets; all that have a predecessor site by default.
        predecessors: Kinds of predecessor sites, each tested by itself: "residual", "mlp", "attention".
        methods: What names predecessors.
        factor: r: 0 removes the predecessor, 1 changes nothing, below 0 over-subtracts.
        n_texts: Texts to sample tokens from.
        tokens_per_text: Tokens of each, never special ones.
        max_features: Targets at a token and layer, at most.
        choice: Which of more active ones: "random", drawn by the seed, or "strongest".
        max_exhaustive: Active features at a token beyond which "exhaustive" is refused.
        pearson_tokens: Tokens for "pearson", at most, after those of the texts tested.
        context_size: Tokens per context.
        batch_size: Contexts per forward pass when activations are read.
        batch_size_interventions: Interventions per forward pass.
        autocast: Run the model in bfloat16; the SAEs keep their precision.
        seed: Texts, tokens, targets, random predecessors and the bootstrap.
        show_progress: Show progress bars.

    Returns:
        A row for each layer, kind, method and set of targets, and every single pair.

    Raises:
        ValueError: There is no SAE at a target, or at none of its predecessors; a method, kind, layer or number is unknown or out of
            range; the texts are one string or too short; no target is active at any token; "exhaustive" meets too many active
            features; the model lacks a hook or has SAEs attached; an SAE is a transcoder or of another width; something is NaN or
            infinite.
    """
    plan = make_plan(
        model,
        sites,
        texts,
        layers=layers,
        predecessors=predecessors,
        methods=methods,
        factor=factor,
        choice=choice,
        n_texts=n_texts,
        pearson_tokens=pearson_tokens,
        context_size=context_size,
        seed=seed,
        counts={
            "tokens_per_text": tokens_per_text,
            "max_features": max_features,
            "max_exhaustive": max_exhaustive,
            "batch_size_interventions": batch_size_interventions,
            "batch_size": batch_size,
        },
    )
    flow = plan.sites
    counted = ~torch.isin(plan.contexts, special_tokens(model))
    text, position = sample_positions(counted, tokens_per_text, np.random.default_rng([seed, 0]))
    if len(text) == 0:
        raise ValueError(
            "deactivation_test was given texts with nothing but special tokens, which do not count. Give documents with words in them."
        )
    x = read_tokens(model, plan, text, position, batch_size, autocast, show_progress)
    targets = {
        site.layer: choose_targets(flow, site, x[site.hook_name], max_features, choice, [seed, 1, site.layer])
        for site in plan.tested
    }
    correlations: dict[str, dict[Kind, FeatureMatch]] = {}
    if "pearson" in methods:
        correlations = correlated(
            model,
            flow,
            plan.pearson_contexts,
            {
                site.hook_name: (targets[site.layer].feature.unique().tolist(), plan.predecessors(site))
                for site in plan.tested
            },
            batch_size=batch_size,
            autocast=autocast,
            show_progress=show_progress,
        )
    outcomes: dict[tuple[int, Kind], Outcome] = {}
    for site in plan.tested:
        own = targets[site.layer]
        features = own.feature.unique()
        tokens = {t: plan.contexts[text[t], : position[t] + 1] for t in own.token.unique().tolist()}
        for kind, hook_name in plan.predecessors(site).items():
            match = correlations.get(site.hook_name, {}).get(kind)
            source = PredecessorSite.at(hook_name, flow[hook_name], x[hook_name])
            outcomes[site.layer, kind] = take_away(
                own,
                flow[site.hook_name],
                source,
                tokens,
                _interventions(
                    model, plan, site, hook_name, source, tokens, batch_size_interventions, autocast
                ),
                Naming(
                    plan.methods,
                    features,
                    flow.rows(site.hook_name),
                    flow.rows(hook_name),
                    None if match is None else (match.indices, match.scores),
                ),
                plan.methods,
                factor=factor,
                max_exhaustive=max_exhaustive,
                seed=[seed, 2, site.layer, plan.kinds.index(kind)],
                show_progress=show_progress,
            )
    provenance = {
        **versions(),
        "model_name": getattr(getattr(model, "cfg", None), "model_name", None) or flow.model_name,
        "tokens_sha256": tokens_read({"texts": plan.contexts})["texts"],
        "n_tokens": len(text),
        "factor": float(factor),
        "n_texts": n_texts,
        "tokens_per_text": tokens_per_text,
        "max_features": max_features,
        "choice": choice,
        "context_size": context_size,
        "pearson_tokens": plan.pearson_contexts.numel(),
        "autocast": autocast,
        "seed": seed,
    }
    return assemble(plan, targets, outcomes, text, position, seed, provenance)


def _interventions(
    model: Any,
    plan: Plan,
    site: TestedSite,
    hook_name: str,
    source: PredecessorSite,
    tokens: dict[int, torch.Tensor],
    batch_size_interventions: int,
    autocast: bool,
) -> Interventions:
    """Give what runs the model, after trying whether it goes on with more rows than it was given."""
    interventions = Interventions(
        model, plan.places[hook_name], plan.places[site.hook_name], batch_size_interventions, autocast
    )
    shortest = min(tokens.values(), key=len)
    if interventions.expandable(shortest, source.rows[:2].float()):
        return interventions
    return interventions.with_repeated_tokens()
