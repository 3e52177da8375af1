"""The logit lens on vectors (arXiv 2509.06608): which tokens a direction of the residual stream raises and lowers, by W_U alone."""

from typing import Any

import torch

from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.number_checks import require_bool, require_seed
from sae_lens_ext.steering.reading.effect import PropagatedEffect
from sae_lens_ext.steering.reading.lens.final_norm import FinalNorm, final_norm_of
from sae_lens_ext.steering.reading.lens.ranking import MEASURES, Measure, rank_tokens
from sae_lens_ext.steering.reading.lens.result import LogitLensResult
from sae_lens_ext.steering.reading.lens.unembedding import Unembedding, unembedding_of
from sae_lens_ext.steering.vectors import SteeringVectors, named_vectors
from sae_lens_ext.steering.vectors.model_biases import require_fits
from sae_lens_ext.steering.vectors.named_vectors import NamedVectors

CALLER = "logit_lens"
N_RANDOM = 100
"""Random directions that say how large a value means nothing."""


@torch.no_grad()
def logit_lens(
    model: Any,
    vectors: Any,
    *,
    measure: Measure = "cosine",
    top_k: int = 50,
    final_norm: bool = False,
    seed: int = 0,
) -> LogitLensResult:
    """Read vectors of the residual stream through the unembedding: the tokens they point to most, and least.

    The value of token v for the vector x, W_U[v] being v's column of W_U:

    | | measure="cosine" | measure="dot" |
    |---|---|---|
    | final_norm=False | cos(W_U[v], x) | W_U[v] · x |
    | final_norm=True, RMSNorm | cos(W_U[v], γ ∘ x) | W_U[v] · (γ ∘ x) |
    | final_norm=True, LayerNorm | cos(W_U[v], γ ∘ (x − mean x)) | W_U[v] · (γ ∘ (x − mean x)) |

    The paper reads the cosine without the final norm. The norm also divides by a scale, which depends on the residual stream that x is added
    to, and which no vector has by itself: it is left out. Cosines do not feel it; a dot product becomes logits when divided by it. Left
    out as well are what does not depend on x (the norm's β, the unembedding's bias) and what comes after W_U (soft caps, scalings).

    W_U may have been processed when the model was loaded; the result says so (`unembedding`, `unembedding_centred`):
    - With the final norm folded in (`fold_ln`), W_U holds γ ∘ W_U[v], for LayerNorm centred over d_model too. Then final_norm=False gives numbers with γ in
      them: for the dot product, those of the unprocessed model with final_norm=True. final_norm=True gives the same dot product, and
      refuses the cosine, for which γ would be needed by itself.
    - With the unembedding centred (`center_unembed`), the same number is missing from the dot products of all tokens of a vector.

    Read are the tokens that the tokenizer knows: W_U may be padded to a round number of columns, which mean nothing.

    Args:
        model: A HookedTransformer or TransformerBridge with an unembedding. Nothing is run.
        vectors: A tensor [d_model], such as an SAE's decoder row or a difference of means; a mapping of labels, or layers, to tensors;
            `SteeringVectors`; an intervention that adds vectors (`AddVector`, `AddFeature`, what `flow_steering` gives); or what
            `propagated_effect` found, whose mean effects are read.
        measure: "cosine", or "dot" for the dot product.
        top_k: Tokens at each end; of a smaller vocabulary all.
        final_norm: Whether the final norm's gain γ multiplies x; see above.
        seed: Of the random directions that tell what a value means; see `LogitLensResult.random_largest`.

    Returns:
        The tokens at both ends for each vector, and how large a value random vectors reach.

    Raises:
        ValueError: The model has no unembedding, or no final norm that is a LayerNorm or RMSNorm where one is asked for, or it is folded into
            W_U and the cosine asked for; a vector is zero, of another width or of a layer that the model lacks, or has NaN or infinity in it; an argument is out of range.

    References:
        Small Vectors, Big Effects, arXiv 2509.06608. The logit lens is nostalgebraist's, "interpreting GPT: the logit lens" (2020).
    """
    if measure not in MEASURES:
        raise ValueError(f"{CALLER} was given measure = {measure!r}. Give 'cosine' or 'dot'.")
    require_positive_int(CALLER, "top_k", top_k)
    require_bool(CALLER, "final_norm", final_norm)
    own_seed = require_seed(CALLER, seed)
    unembedding = unembedding_of(CALLER, model)
    norm = _norm_to_apply(model, unembedding, measure) if final_norm else None
    named = _named(vectors, unembedding.d_model)
    if isinstance(vectors, SteeringVectors):
        require_fits(CALLER, vectors.vectors, model)
    given = torch.stack([vector for _, vector in named.values()])
    random = torch.randn(N_RANDOM, unembedding.d_model, generator=torch.Generator().manual_seed(own_seed))
    random /= random.norm(dim=1, keepdim=True)
    directions = given
    if norm is not None:
        directions, random = norm.of_direction(given.double()), norm.of_direction(random)
        _require_left(named, given, directions, norm)
    ranking = rank_tokens(directions, random, unembedding, measure, top_k)
    shown = torch.cat([ranking.top_ids, ranking.bottom_ids]).unique().tolist()
    return LogitLensResult(
        labels=tuple(named),
        layers=tuple(layer for layer, _ in named.values()),
        norms=tuple(given.double().norm(dim=1).tolist()),
        top_ids=ranking.top_ids,
        top_values=ranking.top_values,
        bottom_ids=ranking.bottom_ids,
        bottom_values=ranking.bottom_values,
        tokens={token: unembedding.text(token) for token in shown},
        measure=measure,
        final_norm=None if norm is None else norm.kind,
        unembedding=unembedding.state,
        unembedding_centred=unembedding.is_centred(),
        n_tokens=len(unembedding.ids),
        random_largest=ranking.random_largest,
        provenance={
            **versions(),
            "model_name": getattr(model.cfg, "model_name", None),
            "seed": own_seed,
            "n_random": N_RANDOM,
            "columns_left_out": unembedding.W_U.shape[1] - len(unembedding.ids),
            "read": type(vectors).__name__,
            "vectors": dict(vectors.provenance)
            if isinstance(vectors, (SteeringVectors, PropagatedEffect))
            else None,
        },
    )


def _named(vectors: Any, d_model: int) -> NamedVectors:
    if not isinstance(vectors, PropagatedEffect):
        return named_vectors(CALLER, vectors, d_model)
    means = dict(zip(vectors.labels, vectors.mean, strict=True))
    layers = dict(zip(vectors.labels, vectors.layers, strict=True))
    return {
        label: (layers[label], vector) for label, (_, vector) in named_vectors(CALLER, means, d_model).items()
    }


def _norm_to_apply(model: Any, unembedding: Unembedding, measure: Measure) -> FinalNorm:
    norm = final_norm_of(model)
    if norm is None:
        found = type(getattr(model, "ln_final", None)).__name__
        raise ValueError(
            f"{CALLER} was given final_norm=True, but {type(model).__name__} has no final norm that is a LayerNorm or RMSNorm (its ln_final is "
            f"{found}). Leave final_norm out."
        )
    if unembedding.state != "as trained" and measure == "cosine":
        raise ValueError(
            f"{CALLER} was given final_norm=True and the cosine, but this model's final norm is folded into W_U, so that γ is not there by itself. Load "
            "the model without weight processing (from_pretrained_no_processing, fold_ln=False, or a TransformerBridge outside compatibility "
            "mode), or give measure='dot', for which it is all the same."
        )
    return norm


def _require_left(
    named: NamedVectors, given: torch.Tensor, directions: torch.Tensor, norm: FinalNorm
) -> None:
    """Raise ValueError if the final norm takes all of a vector away, but for rounding."""
    for label, before, after in zip(named, given, directions, strict=True):
        if after.double().norm() <= 1e-6 * before.double().norm() * norm.gain.abs().max():
            raise ValueError(
                f"{CALLER} was given {label!r}, of which the final {norm.kind} leaves nothing: "
                + ("all its entries are equal. " if norm.kind == "LayerNorm" else "its gain is 0 there. ")
                + "Read it with final_norm=False."
            )
