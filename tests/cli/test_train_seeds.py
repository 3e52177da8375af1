"""`sae-lens-ext train --seeds`: one SAE from several seeds, and what is said of a command line that does not do."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sae_lens.training.sae_trainer import SAETrainer

from sae_lens_ext import KronSAE
from sae_lens_ext.analysis.seeds.train import train_seed_folders
from sae_lens_ext.cli import main, seeds, train
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.seeds import Seeded, take_seeds

HOOK = "blocks.1.hook_resid_post"

# SAELens' runner writes these keyword arguments into the metadata of everything it trains on a HookedTransformer.
pytestmark = pytest.mark.filterwarnings(
    "ignore:\\nThis SAE has non-empty model_from_pretrained_kwargs:UserWarning"
)


@pytest.fixture(autouse=True)
def tiny_world(monkeypatch: pytest.MonkeyPatch, hooked_model, token_dataset, restored_signals) -> None:
    monkeypatch.setattr(seeds, "load_language_model", lambda *_: hooked_model)
    monkeypatch.setattr(seeds, "load_dataset", lambda _: token_dataset)


def words(*more: str, **changes: Any) -> list[str]:
    settings = {
        "architecture": "topk",
        "d_in": 16,
        "d_sae": 32,
        "hook_name": HOOK,
        "context_size": 16,
        "training_tokens": 512,
        "train_batch_size_tokens": 64,
        "n_batches_in_buffer": 24,
        "store_batch_size_prompts": 8,
        "log_to_wandb": "false",
        "verbose": "false",
        **changes,
    }
    flags = [str(word) for pair in settings.items() for word in (f"--{pair[0]}", pair[1])]
    return ["train", *flags, "-k", "4", *more]


def test_train_seeds_saves_one_sae_for_each_seed(tmp_path: Path, capsys) -> None:
    out = tmp_path / "my_seeds"
    assert main(words("--seeds", "0,1,7", "--vary", "initialisation", output_path=out)) == 0
    found = [SAE.load_from_disk(out / f"seed_{seed}") for seed in (0, 1, 7)]
    assert [sae.cfg.metadata.initialisation_seed for sae in found] == [0, 1, 7]
    assert {sae.cfg.metadata.data_order_seed for sae in found} == {42}
    assert {sae.cfg.architecture() for sae in found} == {"topk"} and {sae.cfg.k for sae in found} == {4}
    assert not torch.equal(found[0].W_dec, found[1].W_dec)


def test_train_seeds_is_what_python_s_train_seeds_is(
    tmp_path: Path, hooked_model, token_dataset, monkeypatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(
        seeds, "train_seed_folders", lambda *a, **k: given.append((a, k)) or train_seed_folders(*a, **k)
    )
    flags = ["--seeds=3,4", "--vary=data_order", "--seed", "9"]
    assert main(words(*flags, architecture="kron", output_path=tmp_path)) == 0
    ((cfg, numbers), options) = given[0]
    assert (numbers, options["vary"], cfg.seed, cfg.output_path) == ((3, 4), "data_order", 9, str(tmp_path))
    sae = SAE.load_from_disk(tmp_path / "seed_4")
    assert isinstance(sae, KronSAE)
    assert (sae.cfg.metadata.initialisation_seed, sae.cfg.metadata.data_order_seed) == (9, 4)


def test_train_seeds_interrupted_goes_on_with_the_same_command(tmp_path: Path, capsys, monkeypatch) -> None:
    taken: list[int] = []
    step = SAETrainer.step

    def interrupted(trainer: Any, batch: torch.Tensor) -> Any:
        taken.append(1)
        if len(taken) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, batch)

    monkeypatch.setattr(SAETrainer, "step", interrupted)
    command = words("--seeds", "0,1", output_path=tmp_path / "out")
    assert main(command) == 130
    said = capsys.readouterr().err
    assert said.endswith("The same command goes on from the last checkpoint.\nsae-lens-ext: interrupted.\n")
    assert len(taken) == 6
    assert main(command) == 0
    assert len(taken) == 2 * 8
    assert json.loads((tmp_path / "out" / "trained" / "saes.json").read_text())["resumed"] is True
    assert main(command) == 0
    assert len(taken) == 2 * 8


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (
            ["--seeds", "0,x"],
            "--seeds '0,x' is not understood. Give two or more whole numbers from 0 up, with",
        ),
        (["--seeds", "0, 1"], "--seeds '0, 1' is not understood."),
        (["--seeds", "0,,1"], "--seeds '0,,1' is not understood."),
        (["--seeds", "-1,2"], "--seeds '-1,2' is not understood."),
        (["--seeds", "0.5,1"], "--seeds '0.5,1' is not understood."),
        (["--seeds", "٣,1"], "--seeds '٣,1' is not understood."),
        (["--seeds", "0", "1", "2"], "--seeds '0' is not understood. Give two or more whole numbers"),
        (["--seeds"], "--seeds has no value. Give --seeds 0,1,2,3."),
        (["--seeds="], "--seeds has no value. Give --seeds 0,1,2,3."),
        (["--seeds", "--vary", "both"], "--seeds has no value. Give --seeds 0,1,2,3."),
        (["--seeds", "0,1", "--seeds", "2,3"], "--seeds is given 2 times, 0,1 and 2,3. Give it once."),
        (
            ["--seeds", "0,1", "--vary"],
            "--vary has no value. Give one of initialisation, data_order, both.",
        ),
        (
            ["--seeds", "0,1", "--vary", "order"],
            "--vary 'order' is not understood. Give one of initialisation, data_order, both.",
        ),
        (
            ["--vary", "both"],
            "--vary both says what differs between seeds, but there are no --seeds. Add them, such as --seeds 0,1,2,3.",
        ),
        (
            ["--seeds", "1,1"],
            "train_seeds was given the seeds [1, 1]. Give two or more, each once",
        ),
        (["--seeds", "0,4294967296"], "train_seeds was given the seed = 4294967296. Seeds are whole numbers"),
        (
            ["--seeds", "0,1", "--resume_from_checkpoint", "there"],
            "train_seeds was given resume_from_checkpoint = 'there'. Leave it out",
        ),
        (
            ["--seeds", "0,1", "--compile_sae", "true"],
            "train_seeds was given compile_sae = True, which SAELens' multi-SAE runner does not do.",
        ),
    ],
)
def test_train_seeds_says_what_is_wrong_and_writes_nothing(
    tmp_path: Path, capsys, monkeypatch, flags: list[str], complaint: str
) -> None:
    def no_model(*_: Any) -> None:
        raise AssertionError("a model is loaded although the command line is wrong")

    monkeypatch.setattr(seeds, "load_language_model", no_model)
    monkeypatch.setattr(train, "load_language_model", no_model)
    assert main([*words(output_path=tmp_path / "out"), *flags]) == 1
    assert capsys.readouterr().err.startswith(f"sae-lens-ext: error: {complaint}")
    assert not (tmp_path / "out").exists()


def test_train_seeds_needs_a_folder_to_be_named(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words("--seeds", "0,1")) == 1
    assert "--seeds needs the folder that the SAEs are saved in" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_train_seeds_leaves_a_folder_with_something_else_alone(tmp_path: Path, capsys) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert main(words("--seeds", "0,1", output_path=tmp_path)) == 1
    assert "is not a folder of train_seeds" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_train_seeds_names_the_hooks_width_and_an_unknown_hook(tmp_path: Path, capsys) -> None:
    assert main(words("--seeds", "0,1", output_path=tmp_path / "out", d_in=24)) == 1
    assert "have width 16, but the SAE has d_in = 24. Set d_in to that width." in capsys.readouterr().err
    assert main(words("--seeds", "0,1", output_path=tmp_path / "out", hook_name="blocks.9.hook_q")) == 1
    assert "no hook 'blocks.9.hook_q'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_take_seeds_leaves_the_other_words_as_they_are() -> None:
    others = [
        "--architecture",
        "topk",
        "--output-path=here",
        "-k",
        "4",
        "--seed",
        "3",
        "--sae.budgets",
        "1",
        "2",
    ]
    assert take_seeds(others) == (others, None)
    split = [*others[:3], "--seeds", "5,6", *others[3:]]
    assert take_seeds(split) == (others, Seeded((5, 6), "initialisation"))
    assert take_seeds([*split, "--vary", "both"])[1] == Seeded((5, 6), "both")
    assert take_seeds(["--help", "--seeds", "0,1"])[0] == ["--help"]
    with pytest.raises(CommandError, match="--seeds needs the folder"):
        take_seeds(["--seeds", "0,1"])


def test_help_names_seeds(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--architecture", "topk", "--help"])
    assert not stop.value.code
    out = capsys.readouterr().out
    assert "--seeds 0,1,2,3   one SAE from each seed" in out
