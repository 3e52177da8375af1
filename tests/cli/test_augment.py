"""`augment` on a tiny model: end to end, interrupted and taken up again, and everything it refuses."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, JumpReLUSAE
from sae_lens.training._interruption import InterruptedException
from sae_lens.training.sae_trainer import SAETrainer

from sae_lens_ext import DomainReport, NewLatents, ResidualStackSAE, load_sae
from sae_lens_ext.cli.app import build_parser
from sae_lens_ext.cli.augment import stages, texts, verb
from sae_lens_ext.cli.augment.augmented import Augmented, text_of
from sae_lens_ext.cli.augment.plan import Plan
from sae_lens_ext.cli.augment.training import seed_of
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.embedded.texts import in_test_split
from tests.architectures.bases import base_sae
from tests.cli.interrupting import interrupt_once
from tests.conftest import CONTEXT, VOCABULARY

HOOK = "blocks.1.hook_resid_post"  # HookedTransformer's name; the model is a bridge, which calls it hook_out
WORDS = VOCABULARY[2:]
TEXTS = {
    "python": [" ".join(WORDS[(i * j) % 30] for j in range(5, 60)) + f" w{i % 30}" for i in range(300)],
    "french": [" ".join(WORDS[(i + j) % 30] for j in range(5, 60)) + f" w{i % 30}" for i in range(300)],
    "prose": [" ".join(WORDS[(i + j * j) % 30] for j in range(5, 60)) + f" w{i % 30}" for i in range(300)],
}


@pytest.fixture(autouse=True)
def tiny_world(monkeypatch: pytest.MonkeyPatch, sae_bridge, restored_signals) -> None:
    monkeypatch.setattr(stages, "load_any_language_model", lambda *_: sae_bridge)
    monkeypatch.setattr(texts, "load_documents", lambda name, _: TEXTS[name])


def base_of(kind: str) -> SAE[Any]:
    base = base_sae(kind, d_in=16)
    base.cfg.metadata.hook_name = HOOK
    base.cfg.metadata.model_name = "gpt2"
    return base


def plan_for(folder: Path, **fields: Any) -> Plan:
    return Plan(
        **{
            "base_path": str(folder / "base"),
            "base_release": None,
            "base_sae_id": None,
            "domains": {"python": "python"},
            "general": "prose",
            "general_fraction": 0.1,
            "model": "gpt2",
            "model_class": "TransformerBridge",
            "hook": HOOK,
            "context_size": CONTEXT,
            "d_sae": 32,
            "training_tokens": 4096,
            "train_batch_size_tokens": 256,
            "eval_tokens": 256,
            "latent_tokens": 256,
            "n_checkpoints": 3,
            "n_latents": 3,
            **fields,
        }
    )


def augmented(folder: Path, kind: str = "jumprelu", **fields: Any) -> Path:
    if not (folder / "base").exists():
        base_of(kind).save_model(folder / "base")
    return finished(folder, **fields).folder


def finished(folder: Path, **fields: Any) -> Augmented:
    return stages.augment(plan_for(folder, **fields), load_sae(folder / "base"), folder / "run")


def test_augment_trains_stacks_exports_measures_and_draws(tmp_path: Path, capsys) -> None:
    run = augmented(tmp_path, domains={"python": "python", "french": "french"})
    stack, native = SAE.load_from_disk(run / "stack"), SAE.load_from_disk(run / "native")
    assert isinstance(stack, ResidualStackSAE) and stack.domains == ("python", "french")
    assert type(native) is JumpReLUSAE and native.cfg.d_sae == 24 + 2 * 32
    x = torch.randn(50, 16)
    torch.testing.assert_close(native(x), stack(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(stack.with_active(())(x), SAE.load_from_disk(tmp_path / "base")(x))
    report = DomainReport.load(run / "domains.json")
    assert report.saes == ("base", "python", "french", "all domains")
    assert report.domains == ("python", "french", "general")
    for domain in ("python", "french"):
        assert type(SAE.load_from_disk(run / "residuals" / domain)) is JumpReLUSAE
        found = NewLatents.load(run / f"latents_{domain}.json")
        assert found.domain == domain and found.texts == (domain, "general") and len(found.pairs) == 3
    page = (run / "index.html").read_text()
    assert "What the latents of french are" in page and "ordinary SAELens" in page
    printed = text_of(finished(tmp_path, domains={"python": "python", "french": "french"}))
    assert "ev_change" in printed and str(run / "native") in printed
    assert capsys.readouterr().out == ""
    assert not list((run / "checkpoints").iterdir())


def test_augment_says_why_there_is_no_native_form(tmp_path: Path) -> None:
    run = augmented(tmp_path, kind="topk")
    assert not (run / "native").exists()
    assert "there is no exact native form" in (run / "index.html").read_text()
    assert "there is no exact native form" in text_of(finished(tmp_path))


def test_augment_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    base_of("jumprelu").save_model(tmp_path / "base")
    before = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    augmented(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()} == before


def test_augment_without_general_text_measures_the_domain_alone(tmp_path: Path) -> None:
    run = augmented(tmp_path, general=None, general_fraction=0.0, training_tokens=None)
    assert DomainReport.load(run / "domains.json").domains == ("python",)
    # Every context once, in whole steps: 270 documents or so of 56 words and a BOS, in contexts of 16.
    tokens = json.loads((run / "trained" / "python.json").read_text())["tokens"]
    assert tokens % 256 == 0 and 12_000 < tokens < 15_400


def test_augment_interrupted_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = interrupt_once(monkeypatch, SAETrainer, after=9)
    with pytest.raises(InterruptedException):
        augmented(tmp_path)
    run = augmented(tmp_path)
    assert steps == [256 * step for step in (*range(1, 10), *range(10, 17))]
    assert json.loads((run / "trained" / "python.json").read_text())["resumed"] is True
    shutil.rmtree(run / "stack")
    before = list(steps)
    report = (run / "domains.json").read_bytes()
    augmented(tmp_path)  # finished: nothing is trained or measured again
    assert steps == before and (run / "domains.json").read_bytes() == report
    assert (run / "stack" / "cfg.json").is_file()


def test_augment_refuses_a_folder_of_another_run(tmp_path: Path) -> None:
    augmented(tmp_path)
    with pytest.raises(ValueError, match="other settings .lr was 0.002, now 0.5., which was left as it is"):
        augmented(tmp_path, lr=0.5)


def test_augment_claims_no_folder_before_everything_it_names_is_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no hook 'blocks.7.hook_out'"):
        augmented(tmp_path, hook="blocks.7.hook_out")
    assert not (tmp_path / "run").exists()


def test_augment_claims_no_folder_for_settings_that_cannot_be(tmp_path: Path, monkeypatch) -> None:
    for fields, complaint in (
        ({"k": 100}, "k = 100 is out of range"),
        ({"context_size": 17}, "context_size = 17 is more than the 16 tokens"),
        (
            {"train_batch_size_tokens": 10**5, "training_tokens": None},
            "are less than one training step of 100000",
        ),
    ):
        with pytest.raises((ValueError, CommandError), match=complaint):
            augmented(tmp_path, **fields)
    monkeypatch.setitem(TEXTS, "python", [text for text in TEXTS["python"] if not in_test_split(text)])
    with pytest.raises(
        ValueError, match="The held-out tenth of the documents of 'python' is too short: its 0 doc"
    ):
        augmented(tmp_path)
    assert not (tmp_path / "run").exists()


def test_augment_counts_the_order_of_domains(tmp_path: Path) -> None:
    augmented(tmp_path, domains={"python": "python", "french": "french"})
    with pytest.raises(ValueError, match="other settings .domains was"):
        augmented(tmp_path, domains={"french": "french", "python": "python"})


def test_augment_keeps_apart_domains_that_are_named_alike(tmp_path: Path) -> None:
    run = augmented(tmp_path, domains={"python": "python", "python_seconds": "french"})
    assert load_sae(run / "stack").domains == ("python", "python_seconds")  # type: ignore[attr-defined]


def test_augment_reads_one_head_where_the_base_does(tmp_path: Path, hooked_model, monkeypatch) -> None:
    monkeypatch.setattr(stages, "load_any_language_model", lambda *_: hooked_model)
    base = base_sae("jumprelu", d_in=8)
    base.cfg.metadata.hook_name = "blocks.1.attn.hook_z"
    base.cfg.metadata.hook_head_index = 1
    base.cfg.metadata.model_name = "tiny"
    base.save_model(tmp_path / "base")
    run = augmented(tmp_path, hook="blocks.1.attn.hook_z", model_class="HookedTransformer")
    assert load_sae(run / "stack").cfg.metadata.hook_head_index == 1
    assert load_sae(run / "residuals" / "python").cfg.metadata.hook_head_index == 1


def test_augment_gives_each_domain_a_start_of_its_own(tmp_path: Path) -> None:
    plan = plan_for(tmp_path)
    seeds = {seed_of(replace(plan, seed=seed), domain) for seed in (0, 1) for domain in ("a", "b")}
    assert len(seeds) == 4 and 0 not in seeds


def test_augment_trains_the_same_with_the_same_seed(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        base_of("jumprelu").save_model(tmp_path / name / "base")
    runs = [augmented(tmp_path / name, seed=seed) for name, seed in (("one", 0), ("two", 0), ("three", 1))]
    one, two, three = (SAE.load_from_disk(run / "residuals" / "python").W_dec for run in runs)
    assert torch.equal(one, two) and not torch.equal(one, three)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"domains": {"general": "x"}}, "the name 'general' does not do"),
        ({"domains": {"base": "x"}}, "the name 'base' does not do"),
        ({"domains": {"a/b": "x"}}, "the name 'a/b' does not do"),
        ({"context_size": 0}, "--context-size 0 leaves no room"),
        ({"general": ""}, "asks for general text, but there is none"),
        ({"general": None}, "asks for general text, but there is none"),
        ({"general_fraction": 1.0}, "--general-fraction 1.0 is out of range"),
        ({"training_tokens": 5}, "--training-tokens 5 is less than one step of 256"),
        ({"lr": 0.0}, "--lr 0.0 is not a learning rate"),
    ],
)
def test_Plan_refuses(fields: dict, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=complaint):
        replace(plan_for(tmp_path), **fields)


def options(*words: str) -> Any:
    return build_parser().parse_args(["augment", *words])


def test_augment_takes_from_the_base_what_the_user_leaves_out() -> None:
    base = base_of("jumprelu")
    base.cfg.metadata.context_size = 64
    base.cfg.metadata.dataset_path = "the/pile"
    plan = verb.plan_of(options("folder", "--domain", "a=b"), base)
    assert (plan.model, plan.model_class, plan.hook, plan.context_size) == (
        "gpt2",
        "HookedTransformer",
        HOOK,
        64,
    )
    assert (plan.general, plan.domains) == ("the/pile", {"a": "b"}) and plan.general_fraction > 0
    plan = verb.plan_of(options("folder", "--domain", "a=b", "--general", "none"), base)
    assert (plan.general, plan.general_fraction) == (None, 0.0)
    base.cfg.metadata.model_name = "SmolLM2-135M-Instruct-Q4_1"
    base.cfg.metadata.dataset_path = ""  # what SAELens writes for a run whose data set was handed to it
    plan = verb.plan_of(options("folder", "--domain", "a=b"), base)
    assert (plan.model, plan.model_class, plan.general) == (
        "embedded",
        "TransformerBridge",
        "embedded:encyclopedia",
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--domain", "a=b"], "Name the base SAE once"),
        (["folder", "--release", "r", "--sae-id", "i", "--domain", "a=b"], "Name the base SAE once"),
        (
            ["folder", "--domain", "a=b", "--tiny", "--d-sae", "7"],
            "--tiny sets --training-tokens and --d-sae",
        ),
        (["--release", "r", "--domain", "a=b"], "named by both --release and --sae-id"),
    ],
)
def test_augment_refuses_a_base_that_is_not_named_once(words: list[str], complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        verb.run(options(*words))


@pytest.mark.parametrize(
    ("metadata", "words", "complaint"),
    [
        ({"model_name": None}, ["--domain", "a=b"], "which model it was trained on. Name it with --model"),
        (
            {"hook_name": None},
            ["--general", "none", "--domain", "a=b"],
            "which hook it was trained on. Name it with --hook",
        ),
        ({}, ["--domain", "a=b"], "which text it was trained on, .* --general none"),
        ({}, ["--general", "none", "--domain", "a"], "--domain a is not NAME=TEXT"),
        ({}, ["--general", "none", "--domain", "=a"], "--domain =a is not NAME=TEXT"),
        ({}, ["--general", "none", "--domain", "a=b", "--domain", "a=c"], "--domain a is given twice"),
    ],
)
def test_augment_refuses_what_it_cannot_complete(metadata: dict, words: list[str], complaint: str) -> None:
    base = base_of("jumprelu")
    for name, value in {"dataset_path": None, **metadata}.items():
        setattr(base.cfg.metadata, name, value)
    with pytest.raises(CommandError, match=complaint):
        verb.plan_of(options("folder", *words), base)


def test_augmented_sae_loads_natively_in_a_process_without_this_package(tmp_path: Path) -> None:
    run = augmented(tmp_path)
    script = (
        "import sys\nfrom sae_lens import SAE\n"
        f"sae = SAE.load_from_disk({str(run / 'native')!r})\n"
        "assert sae.cfg.architecture() == 'jumprelu' and sae.cfg.d_sae == 56\n"
        "assert not any(name.startswith('sae_lens_ext') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, cwd=tmp_path)
