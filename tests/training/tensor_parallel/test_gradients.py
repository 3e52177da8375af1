"""The norm of divided gradients, against torch's on the whole."""

import pytest
import torch

from sae_lens_ext.ranks import current_ranks
from sae_lens_ext.training.tensor_parallel import clip_divided_gradients_
from tests.contract.synthetic import step_input
from tests.in_ranks import in_ranks
from tests.training.tensor_parallel.divided import joined, share_of, undivided

X = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("max_norm", [0.01, 1e6], ids=["clipped", "left"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_clipping_is_that_of_the_undivided_sae(n: int, max_norm: float) -> None:
    whole = undivided()

    def clip() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        share = share_of(whole)
        share.training_forward_pass(step_input(X)).loss.backward()
        norm = clip_divided_gradients_(share.named_parameters(), max_norm, current_ranks())
        return norm, {name: p.grad for name, p in share.named_parameters()}

    parts = in_ranks(n, clip)
    whole.training_forward_pass(step_input(X)).loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(whole.parameters(), max_norm)
    for found, _ in parts:
        torch.testing.assert_close(found, norm)
    for name, gradient in joined([gradients for _, gradients in parts]).items():
        torch.testing.assert_close(gradient, whole.get_parameter(name).grad)


def test_by_hand() -> None:
    """Ranks with 3 and 4 of a divided parameter and 12 of a common one: √(9 + 16 + 144) = 13."""

    def clip() -> tuple[float, float, float]:
        ranks = current_ranks()
        own, common = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
        own.grad, common.grad = torch.tensor([3.0 + ranks.rank]), torch.tensor([12.0])
        norm = clip_divided_gradients_([("b_enc", own), ("b_dec", common)], 6.5, ranks)
        return norm.item(), own.grad.item(), common.grad.item()

    for rank, found in enumerate(in_ranks(2, clip)):
        assert found == pytest.approx((13.0, (3.0 + rank) / 2, 6.0))


def test_no_gradients_have_no_norm() -> None:
    assert clip_divided_gradients_([], 1.0, current_ranks()) == 0
