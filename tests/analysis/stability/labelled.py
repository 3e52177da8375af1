"""SAEs with given decoder rows, and reports that call their latents what a test wants them called."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sae_lens import SAE, StandardSAE, StandardSAEConfig

from sae_lens_ext import weights_fingerprint
from sae_lens_ext.analysis.stability.report import StabilityReport

HOOK = "blocks.1.hook_resid_post"


def sae_of(rows: torch.Tensor, hook_name: str = HOOK) -> SAE[Any]:
    """An SAE with these decoder rows [d_sae, d_in], in lengths from 1 to 2."""
    sae = StandardSAE(StandardSAEConfig(d_in=rows.shape[1], d_sae=len(rows)))
    with torch.no_grad():
        sae.W_dec.copy_(rows * torch.linspace(1, 2, len(rows))[:, None])
    sae.cfg.metadata.hook_name = hook_name
    sae.cfg.metadata.model_name = "gpt2"
    return sae


def report_of(
    labels: Sequence[Sequence[str]],
    saes: Sequence[SAE[Any]] | None = None,
    names: Sequence[str] | None = None,
    **provenance: Any,
) -> StabilityReport:
    """A report with these labels by anchor; "middle" needs three SAEs. With SAEs it has their fingerprints."""
    n = len(labels)
    names = [f"sae_{i}" for i in range(n)] if names is None else names
    cosines: list[torch.Tensor] = []
    for own in labels:
        matched = torch.tensor([[label == "stable" for label in own]] * (n - 1)).float()
        matched[0, torch.from_numpy(np.array(own) == "middle")] = 1
        cosines.append(matched)
    if saes is not None:
        provenance["sae_fingerprints"] = {
            name: weights_fingerprint(s) for name, s in zip(names, saes, strict=True)
        }
    return StabilityReport(
        names=tuple(names),
        threshold=0.7,
        max_cosines=tuple(cosines),
        null_cosines=tuple(cosines),
        included=tuple(torch.from_numpy(np.array(own) != "excluded") for own in labels),
        pairs=(),
        provenance={"model_name": "gpt2", "hook_name": HOOK, "seed": 7, **provenance},
    )


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def random_rows(n: int, d: int, seed: int) -> torch.Tensor:
    return unit(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def rotation(d: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(
        torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )[0]
