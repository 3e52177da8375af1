"""Firing rates against a loop over tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TopKSAE, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.saes.topk_sae import TopK

from sae_lens_ext.analysis.stability.firing import FiringRates, firing_rates_on, measure_firing_rates
from sae_lens_ext.architectures.inference import as_inference
from tests.analysis.domains import BATCH, CONTEXT, HEADS, N_CONTEXTS, RESIDUAL, TEXTS, read_tokens, sae_at
from tests.language_model.test_hook_points import own_name

# What PyTorch says when SAELens makes the first sparse tensor of a process.
sparse_latents = pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")


def measure(model: Any, saes: Any, texts: Any = None, **settings: Any) -> FiringRates:
    small = {
        "context_size": CONTEXT,
        "max_tokens": CONTEXT * N_CONTEXTS,
        "batch_size": BATCH,
        "show_progress": False,
    }
    return measure_firing_rates(
        model, saes, TEXTS["code"] if texts is None else texts, **{**small, **settings}
    )


@torch.no_grad()
def activations_of(model: Any, hook_name: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that are read [n, pos], and the activations there [n, pos, ...]."""
    tokens = read_tokens(model, "code", seed)
    return tokens, model.run_with_cache(tokens, names_filter=[hook_name])[1][hook_name]


def counted_by_hand(sae: SAE[Any], tokens: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
    """Rates [d_sae], token by token."""
    fired, n = [0] * sae.cfg.d_sae, 0
    for row, vectors in zip(tokens.tolist(), activations, strict=True):
        for token, x in zip(row, vectors, strict=True):
            if token != 0:
                n += 1
                for latent, value in enumerate(sae.encode(x[None])[0].tolist()):
                    fired[latent] += value != 0
    return torch.tensor([count / n for count in fired])


def pair_at(hook_name: str, **fields: Any) -> dict[str, SAE[Any]]:
    return {name: sae_at(hook_name, seed=seed, **fields) for seed, name in enumerate("ab")}


def test_measure_firing_rates_is_a_loop_over_tokens(any_model: Any) -> None:
    hook = own_name(any_model, *RESIDUAL)
    saes = pair_at(hook)
    found = measure(any_model, saes)
    tokens, x = activations_of(any_model, hook)
    assert found.names == ("a", "b") and (tokens[:, 1:] == 0).any()  # special tokens not only at the start
    assert found.n_tokens == (tokens != 0).sum() < tokens.numel()
    for rates, sae in zip(found.rates, saes.values(), strict=True):
        torch.testing.assert_close(rates, counted_by_hand(sae, tokens, x))
        assert rates.dtype == torch.float32 and 0 < rates.mean() < 1
    assert not torch.equal(*found.rates)
    for name, value in {"hook_name": hook, "context_size": CONTEXT, "seed": 0}.items():
        assert found.provenance[name] == value
    assert found.provenance["n_tokens"] == found.n_tokens and len(found.provenance["tokens_sha256"]) == 64


def test_measure_firing_rates_does_not_count_what_fires_at_special_tokens_only(hooked_model) -> None:
    tokens, x = activations_of(hooked_model, RESIDUAL[0])
    starts, rest = x[:, 0], x[tokens != 0]
    direction = torch.nn.functional.normalize(starts[0] - rest.mean(0), dim=0)
    saes = pair_at(RESIDUAL[0])
    for sae in saes.values():  # latent 0 fires where BOS is the first token, and nowhere else
        sae.b_dec.data.zero_()
        sae.W_enc.data[:, 0] = direction
        sae.b_enc.data[0] = -((starts @ direction).min() + (rest @ direction).max()) / 2
        sae.threshold.data[0] = 0
        assert (sae.encode(starts)[:, 0] > 0).all()
    assert [rates[0] for rates in measure(hooked_model, saes).rates] == [0, 0]


def test_measure_firing_rates_runs_the_model_once_for_all_saes(any_model: Any) -> None:
    passes: list[int] = []
    any_model.register_forward_pre_hook(lambda *_: passes.append(1))
    hook = own_name(any_model, *RESIDUAL)
    measure(any_model, {str(seed): sae_at(hook, seed=seed) for seed in range(5)})
    assert len(passes) == N_CONTEXTS // BATCH


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_measure_firing_rates_does_not_depend_on_the_batches(hooked_model, batch_size: int) -> None:
    saes = pair_at(RESIDUAL[0])
    found = measure(hooked_model, saes, batch_size=batch_size)
    for rates, expected in zip(found.rates, measure(hooked_model, saes).rates, strict=True):
        torch.testing.assert_close(rates, expected, atol=2 / found.n_tokens, rtol=0)


def test_measure_firing_rates_reads_the_contexts_that_the_seed_says(hooked_model) -> None:
    saes = pair_at(RESIDUAL[0])
    first, again, other = (measure(hooked_model, saes, seed=seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, first.rates, again.rates)) and first.provenance == again.provenance
    assert first.provenance["tokens_sha256"] != other.provenance["tokens_sha256"]
    torch.testing.assert_close(
        other.rates[0], counted_by_hand(saes["a"], *activations_of(hooked_model, RESIDUAL[0], seed=2))
    )
    few = measure(hooked_model, saes, max_tokens=3 * CONTEXT + 1)
    assert few.n_tokens == (read_tokens(hooked_model, "code")[:3] != 0).sum()


def test_measure_firing_rates_of_all_heads_and_of_one(any_model: Any) -> None:
    hook = own_name(any_model, *HEADS)
    reshape = {"reshape_activations": "hook_z"} if hook.endswith("_z") else {}
    everything, one = pair_at(hook, **reshape), pair_at(hook, d_in=8)
    for sae in one.values():
        sae.cfg.metadata.hook_head_index = 1
    tokens, z = activations_of(any_model, hook)
    found = measure(any_model, everything)
    by_hand = counted_by_hand(everything["b"], tokens, z if reshape else z.flatten(2))
    torch.testing.assert_close(found.rates[1], by_hand)
    assert all(sae.hook_z_reshaping_mode == bool(reshape) for sae in everything.values())
    by_hand = counted_by_hand(one["b"], tokens, z[:, :, 1])
    torch.testing.assert_close(measure(any_model, one).rates[1], by_hand)
    one["a"].cfg.metadata.hook_head_index = None  # one that says it is enough
    torch.testing.assert_close(measure(any_model, one).rates[1], by_hand)
    one["a"].cfg.metadata.hook_head_index = 0
    with pytest.raises(
        ValueError, match=r"measure_firing_rates was given SAEs of different heads: 0 \('a'\)"
    ):
        measure(any_model, one)


def test_measure_firing_rates_with_autocast_runs_the_model_in_bfloat16(hooked_model) -> None:
    saes = pair_at(RESIDUAL[0])
    found = measure(hooked_model, saes, autocast=True, max_tokens=BATCH * CONTEXT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens, x = activations_of(hooked_model, RESIDUAL[0])
    tokens, x = tokens[:BATCH], x[:BATCH].float()
    torch.testing.assert_close(
        found.rates[0], counted_by_hand(saes["a"], tokens, x), atol=0.03, rtol=0
    )  # batches round differently


def test_firing_rates_on_is_measure_firing_rates_on_the_same_activations(hooked_model) -> None:
    saes = pair_at(RESIDUAL[0])
    tokens, x = activations_of(hooked_model, RESIDUAL[0])
    measured = measure(hooked_model, saes)
    for batch_size_tokens in (7, 4096):
        found = firing_rates_on(saes, x[tokens != 0], batch_size_tokens=batch_size_tokens)
        assert (found.names, found.n_tokens) == (measured.names, measured.n_tokens)
        for rates, expected in zip(found.rates, measured.rates, strict=True):
            torch.testing.assert_close(rates, expected, atol=1 / found.n_tokens, rtol=0)


@sparse_latents
def test_firing_rates_on_takes_training_saes_in_their_inference_form() -> None:
    x = torch.randn(50, 8)
    saes: list[SAE[Any]] = [
        TopKTrainingSAE(TopKTrainingSAEConfig(d_in=8, d_sae=12, k=3, use_sparse_activations=sparse))
        for sparse in (True, False)
    ]
    assert saes[0].encode(x).is_sparse
    before = [{name: tensor.clone() for name, tensor in sae.state_dict().items()} for sae in saes]
    found = firing_rates_on(saes, x)
    for rates, sae, weights in zip(found.rates, saes, before, strict=True):
        torch.testing.assert_close(rates, (as_inference(sae).encode(x) != 0).float().mean(dim=0))
        assert rates.sum() <= 3
        assert all(torch.equal(weights[name], tensor) for name, tensor in sae.state_dict().items())


@sparse_latents
def test_firing_rates_on_takes_sparse_latents_and_counts_no_stored_zeros() -> None:
    saes = [TopKSAE(TopKSAEConfig(d_in=8, d_sae=12, k=6)) for _ in "ab"]
    x = torch.randn(50, 8)
    dense = firing_rates_on(saes, x)
    for sae in saes:
        sae.activation_fn = TopK(6, use_sparse_activations=True)
    assert (saes[0].encode(x).coalesce().values() == 0).any()  # of a k-th largest that is negative
    assert all(map(torch.equal, firing_rates_on(saes, x).rates, dense.rates))


def test_firing_rates_on_counts_in_the_precision_of_each_sae() -> None:
    saes = pair_at(RESIDUAL[0])
    saes["b"].to(dtype=torch.bfloat16)
    x = torch.randn(64, 16)
    found = firing_rates_on(saes, x)
    assert torch.equal(found.rates[1], (saes["b"].encode(x.bfloat16()) != 0).float().mean(dim=0))
    assert firing_rates_on(saes, x.bfloat16()).n_tokens == 64


@pytest.mark.parametrize("mode", ["layer_norm", "constant_norm_rescale"])
def test_firing_rates_on_normalises_as_the_sae_does(mode: Any) -> None:
    saes = pair_at(RESIDUAL[0], normalize_activations=mode)
    x = torch.randn(40, 16) * 5
    assert torch.equal(firing_rates_on(saes, x).rates[0], (saes["a"].encode(x) != 0).float().mean(dim=0))


def test_FiringRates_repr_says_in_three_lines_what_was_counted() -> None:
    rates = FiringRates(
        ("a", "b"),
        (torch.tensor([0.5, 0.0]), torch.tensor([0.0, 0.0])),
        12_345,
        {"model_name": "gpt2", "hook_name": "blocks.0.hook_out"},
    )
    assert repr(rates) == (
        "FiringRates of 2 SAEs (a, b)\n"
        "  on 12,345 tokens; latents that never fired: 1, 2\n"
        "  gpt2 at blocks.0.hook_out"
    )
    assert repr(firing_rates_on(pair_at(RESIDUAL[0]), torch.randn(5, 16))).endswith(f"None at {RESIDUAL[0]}")


def test_FiringRates_comes_back_from_its_file_and_is_a_table_and_a_figure(tmp_path: Path) -> None:
    rates = FiringRates(
        ("a", "b"), (torch.tensor([0.5, 0.0]), torch.tensor([0.25, 0.125, 0.0])), 8, {"model_name": "gpt2"}
    )
    rates.save(tmp_path / "rates.json")
    again = FiringRates.load(tmp_path / "rates.json")
    assert (again.names, again.n_tokens, again.provenance) == (rates.names, rates.n_tokens, rates.provenance)
    assert all(map(torch.equal, again.rates, rates.rates))
    assert rates.to_frame().values.tolist() == [
        ["a", 0, 0.5],
        ["a", 1, 0.0],
        ["b", 0, 0.25],
        ["b", 1, 0.125],
        ["b", 2, 0.0],
    ]
    one, other = rates.plot().data
    assert (one.name, other.name) == ("a, 1 silent", "b, 1 silent") and len(other.x) == 2
    assert "gpt2" in rates._repr_html_()
