import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.steering.reading.path_patching.distances import MEASURES, distance_sums, kl_divergence
from sae_lens_ext.steering.reading.path_patching.measure import estimates


def test_kl_of_two_coins_by_hand():
    p, q = torch.tensor([[0.5, 0.5]]).double(), torch.tensor([[0.25, 0.75]]).double()
    assert kl_divergence(p.log(), q.log()).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    certain = torch.tensor([[1.0, 0.0]]).double()
    assert kl_divergence(certain.log(), q.log()).item() == pytest.approx(math.log(4))


@given(seed=st.integers(0, 2**31))
def test_kl_is_torchs_and_never_negative(seed: int):
    generator = torch.Generator().manual_seed(seed)
    log_p, log_q = (torch.randn(5, 7, generator=generator).double().log_softmax(-1) for _ in range(2))
    expected = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(kl_divergence(log_p, log_q), expected)
    assert (kl_divergence(log_p, log_q) >= 0).all()


def test_distances_sum_by_row():
    logits = torch.tensor(
        [[0.0, math.log(3)], [0.0, 0.0], [0.0, math.log(3)]]
    )  # p = (1/4, 3/4), (1/2, 1/2), (1/4, 3/4)
    reference = torch.zeros(3, 2)
    of = {"reference": reference, "base": logits, "full": reference}
    sums = distance_sums(logits, of, torch.tensor([1, 0, 0]), torch.tensor([2, 0, 2]), 3)
    kl = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    expected = {
        "kl_to_reference": [0, 0, 2 * kl],
        "kl_to_base": [0, 0, 0],
        "kl_to_full": [0, 0, 2 * kl],
        "agreement": [1, 0, 0],
        "delta_p": [0, 0, 0.25 - 0.25],
        "p": [0.5, 0, 1],
    }
    assert dict(zip(MEASURES, sums.tolist(), strict=True)) == {
        name: pytest.approx(values) for name, values in expected.items()
    }


def test_means_are_over_tokens_and_rows_without_any_do_not_count():
    counts = [1, 0, 3]
    base = np.zeros((len(MEASURES), 3))
    mode = np.zeros((len(MEASURES), 3))
    base[MEASURES.index("kl_to_full")] = [2.0, 0.0, 6.0]
    mode[MEASURES.index("kl_to_full")] = [0.0, 0.0, 2.0]
    mode[MEASURES.index("p")] = [1.0, 0.0, 1.0]
    [row] = estimates(mode[None], base, counts, range(len(counts)), 200, 0)
    p, kept = row["p"], row["effect_kept"]
    assert p is not None and kept is not None
    assert p.value == pytest.approx(2 / 4)  # 2 of 4 tokens, not the mean of 1 and 1/3
    assert (p.low, p.high) == (pytest.approx(1 / 3), pytest.approx(1.0))
    assert kept.value == pytest.approx(1 - 2 / 8)
    [nothing] = estimates(mode[None], np.zeros_like(base), counts, range(len(counts)), 200, 0)
    assert nothing["effect_kept"] is None
