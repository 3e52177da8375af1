"""`sae-lens-ext train-lime`: real runs on a tiny model, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_ext.cli import train_lime as verb
from sae_lens_ext.cli.app import USER_ERRORS, build_parser, main
from sae_lens_ext.lime.reading import router_map
from sae_lens_ext.lime.routers import LimeRouters
from sae_lens_ext.lime.training import LanguageModelLoss, LanguageModelTraining
from tests.tiny_llama import save_tiny_llama

SMALL = ("--tokens", "256", "--held-out", "64", "--context-size", "8", "--batch-size", "4")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Documents in which a word is followed by the next, so that there is something to learn."""
    path = tmp_path / "text.txt"
    rows = (" ".join(f"w{(7 * i + j) % 30}" for j in range(3 + i // 7)) for i in range(140))
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


@pytest.fixture
def run_on(text: Path, gpt2_folder: Path, tmp_path: Path) -> Any:
    """Runs the verb on the tiny model."""

    def run(*words: str, out: str = "out", model: Path = gpt2_folder) -> Path:
        everything = (
            "--text",
            str(text),
            "--model",
            str(model),
            "--out",
            str(tmp_path / out),
            *SMALL,
            *words,
        )
        options = build_parser().parse_args(["train-lime", *everything])
        options.run(options)
        return tmp_path / out

    return run


def read(out: Path) -> tuple[LanguageModelLoss, LanguageModelLoss, LanguageModelTraining, dict[str, Any]]:
    before, after = (LanguageModelLoss.load(out / f"held_out_{when}.json") for when in ("before", "after"))
    return (
        before,
        after,
        LanguageModelTraining.load(out / "training" / "training.json"),
        json.loads((out / "result.json").read_text()),
    )


def test_train_lime_trains_routers_and_says_what_they_gain(run_on: Any, capsys: Any) -> None:
    out = run_on("--router-lr", "0.05")
    printed = capsys.readouterr().out
    before, after, training, result = read(out)
    routers = LimeRouters.load(out / "routers.safetensors")
    gain = before.minus(after)
    assert gain.value > 0 and after.loss < before.loss
    assert printed.splitlines() == [
        f"Routers of 2 layers, 8 steps on 256 tokens: {out}/routers.safetensors",
        f"Who reads whom: {out}/routers.html; the loss in training: {out}/training.html",
        f"Loss on 8 held-out sequences, nats per token (95 % intervals over sequences): {out}/result.json",
        f"  before  {before.interval}   perplexity {before.perplexity:.2f}",
        f"  after   {after.interval}   perplexity {after.perplexity:.2f}",
        f"  gain    {gain}",
    ]
    assert result["gain"] == {"value": gain.value, "low": gain.low, "high": gain.high}
    assert result["settings"]["trained"] == "routers" and result["settings"]["initial"] == "identity"
    assert result["training"]["router_lr"] == 0.05 and training.provenance["trained"] == "routers"
    assert before.provenance["model_weights"] == after.provenance["model_weights"]  # the model is frozen
    assert float(router_map(routers, off_diagonal=True).mean_size[1, 0]) > 0
    for page in ("routers.html", "training.html"):
        text = (out / page).read_text()
        assert "<script" in text and 'src="http' not in text


def test_train_lime_measures_before_without_routers(run_on: Any) -> None:
    """Random routers change what the model says at once, but the loss before is the model's own."""
    same, _, of_identity, _ = read(run_on(out="identity"))
    drawn, _, training, _ = read(run_on("--initial", "random", out="random"))
    assert same.loss == drawn.loss
    assert training.losses[0] != of_identity.losses[0]


def test_train_lime_counts_no_special_tokens(run_on: Any) -> None:
    before, _, training, _ = read(run_on())
    assert (before.counts < 7).any() and before.counts.sum() < 8 * 7
    assert training.provenance["predictions"] < 256 - 32


def test_train_lime_trains_the_model_too_or_alone(run_on: Any, capsys: Any) -> None:
    out = run_on("--trained", "all", "--lr", "1e-3", out="all")
    before, after, training, _ = read(out)
    assert before.provenance["model_weights"] != after.provenance["model_weights"]
    assert training.provenance["lr"] == 1e-3 and (out / "routers.safetensors").exists()
    alone = run_on("--trained", "model", "--lr", "1e-3", out="alone")
    printed = capsys.readouterr().out
    assert not (alone / "routers.safetensors").exists() and not (alone / "routers.html").exists()
    assert f"The model without routers, 8 steps on 256 tokens: {alone}/training" in printed
    assert read(alone)[0].loss == before.loss and read(alone)[1].loss != after.loss
    assert read(alone)[3]["settings"]["initial"] is None


def test_train_lime_reads_a_llama_with_grouped_queries(
    run_on: Any, tokenizer_folder: Path, tmp_path: Path
) -> None:
    llama = save_tiny_llama(
        tmp_path / "llama", tokenizer_folder, num_attention_heads=4, num_key_value_heads=2
    )
    routers = LimeRouters.load(run_on(model=llama) / "routers.safetensors")
    assert (routers.n_layers, routers.n_kv_heads) == (3, 2)


def test_train_lime_goes_on_where_it_was_interrupted(
    run_on: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    whole = LimeRouters.load(run_on(out="whole") / "routers.safetensors")
    monkeypatch.setattr(verb, "SAVED_EVERY", 2)
    capsys.readouterr()

    from sae_lens_ext.lime.training.trainer import LanguageModelTrainer

    original, steps = LanguageModelTrainer.train_step, []

    def noting(trainer: Any) -> Any:
        if len(steps) == 5:
            steps.append(None)
            raise KeyboardInterrupt
        steps.append(trainer.step)
        return original(trainer)

    monkeypatch.setattr(LanguageModelTrainer, "train_step", noting)
    with pytest.raises(KeyboardInterrupt):
        run_on()
    assert "Give the same command again to go on" in capsys.readouterr().err

    def measured(*arguments: Any, **settings: Any) -> Any:
        losses.append(1)
        return of_model(*arguments, **settings)

    of_model, losses = verb.language_model_loss, []
    monkeypatch.setattr(verb, "language_model_loss", measured)
    out = run_on()
    assert steps == [0, 1, 2, 3, 4, None, 4, 5, 6, 7] and len(losses) == 1  # the loss before is remembered
    resumed = LimeRouters.load(out / "routers.safetensors")
    assert torch.equal(resumed.weights[1], whole.weights[1])

    said = capsys.readouterr().out
    run_on()  # all is done: it says the same again
    assert capsys.readouterr().out == said and len(losses) == 1 and len(steps) == 10

    with pytest.raises(
        USER_ERRORS, match=r"`sae-lens-ext train-lime` with other settings .*seed was 0, now 1"
    ):
        run_on("--seed", "1")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--lr", "0.1"], "--lr 0.1 would do nothing: --trained routers leaves the model as it is"),
        (["--trained", "model", "--router-lr", "1"], "--router-lr 1.0 would do nothing: --trained model"),
        (["--trained", "model", "--initial", "random"], "--initial random would do nothing"),
        (
            ["--trained", "all", "--initial", "average", "--router-lr", "1"],
            "--initial average is not trained",
        ),
        (["--initial", "average"], "--trained routers trains nothing else. Give --trained all"),
        (["--context-size", "1"], "--context-size 1 leaves nothing to predict"),
        (["--tokens", "7"], "--training-tokens 7 is less than 1 sequence of 8 tokens"),
        (["--held-out", "15"], "--held-out 15 is less than 2 sequences of 8 tokens. Give at least 16"),
        (["--router-lr", "-1"], "router_lr = -1.0"),
        (["--router-lr", "nan"], "router_lr = nan"),
        (["--batch-size", "0"], "batch_size = 0"),
        (["--micro-batch-size", "0"], "micro_batch_size = 0"),
        (["--text", "./none"], "There is no file or folder './none'"),
    ],
)
def test_train_lime_refuses_before_the_model_is_loaded(
    run_on: Any, monkeypatch: pytest.MonkeyPatch, words: list[str], complaint: str
) -> None:
    def load(*_: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(verb, "load_named_model", load)
    with pytest.raises(USER_ERRORS) as caught:
        run_on(*words)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_train_lime_refuses_what_does_not_fit_the_model(run_on: Any, tmp_path: Path) -> None:
    with pytest.raises(USER_ERRORS, match="context_size = 17 is more than the 16 tokens"):
        run_on("--context-size", "17")
    with pytest.raises(USER_ERRORS, match="There is no folder of a model at"):
        run_on(model=tmp_path / "none")
    assert not (tmp_path / "out").exists()


def test_train_lime_refuses_a_folder_of_something_else(run_on: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(USER_ERRORS, match="file is a file. Give a folder"):
        run_on(out="file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(USER_ERRORS, match="is not empty and is not a folder of `sae-lens-ext train-lime`"):
        run_on(out="mine")


def test_a_loss_that_is_not_finite_is_one_sentence(
    text: Path, gpt2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise RuntimeError("The loss of step 3 is nan. Train with a lower learning rate.")

    monkeypatch.setattr(verb, "train_language_model", stop)
    words = ("--text", str(text), "--model", str(gpt2_folder), "--out", str(tmp_path / "out"), *SMALL)
    assert main(["train-lime", *words]) == 1
    assert capsys.readouterr().err.endswith(
        "sae-lens-ext: error: The loss of step 3 is nan. Train with a lower learning rate.\n"
    )


def test_help_says_what_is_trained(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["train-lime", "--help"])
    assert "the control for `all`" in capsys.readouterr().out
