"""The comparison of small language models with and without LIMe, on tiny ones."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from sae_lens_ext.lime import LanguageModelLoss


@pytest.fixture
def script(load_benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    module = load_benchmark("lime_language_model")
    monkeypatch.setattr(module, "TINY", replace(module.TINY, folder=tmp_path))
    return module


def test_one_command_trains_measures_and_writes(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["script", "--tiny", "--only-train", "--variants", "LIMe", "--seeds", "1"]
    )
    script.main()
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer", "LIMe_1"}
    monkeypatch.setattr(sys, "argv", ["script", "--tiny"])
    script.main()
    written = json.loads((tmp_path / "lime_language_model.json").read_text())
    assert written["parameters"]["plain"]["routers"] == written["parameters"]["average"]["routers"] == 0
    assert (
        written["parameters"]["LIMe"]["routers"] == 2 * 2 * 2 + 2 * 3 * 2
    )  # target heads × layers × source heads
    assert len({counts["model"] for counts in written["parameters"].values()}) == 1
    for variant in ("plain", "LIMe", "average"):
        of_seeds = [written[variant]["by_seed"][seed]["value"] for seed in ("0", "1")]
        assert written[variant]["perplexity"] == pytest.approx(sum(of_seeds) / 2)
        assert 1 < written[variant]["perplexity"] < 300 * 1.5
    difference = written["LIMe minus plain"]
    assert difference["by_seed"]["1"]["value"] == pytest.approx(
        math.log(written["LIMe"]["by_seed"]["1"]["value"])
        - math.log(written["plain"]["by_seed"]["1"]["value"])
    )
    assert difference["over_seeds"]["value"] == pytest.approx(math.log(difference["perplexity_ratio"]))


def test_variants_of_a_seed_begin_with_the_same_weights(script: ModuleType) -> None:
    size = script.TINY
    tokenizer, _ = script.text_of(size)
    states = [script.untrained(variant, 1, tokenizer, size)[0].state_dict() for variant in script.VARIANTS]
    for state in states[1:]:
        assert all(torch.equal(state[name], value) for name, value in states[0].items())
    other = script.untrained("plain", 0, tokenizer, size)[0].state_dict()
    assert any(not torch.equal(other[name], value) for name, value in states[0].items())


def test_the_average_is_not_trained_and_models_are_read_back_with_their_routers(script: ModuleType) -> None:
    size = replace(script.TINY, train_tokens=1024)
    first, routers, _, held_out = script.load_trained("average", 0, size)
    for layer, R in routers.weights.items():
        assert torch.allclose(R, torch.eye(2)[:, None].expand(2, layer + 1, 2) / (layer + 1))
    again, again_routers, _, _ = script.load_trained("average", 0, size)
    with torch.no_grad():
        assert torch.equal(again(held_out), first(held_out))
        with again_routers.paused():
            assert not torch.allclose(again(held_out), first(held_out))


def test_lime_is_trained_with_its_routers(script: ModuleType) -> None:
    size = replace(script.TINY, train_tokens=1024)
    _, routers, tokenizer, _ = script.load_trained("LIMe", 0, size)
    _, begun = script.untrained("LIMe", 0, tokenizer, size)
    assert all(not torch.equal(routers.weights[layer], begun.weights[layer]) for layer in (1, 2))


def test_the_difference_over_seeds_is_the_mean_of_the_seeds(script: ModuleType) -> None:
    def loss(*sums: float) -> LanguageModelLoss:
        return LanguageModelLoss(np.array(sums), np.array([10, 10]), {})

    found: Any = script.over_seeds([loss(10, 20), loss(30, 20)], [loss(20, 20), loss(30, 40)])
    # seed 0: −1 and 0 nats a token, seed 1: 0 and −2; sequences: −0.5 and −1
    assert found.value == pytest.approx(-0.75)
    assert (found.low, found.high) == (pytest.approx(-1.0), pytest.approx(-0.5))


def test_no_document_is_in_two_parts_and_the_tokenizer_is_always_the_same(
    load_benchmark: Any, tmp_path: Path
) -> None:
    text = load_benchmark("lime_text")
    parts = text.documents("python_reference")
    train, validation, held_out = (set(part) for part in (parts.train, parts.validation, parts.held_out))
    assert train and validation and held_out
    assert not train & validation and not train & held_out and not validation & held_out
    one, two = (text.small_tokenizer("python_reference", 300, tmp_path / name) for name in "ab")
    assert one.get_vocab() == two.get_vocab()
    assert (len(one), one.bos_token_id) == (300, 0)
    assert one.decode(one("a naïve λ")["input_ids"]) == "a naïve λ"
