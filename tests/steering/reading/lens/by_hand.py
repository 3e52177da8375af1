"""The logit lens, slowly, and the models and vectors that it is tested with."""

from types import SimpleNamespace
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.steering.reading.lens import LogitLensResult


def stub(W_U: torch.Tensor, tokenizer: Any = None) -> Any:
    """No more of a model than the lens reads: W_U [d_model, d_vocab], no norm."""
    cfg = SimpleNamespace(d_model=W_U.shape[0], normalization_type=None, model_name="stub")
    return SimpleNamespace(W_U=W_U, cfg=cfg, tokenizer=tokenizer)


def vectors(n: int = 3, d_model: int = 16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {f"v{i}": torch.randn(d_model, generator=generator) for i in range(n)}


def naive(W_U: torch.Tensor, x: torch.Tensor, measure: str) -> list[tuple[int, float]]:
    """All tokens with their values, in the order of the ids, one by one in double precision."""
    found: list[tuple[int, float]] = []
    for token in range(W_U.shape[1]):
        column, total = W_U[:, token].double(), 0.0
        for i in range(len(x)):
            total += float(column[i]) * float(x[i])
        if measure == "cosine":
            total /= float(column.norm()) * float(x.double().norm())
        found.append((token, total))
    return found


def all_values(result: LogitLensResult, label: str | None = None) -> dict[int, float]:
    """The values of all tokens by id, of a result that has them all at the top."""
    i = result.labels.index(label) if label else 0
    return dict(zip(result.top_ids[i].tolist(), result.top_values[i].tolist(), strict=True))


def with_random_norms(model: Any) -> Any:
    """Give the norms gains and biases that are not 1 and 0."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".ln" in f".{name}":
                parameter += torch.rand(parameter.shape, generator=generator)
    return model


def gain_of(model: Any) -> torch.Tensor:
    norm = model.ln_final
    return (norm.original_component.weight if isinstance(model, TransformerBridge) else norm.w).detach()
