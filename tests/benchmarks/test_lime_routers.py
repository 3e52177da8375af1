"""The training of routers on a frozen model, on a tiny random one."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from sae_lens_ext.lime import LimeRouters


@pytest.fixture
def script(load_benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    module = load_benchmark("lime_routers")
    monkeypatch.setattr(module, "TINY", replace(module.TINY, folder=tmp_path))
    return module


def test_one_command_trains_measures_and_writes(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--tiny"])
    script.main()
    written = json.loads((tmp_path / "lime_routers.json").read_text())
    text = script.TINY.text
    assert written["parameters"] == {"routers": 2 * 2 * (2 + 3 + 4), "own layer": 3 * 2 * 2, "norms": 16}
    assert set(written[text]) == {"routers", "own layer", "norms"}
    assert written["routers minus own layer"][text]["value"] == pytest.approx(
        written[text]["routers"]["loss"] - written[text]["own layer"]["loss"]
    )
    for name, rate in written["learning_rates"].items():
        tried = written["validation_change_of_loss_after_trial"][name]
        assert tried[f"{rate:g}"] == min(tried.values())
    assert LimeRouters.load(tmp_path / "lime_routers.safetensors").n_layers == 4
    assert written["circuits"]


def test_training_changes_what_it_should_and_leaves_the_model_as_it_was(script: ModuleType) -> None:
    size = script.TINY
    model = script.random_model(size)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokens = script.contexts(
        size.text, model.tokenizer, context_size=size.context, train=512, validation=128, held_out=128
    )
    routers, _ = script.train(model, "routers", 1e-2, tokens, size)
    assert all(bool(R[:, :-1].any()) for layer, R in routers.weights.items() if layer > 0)
    assert routers.model is None
    control, _ = script.train(model, "own layer", 1e-2, tokens, size)
    assert not any(bool(R[:, :-1].any()) for R in control.weights.values())
    assert all(not torch.equal(R[:, -1], torch.eye(2)) for layer, R in control.weights.items() if layer > 0)
    norms, _ = script.train(model, "norms", 1e-2, tokens, size)
    assert {layer: gain.shape for layer, gain in norms.items()} == {0: (16,)}
    assert not torch.equal(norms[0], torch.ones(16))
    losses = {
        name: script.measured(model, trained, tokens.held_out).loss
        for name, trained in {"": None, "a": routers, "b": control, "c": norms}.items()
    }
    assert len(set(losses.values())) == 4
    assert script.measured(model, None, tokens.held_out).loss == losses[""]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_pattern_is_read_off_the_other_layers(script: ModuleType) -> None:
    routers = LimeRouters(6, 1)
    with torch.no_grad():
        for layer in range(1, 6):
            routers.weights[layer][:, 0] = 3.0
            routers.weights[layer][:, layer - 1] += 1.0
    found = script.pattern(routers)
    assert found["first_buffer_of_layers_2_to_4"] == pytest.approx([0.75] * 3)
    assert found["uniform_of_layers_2_to_4"] == pytest.approx([1 / 2, 1 / 3, 1 / 4])
    assert found["predecessor_mean"] == pytest.approx(0.25)
    assert found["predecessor_is_largest"] == 0.0
    assert found["first_two_of_last_three_layers"] == pytest.approx([0.75] * 3)
    json.dumps(found, allow_nan=False)
