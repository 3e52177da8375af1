"""Which model a name on the command line stands for."""

from pathlib import Path
from typing import Any

import pytest
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.cli import named_models
from sae_lens_ext.cli.errors import CommandError


def test_a_folder_is_loaded_as_a_bridge_in_evaluation_mode(gpt2_folder: Path) -> None:
    model = named_models.load_named_model(str(gpt2_folder), "cpu")
    assert isinstance(model, TransformerBridge) and not model.training
    assert model.tokenizer is not None


@pytest.mark.parametrize(
    ("name", "kind"), [("embedded", "TransformerBridge"), ("my_org/model", "HookedTransformer")]
)
def test_other_names_go_to_the_loader_of_all_verbs(
    name: str, kind: str, hooked_model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        named_models, "load_any_language_model", lambda *given: asked.append(given) or hooked_model
    )
    assert named_models.load_named_model(name, "cpu") is hooked_model
    assert asked == [(name, kind, "cpu")]


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="holds no model: it has no config.json. Give one"):
        named_models.load_named_model(str(tmp_path), "cpu")
    with pytest.raises(CommandError, match="There is no folder of a model at .*/none"):
        named_models.load_named_model(str(tmp_path / "none"), "cpu")
