"""The sum over ranks and the copy to ranks, against one process that computes every rank's term."""

import torch

from sae_lens_ext.ranks import current_ranks
from sae_lens_ext.training.tensor_parallel.operators import copy_to_ranks, sum_over_ranks
from tests.in_ranks import in_ranks

COMMON = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
OWN = torch.tensor([[1.0, 2.0, 0.5], [-0.4, 0.9, 3.0]], dtype=torch.float64)


def term(own: torch.Tensor, common: torch.Tensor) -> torch.Tensor:
    return (own * common).sin() + own.square()


def test_two_ranks_have_the_value_and_the_gradients_of_one_process() -> None:
    own, common = OWN.clone().requires_grad_(), COMMON.clone().requires_grad_()
    expected = (term(own[0], common) + term(own[1], common)).exp().sum() + common.square().sum()
    expected.backward()

    def of_rank() -> tuple[torch.Tensor, ...]:
        ranks = current_ranks()
        own, common = OWN[ranks.rank].clone().requires_grad_(), COMMON.clone().requires_grad_()
        copy = copy_to_ranks(common, ranks, "testing")
        loss = sum_over_ranks(term(own, copy), ranks, "testing").exp().sum() + common.square().sum()
        loss.backward()
        return loss.detach(), own.grad, common.grad

    for rank, (loss, d_own, d_common) in enumerate(in_ranks(2, of_rank)):
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(d_own, own.grad[rank])
        torch.testing.assert_close(d_common, common.grad)


def test_gradients_agree_with_differences() -> None:
    """One process moves a number on both ranks and watches the loss; torch's own gradcheck, over two ranks."""

    def check() -> bool:
        ranks = current_ranks()

        def loss(common: torch.Tensor) -> torch.Tensor:
            copy = copy_to_ranks(common, ranks, "testing")
            return sum_over_ranks(term(OWN[ranks.rank], copy), ranks, "testing").exp().sum()

        return torch.autograd.gradcheck(loss, COMMON.clone().requires_grad_())

    assert in_ranks(2, check) == [True, True]


def test_one_rank_changes_nothing() -> None:
    x = COMMON.clone().requires_grad_()
    y = sum_over_ranks(copy_to_ranks(x, current_ranks(), "testing"), current_ranks(), "testing")
    y.sum().backward()
    assert y.equal(x) and x.grad.equal(torch.ones(3, dtype=torch.float64))
