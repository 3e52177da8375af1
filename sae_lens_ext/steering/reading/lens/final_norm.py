"""What a model's final norm does to a direction: its gain γ, and whether it takes the mean away."""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

Kind = Literal["LayerNorm", "RMSNorm"]

_LARGE = 128.0
"""Size of a probe's entries: eps is nothing beside its square, and means of powers of two are exact."""


@dataclass(frozen=True, eq=False)
class FinalNorm:
    """The norm between the residual stream and the unembedding: y = γ ∘ x / scale(x) + β, of centred x if it is a LayerNorm."""

    kind: Kind
    """LayerNorm takes the mean over the entries away; RMSNorm does not."""
    gain: torch.Tensor
    """γ, [d_model], float32, on the CPU; as it multiplies, so 1 + the weight in models that keep it so, such as Gemma."""

    def of_direction(self, x: torch.Tensor) -> torch.Tensor:
        """Give γ ∘ x, or γ ∘ (x − mean x), for x [..., d_model]. The scale is not divided by, and β is not added."""
        centred = x - x.mean(dim=-1, keepdim=True) if self.kind == "LayerNorm" else x
        return centred * self.gain.to(x)


def final_norm_of(model: Any) -> FinalNorm | None:
    """Find a model's final norm; None if there is none, or it is neither LayerNorm nor RMSNorm.

    A bridge's is measured by what the wrapped module computes, as weights mean 1 + γ in some models. No hook point fires.
    """
    norm = getattr(model, "ln_final", None)
    if not isinstance(norm, nn.Module):
        return None
    if isinstance(model, TransformerBridge):
        return _measured(getattr(norm, "original_component", None), model.cfg.d_model)
    name = type(norm).__name__.removesuffix("Pre")
    if name not in ("LayerNorm", "RMSNorm"):
        return None
    gain = getattr(norm, "w", None)
    ones = torch.ones(model.cfg.d_model)
    kind: Kind = "LayerNorm" if name == "LayerNorm" else "RMSNorm"
    return FinalNorm(kind, ones if gain is None else gain.detach().float().cpu())


@torch.no_grad()
def _measured(module: Any, d_model: int) -> FinalNorm | None:
    """Find γ and the kind from what a module gives; None if that fits neither kind."""
    if not isinstance(module, nn.Module):
        return None
    module = copy.deepcopy(module).cpu().float()

    def odd(x: torch.Tensor) -> torch.Tensor:
        """Give the module's output without β, which does not change sign with x."""
        return (module(x[None, None]) - module(-x[None, None]))[0, 0] / 2

    flat = odd(torch.full((d_model,), _LARGE)).abs().max()
    probe = _LARGE * torch.tensor([1.0, -1.0]).repeat(d_model)[:d_model]
    answer = odd(probe)
    kind: Kind = "LayerNorm" if flat < 0.1 * answer.abs().max() else "RMSNorm"
    found = FinalNorm(kind, answer / _scaled(kind, probe))
    other = _LARGE * torch.randn(d_model, generator=torch.Generator().manual_seed(0))
    fits = torch.allclose(odd(other), found.gain * _scaled(kind, other), rtol=1e-3, atol=1e-4)
    return found if fits else None


def _scaled(kind: Kind, x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean() if kind == "LayerNorm" else x
    return centred / centred.square().mean().sqrt()
