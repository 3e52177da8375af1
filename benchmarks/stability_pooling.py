"""Is an SAE pooled from several seeds more stable than a single one, and what does it cost in explained variance?

Twelve TopK seeds make two constructions that share nothing: three seeds pooled, and three others on which p̂ is estimated, each. Both
are built by reappearance, and as controls by firing rate and at random. The stability of a construction is the share of its latents
that the other construction has (cosine ≥ 0.7); beside it, the same for two single SAEs, and for a single SAE's most reappearing latents.

    python benchmarks/stability_pooling.py
"""

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean, stdev

import torch
from domain_saes import GENERAL, cached_activations, explained_variance
from result import write_result
from sae_lens import SAE
from stability_saes import D_SAE, stability_saes

from sae_lens_ext import firing_rates_on, pool_features, retrain_encoder
from sae_lens_ext.analysis.matching.cosines import top_cosines

RATE_TOKENS = 98_304
RETRAINING_TOKENS = 300_000
RETRAINING_LRS = (3e-4, 1e-3, 3e-3)
SIZES = (D_SAE // 2, D_SAE)
HALVES = ((range(3), range(3, 6)), (range(6, 9), range(9, 12)))
THRESHOLD = 0.7


def matched(a: torch.Tensor, b: torch.Tensor) -> float:
    """Share of the rows of each matrix that the other has, mean of both directions."""
    unit = [torch.nn.functional.normalize(rows, dim=1) for rows in (a, b)]
    return fmean(float((top_cosines(x, y).values >= THRESHOLD).float().mean()) for x, y in (unit, unit[::-1]))


def quality(sae: SAE, held_out: torch.Tensor) -> float:
    """Explained variance on held-out text."""
    return round(explained_variance(sae, held_out)[0], 4)


def spread(numbers: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation."""
    return {"mean": round(fmean(numbers), 4), "sd": round(stdev(numbers), 4)}


def main() -> None:
    """Measure and write the result."""
    training, held_out = cached_activations(GENERAL)
    saes = stability_saes()["topk"]
    rates = firing_rates_on(saes, training[:RATE_TOKENS])
    rows = {}
    for d_sae in SIZES:
        for order in ("reappearance", "frequency", "random"):
            built = []
            for pool, references in HALVES:
                own = {f"sae_{i}": saes[i] for i in pool}
                built.append(
                    pool_features(
                        own,
                        d_sae,
                        references=[saes[i] for i in references] if order == "reappearance" else None,
                        order=order,
                        firing_rates={f"sae_{i}": rates.rates[i] for i in pool},
                        min_firing_rate=rates_floor(rates.n_tokens),
                    )
                )
            trained, lrs = zip(*(retrained(sae, training) for sae in built), strict=True)
            rows[f"{order}, {d_sae}"] = {
                "reappears_in_the_other": round(matched(built[0].W_dec, built[1].W_dec), 4),
                "ev_copied_encoders": [quality(sae, held_out) for sae in built],
                "ev_retrained_encoders": [quality(sae, held_out) for sae in trained],
                "retraining_lr": lrs,
            }
            print(order, d_sae, rows[f"{order}, {d_sae}"])
    pairs = list(combinations(saes, 2))
    single = {
        "reappears_in_another": spread([matched(a.W_dec, b.W_dec) for a, b in pairs]),
        "ev": spread([quality(sae, held_out) for sae in saes]),
        "ev_retrained_encoder": spread([quality(retrained(sae, training)[0], held_out) for sae in saes[:2]]),
    }
    print(single)
    write_result(
        __file__,
        {
            "threshold": THRESHOLD,
            "retraining_tokens": RETRAINING_TOKENS,
            "halves": [[list(pool), list(references)] for pool, references in HALVES],
            "pooled": rows,
            "single": single,
        },
    )


def rates_floor(n_tokens: int) -> float:
    """A hundred firings."""
    return 100 / n_tokens


def retrained(sae: SAE, training: torch.Tensor) -> tuple[SAE, float]:
    """Retrain an SAE's encoder at the best of a few learning rates; gives the SAE and the rate.

    The last tenth of the training activations chooses the rate, so that the held-out ones are not looked at.
    """
    n = len(training) * 9 // 10
    candidates = [
        (retrain_encoder(sae, training[:n], n_tokens=RETRAINING_TOKENS, lr=lr), lr) for lr in RETRAINING_LRS
    ]
    return max(candidates, key=lambda candidate: explained_variance(candidate[0], training[n:])[0])


if __name__ == "__main__":
    main()
