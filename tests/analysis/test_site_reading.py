"""read_sites: every hook in one pass, the same numbers as hook by hook."""

from typing import Any

import pytest
import torch

from sae_lens_ext.analysis.site_reading import activations_at, read_sites
from sae_lens_ext.language_model import Site, find_hook_point, read_activations

HOOKS = [
    "blocks.0.hook_attn_out",
    "blocks.1.hook_resid_post",
    "blocks.0.hook_mlp_out",
    "blocks.0.hook_resid_post",
]


@pytest.fixture
def contexts(tokens: torch.Tensor) -> torch.Tensor:
    contexts = tokens.repeat(2, 1)[:5].clone()
    contexts[:, 0] = 0  # BOS
    contexts[3, 7] = 0
    return contexts


def test_every_hook_is_what_reading_it_alone_gives(any_model: Any, contexts: torch.Tensor) -> None:
    batches = list(read_sites(any_model, HOOKS, contexts, batch_size=2, show_progress=False))

    assert [batch.first for batch in batches] == [0, 2, 4]
    assert [len(batch.tokens) for batch in batches] == [2, 2, 1]
    assert list(batches[0].activations) == HOOKS
    for name in HOOKS:
        together = torch.cat([batch.activations[name] for batch in batches])
        torch.testing.assert_close(together, read_activations(any_model, contexts, Site(name)))


def test_special_tokens_do_not_count(hooked_model: Any, contexts: torch.Tensor) -> None:
    batches = list(read_sites(hooked_model, HOOKS[:1], contexts, batch_size=2, show_progress=False))

    counted = torch.cat([batch.counted for batch in batches])
    assert torch.equal(counted, contexts != 0)
    assert torch.equal(torch.cat([batch.tokens for batch in batches]), contexts)


def test_the_model_runs_once_for_a_batch_and_not_past_the_last_hook(
    any_model: Any, contexts: torch.Tensor
) -> None:
    ran = {"blocks.0.hook_attn_out": 0, "blocks.1.hook_resid_post": 0}

    def count(name: str) -> Any:
        def run(activations: torch.Tensor, hook: Any) -> None:
            ran[name] += 1

        return run

    for name in ran:
        find_hook_point(any_model, name).add_hook(count(name))
    list(
        read_sites(
            any_model,
            ["blocks.0.hook_resid_post", "blocks.0.hook_mlp_out"],
            contexts,
            batch_size=2,
            show_progress=False,
        )
    )

    assert ran == {"blocks.0.hook_attn_out": 3, "blocks.1.hook_resid_post": 0}


def test_one_head_or_all_of_them_flattened(hooked_model: Any, contexts: torch.Tensor) -> None:
    name = "blocks.1.attn.hook_z"
    flat = activations_at(hooked_model, contexts, [name])[name]
    second = activations_at(hooked_model, contexts, [Site(name, 1)])[name]

    assert flat.shape == (5, 16, 16)
    assert torch.equal(second, flat[:, :, 8:])


def test_nothing_stays_on_the_model_when_reading_ends_early(
    hooked_model: Any, contexts: torch.Tensor
) -> None:
    batches = read_sites(hooked_model, HOOKS, contexts, batch_size=1, show_progress=False)
    next(batches)
    del batches

    assert all(not find_hook_point(hooked_model, name).fwd_hooks for name in HOOKS)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ([], "No hook was given to read at"),
        ("blocks.0.hook_mlp_out", "One hook name, 'blocks.0.hook_mlp_out', was given"),
        (["blocks.0.hook_mlp_out"] * 2, "'blocks.0.hook_mlp_out' is given twice"),
        (["blocks.9.hook_mlp_out"], r"no hook 'blocks\.9\.hook_mlp_out'"),
    ],
)
def test_wrong_hooks_are_named_before_anything_runs(
    hooked_model: Any, contexts: torch.Tensor, sites: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_sites(hooked_model, sites, contexts)


def test_contexts_must_be_token_ids(hooked_model: Any) -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\) and type torch.int64. Give token ids \[n, pos\]"):
        read_sites(hooked_model, HOOKS, torch.arange(3))
    with pytest.raises(ValueError, match=r"type torch.float32"):
        read_sites(hooked_model, HOOKS, torch.rand(3, 4))


def test_a_hook_that_never_fires_is_an_error(hooked_model: Any, contexts: torch.Tensor) -> None:
    name = "blocks.0.attn.hook_result"  # off by default
    with pytest.raises((RuntimeError, ValueError), match="never fired|no hook"):
        list(read_sites(hooked_model, [name, HOOKS[0]], contexts, show_progress=False))


def test_an_activation_that_is_no_number_is_an_error(hooked_model: Any, contexts: torch.Tensor) -> None:
    with torch.no_grad():
        hooked_model.blocks[0].mlp.b_out[0] = torch.inf
    with pytest.raises(
        ValueError, match="NaN or infinity in the model's activations at 'blocks.0.hook_mlp_out'"
    ):
        list(read_sites(hooked_model, ["blocks.0.hook_mlp_out"], contexts, show_progress=False))
