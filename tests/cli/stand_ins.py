"""What tests of verbs that read an SAE and a model put in place of large ones."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig

HOOK = "blocks.1.hook_resid_post"


def save_tiny_sae(folder: Path, drawn: str, **metadata: Any) -> Path:
    """Save an SAE of the tiny model's stream, of whose weights those named `drawn` are drawn at random."""
    sae = StandardSAE(StandardSAEConfig(d_in=16, d_sae=24))
    torch.nn.init.normal_(getattr(sae, drawn))
    for name, value in ({"hook_name": HOOK, "model_name": "tiny"} | metadata).items():
        setattr(sae.cfg.metadata, name, value)
    sae.save_model(folder)
    return folder


def load_instead(
    monkeypatch: pytest.MonkeyPatch, verb: Any, loader: str, model: Any
) -> list[tuple[Any, ...]]:
    """Let a verb's loader give this model, and note what it was asked for."""
    asked: list[tuple[Any, ...]] = []

    def load(*arguments: Any) -> Any:
        asked.append(arguments)
        return model

    monkeypatch.setattr(verb, loader, load)
    return asked


def run_verb(verb: Any, *words: Any) -> None:
    """Run a verb as the command does; the first word is its name."""
    parser = argparse.ArgumentParser()
    verb.add_parsers(parser.add_subparsers())
    options = parser.parse_args([*map(str, words)])
    options.run(options)
