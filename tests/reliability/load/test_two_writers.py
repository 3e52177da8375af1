"""Two processes that save to one place at once: what is there in the end is one of the two, whole."""

import json
from pathlib import Path

import torch

from sae_lens_ext import SteeringVectors, load_sae
from sae_lens_ext.architectures.saving import save_sae
from sae_lens_ext.files import write_whole
from tests.reliability.load.processes import at_once
from tests.reliability.load.stream_model import random_topk

WRITERS, ROUNDS = 4, 25


def test_a_text_of_two_writers_is_one_of_theirs(tmp_path: Path) -> None:
    texts = [json.dumps([i] * 20_000 * (i + 1)) for i in range(WRITERS)]

    def write(i: int) -> bool:
        for _ in range(ROUNDS):
            write_whole(tmp_path / "result.json", texts[i])
            assert (tmp_path / "result.json").read_text() in texts
        return True

    assert at_once(WRITERS, write, tmp_path / "said") == ["True"] * WRITERS
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["result.json"]


def test_vectors_of_two_writers_are_one_of_theirs(tmp_path: Path) -> None:
    path = tmp_path / "vectors.safetensors"

    def save(i: int) -> bool:
        for _ in range(ROUNDS):
            SteeringVectors({0: torch.full((1000,), float(i))}).save(path)
        return True

    assert at_once(WRITERS, save, tmp_path / "said") == ["True"] * WRITERS
    found = SteeringVectors.load(path)[0]
    assert found is not None and len(found.unique()) == 1


def test_an_sae_of_two_writers_is_one_of_theirs(tmp_path: Path) -> None:
    saes = [random_topk(64, seed, d_in=8, k=4) for seed in range(WRITERS)]

    def save(i: int) -> bool:
        for _ in range(5):
            save_sae(saes[i], tmp_path / "sae")
        return True

    assert at_once(WRITERS, save, tmp_path / "said") == ["True"] * WRITERS
    found = load_sae(tmp_path / "sae")
    assert any(torch.equal(found.W_dec, sae.W_dec) and torch.equal(found.W_enc, sae.W_enc) for sae in saes)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
