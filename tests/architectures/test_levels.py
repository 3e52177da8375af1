"""Budgets: on Kron, in `with_k`, in configurations and on disk."""

import copy
import json
from typing import Any

import pytest
import torch
from sae_lens import SAE

from sae_lens_ext import (
    KronSAE,
    with_k,
)
from tests.architectures.ranked import D_IN, K, both, gradients, make, some_dead, step


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("budgets", ["all", (1, 3), (2,)])
def test_KronTrainingSAE_mse_is_the_mean_of_krons_over_the_budgets(budgets: Any, rescale: bool) -> None:
    sae = make("kron", budgets=budgets, rescale_acts_by_decoder_norm=rescale)
    x, expected = torch.randn(30, D_IN), []
    for k in sae.cfg.levels:
        single = make("kron", k=k, rescale_acts_by_decoder_norm=rescale)
        single.load_state_dict(sae.state_dict())
        expected.append(step(single, x).losses["mse_loss"])
    output = step(sae, x)
    torch.testing.assert_close(output.losses["mse_loss"], torch.stack(expected).mean())
    torch.testing.assert_close(output.metrics["mse_loss_full_budget"](), expected[-1].detach())


def test_KronTrainingSAE_without_budgets_trains_for_k_alone() -> None:
    plain = make("kron")
    listed = make("kron", budgets=(K,))
    listed.load_state_dict(plain.state_dict())
    x, dead = torch.randn(30, D_IN), some_dead("few")
    assert plain.cfg.budgets is None and plain.cfg.levels == listed.cfg.levels == (K,)
    assert torch.equal(step(plain, x, dead).loss, step(listed, x, dead).loss)


def test_KronTrainingSAE_keeps_no_latent_beyond_its_largest_budget(tmp_path) -> None:
    sae, x = make("kron", budgets=(1, 3)), torch.randn(30, D_IN)
    assert (sae.encode(x) != 0).sum(dim=-1).max() == 3
    values, _ = sae.encode_sparse(x)
    assert values.shape == (30, K) and not values[:, 3:].any()
    sae.save_inference_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    assert type(loaded) is KronSAE and loaded.cfg.k == 3
    torch.testing.assert_close(loaded(x), sae(x))
    below = with_k(loaded, 2)
    assert (below.encode(x) != 0).sum(dim=-1).max() == 2


@pytest.mark.parametrize(
    ("budgets", "kept"), [(None, None), ("all", "all"), ((1, 2, 4), (1, 2)), ((1, 4), (1, 2)), ((4,), (2,))]
)
@both
def test_with_k_keeps_k_latents_whatever_the_budgets(name: str, budgets: Any, kept: Any) -> None:
    if budgets is None and name == "hierarchical_topk":
        budgets = kept = "all"
    sae, x = make(name, budgets=budgets), torch.randn(30, D_IN)
    smaller = with_k(sae, 2)
    assert (smaller.encode(x) != 0).sum(dim=-1).max() == 2
    values, indices = sae.encode_sparse(x)
    found, found_indices = smaller.encode_sparse(x)
    torch.testing.assert_close(found, values[:, :2])
    assert torch.equal(found_indices, indices[:, :2])
    assert smaller.cfg.levels[-1] == smaller.cfg.k == 2 and smaller.cfg.budgets == kept
    assert sae.cfg.k == K and sae.cfg.budgets == budgets


@both
def test_with_k_goes_no_higher_than_the_largest_budget_trained(name: str) -> None:
    sae = make(name, budgets=(1, 3))
    assert with_k(sae, 3).cfg.levels == (1, 3)
    with pytest.raises(ValueError, match=r"k = 4 is out of range.* trained with = 3"):
        with_k(sae, 4)


@pytest.mark.parametrize(
    ("budgets", "complaint"),
    [
        ((), r"budgets = \(\) names no budgets. Give \"all\" for every budget from 1 to k = 4"),
        ("some", r"budgets = 'some' names no budgets"),
        (4, r"budgets = 4 names no budgets"),
        ((0, 4), r"holds 0, which is outside 1..k"),
        ((-1, 4), r"holds -1, which is outside 1..k"),
        ((1, 5), r"holds 5, which is outside 1..k.*such as \(1, 4\)"),
        ((2, 1), r"budgets = \(2, 1\) is unsorted or repeats a budget"),
        ([2, 2], r"budgets = \[2, 2\] is unsorted or repeats a budget"),
        ((1.5, 2), r"holds 1.5, not a whole number"),
        ((True, 2), r"holds True, not a whole number"),
        (("1", 2), r"holds '1', not a whole number"),
    ],
)
def test_KronTrainingSAEConfig_refuses_budgets(budgets: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=r"^KronTrainingSAEConfig\." + f".*{complaint}"):
        make("kron", budgets=budgets)


@pytest.mark.parametrize("budgets", ["all", ["all"], ("all",)])
def test_KronTrainingSAEConfig_all_budgets_is_every_one_up_to_k(budgets: Any) -> None:
    cfg = make("kron", budgets=budgets).cfg
    assert cfg.budgets == "all" and cfg.levels == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("name", "budgets"),
    [
        ("kron", None),
        ("kron", "all"),
        ("kron", (1, 3)),
        ("hierarchical_topk", "all"),
        ("hierarchical_topk", (1, 3)),
    ],
)
def test_budgets_survive_dictionaries_and_json(name: str, budgets: Any) -> None:
    cfg = make(name, budgets=budgets).cfg
    fields = cfg.to_dict()
    before = copy.deepcopy(fields)
    for again in (type(cfg).from_dict(fields), type(cfg).from_dict(json.loads(json.dumps(fields)))):
        assert again.budgets == budgets and again.levels == cfg.levels
        assert again == cfg
    assert fields == before


@both
def test_budgets_given_as_a_list_are_a_tuple_and_leave_the_list_alone(name: str) -> None:
    budgets = [1, 3]
    cfg = make(name, budgets=budgets).cfg
    assert cfg.budgets == (1, 3) and budgets == [1, 3]


@pytest.mark.parametrize("budgets", ["all", (1, 3)])
@both
def test_a_checkpoint_of_training_comes_back_with_its_budgets(name: str, budgets: Any, tmp_path) -> None:
    sae, x = make(name, budgets=budgets), torch.randn(20, D_IN)
    sae.save_model(tmp_path)
    loaded = type(sae).load_from_disk(tmp_path)
    assert type(loaded) is type(sae) and loaded.cfg.budgets == budgets
    torch.testing.assert_close(step(loaded, x, some_dead("few")).loss, step(sae, x, some_dead("few")).loss)
    torch.testing.assert_close(gradients(loaded), gradients(sae))
