"""A match of features as a transcoder from one layer to a later one (arXiv 2502.03032; layer pruning in SAE Match, arXiv 2410.07656).

    x̂' = W_dec'ᵀ Tᵀ z + b'        T maps each feature of the first SAE to its match in the second, b' is the second's b_dec

z is in units of unit decoder rows: an activation times the norm of its row; the second's rows have unit length. With folded
thresholds z is in units of each feature's threshold instead, and the second's rows have its thresholds as their norms, so that an
activation is multiplied by θ'/θ on its way (2410.07656).
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from sae_lens import SAE

from sae_lens_ext.analysis.dictionaries import SAESource, decoder_rows_used, open_sae
from sae_lens_ext.analysis.flow.match import FeatureMatch, match_features
from sae_lens_ext.analysis.flow.sites import flow_site
from sae_lens_ext.analysis.flow.transition_result import BASELINES, TransitionResult, TransitionRow
from sae_lens_ext.analysis.provenance import model_name, tokens_read, versions
from sae_lens_ext.analysis.site_reading import read_sites
from sae_lens_ext.analysis.splicing import reconstruct, require_finite, require_width, site_of
from sae_lens_ext.analysis.texts import pack_texts, require_detached, require_documents
from sae_lens_ext.architectures.fold_thresholds import fold_thresholds
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.explained_variance import ExplainedVariance
from sae_lens_ext.language_model import find_hook_point
from sae_lens_ext.language_model.hook_names import same_hook


@torch.no_grad()
def transition_explained_variance(
    model: Any,
    sae_from: SAESource,
    sae_to: SAESource,
    texts: Sequence[str],
    *,
    match: FeatureMatch | None = None,
    fold: bool = False,
    context_size: int = 128,
    max_tokens: int = 16_384,
    batch_size: int = 8,
    autocast: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> TransitionResult:
    """Predict a later layer's activations from an earlier layer's features through a match, and measure explained variance.

    Several features may have one match, in which their activations add up; a feature without a match drops out. All matches and
    baselines are measured in one pass over the tokens.

    Args:
        model: A HookedTransformer, a TransformerBridge or SAELens' HookedProxyLM, with a tokenizer and no SAE attached.
        sae_from: The earlier residual SAE, its folder or (release, id).
        sae_to: The later one.
        texts: Documents. They are packed into contexts, BOS first and between them; special tokens do not count.
        match: From the first SAE to the second, [d_sae_from, 1]; by default both the largest cosine and the one-to-one assignment.
        fold: Measure every match with folded thresholds as well; both SAEs must be JumpReLU.
        context_size: Tokens per context.
        max_tokens: Tokens read, at most.
        batch_size: Contexts per forward pass.
        autocast: Run the model in bfloat16; the SAEs keep their precision.
        seed: Which contexts of the text are read.
        show_progress: Show a progress bar.

    Returns:
        Explained variance of every match and baseline.

    Raises:
        ValueError: The SAEs are not of residual sites of one width, are transcoders, normalise each token by itself, or are no JumpReLU
            where thresholds are folded; the match is of other SAEs or has several columns; the texts are one string, too short, or
            nothing but special tokens; the model lacks a hook or has SAEs attached; something is NaN or infinite.
    """
    caller = "transition_explained_variance"
    for what, value in (("max_tokens", max_tokens), ("context_size", context_size)):
        require_positive_int(caller, what, value)
    require_documents(caller, texts)
    require_detached(model)
    saes = {"from": open_sae(caller, sae_from), "to": open_sae(caller, sae_to)}
    sites = {name: site_of(caller, name, sae) for name, sae in saes.items()}
    _require_residual(caller, saes)
    for site in sites.values():
        find_hook_point(model, site.hook_name)
    first, second = saes["from"], saes["to"]
    routes = _routes(caller, first, second, match, fold)
    contexts = pack_texts(
        model, {"texts": texts}, context_size=context_size, max_tokens=max_tokens, seed=seed
    )
    predicted = {(name, folded): ExplainedVariance() for name, folded, _ in routes}
    baselines = {name: ExplainedVariance() for name in BASELINES if name != "mean"}
    norms = decoder_rows_used("from", first).norm(dim=1)
    in_all, activity = 0.0, dict.fromkeys(predicted, 0.0)
    # One hook may be both: then the match is of an SAE with another of the same place.
    for batch in read_sites(
        model,
        list({site.hook_name: site for site in sites.values()}.values()),
        contexts["texts"],
        batch_size=batch_size,
        autocast=autocast,
        show_progress=show_progress,
        description="Explained variance",
    ):
        counted = batch.counted
        x = {name: batch.activations[site.hook_name] for name, site in sites.items()}
        for name, sae in saes.items():
            require_width(name, sae, sites[name], x[name])
        made = {
            name: reconstruct(sae, x[name][counted.to(x[name].device)][None]) for name, sae in saes.items()
        }
        after = x["to"][counted.to(x["to"].device)].float()
        for name in saes:
            require_finite(name, "texts", after, made[name].x_hat)
        acts = made["from"].acts[0].float()
        z = acts * norms.to(acts.device)
        in_all += float(z.double().sum())
        for name, folded, rows in routes:
            x_hat = acts @ rows.to(acts.device) + second.b_dec.float().to(acts.device)
            predicted[name, folded].add_batch(x_hat.to(after.device), after)
            activity[name, folded] += float(z[:, (rows != 0).any(dim=1).to(z.device)].double().sum())
        baselines["reconstruction"].add_batch(made["to"].x_hat[0].to(after.device), after)
        baselines["carried over"].add_batch(made["from"].x_hat[0].to(after.device), after)
        baselines["bias"].add_batch(second.b_dec.float().to(after.device).expand_as(after), after)
    n_tokens = baselines["bias"].num_samples
    if n_tokens == 0:
        raise ValueError(
            f"{caller} was given texts with nothing but special tokens, which do not count. Give documents with words in them."
        )
    if in_all == 0:
        raise ValueError(
            f"{caller} found no active feature of the SAE at {sites['from'].hook_name!r} on any of the {n_tokens:,} tokens, so that nothing could go over. "
            "See that the model is the one it was trained on."
        )
    rows = [
        TransitionRow(name, folded, ev.compute(), activity[name, folded] / in_all)
        for (name, folded), ev in predicted.items()
    ]
    rows += [TransitionRow(name, False, ev.compute(), None) for name, ev in baselines.items()]
    return TransitionResult(
        rows=(*rows, TransitionRow("mean", False, 0.0, None)),
        hook_from=sites["from"].hook_name,
        hook_to=sites["to"].hook_name,
        n_tokens=n_tokens,
        provenance={
            **versions(),
            "model_name": model_name(model, first),
            "tokens_sha256": tokens_read(contexts)["texts"],
            "context_size": context_size,
            "max_tokens": max_tokens,
            "autocast": autocast,
            "seed": seed,
        },
    )


def _routes(
    caller: str,
    first: SAE[Any],
    second: SAE[Any],
    match: FeatureMatch | None,
    fold: bool,
) -> list[tuple[str, bool, torch.Tensor]]:
    """Give, for each match, what an activation of 1 of each feature of the first SAE adds to the prediction, [d_sae_from, d_in]."""
    if match is None:
        matches = {
            "cosine": match_features(first, second).indices[:, 0],
            "permutation": match_features(first, second, one_to_one=True).indices[:, 0],
        }
    else:
        matches = {"given": _checked(caller, match, first, second)}
    own, other = decoder_rows_used("from", first), decoder_rows_used("to", second)
    scale = own.norm(dim=1)
    unit = torch.nn.functional.normalize(other, dim=1)
    routes = [(name, False, _carried(indices, scale, unit)) for name, indices in matches.items()]
    if fold:
        # A folded activation is one divided by its raw threshold, and folded rows carry the second's own.
        fold_thresholds(first)  # raises unless they can be
        per_threshold = 1 / cast("torch.Tensor", first.threshold).detach().float()
        folded = decoder_rows_used("to", fold_thresholds(second))
        routes += [
            (name, True, _carried(indices, per_threshold, folded)) for name, indices in matches.items()
        ]
    return routes


def _carried(indices: torch.Tensor, scale: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    known = (indices >= 0).to(rows.device)
    carried = rows[indices.clamp(min=0).to(rows.device)] * scale.to(rows.device)[:, None]
    return torch.where(known[:, None], carried, 0.0)


def _checked(caller: str, match: FeatureMatch, first: SAE[Any], second: SAE[Any]) -> torch.Tensor:
    if match.indices.shape != (first.cfg.d_sae, 1) or match.d_sae_b != second.cfg.d_sae:
        raise ValueError(
            f"{caller} was given a match of {match.indices.shape[0]} features with {match.d_sae_b}, the best {match.indices.shape[1]} of each, for SAEs of "
            f"{first.cfg.d_sae} and {second.cfg.d_sae}. Give a match from the first SAE to the second, with top_k = 1."
        )
    own = {"hook_a": first.cfg.metadata.hook_name, "hook_b": second.cfg.metadata.hook_name}
    if not all(same_hook(match.provenance.get(end), hook) for end, hook in own.items()):
        raise ValueError(
            f"{caller} was given a match from {match.provenance.get('hook_a')} to {match.provenance.get('hook_b')} for SAEs of {own['hook_a']} and "
            f"{own['hook_b']}. Give a match from the first SAE to the second."
        )
    return match.indices[:, 0]


def _require_residual(caller: str, saes: Mapping[str, SAE[Any]]) -> None:
    widths = {name: sae.cfg.d_in for name, sae in saes.items()}
    if widths["from"] != widths["to"]:
        raise ValueError(
            f"{caller} was given SAEs of different widths, {widths['from']} and {widths['to']}. Give two of one model's residual stream."
        )
    for sae in saes.values():
        hook_name = str(sae.cfg.metadata.hook_name)
        if flow_site(hook_name).kind != "residual":
            raise ValueError(
                f"{caller} was given an SAE of {hook_name!r}, which is no place on the residual stream. Give SAEs of the residual stream."
            )
        if sae.cfg.normalize_activations not in ("none", None):
            raise ValueError(
                f"{caller} was given an SAE of {hook_name!r} with normalize_activations = {sae.cfg.normalize_activations!r}, which scales each token by "
                "itself, so that its activations are in other units from token to token. Give SAEs that do not."
            )
