"""What differs between the SAEs of `train_seeds` and what does not, and that every architecture can be trained so."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, LoggingConfig, MultiSAETrainingRunner, MultiSAETrainingRunnerConfig
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY, get_sae_training_class
from sae_lens.training.prefetch import PrefetchingIterator
from sae_lens.util import temporary_seed

from sae_lens_ext import KronTrainingSAEConfig, train_seeds
from sae_lens_ext.architectures.inference import as_inference
from tests.contract.cases import TRAINED

from .tiny import (
    BATCH,
    BUFFER,
    EVERY_VARY,
    HOOK,
    STEPS,
    equal_weights,
    rows,
    settings,
    several,
    single,
    topk,
)

MORE: dict[str, dict[str, Any]] = {
    "topk": {"k": 4},
    "batchtopk": {"k": 4},
    "abstopk": {"k": 4},
    "matching_pursuit": {"decoder_init_norm": 1.0},
    "matryoshka_batchtopk": {"k": 4, "matryoshka_widths": [16, 64]},
}


def test_initialisation_varies_the_weights_and_nothing_else(train, seen) -> None:
    saes = train(single(), range(3))
    assert len(saes) == len(seen.starts) == 3
    for i in range(3):
        assert torch.equal(seen.streams[i], seen.streams[0]) and len(seen.streams[i]) == STEPS
        for j in range(i):
            assert not torch.equal(seen.starts[i]["W_dec"], seen.starts[j]["W_dec"])
            assert not torch.equal(saes[i].W_dec, saes[j].W_dec)


@pytest.mark.parametrize("normalization", ["none", "expected_average_only_in", "covariance_whitening"])
def test_initialisation_is_bit_for_bit_what_sae_lens_trains_alone(
    train, hooked_model, token_dataset, restored_signals, normalization: str
) -> None:
    sae_cfg = topk(normalize_activations=normalization)
    together = train(single(sae=sae_cfg, seed=7), [0, 5, 9])
    for seed, sae in zip([0, 5, 9], together, strict=True):
        cfg = MultiSAETrainingRunnerConfig(
            saes={"alone": copy.deepcopy(sae_cfg)}, hook_names=HOOK, checkpoint_path=None, **settings(None)
        )
        with temporary_seed(seed):
            start = get_sae_training_class("topk")[0](cfg.saes["alone"])
        with temporary_seed(7):
            alone = MultiSAETrainingRunner(
                cfg,
                override_model=hooked_model,
                override_dataset=token_dataset,
                override_saes={"alone": start},
            ).run()
        assert equal_weights(sae, as_inference(alone["alone"]))


def test_data_order_varies_the_order_of_the_same_rows_and_nothing_else(train, seen) -> None:
    saes = train(single(), range(3), vary="data_order")
    for i in range(3):
        assert all(torch.equal(seen.starts[i][name], seen.starts[0][name]) for name in seen.starts[0])
        assert rows(seen.streams[i]) == rows(seen.streams[0]) and len(seen.streams[i]) == STEPS
        for j in range(i):
            assert all(rows(a) != rows(b) for a, b in zip(seen.streams[i], seen.streams[j], strict=True))
            assert not torch.equal(saes[i].W_dec, saes[j].W_dec)


def test_data_order_has_the_rows_that_sae_lens_own_order_has(train, seen) -> None:
    train(single(), range(2), vary="data_order")
    train(single(), range(2))
    in_orders, as_it_is = seen.streams[0], seen.streams[2]
    assert not torch.equal(in_orders, as_it_is)
    assert rows(in_orders) == rows(as_it_is)
    for first, last in ((0, 6), (6, STEPS)):  # the buffer holds six batches
        assert rows(in_orders[first:last]) == rows(as_it_is[first:last])


def test_both_varies_weights_and_order(train, seen) -> None:
    train(single(), range(2), vary="both")
    assert not torch.equal(seen.starts[0]["W_dec"], seen.starts[1]["W_dec"])
    assert not torch.equal(seen.streams[0], seen.streams[1])
    assert rows(seen.streams[0]) == rows(seen.streams[1])


@pytest.mark.parametrize("vary", EVERY_VARY)
def test_equal_seeds_give_equal_starts_and_orders(train, seen, vary: str) -> None:
    twice = [train(single(), seeds, vary=vary) for seeds in ([3, 8], [8, 1, 3])]
    assert equal_weights(twice[0][0], twice[1][2]) and equal_weights(twice[0][1], twice[1][0])
    assert torch.equal(seen.streams[0], seen.streams[4]) and torch.equal(seen.streams[1], seen.streams[2])
    architectures = {"first": topk(), "second": topk()}
    train(several(architectures), [1, 2], vary=vary)
    for seed in (5, 6):
        assert torch.equal(seen.streams[seed], seen.streams[seed + 2])


@pytest.mark.parametrize("vary", EVERY_VARY)
def test_the_shared_seed_decides_what_is_shared(train, seen, vary: str) -> None:
    for seed in (0, 1):
        train(single(seed=seed), [3, 4], vary=vary)
    assert torch.equal(seen.starts[0]["W_dec"], seen.starts[2]["W_dec"]) == (vary != "data_order")
    assert not torch.equal(seen.streams[0], seen.streams[2])


@pytest.mark.parametrize("vary", EVERY_VARY)
def test_the_global_random_state_is_what_it_was_and_does_not_matter(train, vary: str) -> None:
    found = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        found.append(train(single(), [0, 1], vary=vary))
        assert torch.equal(torch.get_rng_state(), before)
    assert all(equal_weights(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("vary", EVERY_VARY)
def test_the_language_model_runs_once_for_all(train, hooked_model, monkeypatch, vary: str) -> None:
    passes: list[int] = []
    run_with_cache = hooked_model.run_with_cache
    monkeypatch.setattr(
        hooked_model, "run_with_cache", lambda *a, **k: passes.append(1) or run_with_cache(*a, **k)
    )
    counts = []
    for n in (2, 4):
        passes.clear()
        train(single(), range(n), vary=vary)
        counts.append(len(passes))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("mode", ["expected_average_only_in", "covariance_whitening"])
def test_normalization_is_estimated_from_one_stream_for_all(train, seen, mode: str) -> None:
    for vary in EVERY_VARY:
        for sae in train(single(sae=topk(normalize_activations=mode)), range(2), vary=vary):
            assert sae.cfg.normalize_activations == "none"
            assert all(weight.isfinite().all() for weight in sae.parameters())
    assert len(set(seen.scales)) == 1 and (seen.scales[0] is None) == (mode == "covariance_whitening")
    in_order, reordered, both = seen.streams[0], seen.streams[2], seen.streams[4]
    assert rows(in_order) == rows(reordered) == rows(both)  # the batches of the estimate are not trained on


@pytest.mark.parametrize("vary", EVERY_VARY)
def test_the_seeds_are_in_the_metadata_and_are_saved(train, tmp_path: Path, vary: str) -> None:
    saes = train(single(tmp_path, seed=11), [3, 5], vary=vary)
    for seed, sae in zip([3, 5], saes, strict=True):
        loaded = SAE.load_from_disk(tmp_path / f"seed_{seed}")
        assert equal_weights(sae, loaded) and sae.cfg == loaded.cfg
        assert loaded.cfg.metadata.initialisation_seed == (11 if vary == "data_order" else seed)
        assert loaded.cfg.metadata.data_order_seed == (11 if vary == "initialisation" else seed)
        assert (loaded.cfg.metadata.model_name, loaded.cfg.metadata.hook_name) == ("tiny", HOOK)
        loaded.save_model(tmp_path / "again")
        assert SAE.load_from_disk(tmp_path / "again").cfg.metadata == loaded.cfg.metadata


def test_without_an_output_folder_the_saes_are_the_same_and_nothing_is_written(
    train, tmp_path: Path, monkeypatch
) -> None:
    saved = train(single(tmp_path / "out"), range(2))
    monkeypatch.chdir(tmp_path)
    given = train(single(None, n_checkpoints=3), range(2))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for a, b in zip(saved, given, strict=True):
        assert type(a) is type(b) and equal_weights(a, b)
        assert json.dumps(a.cfg.to_dict()) == json.dumps(b.cfg.to_dict())


def tiny_cases() -> dict[str, tuple[Any, str]]:
    """A configuration of every architecture that can be trained, and the architecture it is saved as."""
    ours = {str(case): (case.config, case.saved_as) for case in TRAINED}
    more = {
        name: (
            lambda name=name: SAE_TRAINING_CLASS_REGISTRY[name][1](d_in=16, d_sae=64, **MORE.get(name, {})),
            "",
        )
        for name in SAE_TRAINING_CLASS_REGISTRY
        if name not in ours
    }
    return {**ours, **more}


@pytest.mark.parametrize("case", tiny_cases())
def test_every_architecture_is_trained_from_two_seeds(train, tmp_path: Path, case: str) -> None:
    config, saved_as = tiny_cases()[case]
    first, second = train(single(tmp_path, config()), range(2))
    assert type(first) is type(second) and not torch.equal(first.W_dec, second.W_dec)
    assert all(weight.isfinite().all() for sae in (first, second) for weight in sae.parameters())
    if saved_as:
        assert type(first) is SAE_CLASS_REGISTRY[saved_as][0]
    again = train_seeds(
        single(tmp_path, config()), range(2)
    )  # the record knows the settings: nothing is trained
    assert equal_weights(again[1], second) and again[1].cfg.metadata.initialisation_seed == 1


@pytest.mark.parametrize("vary", EVERY_VARY)
def test_several_architectures_and_hooks_are_trained_side_by_side(train, seen, tmp_path, vary: str) -> None:
    kron = KronTrainingSAEConfig(d_in=16, d_sae=32, k=4, base_dim=2, extension_dim=4)
    hooks = {"topk": HOOK, "kron": "blocks.1.hook_resid_post"}
    cfg = several({"topk": topk(), "kron": kron}, tmp_path, hook_names=hooks)
    saes = train(cfg, {"kron": [1, 7], "topk": [1, 2, 3]}, vary=vary)
    assert [sae.cfg.architecture() for sae in saes] == ["topk"] * 3 + ["kron"] * 2
    assert [sae.cfg.metadata.hook_name for sae in saes] == [hooks["topk"]] * 3 + [hooks["kron"]] * 2
    folders = [f"topk_seed_{seed}" for seed in (1, 2, 3)] + [f"kron_seed_{seed}" for seed in (1, 7)]
    assert all(
        equal_weights(SAE.load_from_disk(tmp_path / name), sae)
        for name, sae in zip(folders, saes, strict=True)
    )
    assert not torch.equal(seen.streams[0], seen.streams[3])  # another hook
    assert rows(seen.streams[3]) == rows(seen.streams[4])


def test_one_list_of_seeds_is_for_every_architecture(train) -> None:
    kron = KronTrainingSAEConfig(d_in=16, d_sae=32, k=4, base_dim=2, extension_dim=4)
    saes = train(several({"kron": kron, "topk": topk()}), [4, 2])
    found = [(sae.cfg.architecture(), sae.cfg.metadata.initialisation_seed) for sae in saes]
    assert found == [("kron", 4), ("kron", 2), ("topk", 4), ("topk", 2)]


def test_a_transformer_bridge_serves_too(native_bridge, token_dataset) -> None:
    cfg = single(hook_name="blocks.0.hook_out")
    saes = train_seeds(cfg, range(2), override_model=native_bridge, override_dataset=token_dataset)
    assert saes[0].cfg.metadata.hook_name == "blocks.0.hook_out"


@pytest.mark.parametrize("vary", EVERY_VARY)
def test_evaluators_get_the_stream_as_sae_lens_gives_it(train, seen, monkeypatch, vary: str) -> None:
    paused: list[int] = []
    pause = PrefetchingIterator.paused
    monkeypatch.setattr(PrefetchingIterator, "paused", lambda self: paused.append(1) or pause(self))
    shapes: list[tuple[int, ...]] = []

    def evaluator(sae: Any, stream: Any, scaler: Any) -> dict[str, float]:
        shapes.append(tuple(next(stream).shape))
        return {"mine": 1.0}

    logger = LoggingConfig(log_to_wandb=True, wandb_log_frequency=1, eval_every_n_wandb_logs=4)
    cfg = several(
        {"topk": topk()}, evaluator=evaluator, logger=logger, n_eval_batches=1, prefetch_llm_batches=True
    )
    train(cfg, range(2), vary=vary)
    assert shapes == [(BATCH, 16)] * 4 and len(paused) == 2  # of ten steps the fourth and the eighth
    assert rows(seen.streams[0]) == rows(seen.streams[1]) and len(seen.streams[0]) == STEPS


def test_seqpos_slice_and_excluded_tokens_are_as_in_sae_lens(train, seen) -> None:
    cfg = single(seqpos_slice=(4, 12), exclude_special_tokens=[0, 5], n_batches_in_buffer=2 * BUFFER)
    train(cfg, range(2), vary="data_order")
    assert rows(seen.streams[0]) == rows(seen.streams[1])
    for first, last in ((0, 6), (6, STEPS)):  # a pool is no larger than the buffer, which holds slices
        assert rows(seen.streams[0][first:last]) == rows(seen.streams[1][first:last])
    assert rows(seen.streams[0][:7]) != rows(seen.streams[1][:7])
