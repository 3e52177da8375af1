"""What `feature_stability` costs at the paper's size: eight SAEs of 16,384 latents, d_in = 768, and one pair against SAELens.

The dictionaries are made up, half of each one's features being noisy copies of features that all have: what time depends on is how
many latents have a near twin.

    python benchmarks/stability_scale.py
"""

import resource
import time
from functools import partial

import torch
from interleaved import interleaved
from result import write_result
from sae_lens import SAE, TopKSAE, TopKSAEConfig
from sae_lens.synthetic.evals import mean_correlation_coefficient

from sae_lens_ext import feature_stability
from sae_lens_ext.analysis.matching.assignment import one_to_one
from sae_lens_ext.analysis.matching.cosines import paired_cosines

D_IN, D_SAE, N_SAES = 768, 16_384, 8
SHARED = 0.5
NOISE = 0.6
"""Length of the noise on a unit vector: a copy's cosine with another is about 1 / (1 + 0.36) = 0.74."""
PAIR_SIZES = (1_024, 2_048, 4_096, 8_192)
ROUNDS = 3
SAELENS, OURS = "SAELens mean_correlation_coefficient", "one_to_one"


def made_up(seed: int, d_sae: int) -> SAE:
    """Give an SAE of random latents, a share of them noisy copies of what all have."""
    shared = torch.randn(int(SHARED * d_sae), D_IN, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1 + seed)
    sae = TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=d_sae, k=64))

    def rows() -> torch.Tensor:
        own = torch.randn(d_sae, D_IN, generator=generator)
        own[: len(shared)] = shared + NOISE * own[: len(shared)]
        return torch.nn.functional.normalize(own[order], dim=1)

    order = torch.randperm(d_sae, generator=generator)
    sae.W_dec.data, sae.W_enc.data = rows(), rows().T.contiguous()
    return sae


def ours(a: torch.Tensor, b: torch.Tensor) -> float:
    """PW-MCC of two dictionaries by candidates and sparse assignment."""
    return float(paired_cosines(a, b, one_to_one(a, b)).nan_to_num(0.0).mean())


def main() -> None:
    """Measure and write the result."""
    pairs = {}
    for d_sae in PAIR_SIZES:
        a, b = (made_up(seed, d_sae).W_dec.detach() for seed in range(2))
        times = interleaved(
            {SAELENS: partial(mean_correlation_coefficient, a, b), OURS: partial(ours, a, b)},
            rounds=ROUNDS,
            warm_up=1,
            against=SAELENS,
        )
        pairs[d_sae] = {
            **times,
            "mcc": {SAELENS: mean_correlation_coefficient(a, b), OURS: ours(a, b)},
        }
        print(d_sae, pairs[d_sae])
    saes = [made_up(seed, D_SAE) for seed in range(N_SAES)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        report = feature_stability(saes)
        seconds.append(round(time.perf_counter() - start, 1))
    print(seconds, report)
    write_result(
        __file__,
        {
            "settings": {"d_in": D_IN, "d_sae": D_SAE, "saes": N_SAES, "shared": SHARED, "noise": NOISE},
            "pairs": pairs,
            "feature_stability_seconds": seconds,
            "peak_mib_above_the_saes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
            "one_matrix_of_cosines_mib": D_SAE**2 * 4 / 2**20,
            "match_rate": report.match_rate,
        },
    )


if __name__ == "__main__":
    main()
