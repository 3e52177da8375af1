"""From a model with routers and a text to its depthwise circuits, in two passes."""

from collections.abc import Sequence
from typing import Any, get_args

import torch

from sae_lens_ext.analysis.attached_routers import require_attached
from sae_lens_ext.analysis.given_tokens import given_tokens
from sae_lens_ext.analysis.provenance import tokens_read, versions
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.language_model.weights_hash import weights_hash
from sae_lens_ext.lime.reading.checks import router_weights
from sae_lens_ext.lime.reading.circuits.buffers import read_buffers
from sae_lens_ext.lime.reading.circuits.circuit import Served
from sae_lens_ext.lime.reading.circuits.counted_tokens import counted_vocabulary, which_count
from sae_lens_ext.lime.reading.circuits.result import DepthwiseCircuits
from sae_lens_ext.lime.reading.circuits.served import (
    CONTEXT_NAME,
    ServedTokens,
    TokensBy,
    strongest_sources,
)
from sae_lens_ext.lime.reading.circuits.shares import TextShares, along_routed
from sae_lens_ext.number_checks import require_bool, require_seed

_CALLER = "depthwise_circuits"


def depthwise_circuits(
    model: Any,
    routers: Any,
    texts: Sequence[str] | torch.Tensor,
    *,
    top_k: int = 4,
    own_layer: bool = False,
    tokens_by: TokensBy = "share",
    tokens_per_circuit: int = 10,
    contexts_per_circuit: int = 3,
    min_count: int = 5,
    context_size: int = 128,
    window: int = 16,
    max_tokens: int = 16_384,
    batch_size: int = 16,
    autocast: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> DepthwiseCircuits:
    """Find which heads' buffers each head of a model with LIMe reads, and at which tokens.

    At a position the routed value of target head h in layer ℓ is Ṽ = Σ c over source heads h′ of the layers ℓ′ ≤ ℓ, with the contributions
    c = R_{h,ℓ′,h′} V_{ℓ′,h′}; V are the values as the source computes them, BEFORE routing. The value share of a source is Σ⟨c, Ṽ⟩ / Σ‖Ṽ‖² over the
    tokens, signed, and the shares of all sources of a head sum to 1. A share is negative where a source works against what the others make. The key share is
    the same of keys, before rotary embedding. A head whose routed vectors are all exactly 0 has shares of 0. Unlike the weight R, shares take account of how large and how alike the values are.

    A circuit serves the tokens at which its source contributes what it does on the whole: a source with a positive value share those with the largest
    shares, one with a negative share those with the smallest. Tokens of the vocabulary are ranked by the share over their occurrences, single positions
    by their own, at most one of each sequence. All heads are key-value heads; under grouped-query attention several query heads read one.

    The model runs twice over the texts, first for the shares, then for the tokens of the circuits that are kept. Special tokens of the model's tokenizer do
    not count; without a tokenizer all tokens do.

    Memory, besides the model's: keys and values of all layers of one batch, a few times over, and `batch_size * context_size * n_layers * n_kv_heads²`
    numbers.

    Args:
        model: A HookedTransformer or TransformerBridge.
        routers: The LimeRouters that are attached to it.
        texts: Documents, which are packed into contexts, BOS first and between them; or token ids [n, pos], int64, without padding.
        top_k: For how many sources of each target head the tokens are kept: those with the largest |value share|.
        own_layer: Whether heads of the target's own layer are among these. In a model that was trained with LIMe from the identity they crowd out the others.
        tokens_by: What tokens are ranked by: "share", or "norm", the size ‖c‖ of the contribution, in the units of values.
        tokens_per_circuit: Tokens of the vocabulary kept of each circuit, at most.
        contexts_per_circuit: Single positions kept of each circuit, at most.
        min_count: Occurrences that a token of the vocabulary must have to be ranked.
        context_size: Tokens per context, of documents.
        window: Tokens kept around a single position, at most.
        max_tokens: Tokens read, at most, in whole sequences, but at least one sequence.
        batch_size: Sequences per forward pass.
        autocast: Run the model in bfloat16.
        seed: Which contexts of documents are read, and in which order.
        show_progress: Show progress bars.

    Returns:
        What was found, of every target head from layer 1 on.

    Raises:
        ValueError: The routers are not attached to this model, or have NaN in their weights; the model has one layer; a number is no positive int; there are no
            texts, or they are too short or given without a tokenizer; the tokens are no int64 [n, pos] of the vocabulary, or longer than the model reads;
            no token counts, or none occurs `min_count` times; keys or values are NaN or infinite.
        RuntimeError: The routers are paused, or their hooks never fired.

    Source: LIMe (arXiv 2502.09245), its reading of routers by head ("depthwise circuits"). The shares are ours.
    """
    numbers = {
        "top_k": top_k,
        "tokens_per_circuit": tokens_per_circuit,
        "contexts_per_circuit": contexts_per_circuit,
        "min_count": min_count,
        "context_size": context_size,
        "window": window,
        "max_tokens": max_tokens,
        "batch_size": batch_size,
    }
    for name, value in numbers.items():
        require_positive_int(_CALLER, name, value)
    require_bool(_CALLER, "own_layer", own_layer)
    require_bool(_CALLER, "autocast", autocast)
    seed = require_seed(_CALLER, seed)
    if tokens_by not in get_args(TokensBy):
        raise ValueError(f"{_CALLER} was given tokens_by = {tokens_by!r}. Give 'share' or 'norm'.")
    weights = router_weights(_CALLER, routers)
    require_attached(_CALLER, model, routers)
    if len(weights) < 2:
        raise ValueError(
            f"{_CALLER} was given a model of one layer, which has no earlier layer to read. Give a model of at least two."
        )
    tokens = given_tokens(_CALLER, model, texts, context_size=context_size, max_tokens=max_tokens, seed=seed)
    counted = which_count(model, tokens)
    vocabulary, counts = counted_vocabulary(_CALLER, tokens[counted], min_count)
    tokenizer = getattr(model, "tokenizer", None)

    def passes(description: str) -> Any:
        return read_buffers(
            model,
            routers,
            tokens,
            batch_size=batch_size,
            autocast=autocast,
            show_progress=show_progress,
            description=description,
        )

    targets = {layer: R for layer, R in weights.items() if layer > 0}
    totals = {name: {layer: TextShares(R) for layer, R in targets.items()} for name in ("keys", "values")}
    for batch in passes("Shares of sources"):
        here = counted[batch.first : batch.first + len(batch.tokens)].to(batch.values.device)
        for name, of_layers in totals.items():
            flat = getattr(batch, name)[here]
            for layer, R in targets.items():
                of_layers[layer].add(*along_routed(flat[:, : layer + 1], R.to(flat.device)))
    shares = {name: {layer: total.shares() for layer, total in own.items()} for name, own in totals.items()}

    device = next(model.parameters()).device
    window = min(window, tokens.shape[1])
    collected: dict[int, ServedTokens] = {}
    for layer, weight in targets.items():
        circuits = strongest_sources(shares["values"][layer], top_k, own_layer=own_layer)
        if circuits:
            collected[layer] = ServedTokens(
                weight,
                shares["values"][layer],
                circuits,
                vocabulary,
                by=tokens_by,
                n_contexts=min(contexts_per_circuit, len(tokens)),
                window=window,
                device=device,
            )
    if collected:
        for batch in passes("Tokens served"):
            here = counted[batch.first : batch.first + len(batch.tokens)]
            for layer, served in collected.items():
                served.add(batch.values[:, :, : layer + 1], batch.tokens, here, batch.first)
    return DepthwiseCircuits(
        weights=targets,
        value_shares=shares["values"],
        key_shares=shares["keys"],
        served={
            (layer, *circuit): Served(
                served.tokens(i, counts, tokens_per_circuit, min_count, tokenizer),
                served.contexts(i, tokens, tokenizer),
            )
            for layer, served in collected.items()
            for i, circuit in enumerate(served.circuits)
        },
        tokens_by=tokens_by,
        n_tokens=int(counted.sum()),
        provenance={
            **versions(),
            "model_name": getattr(model.cfg, "model_name", None),
            "model_weights": weights_hash(model),
            "routers": dict(routers.provenance),
            "values_measured": "before routing",
            "tokens_sha256": tokens_read({CONTEXT_NAME: tokens})[CONTEXT_NAME],
            "own_layer": own_layer,
            **numbers,
            "context_size": tokens.shape[1],
            "autocast": autocast,
            "seed": seed,
        },
    )
