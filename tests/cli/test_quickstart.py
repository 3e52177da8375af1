"""The quickstart on a tiny model: end to end, interrupted and taken up again, and in folders that are not its own."""

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from sae_lens import SAE
from sae_lens.training._interruption import InterruptedException
from sae_lens.training.multi_sae_trainer import MultiSAETrainer
from safetensors.torch import save_file

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.json_content import plain
from sae_lens_ext.cli.quickstart import verb
from sae_lens_ext.cli.quickstart.plan import SAES, Plan, sae_configs
from sae_lens_ext.cli.quickstart.report import table
from sae_lens_ext.cli.sources import default_model_class, load_language_model, split_documents
from sae_lens_ext.run_folder import RunFolder
from tests.cli.interrupting import interrupt_once
from tests.conftest import CONTEXT, VOCABULARY

PLAN = Plan(
    hook="blocks.1.hook_out",
    training_tokens=4096,
    d_sae=128,
    context_size=CONTEXT,
    train_batch_size_tokens=256,
    eval_batches_ev=2,
    eval_batches_ce=1,
    n_checkpoints=3,
)


@pytest.fixture(autouse=True)
def tiny_world(monkeypatch: pytest.MonkeyPatch, sae_bridge, restored_signals) -> None:
    words = VOCABULARY[2:]
    documents = [
        " ".join(words[(i * j) % len(words)] for j in range(5, 60)) + f" w{i % 30}" for i in range(900)
    ]
    monkeypatch.setattr(verb, "load_any_language_model", lambda *_: sae_bridge)
    monkeypatch.setattr(verb, "load_documents", lambda _: documents)


class Words(HTMLParser):
    """Collects the text of a page outside its scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag, attrs) -> None:
        self.inside = tag

    def handle_data(self, data) -> None:
        if self.inside not in ("script", "style"):
            self.words.append(data)


def test_quickstart_trains_saves_measures_and_draws(tmp_path: Path, capsys) -> None:
    returned = verb.quickstart(PLAN, tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results == json.loads(json.dumps(plain(returned)))
    assert [(row["sae"], row["k"]) for row in results["rows"]] == [
        *((f"topk_k{k}", k) for k in (8, 16, 32, 64)),
        *(("hierarchical_topk_k64", k) for k in (8, 16, 32, 64)),
        ("kron_m2_n4_k32", 32),
    ]
    for row in results["rows"]:
        assert row["l0"] <= row["k"] and row["explained_variance"] < 1 and row["bytes_on_disk"] > 0
    for name in sae_configs(PLAN, 16):
        SAE.load_from_disk(tmp_path / "run" / "saes" / name)
    assert table(returned["rows"]).startswith("| SAE ") and capsys.readouterr().out == ""
    page = Words()
    page.feed((tmp_path / "run" / "index.html").read_text())
    assert "kron_m2_n4_k32" in page.words
    assert "https://" not in "".join(page.words)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_quickstart_curve_agrees_with_the_table(tmp_path: Path) -> None:
    verb.quickstart(PLAN, tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for row in results["rows"]:
        if row["sae"] in results["curves"]:
            curve = results["curves"][row["sae"]]
            at_k = curve["explained_variance"][curve["k"].index(row["k"])]
            assert at_k == pytest.approx(row["explained_variance"], abs=1e-4)


def test_quickstart_interrupted_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = interrupt_once(monkeypatch, MultiSAETrainer, after=9)
    with pytest.raises(InterruptedException):
        verb.quickstart(PLAN, tmp_path / "run")
    verb.quickstart(PLAN, tmp_path / "run")
    assert steps == [256 * step for step in (*range(1, 10), *range(10, 17))]
    assert json.loads((tmp_path / "run" / "trained" / f"{SAES}.json").read_text())["resumed"] is True
    before = list(steps)
    verb.quickstart(PLAN, tmp_path / "run")  # finished: nothing is trained or measured again
    assert steps == before


def test_quickstart_ignores_checkpoints_that_were_not_written_to_their_ends(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", PLAN, "`sae-lens-ext quickstart`")
    names = ("topk_k8", "kron_m2_n4_k32")
    for tokens in ("0", "1024", "2048", "3072", "4096", "notes"):
        for name in names:
            checkpoint = folder.checkpoints(SAES) / "run" / tokens / name
            checkpoint.mkdir(parents=True)
            save_file({"W": torch.zeros(4)}, checkpoint / "sae_weights.safetensors")
            torch.save({"step": 1}, checkpoint / "trainer_state.pt")
        (checkpoint.parent / "runner_cfg.json").write_text("{}")
    run = folder.checkpoints(SAES) / "run"
    assert folder.latest_checkpoint(SAES, names) == run / "4096"
    truncate(run / "4096" / "runner_cfg.json", 1)
    assert folder.latest_checkpoint(SAES, names) == run / "3072"
    truncate(run / "3072" / names[1] / "trainer_state.pt", 500)
    assert folder.latest_checkpoint(SAES, names) == run / "2048"
    truncate(run / "2048" / names[0] / "sae_weights.safetensors", 20)
    assert folder.latest_checkpoint(SAES, names) == run / "1024"
    shutil.rmtree(run / "1024" / names[1])
    assert folder.latest_checkpoint(SAES, names) is None  # at 0 tokens there is nothing to go on from


def truncate(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def test_RunFolder_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(
        ValueError, match="is not a folder of `sae-lens-ext quickstart` .* nothing was written there"
    ):
        RunFolder(tmp_path, PLAN, "`sae-lens-ext quickstart`")
    with pytest.raises(ValueError, match="is a file"):
        RunFolder(tmp_path / "thesis.tex", PLAN, "`sae-lens-ext quickstart`")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    RunFolder(tmp_path / "run", PLAN, "`sae-lens-ext quickstart`").claim()
    with pytest.raises(
        ValueError, match=r"other settings \(lr was 0.00\d+, now 0.5\), which was left as it is"
    ):
        RunFolder(tmp_path / "run", replace(PLAN, lr=0.5), "`sae-lens-ext quickstart`")
    RunFolder(tmp_path / "run", PLAN, "`sae-lens-ext quickstart`")
    for foreign in ("[]", "{}", "not JSON"):
        (tmp_path / "run" / "plan.json").write_text(foreign)
        with pytest.raises(ValueError, match="is not a folder of `sae-lens-ext quickstart`"):
            RunFolder(tmp_path / "run", PLAN, "`sae-lens-ext quickstart`")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"training_tokens": -5}, "--training-tokens -5 is less than one step of 256"),
        ({"d_sae": 32}, "--d-sae 32 does not do: the largest budget is 64"),
        ({"d_sae": 100}, "Kron's heads hold 8 latents"),
        ({"lr": 0.0}, "--lr 0.0 is not a learning rate"),
    ],
)
def test_Plan_refuses(fields: dict, complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        replace(PLAN, **fields)


def test_quickstart_claims_no_folder_before_everything_it_names_is_found(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(CommandError, match="no hook 'blocks.7.hook_out'"):
        verb.quickstart(replace(PLAN, hook="blocks.7.hook_out"), tmp_path / "run")
    monkeypatch.setattr(verb, "load_documents", lambda _: ["w1 w2", "w3 w4 w5"])
    with pytest.raises(ValueError, match="The text, .* is too short: .* fill 0 contexts of 16 tokens"):
        verb.quickstart(PLAN, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_models_come_only_as_the_classes_there_are() -> None:
    assert (
        default_model_class("embedded") == "TransformerBridge"
        and default_model_class("gpt2") == "HookedTransformer"
    )
    with pytest.raises(CommandError, match="TransformerBridge serves the embedded model, not 'gpt2'"):
        load_language_model("gpt2", "TransformerBridge", "cpu")
    with pytest.raises(CommandError, match="not as AutoModelForCausalLM"):
        load_language_model("embedded", "AutoModelForCausalLM", "cpu")


def test_split_documents_is_by_document() -> None:
    documents = [f"document {i % 300}" for i in range(600)]
    training, held_out = split_documents(documents)
    assert not set(training) & set(held_out) and len(training) + len(held_out) == 600
    assert 20 < len(held_out) < 120


def test_table_is_markdown() -> None:
    row = {
        "sae": "topk_k8",
        "k": 8,
        "explained_variance": 0.5,
        "ce_loss_score": 0.25,
        "l0": 8.0,
        "dead_latents": 3,
        "parameters": 2_400_000,
        "bytes_on_disk": 2**20,
    }
    assert (
        table([row]).splitlines()[2]
        == "| topk_k8 | 8 | 0.500 |    0.250 | 8.0 |    3 |     2.40 M | 1.0 MiB |"
    )
