"""The loss of sequences against hand-worked numbers and a loop, and comparisons of two models."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sae_lens_ext.lime import attach_lime
from sae_lens_ext.lime.training import LanguageModelLoss, language_model_loss


class Bigram(torch.nn.Module):
    """A model of two tokens: after 0 it says 1 with probability 3/4, after 1 it says 0 with 1/2."""

    def __init__(self) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(n_ctx=8, d_vocab=2, model_name="bigram")
        self.table = torch.nn.Parameter(torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log())

    def forward(self, tokens: torch.Tensor, return_type: str) -> torch.Tensor:
        assert return_type == "logits"
        return self.table[tokens]


def test_hand_worked():
    found = language_model_loss(Bigram(), [torch.tensor([[0, 1, 0], [0, 0, 1]]), torch.tensor([[1, 1]])])

    a, b, c = -math.log(0.75) - math.log(0.5), -math.log(0.25) - math.log(0.75), -math.log(0.5)
    np.testing.assert_allclose(found.losses, [a, b, c], rtol=1e-6)
    assert found.counts.tolist() == [2, 2, 1]
    assert found.loss == pytest.approx((a + b + c) / 5)
    assert found.perplexity == pytest.approx(math.exp((a + b + c) / 5))


def test_a_mask_counts_only_what_it_says():
    tokens, mask = torch.tensor([[0, 1, 0]]), torch.tensor([[True, False, True]])
    found = language_model_loss(Bigram(), tokens, loss_mask=mask)

    assert found.losses.tolist() == pytest.approx([math.log(2)])
    assert found.counts.tolist() == [1]


def test_it_equals_a_loop_whatever_the_batches(any_carrier: Any, tokens: torch.Tensor):
    attach_lime(any_carrier, initial="random")
    log_probs = any_carrier(tokens, return_type="logits").detach().log_softmax(-1)
    by_loop = [
        -sum(float(log_probs[i, t, tokens[i, t + 1]]) for t in range(tokens.shape[1] - 1))
        for i in range(len(tokens))
    ]

    for batch_size in (1, 3, 16):
        found = language_model_loss(any_carrier, tokens, batch_size=batch_size)
        np.testing.assert_allclose(found.losses, by_loop, rtol=1e-5)


def test_the_model_is_measured_without_dropout_and_without_gradients(sae_bridge: Any, tokens: torch.Tensor):
    still = language_model_loss(sae_bridge, tokens)
    random = torch.get_rng_state()
    sae_bridge.train()

    assert (language_model_loss(sae_bridge, tokens).losses == still.losses).all()
    assert sae_bridge.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in sae_bridge.parameters())


def test_autocast_changes_little(native_bridge: Any, tokens: torch.Tensor):
    exact = language_model_loss(native_bridge, tokens).loss
    rough = language_model_loss(native_bridge, tokens, autocast=True).loss

    assert rough != exact
    assert rough == pytest.approx(exact, abs=0.02)


def test_the_interval_comes_from_resampling_sequences():
    losses, counts = np.array([1.0, 2.0, 6.0]), np.array([1, 1, 2])
    found = LanguageModelLoss(losses, counts).interval

    generator = np.random.default_rng(0)
    drawn = generator.integers(3, size=(2000, 3))
    ratios = [losses[rows].sum() / counts[rows].sum() for rows in drawn]
    assert found.value == pytest.approx(9 / 4)
    assert [found.low, found.high] == pytest.approx(np.percentile(ratios, (2.5, 97.5)).tolist())


def test_perplexity_is_the_exponential_of_loss_and_ends():
    result = LanguageModelLoss(np.array([1.0, 2.0]), np.array([1, 1]))
    perplexity, loss = result.perplexity_estimate(), result.interval

    assert loss.low is not None and loss.high is not None
    assert (perplexity.value, perplexity.low, perplexity.high) == pytest.approx(
        (math.exp(1.5), math.exp(loss.low), math.exp(loss.high))
    )
    assert LanguageModelLoss(np.array([1.0]), np.array([2])).perplexity_estimate().low is None


def test_a_paired_difference_does_not_vary_with_what_both_share():
    counts = np.full(50, 10)
    hard = np.random.default_rng(1).uniform(5, 50, 50)
    mine, theirs = LanguageModelLoss(hard - 1.0, counts), LanguageModelLoss(hard, counts)

    difference = mine.minus(theirs)
    assert [difference.value, difference.low, difference.high] == pytest.approx([-0.1] * 3)
    assert mine.minus(mine).value == 0


def test_losses_of_other_tokens_are_not_compared():
    one = language_model_loss(Bigram(), torch.tensor([[0, 1, 0]]))
    other = language_model_loss(Bigram(), torch.tensor([[1, 1, 0]]))

    with pytest.raises(ValueError, match="The losses to be compared are of different tokens: 1 sequences"):
        one.minus(other)


def test_a_model_that_gives_nan_is_refused():
    model = Bigram()
    model.table.data[1, 0] = float("nan")

    with pytest.raises(ValueError, match=r"loss on sequence 1 is nan, and not finite on 1 of 2 sequences"):
        language_model_loss(model, torch.tensor([[0, 1], [1, 0]]))


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"language_model_loss was given batch_size = 0\. Give a whole"):
        language_model_loss(Bigram(), torch.tensor([[0, 1]]), batch_size=0)
    with pytest.raises(ValueError, match=r"language_model_loss was given tokens with the token id 2\."):
        language_model_loss(Bigram(), torch.tensor([[0, 2]]))


def test_it_is_saved_and_shown(tmp_path: Path):
    result = language_model_loss(Bigram(), torch.tensor([[0, 1, 0], [0, 0, 1]]))
    result.save(tmp_path / "loss.json")
    again = LanguageModelLoss.load(tmp_path / "loss.json")

    assert (again.losses == result.losses).all()
    assert again.minus(result).value == 0
    assert again.provenance == result.provenance
    assert len(repr(result).splitlines()) == 3
    assert result.to_frame()["loss_per_token"].tolist() == (result.losses / 2).tolist()
    assert "<table" in result._repr_html_()
    assert result.plot().layout.xaxis.title.text == "loss of a sequence (nats per token)"  # pyright: ignore
    (tmp_path / "loss.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a LanguageModelLoss that this version can read"):
        LanguageModelLoss.load(tmp_path / "loss.json")
