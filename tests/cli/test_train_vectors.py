"""`sae-lens-ext train-vectors`: real runs on a tiny model, and what it refuses."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from sae_lens_ext.cli import train_vectors as verb
from sae_lens_ext.cli.app import USER_ERRORS, build_parser
from sae_lens_ext.steering.rewards import BoxedEquals, LastNumberEquals, LengthWithin, MatchesPattern
from sae_lens_ext.steering.training import RewardMeasurement
from sae_lens_ext.steering.training.training_log import TrainingLog
from sae_lens_ext.steering.vectors import SteeringVectors

SMALL = ("--steps", "2", "--prompts-per-step", "2", "--group-size", "4", "--max-new-tokens", "3")
SMALL += ("--samples", "4", "--lr", "0.05")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"w{i} w{i + 1}", "answer": i}) + "\n" for i in range(10)))
    return path


@pytest.fixture
def run_on(tasks: Path, gpt2_folder: Path, tmp_path: Path) -> Any:
    """Runs the verb on the tiny model."""

    def run(*words: str, out: str = "out", model: Path = gpt2_folder) -> Path:
        everything = [str(tasks), "--model", str(model), "--out", str(tmp_path / out), *SMALL, *words]
        options = build_parser().parse_args(["train-vectors", *everything])
        options.run(options)
        return tmp_path / out

    return run


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the training is asked for; it ends there."""
    asked: list[dict[str, Any]] = []

    def stop(model: Any, prompts: Any, reward: Any, **settings: Any) -> Any:
        asked.append({"prompts": prompts, "reward": reward, **settings})
        raise InterruptedError("asked")

    monkeypatch.setattr(verb, "train_steering_vectors", stop)
    return asked


def test_train_vectors_trains_measures_and_says_what_is_next(run_on: Any, gpt2_folder: Path, capsys) -> None:
    out = run_on("--reward", "pattern", "--pattern", "w11")
    printed = capsys.readouterr().out
    vectors = SteeringVectors.load(out / "vectors.safetensors")
    before, after = (RewardMeasurement.load(out / f"held_out_{when}.json") for when in ("before", "after"))
    assert vectors.layers == (0, 1) and all(vectors.norms.values())
    assert len(TrainingLog.load(out).rows) == 2 and (out / "log.html").stat().st_size > 1_000_000
    assert before.prompts == after.prompts and before.rewards.shape == (2, 4)
    assert before.provenance["intervention"] is None and after.provenance["intervention"]
    assert printed.splitlines() == [
        f"Vectors of 2 layers, 2 steps on 8 tasks: {out}/vectors.safetensors",
        f"Log: {out}/log.jsonl, drawn in {out}/log.html",
        "Reward on 2 held-out tasks, 4 samples each (95 % intervals over tasks):",
        f"  without the vectors  {before.estimate}",
        f"  with the vectors     {after.estimate}",
        f"  gain                 {after.gain_over(before)}",
        f"Next, the tokens they speak for: sae-lens-ext lens {out}/vectors.safetensors --model {gpt2_folder}",
    ]


def test_train_vectors_goes_on_where_it_was_interrupted(
    run_on: Any, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    words = ("--reward", "pattern", "--pattern", "w11", "--held-out", "0")
    whole = SteeringVectors.load(run_on(*words, out="whole") / "vectors.safetensors")

    calls: list[str] = []

    class Interrupting(MatchesPattern):
        def __call__(self, prompt: str, completion: str) -> float:
            calls.append(completion)
            if len(calls) == 12:  # in the second step
                raise KeyboardInterrupt
            return super().__call__(prompt, completion)

        def __repr__(self) -> str:
            return repr(MatchesPattern(self.pattern))

    Interrupting.__module__ = MatchesPattern.__module__
    with monkeypatch.context() as patch:
        patch.setattr(verb, "MatchesPattern", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            run_on(*words)
    assert "Give the same command again to go on" in capsys.readouterr().err
    out = run_on(*words)
    resumed = SteeringVectors.load(out / "vectors.safetensors")
    assert [row["step"] for row in TrainingLog.load(out).rows] == [1, 2]
    assert all((resumed[layer] == whole[layer]).all() for layer in (0, 1))
    assert "held-out" not in capsys.readouterr().out

    with pytest.raises(USER_ERRORS, match="other settings"):
        run_on(*words, "--seed", "1")


def test_train_vectors_says_that_a_control_gains_nothing_by_the_reward(run_on: Any, capsys) -> None:
    out = run_on("--reward", "pattern", "--pattern", "never", "--control", "random", "--layers", "last")
    printed = capsys.readouterr().out
    assert "Vectors of layer 1, 2 steps" in printed
    assert "every sample gets 0. RLOO learns from prompts that are right sometimes" in printed
    assert "under the control 'random': no gain is due to the reward" in printed
    assert SteeringVectors.load(out / "vectors.safetensors").provenance["control"] == "random"


def test_train_vectors_puts_prompts_into_the_chat_template(
    run_on: Any, gpt2_folder: Path, tmp_path: Path, given: list[dict[str, Any]]
) -> None:
    folder = tmp_path / "chat_model"
    shutil.copytree(gpt2_folder, folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for message in messages %}<{{ message.role }}> {{ message.content }}{% endfor %}"
        "{% if add_generation_prompt %} <answer>{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    words = ("--reward", "last_number", "--held-out", "0")
    with pytest.raises(InterruptedError):
        run_on(*words, "--chat", model=folder)
    with pytest.raises(InterruptedError):
        run_on(*words)
    with pytest.raises(InterruptedError):
        run_on(*words, "--no-bos")
    chat, plain, _ = given
    assert chat["prompts"][3] == "<user> w3 w4 <answer>" and plain["prompts"][3] == "w3 w4"
    assert chat["reward"]("<user> w3 w4 <answer>", "3") == plain["reward"]("w3 w4", "3") == 1.0
    assert [one["prepend_bos"] for one in given] == [False, True, False]
    with pytest.raises(USER_ERRORS, match="this model's tokenizer has no chat template"):
        run_on(*words, "--chat")


def test_train_vectors_hands_every_flag_on(run_on: Any, tmp_path: Path, given: list[dict[str, Any]]) -> None:
    words = (
        "--seed",
        "3",
        "--temperature",
        "0.5",
        "--control",
        "shuffled",
        "--layers",
        "1,0",
        "--batch-size",
        "9",
    )
    with pytest.raises(InterruptedError):
        run_on("--reward", "length", "--min", "2", *words)
    (asked,) = given
    assert len(asked.pop("prompts")) == 8 and asked.pop("reward") == LengthWithin(2)
    assert asked == {
        "layers": [1, 0],
        "group_size": 4,
        "prompts_per_step": 2,
        "max_new_tokens": 3,
        "steps": 2,
        "lr": 0.05,
        "temperature": 0.5,
        "seed": 3,
        "control": "shuffled",
        "micro_batch_size": 9,
        "prepend_bos": True,
        "folder": tmp_path / "out",
    }


@pytest.mark.parametrize(
    ("words", "reward"),
    [
        (["last_number"], LastNumberEquals({f"w{i} w{i + 1}": i for i in range(10)})),
        (
            ["last_number", "--stop", r"\n"],
            LastNumberEquals({f"w{i} w{i + 1}": i for i in range(10)}, stop="\n"),
        ),
        (["boxed"], BoxedEquals({f"w{i} w{i + 1}": i for i in range(10)})),
        (["pattern", "--pattern", "w[12]"], MatchesPattern("w[12]")),
        (["length", "--max", "2", "--unit", "characters"], LengthWithin(0, 2, "characters")),
    ],
)
def test_train_vectors_knows_every_reward(
    run_on: Any, given: list[dict[str, Any]], words: list[str], reward: Any
) -> None:
    with pytest.raises(InterruptedError):
        run_on("--reward", *words)
    assert given[0]["reward"] == reward and repr(given[0]["reward"]) == repr(reward)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["pattern"], "--reward pattern needs a regular expression. Give --pattern."),
        (["pattern", "--pattern", "("], "the pattern '(' with flags 0, which Python cannot compile"),
        (["length"], "--reward length needs a limit"),
        (["length", "--min", "3", "--max", "2"], "between which no length lies"),
        (["length", "--max", "2", "--pattern", "a"], "--pattern goes with --reward pattern, not with length"),
        (["boxed", "--stop", "a"], "--stop goes with --reward last_number, not with boxed"),
        (["last_number", "--stop", ""], "LastNumberEquals was given stop = ''"),
        (["boxed", "--min", "2"], "--min goes with --reward length"),
        (["boxed", "--held-out", "10"], "--held-out 10 does not leave anything to train on"),
        (["boxed", "--held-out", "-1"], "--held-out -1"),
        (["boxed", "--layers", "2"], "--layers '2' names no layers of this model, which has 0 to 1"),
        (["boxed", "--layers", "first"], "--layers 'first' names no layers"),
        (["boxed", "--layers", "0,"], "--layers '0,' names no layers"),
        (["boxed", "--lr", "0"], "learning rate 0.0"),
        (["boxed", "--group-size", "1"], "group_size = 1"),
        (["boxed", "--max-new-tokens", "99"], "With max_new_tokens = 99 that is more than the 16 tokens"),
        (["boxed", "--model", "./none"], "There is no folder of a model at ./none"),
    ],
)
def test_train_vectors_says_what_is_wrong(run_on: Any, words: list[str], complaint: str) -> None:
    with pytest.raises(USER_ERRORS) as caught:
        run_on("--reward", *words)
    assert complaint in str(caught.value)


def test_train_vectors_refuses_a_bad_task_and_a_folder_that_is_none(
    run_on: Any, tasks: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(USER_ERRORS, match=r"--out .*file is a file. Give a folder"):
        run_on("--reward", "boxed", out="file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(USER_ERRORS, match="is not empty and is not a folder of train_steering_vectors"):
        run_on("--reward", "boxed", out="mine")
    tasks.write_text(tasks.read_text() + '{"prompt": "w1"}\n')
    with pytest.raises(USER_ERRORS, match='Line 11 of .*: it has no "answer"'):
        run_on("--reward", "boxed")


def test_a_fifth_is_held_out_and_at_most_64() -> None:
    options = argparse.Namespace(held_out=None)
    for n, held_out in ((1, 0), (4, 0), (10, 2), (1000, 64)):
        assert verb._n_held_out([verb.Task(str(i)) for i in range(n)], options) == held_out


def test_help_shows_the_rewards(capsys) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["train-vectors", "--help"])
    printed = capsys.readouterr().out
    assert r"\boxed{...}" in printed and r"'^\s*[A-Z][a-z]+\.$'" in printed
