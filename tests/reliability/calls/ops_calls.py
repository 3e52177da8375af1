"""The public functions of `sae_lens_ext.ops`, with valid arguments."""

from typing import Any

import torch

from sae_lens_ext import ops

from .harness import COUNT, Call

B, D, F, K, HEADS, M, N = 6, 8, 24, 4, 3, 2, 4


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _latents(n: int = F) -> torch.Tensor:
    """Distinct latents of each token, [B, K]."""
    return _random(B, n, seed=3).argsort(dim=1)[:, :K]


def _values() -> torch.Tensor:
    return _random(B, K, seed=4).abs().sort(dim=1, descending=True).values


def _topk() -> dict[str, Any]:
    return {
        "x": _random(B, D),
        "W_enc": _random(D, F, seed=1),
        "b_enc": 0.1 * _random(F, seed=2),
        "k": K,
        "b_in": _random(D, seed=5),
        "rank_scale": 1 + _random(F, seed=6).abs(),
    }


def _kron() -> dict[str, Any]:
    width = HEADS * (M + N)
    return {
        "x": _random(B, D),
        "W_enc": _random(D, width, seed=1),
        "b_enc": 1 + 0.1 * _random(width, seed=2),
        "k": K,
        "base_dim": M,
        "extension_dim": N,
        "b_in": 0.1 * _random(D, seed=5),
    }


def _loss() -> dict[str, Any]:
    return {
        "values": _values(),
        "indices": _latents(),
        "decoder": _random(F, D, seed=1),
        "bias": _random(D, seed=2),
        "target": _random(B, D, seed=5),
        "budgets": (1, 2, K),
    }


def _prefixes() -> dict[str, Any]:
    return {name: value for name, value in _loss().items() if name not in ("target", "budgets")}


def _decode() -> dict[str, Any]:
    return {"values": _values(), "indices": _latents(), "decoder": _random(F, D, seed=1)}


def _sums() -> dict[str, Any]:
    return {"weights": _values(), "latents": _latents(), "rows": _random(B, D, seed=1), "n_latents": F}


def _dead() -> dict[str, Any]:
    return {
        "activations": lambda x, W: (x @ W).relu(),
        "x": _random(B, D),
        "error": _random(B, D, seed=1),
        "parameters": (_random(D, F, seed=2),),
        "rows": _random(F, D, seed=4),
        "k": K,
        "rank_scale": 1 + _random(F, seed=6).abs(),
    }


def _values_alone(result: Any) -> Any:
    """Values of a selection: indices change with the precision."""
    return result[0]


_OFF = frozenset({"b_enc one -inf", "rank_scale"})  # a latent that is off; what latents are ranked by alone
_UNUSED = frozenset({"decoder"})  # rows of latents that are not kept
_SIZES = {"k": COUNT, "base_dim": COUNT, "extension_dim": COUNT}
OPS = (
    *(
        Call(
            f.__name__,
            f,
            _topk,
            ("x", "W_enc", "b_enc", "b_in", "rank_scale"),
            {"k": COUNT},
            compare=_values_alone,
            hides=_OFF,
        )
        for f in (ops.topk_encode, ops.topk_encode_naive)
    ),
    *(
        Call(f.__name__, f, _kron, ("x", "W_enc", "b_enc", "b_in"), _SIZES, compare=_values_alone, hides=_OFF)
        for f in (ops.kron_encode, ops.kron_encode_naive)
    ),
    *(
        Call(f.__name__, f, _decode, ("values", "indices", "decoder"), hides=_UNUSED)
        for f in (ops.sparse_decode, ops.sparse_decode_naive)
    ),
    *(
        Call(
            f.__name__,
            f,
            _loss,
            ("values", "indices", "decoder", "bias", "target"),
            hides=_UNUSED,
        )
        for f in (ops.multi_budget_loss, ops.multi_budget_loss_naive)
    ),
    Call(
        "prefix_reconstructions",
        ops.prefix_reconstructions,
        _prefixes,
        ("values", "indices", "decoder", "bias"),
        hides=_UNUSED,
    ),
    *(
        Call(f.__name__, f, _sums, ("weights", "latents", "rows"), {"n_latents": COUNT})
        for f in (ops.latent_sums, ops.latent_sums_naive)
    ),
    *(
        Call(f.__name__, f, _dead, ("x", "error", "rows", "rank_scale"), {"k": COUNT}, hides=_OFF)
        for f in (ops.dead_latent_loss, ops.dead_latent_loss_naive)
    ),
    *(
        Call(
            f.__name__,
            f,
            lambda: {"scores": _random(B, F), "k": K},
            ("scores",),
            {"k": COUNT},
            compare=_values_alone,
            accepts=frozenset({"scores on meta"}),
            hides=frozenset({"scores one -inf"}),
        )
        for f in (ops.top_k, ops.top_k_naive)
    ),
    Call(
        "mand",
        ops.mand,
        lambda: {"base": _random(B, HEADS, M), "extension": _random(B, HEADS, N, seed=1)},
        ("base", "extension"),
        hides=frozenset({"base one -inf", "extension one -inf"}),
    ),
    Call(
        "split_pre_latents",
        ops.split_pre_latents,
        lambda: {"pre_latents": _random(B, HEADS * (M + N)), "base_dim": M, "extension_dim": N},
        ("pre_latents",),
        {"base_dim": COUNT, "extension_dim": COUNT},
        accepts=frozenset({"pre_latents on meta", "pre_latents complex64"}),
    ),
    Call(
        "parent_columns",
        ops.parent_columns,
        lambda: {"latents": _latents(), "base_dim": M, "extension_dim": N},
        ("latents",),
        {"base_dim": COUNT, "extension_dim": COUNT},
        accepts=frozenset({"latents no dimensions"}),
    ),
)
