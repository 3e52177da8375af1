"""`sae-lens-ext stability`: which folders it takes, how it groups them, what it writes, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import TopKSAE, TopKSAEConfig

from sae_lens_ext import StabilityReport
from sae_lens_ext.cli import main
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.stability import verb
from sae_lens_ext.cli.stability.folders import groups_of

D_IN, D_SAE = 16, 24


def saved(folder: Path, seed: int) -> Path:
    """Save a random SAE, half of whose features all have."""
    shared = torch.randn(D_SAE // 2, D_IN, generator=torch.Generator().manual_seed(99))
    own = torch.randn(D_SAE // 2, D_IN, generator=torch.Generator().manual_seed(seed))
    sae = TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4))
    sae.W_dec.data = torch.cat([shared, own])
    sae.W_enc.data = sae.W_dec.data.T.contiguous()
    sae.cfg.metadata.hook_name = "blocks.1.hook_resid_pre"
    sae.cfg.metadata.model_name = "tiny"
    sae.cfg.metadata.context_size = 16
    sae.save_model(folder)
    return folder


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """A folder as `train --seeds` leaves it, of two architectures."""
    for kind in ("topk", "kron"):
        for seed in (0, 1, 2, 10):
            saved(tmp_path / "run" / f"{kind}_seed_{seed}", seed + 100 * (kind == "kron"))
    (tmp_path / "run" / "checkpoints").mkdir()
    return tmp_path / "run"


def test_groups_are_what_differs_in_its_seed_only(seeds: Path) -> None:
    found = groups_of([seeds])
    assert set(found) == {"kron", "topk"}
    assert list(found["topk"]) == [f"topk_seed_{seed}" for seed in (0, 1, 2, 10)]
    assert found["topk"]["topk_seed_10"] == seeds / "topk_seed_10"


def test_SAEs_without_a_seed_in_their_names_are_one_group(tmp_path: Path) -> None:
    paths = [saved(tmp_path / name, i) for i, name in enumerate(("mine", "yours", "theirs"))]
    assert list(groups_of(paths)) == ["stability"]
    assert list(groups_of(paths)["stability"]) == ["mine", "yours", "theirs"]


def test_seeds_alone_take_the_name_of_their_folder(tmp_path: Path) -> None:
    for seed in range(2):
        saved(tmp_path / "my_topk" / f"seed_{seed}", seed)
    assert list(groups_of([tmp_path / "my_topk"])) == ["my_topk"]


def test_seeds_of_two_runs_are_two_groups(tmp_path: Path) -> None:
    for run in ("first", "second"):
        for seed in range(2):
            saved(tmp_path / run / f"topk_seed_{seed}", seed)
    found = groups_of([tmp_path / "first", tmp_path / "second"])
    assert len(found) == 2 and all(list(own) == ["topk_seed_0", "topk_seed_1"] for own in found.values())


def test_equal_names_below_two_folders_stay_apart(tmp_path: Path) -> None:
    paths = [saved(tmp_path / run / "sae", i) for i, run in enumerate("ab")]
    assert list(groups_of(paths)["stability"].values()) == paths


def test_stability_prints_and_writes_a_report_for_each_group(seeds: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main(["stability", str(seeds), "--text", "none", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "topk: StabilityReport of 4 SAEs" in printed and "kron: StabilityReport of 4 SAEs" in printed
    assert "no firing rates were given" in printed
    report = StabilityReport.load(out / "topk.json")
    assert report.names == tuple(f"topk_seed_{seed}" for seed in (0, 1, 2, 10))
    assert bool((report.reappearance[0][: D_SAE // 2] == 1).all())
    assert "plotly" in (out / "topk.html").read_text()
    assert json.loads((out / "kron.json").read_text())["threshold"] == 0.7


def test_stability_counts_firings_on_a_text(
    seeds: Path, tmp_path: Path, capsys, hooked_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(name: str, *_: Any) -> Any:
        loaded.append(name)
        return hooked_model

    monkeypatch.setattr(verb, "load_any_language_model", load)
    (tmp_path / "text.txt").write_text(
        "\n".join(" ".join(f"w{(i * j) % 30}" for j in range(20)) for i in range(60))
    )
    words = ["stability", str(seeds), "--text", str(tmp_path / "text.txt"), "--tokens", "256"]
    assert main([*words, "--min-firing-rate", "0.01", "--out", str(tmp_path / "out")]) == 0
    report = StabilityReport.load(tmp_path / "out" / "topk.json")
    assert report.firing_rates is not None and report.min_firing_rate == 0.01
    assert loaded == ["tiny"]  # once for both groups
    assert "no firing rates" not in capsys.readouterr().out


def test_stability_takes_the_SAEs_own_text_by_default(seeds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load(name: str, *_: Any) -> list[str]:
        asked.append(name)
        raise CommandError("stop here")

    for folder in seeds.glob("*_seed_*"):
        cfg = json.loads((folder / "cfg.json").read_text())
        cfg["metadata"]["dataset_path"] = "my/texts"
        (folder / "cfg.json").write_text(json.dumps(cfg))
    monkeypatch.setattr(verb, "load_documents", load)
    assert main(["stability", str(seeds)]) == 1
    assert asked == ["my/texts"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nowhere"], "There is no folder 'nowhere'"),
        (["run/topk_seed_0"], "There is one SAE only of the group 'topk', run/topk_seed_0"),
        (["run/topk_seed_0", "run/topk_seed_0"], "is named twice"),
        (["run", "run/topk_seed_0"], "is named twice"),
        (["run/checkpoints"], "holds no SAE, and no folder with one"),
        (["run", "--text", "none", "--threshold", "7"], "threshold = 7.0. Give a cosine above 0 and up to 1"),
        (["run", "--text", "none", "--min-firing-rate", "0.1"], "was given without firing rates"),
        (["run", "--text", "none", "--out", "run/topk_seed_0/cfg.json"], "is a file. Give a folder"),
        (["run", "--text", "missing.txt"], "There is no file or folder 'missing.txt'"),
    ],
)
def test_stability_says_what_is_wrong(
    seeds: Path, words: list[str], complaint: str, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(seeds.parent)
    assert main(["stability", *words]) == 1
    assert complaint in capsys.readouterr().err


def test_stability_keeps_what_was_there_when_an_SAE_is_truncated(seeds: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main(["stability", str(seeds), "--text", "none", "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    weights = seeds / "topk_seed_1" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert main(["stability", str(seeds), "--text", "none", "--out", str(out)]) == 1
    assert "is truncated or not a safetensors file" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
