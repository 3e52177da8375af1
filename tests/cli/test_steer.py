"""`sae-lens-ext steer`: what it writes, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
from sae_lens import StandardSAE, StandardSAEConfig

from sae_lens_ext.cli import steer as verb
from sae_lens_ext.cli.app import USER_ERRORS
from sae_lens_ext.steering import AddFeature
from sae_lens_ext.steering import steer as steered_by
from tests.cli.stand_ins import HOOK, load_instead, run_verb, save_tiny_sae


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_sae(tmp_path / "my_sae", "W_enc", neuronpedia_id="tiny/1-res")


@pytest.fixture
def loaded(hooked_model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    return load_instead(monkeypatch, verb, "load_any_language_model", hooked_model)


def command(*words: Any) -> None:
    run_verb(verb, "steer", *words)


def blocks_of(printed: str) -> dict[str, list[str]]:
    """The labels that were printed for each prompt."""
    found: dict[str, list[str]] = {}
    for line in printed.splitlines():
        if line.startswith("> "):
            found[line[2:]] = labels = []
        elif line.startswith("  ") and not line.startswith("   "):
            labels.append(line.partition("   [")[0].strip())
    return found


def test_steer_prints_every_prompt_at_every_strength(folder: Path, loaded: list[Any], capsys) -> None:
    command(str(folder), "--index", "3", "--prompt", "w1 w2", "--prompt", "w3", "--max-new-tokens", "5")
    printed = capsys.readouterr().out
    labels = ["add 0 (unsteered)", "add 0.1 · ‖h‖", "add 0.2 · ‖h‖", "add 0.4 · ‖h‖"]
    assert blocks_of(printed) == {"w1 w2": labels, "w3": labels}
    assert f"Feature 3 of {folder} (standard) at {HOOK}" in printed
    assert "https://neuronpedia.org/tiny/1-res/3" in printed
    assert loaded == [("tiny", "HookedTransformer", "cpu", None)]


@pytest.mark.parametrize("raw", [[], ["--raw"]])
def test_steer_prints_what_the_steered_model_writes(
    folder: Path, loaded: list[Any], hooked_model: Any, raw: list[str], capsys
) -> None:
    words = ("--index", "3", "--prompt", "w1 w2", "--temperature", "0", "--max-new-tokens", "5")
    command(str(folder), *words, "--strengths=-900,900", *raw)
    printed = capsys.readouterr().out
    sae = StandardSAE.load_from_disk(folder)
    tokens = hooked_model.to_tokens("w1 w2")
    texts: list[str] = []
    for strength in (None, -900.0, 900.0):
        settings: dict[str, Any] = {
            "max_new_tokens": 5,
            "do_sample": False,
            "return_type": "tokens",
            "verbose": False,
        }
        if strength is None:
            new = hooked_model.generate(tokens, **settings)
        else:
            with steered_by(hooked_model, AddFeature(sae, 3, strength, relative=not raw)):
                new = hooked_model.generate(tokens, **settings)
        ids = new[0, 3:].tolist()
        texts.append(hooked_model.tokenizer.decode(ids[: ids.index(0)] if 0 in ids else ids))
    assert len(set(texts)) > 1
    assert [line.strip() for line in printed.splitlines() if line.startswith("    ")] == [
        text or "(nothing)" for text in texts
    ]


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (["--raw"], ["add 0 (unsteered)", "add 4", "add 8", "add 16"]),
        (["--kind", "scale"], ["scale 1 (unsteered)", "scale 0", "scale -4", "scale -16"]),
        (["--kind", "scale", "--strengths=-2"], ["unsteered", "scale -2"]),
        (["--kind", "clamp", "--strengths", "0,5"], ["unsteered", "clamp 0", "clamp 5"]),
        (["--kind", "ablate"], ["unsteered", "ablate"]),
        (["--strengths", "0.5", "--positions", "-1"], ["unsteered", "add 0.5 · ‖h‖"]),
        (["--raw", "--strengths", "2.5", "--positions=-1,2"], ["unsteered", "add 2.5"]),
        (
            ["--raw", "--strengths", "2", "--positions", "1:", "--phases", "generation"],
            ["unsteered", "add 2"],
        ),
        (["--raw", "--strengths", "2", "--positions", "0,2", "--phases", "prompt"], ["unsteered", "add 2"]),
    ],
)
def test_steer_knows_every_kind(
    folder: Path, loaded: list[Any], words: list[str], labels: list[str], capsys
) -> None:
    command(str(folder), "--index", "0", "--prompt", "w1 w2", "--max-new-tokens", "3", *words)
    assert list(blocks_of(capsys.readouterr().out).values()) == [labels]


def test_steer_is_the_same_for_the_same_seed(folder: Path, loaded: list[Any], capsys) -> None:
    printed: list[str] = []
    for seed in ("1", "1", "2"):
        command(str(folder), "--index", "0", "--prompt", "w1", "--seed", seed, "--max-new-tokens", "8")
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--index", "24"], "24"),
        (["--positions", "50"], "--positions 50 with --phases prompt,generation names no token"),
        (["--strengths", "a,b"], "--strengths 'a,b' is no list of different numbers"),
        (["--strengths", "1,1"], "is no list of different numbers"),
        (["--strengths", "1,nan"], "is no list of different numbers"),
        (["--strengths", "0"], "--strengths 0 steers nothing"),
        (["--kind", "ablate", "--strengths", "1"], "--kind ablate takes no --strengths"),
        (["--kind", "clamp", "--raw"], "--raw goes with --kind add, not with clamp"),
        (["--positions", "first"], "--positions 'first' names no tokens"),
        (["--positions", "1:2:3:4"], "names no tokens"),
        (["--phases", "later"], "the phase 'later'"),
        (["--max-new-tokens", "0"], "--max-new-tokens 0 writes nothing"),
        (["--max-new-tokens", "99"], "is more than the 16 tokens"),
        (["--temperature", "-1"], "--temperature -1.0 is no temperature"),
        (["--top-p", "0"], "--top-p 0.0 is no probability"),
        (["--prompt", " "], "--prompt ' ' is empty"),
        (["--model-class", "AutoModelForCausalLM"], "The model class AutoModelForCausalLM cannot be steered"),
        (["--hook", "blocks.9.hook_resid_post"], "has no hook 'blocks.9.hook_resid_post'"),
    ],
)
def test_steer_says_what_is_wrong(folder: Path, loaded: list[Any], words: list[str], complaint: str) -> None:
    with pytest.raises(USER_ERRORS) as caught:
        command(str(folder), "--index", "0", "--prompt", "w1 w2", "--max-new-tokens", "3", *words)
    assert complaint in str(caught.value)


def test_steer_asks_for_what_the_SAE_does_not_say(tmp_path: Path, loaded: list[Any]) -> None:
    StandardSAE(StandardSAEConfig(d_in=16, d_sae=4)).save_model(tmp_path / "sae")
    words = (str(tmp_path / "sae"), "--index", "0", "--prompt", "w1", "--max-new-tokens", "3")
    with pytest.raises(USER_ERRORS, match="Name it with --hook"):
        command(*words)
    with pytest.raises(USER_ERRORS, match="Name it with --model"):
        command(*words, "--hook", HOOK)
    command(*words, "--hook", HOOK, "--model", "tiny")


def test_long_texts_are_wrapped_and_keep_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    text = "one two three four " * 5 + "\n\nlast"
    lines = verb._wrapped(text, "    ", "    ").splitlines()
    assert all(len(line) <= 50 for line in lines) and lines[-2:] == ["", "    last"]
    assert " ".join(line.strip() for line in lines).split() == text.split()


def test_help_says_how_to_write_a_list_that_begins_with_a_minus_sign(capsys) -> None:
    with pytest.raises(SystemExit):
        command("--help")
    assert "write --positions=-1,2" in " ".join(capsys.readouterr().out.split())
