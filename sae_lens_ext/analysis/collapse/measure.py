"""Measuring representation collapse on a model: the entropy and the separability of what each layer holds."""

from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from sae_lens_ext.analysis.collapse.entropy import require_alphas
from sae_lens_ext.analysis.collapse.probe import fold_accuracies, require_folds
from sae_lens_ext.analysis.collapse.reading import ContextReading
from sae_lens_ext.analysis.collapse.result import CollapseReport
from sae_lens_ext.analysis.collapse.sites import Place, SiteReader
from sae_lens_ext.analysis.collapse.words import find_occurrences
from sae_lens_ext.analysis.given_tokens import given_tokens
from sae_lens_ext.analysis.provenance import tokens_read, versions
from sae_lens_ext.analysis.texts import require_detached
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.language_model import evaluating
from sae_lens_ext.language_model.weights_hash import weights_hash
from sae_lens_ext.number_checks import require_bool, require_seed, whole_number

CALLER = "collapse_report"
_ALL = 10**15
"""More tokens than any text has."""


def collapse_report(
    model: Any,
    texts: Sequence[str] | torch.Tensor,
    *,
    routers: Any = None,
    sites: Sequence[str] = ("residual", "values"),
    alpha: float | Sequence[float] = 0.5,
    z_score: bool = True,
    skip_positions: int = 0,
    context_size: int = 128,
    max_tokens: int = 32_768,
    words: Sequence[str] | Sequence[int] | None = (" is", " are", " was", " were"),
    per_word: int = 1668,
    n_folds: int = 5,
    batch_size: int = 8,
    autocast: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> CollapseReport:
    """Measure layer by layer how many directions representations spread over, and whether a linear probe still tells words apart (arXiv 2502.09245).

    Entropy: `sequence_entropies` of the first contexts, each dimension z-scored over all their positions. Separability: `separability` of the
    representations AT the tokens of a few words, that is of the words' own tokens: the embedding tells them apart perfectly, and so does every layer that
    keeps the token's identity. Occurrences of one document may be in several folds, as in the paper.

    Sites: "residual" is the stream after each block, and at layer −1 before the first. "keys" and "values" are those of all key-value heads together,
    [n_kv_heads · d_head], keys before rotary embedding. With LIMe (`routers`) these are each layer's own, BEFORE routing, and "routed keys" and "routed
    values" beside them are what attention reads, AFTER routing; the paper's code measures the latter.

    Memory: a batch of all sites, and up to 2 GiB of activations, beyond which the model runs a second time; of the words' contexts the words' positions alone.

    Args:
        model: A HookedTransformer or TransformerBridge, no SAE attached.
        texts: Documents, packed into contexts and shuffled, or token ids int64 [n, pos].
        routers: LIMe's, attached to the model; None for a model without.
        sites: Some of "residual", "keys", "values".
        alpha: Order of the entropy, or several, of which the first is shown.
        z_score: As for `sequence_entropies`.
        skip_positions: First positions of each context that the entropy leaves out. 1 leaves out BOS, whose norm in the residual stream can be a hundred times
            that of other tokens, and then decides the standard deviation of some dimensions. The paper leaves out none.
        context_size: Tokens per context, of documents.
        max_tokens: Tokens that the entropy is measured on, in whole contexts, at least one.
        words: Words of one token each, or ids of tokens; sought in ALL contexts, in their order. None leaves separability out.
        per_word: Occurrences of each word, at most; all words get as many as the rarest has.
        n_folds: Of the cross-validation.
        batch_size: Contexts per forward pass.
        autocast: Run the model in bfloat16; entropies and probes are computed in float64 whatever.
        seed: Of the contexts of documents and of the folds.
        show_progress: Show a progress bar.

    Returns:
        Both measures by site and layer, with intervals over sequences and the spread over folds.

    Raises:
        ValueError: An argument is out of range; there is no such site or hook; the routers are not this model's, or it has some that were not given; SAEs are
            attached; words are no single tokens, or too few; there is NaN or infinity in a representation, or nothing but a constant.
        RuntimeError: A hook never fired, or the routers are paused.
    """
    for name, number in (
        ("context_size", context_size),
        ("max_tokens", max_tokens),
        ("per_word", per_word),
        ("batch_size", batch_size),
    ):
        require_positive_int(CALLER, name, number)
    for name, flag in (("z_score", z_score), ("autocast", autocast), ("show_progress", show_progress)):
        require_bool(CALLER, name, flag)
    require_folds(CALLER, n_folds)
    require_seed(CALLER, seed)
    alphas = require_alphas(CALLER, alpha)
    require_detached(model)
    reader = SiteReader(CALLER, model, sites, routers, autocast=autocast)
    contexts = given_tokens(
        CALLER,
        model,
        texts,
        context_size=context_size,
        max_tokens=max_tokens if words is None else _ALL,
        seed=seed,
    )
    n, t = max(1, max_tokens // contexts.shape[1]), contexts.shape[1]
    skipped = whole_number(skip_positions)
    if skipped is None or not 0 <= skipped < t:
        raise ValueError(
            f"{CALLER} was given skip_positions = {skip_positions!r} of contexts of {t} tokens. Give a whole number from 0 to {t - 1}."
        )
    occurrences = find_occurrences(CALLER, model, contexts, words, per_word=per_word, n_folds=n_folds)
    with evaluating(model):
        reading = ContextReading(
            CALLER,
            reader,
            contexts,
            occurrences,
            n_entropy=n,
            skipped=skipped,
            batch_size=batch_size,
            show_progress=show_progress,
        )
        entropies = reading.entropies(alphas, z_score=z_score)
        features = reading.features()
    accuracies = {
        place: fold_accuracies(CALLER, x, occurrences.labels, n_folds=n_folds, seed=seed)
        for place, x in tqdm(features.items(), desc="Probing", disable=not show_progress or not features)
    }
    return CollapseReport(
        layers={
            site: tuple(layer for of, layer in reader.places if of == site)
            for site in dict.fromkeys(site for site, _ in reader.places)
        },
        widths={site: reading.widths[site, layer] for site, layer in reader.places},
        alphas=alphas,
        entropies=_by_site(entropies, dim=1),
        fold_accuracies=_by_site(accuracies, dim=0),
        n_positions=t - skipped,
        words=occurrences.words,
        per_word=occurrences.per_word,
        provenance={
            **versions(),
            "model_name": getattr(model.cfg, "model_name", None),
            "model_weights": weights_hash(model),
            "routers_weights": None if routers is None else weights_hash(routers),
            "hook_names": list(reader.hooks.values()),
            "tokens_sha256": tokens_read(
                {"entropy": contexts[:n], "words": contexts[occurrences.rows.unique()]}
            ),
            "word_token_ids": list(occurrences.token_ids),
            "context_size": t,
            "skip_positions": skipped,
            "z_score": z_score,
            "n_folds": n_folds,
            "batch_size": batch_size,
            "autocast": autocast,
            "seed": seed,
        },
    )


def _by_site(of: dict[Place, torch.Tensor], dim: int) -> dict[str, torch.Tensor]:
    """Stack the layers of each site along a new dimension."""
    return {
        site: torch.stack([x for place, x in of.items() if place[0] == site], dim=dim)
        for site in dict.fromkeys(site for site, _ in of)
    }
