"""The command in several processes: one voice, one writer, the same files; and what it refuses."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sae_lens_ext import FlowGraph
from sae_lens_ext.cli import flow, main
from sae_lens_ext.cli.stability import verb
from tests.analysis.flow.dictionaries import RES, sae_of
from tests.in_ranks import in_ranks


def torchrun(*words: str, n: int = 2) -> subprocess.CompletedProcess[str]:
    """Run the command under torch's launcher."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SAE_LENS_EXT_RANK_TIMEOUT": "60"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    return subprocess.run(
        [*launcher, "-m", "sae_lens_ext", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def command(*words: str) -> tuple[int, str, str]:
    """Run the command in this process and give its status, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as stop:
            status = int(stop.code or 0)
    return status, out.getvalue(), err.getvalue()


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """A folder of three SAEs of one layer, half of whose features all have."""
    shared = torch.randn(8, 12, generator=torch.Generator().manual_seed(9))
    for seed in range(3):
        own = torch.randn(8, 12, generator=torch.Generator().manual_seed(seed))
        sae_of(torch.cat([shared, own]), RES.format(1)).save_model(tmp_path / "run" / f"topk_seed_{seed}")
    return tmp_path / "run"


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """SAEs of three layers."""
    for layer in range(3):
        rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(layer))
        sae_of(rows, RES.format(layer)).save_model(tmp_path / "saes" / str(layer))
    return tmp_path / "saes"


def contents(folder: Path) -> dict[str, bytes]:
    """What is in a folder, by name; of pages only that they are there, as plotly names each anew."""
    return {
        path.name: b"" if path.suffix == ".html" else path.read_bytes() for path in sorted(folder.iterdir())
    }


def test_stability_under_torchrun_writes_the_files_of_one_process_and_prints_once(
    seeds: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    status, printed, _ = command("stability", str(seeds), "--text", "none", "--out", str(one))
    assert status == 0

    done = torchrun("stability", str(seeds), "--text", "none", "--out", str(two))
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed.replace(str(one), str(two)) and done.stdout.count("topk: ") == 1
    assert contents(two) == contents(one) and len(contents(one)) == 3
    assert "[rank 1]" not in done.stderr


def test_a_verb_that_does_not_divide_is_refused_under_torchrun() -> None:
    done = torchrun("collapse", "--text", "nowhere", "--out", "none.json")
    assert done.returncode != 0 and done.stdout == ""
    assert (
        done.stderr.count("collapse was started in 2 processes and cannot divide its work among them.") == 1
    )
    assert "Leave torchrun out: sae-lens-ext collapse" in done.stderr
    assert "Under torchrun run " in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["quickstart"],
        ["augment", "sae", "--domain", "a=b", "--out", "c"],
        ["install-embedded"],
        ["steer", "sae", "--index", "1", "--prompt", "a"],
    ],
    ids=lambda words: words[0],
)
def test_verbs_that_do_not_divide_are_refused_before_they_begin(words: list[str]) -> None:
    first, second = in_ranks(2, lambda: command(*words))
    assert first[:2] == (2, "") and second == (2, "", "")
    assert f"{words[0]} was started in 2 processes" in first[2]
    assert "stability, flow" in first[2]


def test_whole_model_flow_is_printed_and_written_by_the_first_rank_alone(
    layers: Path, tmp_path: Path
) -> None:
    words = ["flow", str(layers), "--all", "--thresholds", "none"]
    expected = command(*words, "--out", str(tmp_path / "one"))
    first, second = in_ranks(2, lambda: command(*words, "--out", str(tmp_path / "two")))

    assert expected[0] == 0 and second == (0, "", "")
    assert first[1] == expected[1].replace(str(tmp_path / "one"), str(tmp_path / "two"))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_trace_may_be_asked_for_in_several_ranks(layers: Path, tmp_path: Path) -> None:
    words = [
        "flow",
        str(layers),
        "--start",
        "1/res/2",
        "--thresholds",
        "none",
        "--out",
        str(tmp_path / "out"),
    ]
    first, second = in_ranks(2, lambda: command(*words))
    assert first[0] == 0 and "1/res/2" in first[1] and second == (0, "", "")
    assert (RES.format(1), 2) in FlowGraph.load(tmp_path / "out" / "graph.json").chain()


def test_an_answer_in_JSON_is_given_once() -> None:
    first, second = in_ranks(2, lambda: command("list", "--json"))
    assert json.loads(first[1])["verb"] == "list" and second == (0, "", "")


def test_a_wrong_command_line_and_help_are_told_once() -> None:
    first, second = in_ranks(2, lambda: command("stability", "--no-such-flag"))
    assert first[0] == second[0] == 2
    assert first[2].startswith("usage: sae-lens-ext") and second[1:] == ("", "")

    first, second = in_ranks(2, lambda: command("flow", "--help"))
    assert first[0] == second[0] == 0
    assert first[1].startswith("usage: sae-lens-ext flow") and second[1:] == ("", "")


def test_an_error_names_the_rank_that_met_it() -> None:
    found = in_ranks(3, lambda: command("stability", "nowhere"))
    names = ["sae-lens-ext", "sae-lens-ext [rank 1]", "sae-lens-ext [rank 2]"]
    for (status, out, err), name in zip(found, names, strict=True):
        assert (status, out) == (1, "")
        assert err.startswith(f"{name}: error: There is no folder 'nowhere'") and err.count("\n") == 1


def test_a_rank_that_is_left_alone_says_so_in_one_sentence(seeds: Path, tmp_path: Path) -> None:
    """Rank 1 cannot read one of its SAEs; rank 0 waits for it in vain."""
    weights = "sae_weights.safetensors"

    def run() -> None:
        rank = torch.distributed.get_rank()
        own = tmp_path / f"rank {rank}"
        own.symlink_to(seeds)
        if rank == 1:
            own.unlink()
            for folder in seeds.iterdir():
                target = own / folder.name
                target.mkdir(parents=True)
                (target / "cfg.json").write_bytes((folder / "cfg.json").read_bytes())
                (target / weights).write_bytes(
                    (folder / weights).read_bytes()[: -40 * (folder.name[-1] == "2")]
                )
        done = command("stability", str(own), "--text", "none")
        (tmp_path / f"said {rank}").write_text(done[2])
        os._exit(done[0])

    with pytest.raises(pytest.fail.Exception, match=r"exit codes \[1, 1\]"):
        in_ranks(2, run, timeout=10)
    assert (tmp_path / "said 1").read_text().startswith("sae-lens-ext [rank 1]: error: ")
    bar, said = (tmp_path / "said 0").read_text().splitlines()[-2:]
    assert "Comparing" in bar
    assert said.startswith(
        "sae-lens-ext: error: Rank 0 of 2 got no answer from another rank while comparing the SAEs: that one has ended, or did not come"
    )


@pytest.mark.parametrize("module", [verb, flow])
def test_verbs_that_divide_say_so_in_their_modules(module) -> None:
    assert module.RUNS_IN_RANKS is True


@pytest.mark.parametrize("device", ["cuda", "nonsense"])
@pytest.mark.parametrize("verb", [["stability", "--text", "none"], ["flow", "--all"]])
def test_a_device_that_is_not_there_is_a_sentence(
    verb: list[str], device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main([verb[0], str(tmp_path), *verb[1:], "--device", device]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"sae-lens-ext: error: --device {device} cannot be used here (")
    assert said.endswith("Give another, such as cpu.\n")
