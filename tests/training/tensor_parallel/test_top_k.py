"""Which candidates are among the best of all ranks, against a sort of all latents."""

import pytest
import torch

from sae_lens_ext.ops import chunks as chunks_module
from sae_lens_ext.ops.ranking import top_k_naive
from sae_lens_ext.ranks import current_ranks
from sae_lens_ext.training.tensor_parallel.top_k import kept_candidates
from tests.in_ranks import in_ranks


def test_by_hand() -> None:
    """Tokens keep 2 of 4: the two largest are both on rank 1; the tie of three 5s goes to the lower ranks."""
    candidates = [torch.tensor([[1.0, 0.5], [5.0, 2.0]]), torch.tensor([[3.0, 2.0], [5.0, 5.0]])]

    def kept() -> list[list[bool]]:
        ranks = current_ranks()
        return kept_candidates(candidates[ranks.rank], 2, ranks, "testing").tolist()

    assert in_ranks(2, kept) == [[[False, False], [True, False]], [[True, True], [True, False]]]


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("k", [1, 3, 6, 16])
def test_ranks_keep_what_a_sort_of_all_latents_keeps(n: int, k: int) -> None:
    """Scores are whole numbers, so that most of them are tied; k may be more than a rank has latents."""
    generator = torch.Generator().manual_seed(k)
    scores = torch.randint(0, 5, (50, 24), generator=generator).float()
    kept = torch.zeros(50, 24, dtype=torch.bool).scatter(1, top_k_naive(scores, k)[1], True)

    def of_rank() -> torch.Tensor:
        ranks = current_ranks()
        own = scores.chunk(ranks.size, dim=1)[ranks.rank]
        values, indices = top_k_naive(own, min(k, own.shape[1]))
        found = kept_candidates(values, k, ranks, "testing")
        return torch.zeros_like(own, dtype=torch.bool).scatter(1, indices, found)

    assert torch.cat(in_ranks(n, of_rank), dim=1).equal(kept)


def test_empty_slots_and_negative_scores_rank_last() -> None:
    def kept() -> list[list[bool]]:
        ranks = current_ranks()
        own = [torch.tensor([[-2.0, -torch.inf]]), torch.tensor([[-1.0, -3.0]])][ranks.rank]
        return kept_candidates(own, 3, ranks, "testing").tolist()

    assert in_ranks(2, kept) == [[[True, False]], [[True, True]]]


def test_a_few_tokens_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = (
        torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0)).sort(dim=2, descending=True).values
    )

    def kept() -> torch.Tensor:
        ranks = current_ranks()
        return kept_candidates(scores[ranks.rank], 3, ranks, "testing")

    whole = in_ranks(2, kept)
    monkeypatch.setitem(chunks_module.FLOATS_PER_CHUNK, "cpu", 13)
    for a, b in zip(in_ranks(2, kept), whole, strict=True):
        assert a.equal(b) and 0 < a.sum() < 27
