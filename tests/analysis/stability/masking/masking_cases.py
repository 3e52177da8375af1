"""Small SAEs, reports and settings for `masking_curve`, and what masking does by hand: latents zeroed, then the SAE's own decoder."""

from collections.abc import Sequence
from typing import Any

import torch
from sae_lens import SAE, StandardSAE, StandardSAEConfig

from sae_lens_ext.analysis.stability.masking.curve import masking_curve
from sae_lens_ext.analysis.stability.masking.result import MaskingCurve, MaskingRow
from sae_lens_ext.analysis.stability.masking.subsets import Masking
from sae_lens_ext.analysis.stability.report import StabilityReport
from sae_lens_ext.architectures.head_reshaping import flat_heads
from sae_lens_ext.language_model import Site, read_activations
from tests.analysis.domains import BATCH, CONTEXT, D_MODEL, N_CONTEXTS, RESIDUAL, TEXTS, by_hand, read_tokens

STABLE, UNSTABLE = list(range(8)), list(range(8, 24))
SEED, CE_CONTEXTS = 3, 3


def report_of(
    stable: Sequence[int] = STABLE, unstable: Sequence[int] = UNSTABLE, d_sae: int = 24, **fields: Any
) -> StabilityReport:
    """A report of three SAEs, "one" to "three", in which each has these stable and unstable latents; the others are in the middle."""
    cosines = torch.tensor([0.9, 0.1])[:, None].repeat(1, d_sae)
    cosines[:, list(stable)], cosines[:, list(unstable)] = 0.9, 0.1
    return StabilityReport(
        names=("one", "two", "three"),
        threshold=0.7,
        max_cosines=(cosines,) * 3,
        null_cosines=(torch.zeros(2, 1),) * 3,
        included=(torch.ones(d_sae, dtype=torch.bool),) * 3,
        pairs=(),
        **fields,
    )


def curve_of(
    model: Any, sae: SAE[Any], report: StabilityReport | None = None, texts: Any = None, **settings: Any
) -> MaskingCurve:
    small = {
        "counts": (2, 5, 8, 16),
        "n_draws": 2,
        "context_size": CONTEXT,
        "max_tokens": CONTEXT * N_CONTEXTS,
        "max_ce_tokens": CONTEXT * CE_CONTEXTS,
        "batch_size": BATCH,
        "seed": SEED,
        "show_progress": False,
    }
    texts = TEXTS["code"] if texts is None else texts
    return masking_curve(model, sae, report or report_of(), texts, **{**small, **settings})


def two_latents(hook_name: str = RESIDUAL[0], d_in: int = D_MODEL) -> StandardSAE:
    """Latents 0 and 1 read and write the first two dimensions; latents 2 to 5 read and write others."""
    sae = StandardSAE(StandardSAEConfig(d_in=d_in, d_sae=6))
    rows = torch.eye(d_in)[:6]
    sae.load_state_dict({**sae.state_dict(), "W_enc": rows.T, "W_dec": rows})
    sae.cfg.metadata.hook_name = hook_name
    return sae


class ByHand:
    """EV and cross-entropy of an SAE with latents set to 0 before its own decoder, a set at a time."""

    def __init__(self, model: Any, hook_name: str, sae: SAE[Any]) -> None:
        self.model, self.hook_name, self.sae = model, hook_name, sae
        self.tokens = read_tokens(model, "code", seed=SEED)
        self.counted = self.tokens != 0
        self.site = Site(hook_name, sae.cfg.metadata.hook_head_index)
        self.x = read_activations(model, self.tokens, self.site)
        self.fired = (self.decoded([])[0] != 0)[self.counted].sum(dim=0)

    @torch.no_grad()
    def decoded(self, masked: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents with nothing masked, and x̂ with these masked."""
        with flat_heads(self.sae):
            acts = self.sae.encode(self.x.to(self.sae.dtype))
            left = acts.clone()
            left[..., list(masked)] = 0
            return acts, self.sae.decode(left).float()

    def ev(self, masked: Sequence[int]) -> float:
        x, x_hat = self.x[self.counted].double(), self.decoded(masked)[1][self.counted].double()
        return 1 - ((x - x_hat).pow(2).sum() / (x - x.mean(dim=0)).pow(2).sum()).item()

    def ce(self, masked: Sequence[int]) -> float:
        spliced = torch.where(self.counted[..., None], self.decoded(masked)[1], self.x)[:CE_CONTEXTS]
        return by_hand(
            self.model, self.hook_name, self.tokens[:CE_CONTEXTS], lambda x: self.site.write(x, spliced)
        )

    def clean_ce(self) -> float:
        return by_hand(self.model, self.hook_name, self.tokens[:CE_CONTEXTS], lambda x: x)

    def rate(self, masked: Sequence[int]) -> float:
        return (self.fired[list(masked)].double().mean() / self.counted.sum()).item()


def sets_of(maskings: Sequence[Masking]) -> dict[tuple[str, int, int], list[int]]:
    """Every set by group, draw and count, that of 0 too."""
    sets = {(m.group, m.draw, n): m.order[:n].tolist() for m in maskings for n in m.counts}
    return {**{(m.group, m.draw, 0): [] for m in maskings}, **sets}


def key_of(row: MaskingRow) -> tuple[str, int, int]:
    return row.group, row.draw, row.n_masked
