"""Which tokens a deactivation test looks at, and which of the features that are active there."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from sae_lens import SAE

from sae_lens_ext.analysis.splicing import reconstruct

Choice = Literal["random", "strongest"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
_TOKENS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class ActiveLatents:
    """What is active at one token."""

    latent: torch.Tensor
    """Indices [n], int64, ascending."""
    value: torch.Tensor
    """Activations [n], float32."""
    scale: float
    """What the decoder's sum is multiplied by; 1 unless the SAE normalises each token by itself."""


def sample_positions(
    counted: torch.Tensor, per_text: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw tokens of each text without replacement, fewer where there are not so many that count.

    Args:
        counted: Which tokens may be drawn, [n_texts, pos], bool.
        per_text: Tokens of each text.
        rng: What they are drawn with.

    Returns:
        Text and position of each token, [n] each, by text and then by position.
    """
    texts: list[int] = []
    positions: list[int] = []
    for text, row in enumerate(counted.cpu().numpy()):
        candidates = np.flatnonzero(row)
        drawn = rng.permutation(candidates)[:per_text]
        texts += [text] * len(drawn)
        positions += sorted(drawn.tolist())
    return torch.tensor(texts, dtype=torch.long), torch.tensor(positions, dtype=torch.long)


def choose_features(
    active: ActiveLatents, max_features: int, choice: Choice, rng: np.random.Generator
) -> torch.Tensor:
    """Choose among the features that are active at a token.

    Args:
        active: What is active.
        max_features: How many, at most.
        choice: "random", drawn without replacement, or "strongest".
        rng: What they are drawn with.

    Returns:
        Indices [n], ascending.
    """
    if len(active.latent) <= max_features:
        return active.latent
    if choice == "strongest":
        order = active.value.argsort(descending=True, stable=True)
    else:
        order = torch.from_numpy(rng.permutation(len(active.latent)))
    return active.latent[order[:max_features]].sort().values


def active_latents(sae: SAE[Any], x: torch.Tensor) -> list[ActiveLatents]:
    """Give what is active at each of some tokens, from activations [n, d_in].

    Raises:
        ValueError: A latent is NaN.
    """
    found: list[ActiveLatents] = []
    for part in x.split(_TOKENS_AT_ONCE):
        made = reconstruct(sae, part[None])
        if made.acts.isnan().any():
            raise ValueError(
                f"The SAE at {sae.cfg.metadata.hook_name!r} gives NaN on the model's activations, so that nothing can be measured. Look at its weights and "
                "their precision."
            )
        scales = None if made.token_scale is None else made.token_scale[0, :, 0].float().cpu()
        for i, acts in enumerate(made.acts[0].float().cpu()):
            latent = acts.nonzero()[:, 0]
            scale = 1.0 if scales is None else float(scales[i])
            found.append(ActiveLatents(latent, acts[latent], scale))
    return found
