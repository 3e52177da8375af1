"""The functional asymmetry: what silencing stable, unstable and frequency-matched latents costs in EV and cross-entropy.

Labels come from eight seeds of TopK (benchmarks/stability_saes.py), in which the first is the anchor; a second anchor and
HierarchicalTopK are measured in EV only. A few latents fire on most tokens and carry the mean of the activations; they are stable,
and a set that holds one loses most of the EV. So each is measured without them as well: latents that fire on more than a fifth
of the tokens are then left alone.

    python benchmarks/stability_masking.py
"""

from dataclasses import asdict, replace
from typing import Any

from domain_saes import GENERAL, cached_activations
from result import write_figure, write_result
from sae_lens import SAE
from stability import RATE_TOKENS
from stability_saes import stability_saes

from sae_lens_ext import MaskingCurve, StabilityReport, feature_stability, firing_rates_on, masking_curve
from sae_lens_ext.embedded import embedded_texts, load_embedded_model

N_SEEDS = 8
TOKENS, CE_TOKENS, DRAWS = 16_384, 2_048, 5
DENSE = 0.2
"""Share of the tokens from which on a latent is called dense."""


def asymmetry(curve: MaskingCurve, report: StabilityReport, anchor: int) -> dict[str, Any]:
    """Give what the claim is about: N stable against 4N unstable latents, at every N that there are enough unstable ones for."""
    sizes = [n for n in curve.counts("stable") if n]
    return {
        "n_stable": curve.n_stable,
        "n_unstable": curve.n_unstable,
        "ev": curve.ev,
        "ce": curve.ce,
        "ce_with": curve.ce_with,
        "n_stable_against_4n_unstable": {
            n: asdict(curve.asymmetry(n)) for n in sizes if 4 * n in curve.counts("unstable")
        },
        "firing_rate": {
            label: float(report.firing_rates[anchor][report.members(label, anchor)].mean())
            for label in ("stable", "middle", "unstable")
        },
        "rows": [
            {
                name: None if value != value else value for name, value in row.items()
            }  # NaN where nothing was masked or measured
            for row in curve.to_frame()
            .groupby(["group", "n_masked"])
            .mean(numeric_only=True)
            .reset_index()
            .to_dict("records")
        ],
    }


def counts(report: StabilityReport, anchor: int) -> list[int]:
    """Give powers of two up to the larger class, and the size of each."""
    stable, unstable = (len(report.members(label, anchor)) for label in ("stable", "unstable"))
    return sorted({2**i for i in range(3, 11) if 2**i <= max(stable, unstable)} | {stable, unstable})


def without_dense(report: StabilityReport) -> StabilityReport:
    """Let dense latents not count, so that they are in no class."""
    rates = report.firing_rates or ()
    sparse = (kept & (rate < DENSE) for kept, rate in zip(report.included, rates, strict=True))
    return replace(report, included=tuple(sparse))


def main() -> None:
    """Measure and write the result and the figure."""
    saes = stability_saes()
    model = load_embedded_model("bridge")
    texts = embedded_texts(GENERAL, split="test")
    activations = cached_activations(GENERAL)[0][:RATE_TOKENS]

    def measured(
        own: list[SAE], anchor: int, ce_tokens: int, with_dense: bool
    ) -> tuple[MaskingCurve, StabilityReport]:
        report = feature_stability(own, firing_rates=firing_rates_on(own, activations))
        if not with_dense:
            report = without_dense(report)
        curve = masking_curve(
            model,
            own[anchor],
            report,
            texts,
            anchor=anchor,
            counts=counts(report, anchor),
            n_draws=DRAWS,
            max_tokens=TOKENS,
            max_ce_tokens=ce_tokens,
            autocast=True,
        )
        return curve, report

    found = {}
    for name, own, anchor, ce_tokens in (
        ("topk, anchor 0", saes["topk"][:N_SEEDS], 0, CE_TOKENS),
        ("topk, anchor 1", saes["topk"][:N_SEEDS], 1, 0),
        ("hierarchical_topk, anchor 0", saes["hierarchical_topk"], 0, 0),
    ):
        for with_dense in (True, False):
            curve, report = measured(own, anchor, ce_tokens, with_dense)
            found[name if with_dense else f"{name}, without dense latents"] = asymmetry(curve, report, anchor)
            print(name, with_dense, curve)
            if ce_tokens:
                write_figure(
                    __file__ if with_dense else __file__.replace(".py", "_without_dense.py"), curve.plot()
                )
    write_result(
        __file__,
        {
            "seeds": N_SEEDS,
            "tokens": TOKENS,
            "ce_tokens": CE_TOKENS,
            "draws": DRAWS,
            "dense_from": DENSE,
            "curves": found,
        },
    )


if __name__ == "__main__":
    main()
