from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sae_lens_ext.bootstrap import Estimate, mean_estimate
from sae_lens_ext.steering import AddVector, steer
from sae_lens_ext.steering.reading.path_patching import identities, patched_paths, path_patching
from sae_lens_ext.steering.reading.path_patching.modes import PathMode
from sae_lens_ext.steering.sequences import Sequences
from sae_lens_ext.steering.training.measure import measure_reward
from sae_lens_ext.steering.vectors import SteeringVectors
from tests.conftest import TINY

QUICK: dict[str, Any] = {"n_resamples": 50}


@pytest.fixture
def sequences(tokens: torch.Tensor) -> Sequences:
    """Of unequal lengths, one without a generated token."""
    rows = tuple(tokens[i, :n] for i, n in enumerate((9, 5, 12, 3)))
    return Sequences(rows, (3, 1, 7, 3))


def slowly(
    model: Any, sequences: Sequences, vector: torch.Tensor, mode: str, reference: str
) -> dict[str, float]:
    """One text, one mode and one position at a time."""

    def log_probs(tokens: torch.Tensor, of: str) -> torch.Tensor:
        with torch.no_grad(), patched_paths(model, vector, of):
            return model(tokens[None], return_type="logits")[0].double().log_softmax(-1)

    def kl(p: torch.Tensor, q: torch.Tensor) -> float:
        return sum(float(a.exp() * (a - b)) for a, b in zip(p, q, strict=True))

    found: dict[str, list[float]] = {}
    for tokens, prompt in zip(sequences.tokens, sequences.prompt_lengths, strict=True):
        of = {name: log_probs(tokens, name) for name in {mode, reference, "full", "base"}}
        for t in range(prompt, len(tokens)):
            p = {name: table[t - 1] for name, table in of.items()}
            came = int(tokens[t])
            for name, value in {
                "kl_to_reference": kl(p[reference], p[mode]),
                "kl_to_base": kl(p["base"], p[mode]),
                "left": kl(p["full"], p[mode]),
                "whole": kl(p["full"], p["base"]),
                "agreement": float(p[mode].argmax() == p[reference].argmax()),
                "delta_p": float(p[mode][came].exp() - p[reference][came].exp()),
                "p": float(p[mode][came].exp()),
            }.items():
                found.setdefault(name, []).append(value)
    means = {name: float(np.mean(values)) for name, values in found.items()}
    means["effect_kept"] = 1 - means.pop("left") / means.pop("whole")
    return means


@pytest.mark.parametrize("reference", ["skip_layer"])
def test_numbers_are_those_of_a_slow_loop(
    every_model: Any, sequences: Sequences, vector: torch.Tensor, reference: str
):
    modes = ("full", "skip_attn", "skip_mlp", "skip_layer", "base", "vanilla:q:1", "only:v:0")
    found = path_patching(
        every_model, vector, sequences, modes=modes, reference=reference, batch_size=2, **QUICK
    )
    assert [row.mode for row in found.rows] == list(modes)
    assert (found.n_tokens, found.n_sequences, found.layer) == (15, 3, every_model.cfg.n_layers - 2)
    for mode in modes:
        row = found.at(mode)
        for name, value in slowly(every_model, sequences, vector, mode, reference).items():
            assert getattr(row, name).value == pytest.approx(value, abs=1e-5), (mode, name)
            assert (
                getattr(row, name).low - 1e-12 <= getattr(row, name).value <= getattr(row, name).high + 1e-12
            )
    assert found.at("full").effect_kept.value == pytest.approx(1)
    assert found.at("base").effect_kept.value == pytest.approx(0, abs=1e-9)
    assert found.at(reference).kl_to_reference.value == 0
    assert max(found.identities.values()) < 1e-5
    assert len(found.identities) == 5


def test_batches_do_not_matter_and_seeds_repeat(llama: Any, sequences: Sequences, vector: torch.Tensor):
    one, other = (path_patching(llama, vector, sequences, batch_size=size, **QUICK) for size in (1, 8))
    left, right = (found.to_frame().drop(columns=["part", "head"]) for found in (one, other))
    assert left["mode"].tolist() == ["full", "skip_attn", "skip_layer", "base"]
    numbers = [name for name in left.columns if name not in ("mode", "kind")]
    np.testing.assert_allclose(left[numbers], right[numbers], atol=1e-5)
    again = path_patching(llama, vector, sequences, batch_size=8, **QUICK)
    assert again.rows == other.rows


def test_all_heads_of_a_llama_are_measured(llama: Any, sequences: Sequences, vector: torch.Tensor):
    found = path_patching(llama, SteeringVectors({0: vector}), sequences, heads="all", **QUICK)
    names = [row.mode for row in found.rows]
    assert len(names) == 4 + 2 * (4 + 2 + 2)
    assert names[4:9] == ["vanilla:q:0", "vanilla:q:1", "vanilla:q:2", "vanilla:q:3", "vanilla:k:0"]
    assert found.layer == 0
    frame = found.to_frame()
    assert frame["head"].isna().sum() == 4
    assert set(frame["part"].dropna()) == {"q", "k", "v"}


def test_the_reward_of_each_mode_is_what_sampling_in_it_gives(any_model: Any, vector: torch.Tensor):
    prompts = ["w1 w2 w3", "w4", "w5 w6"]

    def reward(prompt: str, completion: str) -> float:
        return float("w7" in completion or "w1" in completion)

    settings: dict[str, Any] = {
        "samples_per_prompt": 3,
        "max_new_tokens": 4,
        "temperature": 0.9,
        "seed": 3,
        "batch_size": 4,
    }
    modes = ("full", "skip_attn", "skip_layer", "base")
    found = path_patching(any_model, vector, modes=modes, prompts=prompts, reward=reward, **settings, **QUICK)
    assert found.n_tokens == 0
    assert found.at("full").kl_to_reference is None
    ways: dict[str, Callable[[], Any]] = {
        "full": lambda: steer(any_model, AddVector("blocks.0.hook_resid_post", vector)),
        "skip_layer": lambda: steer(any_model, AddVector("blocks.1.hook_resid_post", vector)),
        "skip_attn": lambda: patched_paths(any_model, vector, "skip_attn"),
    }

    def expected() -> Estimate:
        by_prompt = measure_reward(any_model, prompts, reward, **settings).rewards.mean(axis=1)
        return mean_estimate(by_prompt, n_resamples=QUICK["n_resamples"], seed=3)

    for mode, way in ways.items():
        with way():
            assert found.at(mode).reward == expected()
    assert found.at("base").reward == expected()


def test_texts_and_reward_together(hooked_model: Any, vector: torch.Tensor):
    found = path_patching(
        hooked_model,
        vector,
        [("w1 w2", "w3 w4 w5"), ("w6", "w7 w8")],
        prompts=["w1"],
        reward=lambda prompt, completion: len(completion),
        samples_per_prompt=2,
        max_new_tokens=2,
        **QUICK,
    )
    row = found.at("skip_attn")
    assert row.effect_kept is not None and row.reward is not None
    assert found.n_tokens == 5
    assert found.provenance["samples_per_prompt"] == 2


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        ("full", "full = plain steering"),
        ("skip_layer", "skip_layer = adding the vector after the block"),
        ("base", "base = no steering"),
    ],
)
def test_an_identity_that_does_not_hold_is_named_with_its_size(
    hooked_model: Any,
    sequences: Sequences,
    vector: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    name: str,
):
    @contextmanager
    def wrong(model: Any, vector: Any, mode: PathMode, *, layer: int) -> Any:
        other = (
            {"full": "skip_attn", "skip_layer": "full", "base": "skip_layer"}[mode.name]
            if mode.name == broken
            else mode
        )
        with patched_paths(model, vector, other, layer=layer):
            yield

    monkeypatch.setattr(identities, "patched_paths", wrong)
    with pytest.raises(
        RuntimeError, match=rf"{name} does not hold: a logit differs by \d.*e.* of the largest"
    ):
        path_patching(hooked_model, vector, sequences, **QUICK)


def test_heads_that_are_not_the_whole_are_named(
    hooked_model: Any, sequences: Sequences, vector: torch.Tensor, monkeypatch: pytest.MonkeyPatch
):
    @contextmanager
    def wrong(model: Any, layer: int, vector: Any, reads: Any) -> Any:
        with patched_paths(model, vector, "vanilla:v:0", layer=layer):
            yield

    monkeypatch.setattr(identities, "reading", wrong)
    with pytest.raises(RuntimeError, match="all heads' q, k and v vanilla = skip_attn does not hold"):
        path_patching(hooked_model, vector, sequences, **QUICK)


def test_where_heads_cannot_be_patched_the_whole_block_still_can(
    tokenizer: Any, sequences: Sequences, vector: torch.Tensor
):
    """Attention of short-former models adds positions to what q and k read, behind the norm."""
    fields: Any = {**TINY, "normalization_type": "LN", "positional_embedding_type": "shortformer"}
    model = HookedTransformer(HookedTransformerConfig(**fields, device="cpu"), tokenizer).eval()
    found = path_patching(model, vector, sequences, **QUICK)
    assert len(found.identities) == 3
    with pytest.raises(NotImplementedError, match="no head of this HookedTransformer can be patched exactly"):
        path_patching(model, vector, sequences, heads="all", **QUICK)
    model.cfg.load_in_4bit = True
    with pytest.raises(ValueError, match="no q, k and v projections of its own in full precision"):
        path_patching(model, vector, sequences, modes=["only:q:0"], **QUICK)


def test_the_tolerance_follows_the_precision():
    assert identities.tolerance_of(torch.float32) == identities.tolerance_of(torch.float64) == 1e-4
    assert identities.tolerance_of(torch.bfloat16) == pytest.approx(0.078125)


def test_a_model_in_bfloat16_is_measured(llama_bridge: Any, sequences: Sequences, vector: torch.Tensor):
    llama_bridge.to(torch.bfloat16)
    found = path_patching(llama_bridge, vector, sequences, heads="all", **QUICK)
    assert found.at("skip_attn").effect_kept.value < 1


def test_bad_arguments_are_refused(hooked_model: Any, sequences: Sequences, vector: torch.Tensor):
    def refused(match: str, given: Any = sequences, **kwargs: Any) -> None:
        with pytest.raises(ValueError, match=match):
            path_patching(hooked_model, vector, given, **kwargs)

    refused("neither sequences nor prompts", None)
    refused("prompts without reward", prompts=["w1"])
    refused("reward without prompts", reward=len)
    refused("one string as prompts", prompts="w1", reward=len)
    refused("empty list of prompts", prompts=[], reward=len)
    refused("modes = 'full'. Give a list of modes", modes="full")
    refused("the mode 'full' twice", modes=["full", PathMode.full()])
    refused("given no mode", modes=[])
    refused("There is no path mode 'skip'", modes=["skip"])
    refused("There is no path mode 'skip'", reference="skip")
    refused("heads = 'some'", heads="some")
    refused("head 2 of q, but block 1", modes=["only:q:2"])
    refused("head 2 of v, but block 1", reference="only:v:2")
    refused("batch_size", batch_size=0)
    refused("n_resamples", n_resamples=0)
    refused("sequences without a token after their prompts", Sequences((torch.tensor([1, 2]),), (2,)))
    refused("one string", "w1 w2")
    refused("layer 1, after which", layer=1)


def test_logits_that_are_not_finite_are_refused(hooked_model: Any, sequences: Sequences):
    with torch.no_grad():
        hooked_model.unembed.b_U[3] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        path_patching(hooked_model, torch.ones(16), sequences, **QUICK)


def test_an_attached_sae_is_refused(hooked_model: Any, sequences: Sequences, vector: torch.Tensor):
    sae = StandardSAE(StandardSAEConfig(d_in=16, d_sae=4))
    sae.cfg.metadata.hook_name = "blocks.0.hook_resid_post"
    hooked_model.add_sae(sae)
    with pytest.raises(ValueError, match="SAEs attached"):
        path_patching(hooked_model, vector, sequences, **QUICK)


def test_the_global_random_state_and_training_mode_are_left(
    hooked_model: Any, sequences: Sequences, vector: torch.Tensor
):
    hooked_model.train()
    state = torch.get_rng_state()
    path_patching(
        hooked_model,
        vector,
        sequences,
        prompts=["w1"],
        reward=lambda p, c: 1,
        samples_per_prompt=2,
        max_new_tokens=2,
        **QUICK,
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert hooked_model.training


def test_half_precision_in_which_the_vector_is_lost_is_refused(sae_bridge: Any, vector: torch.Tensor) -> None:
    sae_bridge.to(torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"bfloat16 is too coarse|does not hold"):
        path_patching(sae_bridge, vector * 1e-3, ["w1 w2 w3 w4", "w5 w6"], **QUICK)


def test_completions_of_one_prompt_are_resampled_together(any_model: Any, vector: torch.Tensor) -> None:
    prompts = [[0, 5, 6], [0, 7, 8], [0, 9, 3]]
    once = Sequences.joined(prompts, [[10, 11], [12], [13, 14, 15]])
    copies = Sequences.joined(
        [p for p in prompts for _ in range(3)], [c for c in ([10, 11], [12], [13, 14, 15]) for _ in range(3)]
    )
    first, second = (
        path_patching(any_model, vector, given, **QUICK).at("skip_attn") for given in (once, copies)
    )
    assert first.kl_to_base is not None
    assert second.kl_to_base is not None
    for name in ("value", "low", "high"):
        assert getattr(second.kl_to_base, name) == pytest.approx(getattr(first.kl_to_base, name), rel=1e-4)
