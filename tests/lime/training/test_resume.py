"""A training that was interrupted is the one that was not; a folder belongs to one training."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.lime import LimeRouters, attach_lime
from sae_lens_ext.lime.training import LanguageModelTraining, train_language_model
from sae_lens_ext.lime.training.checkpoint import CHECKPOINT_FILE, TRAINED_FILE
from sae_lens_ext.lime.training.trainer import LanguageModelTrainer

SETTINGS: dict[str, Any] = {
    "batch_size": 2,
    "epochs": 2,
    "checkpoint_every": 1,
    "validate_every": 2,
    "show_progress": False,
}


class Start:
    """A model and routers that can be put back to their beginning, as a new process would build them."""

    def __init__(self, model: Any, initial: Any = "random") -> None:
        self.model, self.routers = model, attach_lime(model, initial=initial, seed=5)
        self._before = [p.detach().clone() for p in self._parameters()]

    def again(self) -> None:
        with torch.no_grad():
            for parameter, value in zip(self._parameters(), self._before, strict=True):
                parameter.copy_(value)

    def values(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self._parameters()]

    def _parameters(self) -> list[torch.Tensor]:
        return [*self.model.parameters(), *self.routers.parameters()]

    def train(self, tokens: torch.Tensor, folder: Path | None, **given: Any) -> LanguageModelTraining:
        return train_language_model(
            self.model,
            [tokens, tokens[:3, :5]],
            validation=tokens[:2],
            folder=folder,
            **({"routers": self.routers} | SETTINGS | given),
        )


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Let a training stop before a step."""
    train_step = LanguageModelTrainer.train_step

    def at(step: int | None) -> None:
        def stopping(trainer: LanguageModelTrainer) -> dict[str, Any]:
            if trainer.step == step:
                raise KeyboardInterrupt
            return train_step(trainer)

        monkeypatch.setattr(LanguageModelTrainer, "train_step", stopping)

    return at


@pytest.mark.parametrize(
    ("kind", "trained"),
    [
        ("hooked_model", "all"),
        ("native_bridge", "all"),
        ("sae_bridge", "all"),  # with dropout, and q, k and v in one matrix
        ("grouped_llama", "all"),
        ("grouped_llama", "routers"),
    ],
)
def test_an_interrupted_training_goes_on_bit_for_bit(
    kind: str,
    trained: Any,
    tokens: torch.Tensor,
    tmp_path: Path,
    interrupt: Callable[..., None],
    request: pytest.FixtureRequest,
):
    start = Start(request.getfixturevalue(kind))
    whole = start.train(tokens, None, trained=trained)
    expected = start.values()

    for step in (0, 1, 6):
        start.again()
        interrupt(step)
        with pytest.raises(KeyboardInterrupt):
            start.train(tokens, tmp_path / str(step), trained=trained)
    for step in (0, 1, 6):
        start.again()
        interrupt(None)
        torch.manual_seed(step)
        found = start.train(tokens, tmp_path / str(step), trained=trained)
        assert all(torch.equal(a, b) for a, b in zip(expected, start.values(), strict=True))
        for name in ("losses", "learning_rates", "gradient_norms", "tokens", "validation_losses"):
            assert (getattr(found, name) == getattr(whole, name)).all(), name
        assert len((tmp_path / str(step) / "log.jsonl").read_text().splitlines()) == 8


def test_checkpoints_may_be_rare(
    native_bridge: TransformerBridge, tokens: torch.Tensor, tmp_path: Path, interrupt: Callable[..., None]
):
    start = Start(native_bridge)
    whole = start.train(tokens, None)
    start.again()
    interrupt(7)
    with pytest.raises(KeyboardInterrupt):
        start.train(tokens, tmp_path / "run", checkpoint_every=5)
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 7
    start.again()
    interrupt(None)

    assert (start.train(tokens, tmp_path / "run", checkpoint_every=4).losses == whole.losses).all()
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 8


def test_a_finished_training_is_loaded(
    any_model: Any, tokens: torch.Tensor, tmp_path: Path, interrupt: Callable[..., None]
):
    start = Start(any_model)
    first, trained = start.train(tokens, tmp_path / "run"), start.values()
    interrupt(0)  # no step is done from here on
    for _ in range(2):  # from the beginning, and from the trained weights that are in memory then
        again = start.train(tokens, tmp_path / "run")
        assert all(torch.equal(a, b) for a, b in zip(trained, start.values(), strict=True))
        assert (again.losses == first.losses).all()
        start.again()
    assert not (tmp_path / "run" / CHECKPOINT_FILE).exists()


def test_a_model_that_is_half_trained_is_refused(
    native_bridge: TransformerBridge, tokens: torch.Tensor, tmp_path: Path, interrupt: Callable[..., None]
):
    start = Start(native_bridge)
    interrupt(3)
    with pytest.raises(KeyboardInterrupt):
        start.train(tokens, tmp_path / "run")
    half = start.values()

    with pytest.raises(ValueError, match="it began with other weights .* build both anew, as they were"):
        start.train(tokens, tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(half, start.values(), strict=True))


def test_another_training_in_the_folder_is_refused(
    native_bridge: TransformerBridge, tokens: torch.Tensor, tmp_path: Path
):
    start = Start(native_bridge)
    start.train(tokens, tmp_path / "run", epochs=1)
    start.again()
    for given, message in [
        ({"lr": 0.5}, r"other settings \(lr was 0.001, now 0.5\)"),
        ({"epochs": 3}, "epochs was 1.0, now 3.0"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"trained": "routers"}, "trained was 'all', now 'routers'"),
    ]:
        with pytest.raises(ValueError, match=message):
            start.train(tokens, tmp_path / "run", **({"epochs": 1} | given))
    with pytest.raises(ValueError, match="tokens_sha256 was"):
        start.train(tokens.flip(0), tmp_path / "run", epochs=1)
    start.routers.set_weights(LimeRouters(2, 2).weights)
    with pytest.raises(ValueError, match="it began with other weights"):
        start.train(tokens, tmp_path / "run", epochs=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a folder of train_language_model"):
        start.train(tokens, tmp_path / "other")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint_is_refused(
    native_bridge: TransformerBridge,
    tokens: torch.Tensor,
    tmp_path: Path,
    interrupt: Callable[..., None],
    part: float,
):
    start = Start(native_bridge)
    interrupt(3)
    with pytest.raises(KeyboardInterrupt):
        start.train(tokens, tmp_path / "run")
    start.again()
    path, before = tmp_path / "run" / CHECKPOINT_FILE, start.values()
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])

    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is no state of a training of a language"):
        start.train(tokens, tmp_path / "run")
    assert path.read_bytes() == data[: int(part * len(data))]
    assert all(torch.equal(a, b) for a, b in zip(before, start.values(), strict=True))


def test_trained_weights_that_are_gone_are_missed(
    native_bridge: TransformerBridge, tokens: torch.Tensor, tmp_path: Path
):
    start = Start(native_bridge)
    start.train(tokens, tmp_path / "run", epochs=1)
    start.again()
    (tmp_path / "run" / TRAINED_FILE).unlink()

    with pytest.raises(ValueError, match=r"trained\.safetensors is no state of a training"):
        start.train(tokens, tmp_path / "run", epochs=1)


def test_frozen_weights_are_not_saved(native_bridge: TransformerBridge, tokens: torch.Tensor, tmp_path: Path):
    start = Start(native_bridge)
    start.train(tokens, tmp_path / "run", trained="routers")

    assert (tmp_path / "run" / TRAINED_FILE).stat().st_size < 3000


def test_the_result_is_saved_and_shown(
    native_bridge: TransformerBridge, tokens: torch.Tensor, tmp_path: Path
):
    result = Start(native_bridge).train(tokens, None)
    result.save(tmp_path / "training.json")
    again = LanguageModelTraining.load(tmp_path / "training.json")

    frame = again.to_frame()
    assert frame["loss"].tolist() == result.losses.tolist()
    assert frame["step"].tolist() == list(range(1, 9))
    assert frame["validation_loss"].dropna().tolist() == result.validation_losses.tolist()
    assert again.provenance == result.provenance
    np.testing.assert_allclose(
        result.smoothed(3), [result.losses[max(0, i - 2) : i + 1].mean() for i in range(8)]
    )
    assert len(repr(result).splitlines()) == 3
    assert "<table" in result._repr_html_()
    figure: Any = result.plot()
    assert [trace.name for trace in figure.data] == ["each step", "mean of the last 20 steps", "validation"]
    assert figure.layout.xaxis.title.text == "tokens read"
    assert figure.layout.yaxis.title.text == "loss (nats per token)"
    with pytest.raises(ValueError, match="window"):
        result.plot(window=0)
    (tmp_path / "training.json").write_bytes((tmp_path / "training.json").read_bytes()[:50])
    with pytest.raises(ValueError, match="is not a LanguageModelTraining that this version can read"):
        LanguageModelTraining.load(tmp_path / "training.json")


def test_what_was_given_is_not_changed(native_bridge: TransformerBridge, tokens: torch.Tensor):
    mask = torch.ones_like(tokens, dtype=torch.bool)
    before = copy.deepcopy((tokens, mask))
    train_language_model(native_bridge, tokens, loss_mask=mask, show_progress=False)

    assert torch.equal(tokens, before[0]) and torch.equal(mask, before[1])
