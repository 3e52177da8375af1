"""A model whose every block turns, stretches or flips the residual stream, so that effects are known; and effects by loops."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from sae_lens_ext.language_model import hooked
from sae_lens_ext.steering import steer
from sae_lens_ext.steering.sequences import Sequences
from sae_lens_ext.steering.vectors import SteeringVectors

N_TOKENS = 10


class _Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hook_resid_post = HookPoint()


class LinearModel(HookedRootModule):
    """h ← W h at each block, times the sign of the token: −1 for odd ids if `flips`, else 1. Two dimensions."""

    def __init__(self, matrices: Sequence[torch.Tensor], *, flips: bool = False) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(
            n_layers=len(matrices), d_model=2, n_ctx=32, d_vocab=N_TOKENS, model_name="toy"
        )
        self.matrices = torch.nn.ParameterList(matrices)
        self.embedding = torch.nn.Parameter(torch.randn(N_TOKENS, 2))
        self.blocks = torch.nn.ModuleList(_Block() for _ in matrices)
        self.flips = flips
        self.setup()

    def forward(self, input: torch.Tensor, return_type: str = "logits") -> torch.Tensor:
        sign = 1 - 2 * (input % 2) if self.flips else torch.ones_like(input)
        x = self.embedding[input]
        for matrix, block in zip(self.matrices, self.blocks, strict=True):
            hook: Any = block.hook_resid_post
            x = hook(sign[..., None] * (x @ matrix.T))
        return x


def turn(degrees: float, stretch: float = 1.0) -> torch.Tensor:
    angle = math.radians(degrees)
    return stretch * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def random_vectors(model: Any, layers: Sequence[int] = (0, 1), scale: float = 1.0) -> SteeringVectors:
    generator = torch.Generator().manual_seed(7)
    d_model = model.cfg.d_model
    return SteeringVectors({layer: scale * torch.randn(d_model, generator=generator) for layer in layers})


def ragged(model: Any) -> Sequences:
    """Five sequences of 3 to 12 tokens, with prompts of 1 to 5."""
    generator = torch.Generator().manual_seed(3)
    lengths, prompts = (3, 12, 7, 12, 5), (1, 5, 2, 3, 4)
    return Sequences(tuple(torch.randint(2, 30, (n,), generator=generator) for n in lengths), prompts)


@torch.no_grad()
def outputs(model: Any, row: torch.Tensor, block: int) -> torch.Tensor:
    """The output of a block for one sequence, by itself, [pos, d_model]."""
    found: list[torch.Tensor] = []
    with hooked(model, {f"blocks.{block}.hook_resid_post": lambda x: found.append(x[0].clone())}):
        model(row[None], return_type="logits")
    return found[0].double()


def effects(
    model: Any, intervention: Any, sequences: Sequences, block: int, tokens: str = "all"
) -> list[torch.Tensor]:
    """Δh of every token that counts, sequence by sequence, [n, d_model] each."""
    found: list[torch.Tensor] = []
    for row, prompt in zip(sequences.tokens, sequences.prompt_lengths, strict=True):
        with steer(model, intervention):
            steered = outputs(model, row, block)
        gap = steered - outputs(model, row, block)
        found.append(gap[1 if tokens == "all" else prompt :])
    return found


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))
