"""`sae-lens-ext collapse`: what it prints and writes, and what it refuses."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_ext.analysis.collapse import CollapseReport, collapse_report
from sae_lens_ext.cli import collapse as verb
from sae_lens_ext.cli.app import USER_ERRORS, build_parser, main
from sae_lens_ext.lime.routers import LimeRouters

WORDS = ("w3", "w7")


@pytest.fixture
def documents() -> list[str]:
    generator = torch.Generator().manual_seed(3)
    return [
        " ".join(f"w{i}" for i in torch.randint(0, 30, (12,), generator=generator).tolist())
        for _ in range(60)
    ]


@pytest.fixture
def text(documents: list[str], tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("".join(f"{document}\n" for document in documents))
    return tmp_path / "text.txt"


@pytest.fixture
def run_on(text: Path, gpt2_folder: Path, tmp_path: Path) -> Any:
    """Runs the verb on the tiny model."""

    def run(*words: str, out: str = "out.json") -> Path:
        given = ("--text", str(text), "--model", str(gpt2_folder), "--out", str(tmp_path / out))
        options = build_parser().parse_args(
            ["collapse", *given, "--context-size", "16", "--tokens", "160", *words]
        )
        options.run(options)
        return tmp_path / out

    return run


@pytest.fixture
def routers_file(tmp_path: Path) -> Path:
    LimeRouters(2, 2, initial="random", seed=3).save(tmp_path / "routers.safetensors")
    return tmp_path / "routers.safetensors"


def rows(printed: str) -> dict[int, list[str]]:
    """The numbers printed for each layer."""
    lines = (re.fullmatch(r"(-?\d+) +(.*)", line) for line in printed.splitlines())
    return {int(line[1]): line[2].split() for line in lines if line}


def test_collapse_prints_a_table_and_writes_report_and_figure(
    run_on: Any, sae_bridge: Any, documents: list[str], capsys: Any
) -> None:
    out = run_on("--words", *WORDS, "--per-word", "9")
    printed = capsys.readouterr().out
    report = CollapseReport.load(out)
    own = collapse_report(
        sae_bridge, documents, words=WORDS, per_word=9, context_size=16, max_tokens=160, show_progress=False
    )
    assert torch.equal(own.entropies["residual"], report.entropies["residual"])
    assert torch.equal(own.fold_accuracies["values"], report.fold_accuracies["values"])
    found = rows(printed)
    assert list(found) == [-1, 0, 1]
    assert found[-1] == [
        f"{own.entropy['residual'][0].value:.3f}",
        "–",
        f"{own.separability['residual'][0]:.3f}",
        "–",
    ]
    assert found[1] == [
        *(f"{own.entropy[site][-1].value:.3f}" for site in ("residual", "values")),
        *(f"{own.separability[site][-1]:.3f}" for site in ("residual", "values")),
    ]
    assert "Entropy of 10 sequences of 16 positions, α = 0.5, in nats, at most: residual 2.77" in printed
    assert "Separability of 'w3', 'w7', 9 occurrences each, chance 0.50" in printed
    page = out.with_suffix(".html")
    assert printed.endswith(f"Report: {out}; figure: {page}\n")
    assert "<script" in page.read_text() and 'src="http' not in page.read_text()


def test_collapse_reads_before_and_after_the_routing_of_routers(
    run_on: Any, routers_file: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ("--no-words", "--sites", "values,keys", "--alpha", "1", "0.5", "--skip-positions", "1")
    out = run_on("--routers", str(routers_file), *words)
    report, printed = CollapseReport.load(out), capsys.readouterr().out
    assert report.sites == ("values", "routed values", "keys", "routed keys") and report.alphas == (1.0, 0.5)
    assert not report.words and "Separability" not in printed
    assert "of 15 positions, α = 1, in nats" in printed and len(rows(printed)[1]) == 4
    of_folder = run_on("--routers", str(tmp_path), *words, out="again.json")
    assert torch.equal(
        CollapseReport.load(of_folder).entropies["routed keys"], report.entropies["routed keys"]
    )
    without = CollapseReport.load(run_on(*words, out="without.json"))
    assert not torch.equal(without.entropies["values"][:, 1], report.entropies["routed values"][:, 1])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--out", "{tmp}/out.html"], "give a file whose name ends in .json, in a folder that exists"),
        (["--out", "{tmp}/none/out.json"], "in a folder that exists"),
        (["--sites", "residual,value"], "--sites 'residual,value' is not what can be measured. Give some of"),
        (["--sites", "keys,keys"], "each once"),
        (["--words", "w3"], "--words 'w3' is one word"),
        (["--words", "w3", "w4", "--no-words"], "--words and --no-words were both given"),
        (["--alpha", "-1"], "--alpha was given alpha = -1.0"),
        (["--alpha", "1", "1"], "each once"),
        (["--tokens", "0"], "--tokens 0 reads nothing"),
        (["--per-word", "0"], "--per-word 0 reads nothing"),
        (["--per-word", "2"], "--per-word 2 is too few to tell words apart. Give at least 5, or --no-words"),
        (["--seed", "-1"], "--seed was given seed = -1"),
        (["--routers", "{tmp}/tuned"], "were trained together with their model"),
        (["--skip-positions", "16"], "--skip-positions 16 leaves nothing of 16 tokens"),
        (["--routers", "{tmp}/none"], "There is no file or folder '{tmp}/none'. Give routers"),
        (["--routers", "{tmp}/text.txt"], "holds no LIMe routers"),
        (["--text", "{tmp}/none.txt"], "There is no file or folder '{tmp}/none.txt'"),
    ],
)
def test_collapse_refuses_before_the_model_is_loaded(
    run_on: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], complaint: str
) -> None:
    def load(*_: Any) -> Any:
        raise AssertionError("a model was loaded")

    tuned = LimeRouters(2, 2)
    tuned.provenance["training"] = {"trained": "all"}
    (tmp_path / "tuned").mkdir()
    tuned.save(tmp_path / "tuned" / "routers.safetensors")
    monkeypatch.setattr(verb, "load_named_model", load)
    with pytest.raises(USER_ERRORS) as caught:
        run_on(*(word.format(tmp=tmp_path) for word in words))
    assert complaint.format(tmp=tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_collapse_refuses_what_does_not_fit_the_model(run_on: Any, tmp_path: Path) -> None:
    LimeRouters(3, 2).save(tmp_path / "others.safetensors")
    with pytest.raises(USER_ERRORS, match="routers are for 3 layers of 2 key-value heads"):
        run_on("--routers", str(tmp_path / "others.safetensors"))
    with pytest.raises(USER_ERRORS, match="the word ' is', which the model's tokenizer"):
        run_on()
    assert not (tmp_path / "out.json").exists()


def test_the_command_has_the_verb(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["collapse", "--help"])
    assert "--per-word 200, or --no-words" in capsys.readouterr().out
