"""A share of a TopK SAE trains as the whole does: losses, reconstructions, latents and every gradient."""

import copy
from typing import Any

import pytest
import torch
from sae_lens import BatchTopKTrainingSAEConfig, TopKTrainingSAE

from sae_lens_ext import HierarchicalTopKTrainingSAEConfig
from sae_lens_ext.architectures.training_step import NonFiniteTrainingError
from sae_lens_ext.ops import chunks as chunks_module
from sae_lens_ext.ranks import Ranks, current_ranks
from sae_lens_ext.training.tensor_parallel import DividedTopKTrainingSAE
from tests.contract.synthetic import step_input
from tests.in_ranks import in_ranks
from tests.training.tensor_parallel.divided import joined, share_of, topk_cfg, undivided

X = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
DEAD = torch.arange(32) % 3 == 0
ONE_RANK_DEAD = torch.arange(32) >= 27
Outcome = dict[str, Any]


def step(sae: Any, dead: torch.Tensor | None, autocast: bool = False) -> Outcome:
    """Take a training step and give everything that comes of it."""
    own = getattr(sae, "own", slice(None))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = sae.training_forward_pass(
            step_input(X.to(sae.dtype), dead=None if dead is None else dead[own])
        )
    output.loss.backward()
    acts = output.feature_acts
    return {
        "losses": {name: loss.detach() for name, loss in output.losses.items()},
        "loss": output.loss.detach(),
        "sae_out": output.sae_out.detach(),
        "acts": (acts.to_dense() if acts.is_sparse else acts).detach(),
        "gradients": {name: p.grad for name, p in sae.named_parameters()},
    }


def require_same(parts: list[Outcome], whole: Outcome, **tolerance: Any) -> None:
    for part in parts:
        for name in ("losses", "loss", "sae_out"):
            torch.testing.assert_close(part[name], whole[name], **tolerance)
            torch.testing.assert_close(part[name], parts[0][name], rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([part["acts"] for part in parts], 1), whole["acts"], **tolerance)
    gradients = joined([part["gradients"] for part in parts])
    for name, gradient in whole["gradients"].items():
        torch.testing.assert_close(
            gradients[name], gradient, msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize(
    ("rescale", "b_dec_on_input"), [(True, True), (False, True), (True, False), (False, False)]
)
@pytest.mark.parametrize(
    "dead", [None, DEAD, ONE_RANK_DEAD], ids=["none_dead", "third_dead", "one_rank_dead"]
)
def test_ranks_train_as_one_process(
    n: int, rescale: bool, b_dec_on_input: bool, dead: torch.Tensor | None
) -> None:
    whole = undivided(rescale_acts_by_decoder_norm=rescale, apply_b_dec_to_input=b_dec_on_input)
    parts = in_ranks(n, lambda: step(share_of(whole), dead))
    require_same(parts, step(whole, dead), rtol=1e-5, atol=1e-5)
    assert dead is None or parts[0]["losses"]["auxiliary_reconstruction_loss"] > 0


def test_ranks_train_as_saelens_topk() -> None:
    whole = undivided()
    theirs = TopKTrainingSAE(topk_cfg())
    theirs.load_state_dict(whole.state_dict())
    require_same(in_ranks(2, lambda: step(share_of(whole), DEAD)), step(theirs, DEAD), rtol=1e-5, atol=1e-5)


def test_k_may_be_larger_than_what_a_rank_has() -> None:
    whole = undivided(k=20)
    require_same(in_ranks(4, lambda: step(share_of(whole), DEAD)), step(whole, DEAD), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dead", [DEAD, ONE_RANK_DEAD], ids=["third_dead", "one_rank_dead"])
def test_chunks_do_not_change_the_step(dead: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = undivided()
    expected = step(copy.deepcopy(whole), dead)
    monkeypatch.setitem(chunks_module.FLOATS_PER_CHUNK, "cpu", 75)
    require_same(in_ranks(2, lambda: step(share_of(whole), dead)), expected, rtol=1e-5, atol=1e-5)


def test_autocast_is_as_close_as_its_precision() -> None:
    whole = undivided()
    parts = in_ranks(2, lambda: step(share_of(whole), DEAD, autocast=True))
    require_same(parts, step(whole, DEAD, autocast=True), rtol=0.02, atol=0.02)


def test_double_precision_agrees_to_its_last_digits() -> None:
    whole = undivided(dtype="float64")
    require_same(in_ranks(2, lambda: step(share_of(whole), DEAD)), step(whole, DEAD), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rescale", [False, True])
def test_a_weight_that_is_not_a_number_on_one_rank_stops_all(rescale: bool) -> None:
    whole = undivided(rescale_acts_by_decoder_norm=rescale)
    with torch.no_grad():
        whole.b_enc[3] = torch.nan

    def stopped() -> None:
        with pytest.raises(NonFiniteTrainingError, match="the loss is not finite"):
            share_of(whole).training_forward_pass(step_input(X))

    in_ranks(2, stopped)
    with pytest.raises(NonFiniteTrainingError, match="the loss is not finite"):
        whole.training_forward_pass(step_input(X))


def test_the_log_speaks_of_the_whole() -> None:
    whole = undivided()

    def log() -> tuple[str, dict[str, Any]]:
        share = share_of(whole)
        return share.get_name(), share.log_histograms()

    assert in_ranks(2, log) == [(whole.get_name(), {})] * 2


def test_no_auxiliary_loss_where_its_coefficient_is_zero() -> None:
    whole = undivided()
    parts = in_ranks(2, lambda: step(share_of(whole, aux_loss_coefficient=0.0), DEAD))
    assert all(part["losses"]["auxiliary_reconstruction_loss"] == 0 for part in parts)


def test_decoding_what_was_encoded_is_the_whole_reconstruction() -> None:
    whole = undivided()
    x = X.view(4, 5, 8)

    def through() -> tuple[torch.Tensor, torch.Tensor]:
        share = share_of(whole)
        acts = share.encode(x)
        return acts.detach(), share.decode(acts).detach()

    parts = in_ranks(2, through)
    torch.testing.assert_close(torch.cat([acts for acts, _ in parts], -1), whole.encode(x).detach())
    for _, out in parts:
        torch.testing.assert_close(out, whole(x).detach())


def test_initial_weights_are_those_of_the_undivided_sae(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_lens_ext.training.tensor_parallel.initial_weights.NUMBERS_AT_ONCE", 24)
    for fields in ({}, {"decoder_init_norm": None}, {"dtype": "bfloat16"}):
        torch.manual_seed(3)
        whole = TopKTrainingSAE(topk_cfg(**fields))
        after = torch.rand(1)

        def draw(fields: dict[str, Any] = fields) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
            torch.manual_seed(3)
            return DividedTopKTrainingSAE(topk_cfg(**fields)).state_dict(), torch.rand(1)

        parts = in_ranks(4, draw)
        for name, tensor in joined([state for state, _ in parts]).items():
            assert tensor.equal(whole.state_dict()[name]), name
        assert all(next_number.equal(after) for _, next_number in parts)


def test_no_tensor_is_as_large_as_batch_times_all_latents() -> None:
    """What one rank holds for the backward pass: less than one number a token and latent of its own."""
    whole = undivided(d_sae=2048)

    def largest() -> int:
        share, sizes = share_of(whole), [0]

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if not any(tensor.data_ptr() == p.data_ptr() for p in share.parameters()):
                sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            share.training_forward_pass(step_input(X))
        return max(sizes)

    assert max(in_ranks(2, largest)) <= 20 * 8


def test_fewer_latents_than_k_a_token_are_decoded_where_a_rank_keeps_few() -> None:
    whole = undivided()
    with torch.no_grad():
        whole.b_enc[:16] += 100.0  # the first rank's are always the best

    def width() -> int:
        return share_of(whole).encode_sparse(X)[0].shape[1]

    assert in_ranks(2, width) == [4, 1]


@pytest.mark.parametrize(
    ("cfg", "complaint"),
    [
        (
            BatchTopKTrainingSAEConfig(d_in=8, d_sae=32, k=4),
            "BatchTopKTrainingSAEConfig describes an SAE whose latents",
        ),
        (
            HierarchicalTopKTrainingSAEConfig(d_in=8, d_sae=32, k=4),
            r"budgets = 'all' names several.*budgets=\(4,\)",
        ),
        (HierarchicalTopKTrainingSAEConfig(d_in=8, d_sae=32, k=4, budgets=(2,)), "or one below k = 4"),
        (topk_cfg(k=33), "k = 33 is out of range. Give an int between 1 and d_sae = 32"),
        (topk_cfg(normalize_activations="layer_norm"), "'layer_norm' is not supported"),
    ],
)
def test_what_cannot_be_divided_is_refused(cfg: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        DividedTopKTrainingSAE(cfg)


def test_latents_that_do_not_divide_evenly_are_refused() -> None:
    ranks = current_ranks()
    with pytest.raises(
        ValueError, match=r"d_sae = 32 latents cannot be divided evenly over 3 ranks.*30 or 33"
    ):
        DividedTopKTrainingSAE(topk_cfg(), Ranks(0, 3, ranks.tell))


def test_hooks_on_latents_are_refused() -> None:
    sae = DividedTopKTrainingSAE(topk_cfg())
    sae.hook_sae_acts_post.add_hook(lambda tensor, hook: tensor)
    with pytest.raises(ValueError, match="has no dense latents for a hook to see.*hook_sae_acts_post"):
        sae.training_forward_pass(step_input(X))


def test_one_budget_of_a_hierarchical_topk_is_divided_as_topk() -> None:
    whole = undivided()

    def divided() -> Outcome:
        sae = DividedTopKTrainingSAE(whole.cfg)
        sae.load_state_dict(share_of(whole).state_dict())
        return step(sae, DEAD)

    require_same(in_ranks(2, divided), step(whole, DEAD), rtol=1e-5, atol=1e-5)
