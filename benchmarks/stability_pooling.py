"""Is an SAE pooled from several seeds more stable than a single one, and what does it cost in explained variance?

Twelve TopK seeds make two constructions that share nothing: three seeds pooled, and three others on which p̂ is estimated, each.
The controls pool by firing rate and at random, three seeds and also all six. The stability of a construction is the share of
its latents that the other construction has (cosine ≥ 0.7), over several ways to divide the seeds; beside it single SAEs, whole and
their most reappearing latents on the same references, with the same firing floor. EV is measured for the first division, with
the encoders as they are and after retraining them with the decoder frozen.

    python benchmarks/stability_pooling.py
"""

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

import torch
from domain_saes import GENERAL, cached_activations, explained_variance
from result import write_result
from sae_lens import SAE
from stability_saes import D_SAE, stability_saes

from sae_lens_ext import FiringRates, firing_rates_on, pool_features, retrain_encoder
from sae_lens_ext.analysis.matching.cosines import top_cosines

RATE_TOKENS = 98_304
RETRAINING_TOKENS = 400_000
RETRAINING_LRS = (1e-3, 3e-3, 6e-3)
SIZES = (D_SAE // 2, D_SAE)
N_DIVISIONS = 5
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


def divisions() -> list[list[list[int]]]:
    """Divide twelve seeds into four threes in several ways: two pools, each followed by its references."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.arange(12), *(torch.randperm(12, generator=generator) for _ in range(N_DIVISIONS - 1))]
    return [order.view(4, 3).tolist() for order in orders]


def constructions(
    saes: list[SAE], rates: FiringRates, d_sae: int, pool: list[int], references: list[int]
) -> dict[str, SAE]:
    """Build an SAE of d_sae latents in every way from three seeds and three references."""

    def pooled(members: list[int], order: Any) -> SAE:
        return pool_features(
            {f"sae_{i}": saes[i] for i in members},
            d_sae,
            references=[saes[i] for i in references] if order == "reappearance" else None,
            order=order,
            firing_rates={f"sae_{i}": rates.rates[i] for i in members},
            min_firing_rate=floor(rates),
        )

    return {
        "reappearance": pooled(pool, "reappearance"),
        "frequency": pooled(pool, "frequency"),
        "random": pooled(pool, "random"),
        "frequency, six seeds": pooled([*pool, *references], "frequency"),
        "random, six seeds": pooled([*pool, *references], "random"),
    }


def best_rows(saes: list[SAE], rates: FiringRates, n: int, seed: int, references: list[int]) -> torch.Tensor:
    """Give the n decoder rows of a single SAE that reappear most in the references, by p̂ and then by cosine, [n, d_in]."""
    rows, others = unit(saes[seed]), [unit(saes[i]) for i in references]
    cosines = torch.stack([top_cosines(rows, other).values[:, 0] for other in others])
    key = (cosines >= THRESHOLD).float().mean(dim=0) * 10 + cosines.mean(dim=0)
    key[rates.rates[seed] < floor(rates)] = -1
    return rows[key.argsort(descending=True)[:n]]


def unit(sae: SAE) -> torch.Tensor:
    """Give unit decoder rows."""
    return torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)


def floor(rates: FiringRates) -> float:
    """A hundred firings."""
    return 100 / rates.n_tokens


def main() -> None:
    """Measure and write the result."""
    training, held_out = cached_activations(GENERAL)
    saes = stability_saes()["topk"]
    rates = firing_rates_on(saes, training[:RATE_TOKENS])
    rows: dict[str, dict[str, Any]] = {}
    for d_sae in SIZES:
        shares: dict[str, list[float]] = {}
        for division, (pool_a, references_a, pool_b, references_b) in enumerate(divisions()):
            built = [
                constructions(saes, rates, d_sae, pool, references)
                for pool, references in ((pool_a, references_a), (pool_b, references_b))
            ]
            for name in built[0]:
                shares.setdefault(name, []).append(matched(built[0][name].W_dec, built[1][name].W_dec))
                if division == 0 and "six" not in name:
                    rows[f"{name}, {d_sae}"] = explained([sides[name] for sides in built], training, held_out)
            if d_sae < D_SAE:
                single = (
                    best_rows(saes, rates, d_sae, pool[0], references)
                    for pool, references in ((pool_a, references_a), (pool_b, references_b))
                )
                shares.setdefault("best of a single SAE", []).append(matched(*single))
        for name, found in shares.items():
            rows.setdefault(f"{name}, {d_sae}", {})["reappears_in_the_other"] = spread(found)
            print(name, d_sae, rows[f"{name}, {d_sae}"])
    counted = [unit(sae)[rate >= floor(rates)] for sae, rate in zip(saes, rates.rates, strict=True)]
    write_result(
        __file__,
        {
            "threshold": THRESHOLD,
            "retraining_tokens": RETRAINING_TOKENS,
            "divisions": divisions(),
            "pooled": rows,
            "single": {
                "reappears_in_another": spread([matched(a, b) for a, b in combinations(counted, 2)]),
                "ev": spread([quality(sae, held_out) for sae in saes]),
                **explained(saes[:2], training, held_out),
            },
        },
    )


def explained(built: list[SAE], training: torch.Tensor, held_out: torch.Tensor) -> dict[str, Any]:
    """Give EV with encoders as they are and retrained."""
    trained, lrs = zip(*(retrained(sae, training) for sae in built), strict=True)
    return {
        "ev_copied_encoders": [quality(sae, held_out) for sae in built],
        "ev_retrained_encoders": [quality(sae, held_out) for sae in trained],
        "retraining_lr": lrs,
    }


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
