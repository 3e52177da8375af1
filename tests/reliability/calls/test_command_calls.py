"""The command line with wrong words, broken files and folders of others: one sentence, a status, no traceback, nothing written."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sae_lens_ext.cli import main
from tests.cli.stand_ins import save_tiny_sae

VERBS = [
    "quickstart",
    "augment",
    "train",
    "stability",
    "flow",
    "steer",
    "train-vectors",
    "lens",
    "train-lime",
    "collapse",
    "check",
    "upload",
    "list",
    "describe",
    "cite",
    "install-embedded",
]
BYTES = bytes(range(256)) * 4
FILES: dict[str, bytes] = {
    "bytes.txt": BYTES,
    "empty.txt": b"",
    "broken.jsonl": b'{"text": 1}\n{',
    "bytes.jsonl": BYTES,
    "null.jsonl": b'{"text": null}\n',
    "empty.jsonl": b"",
    "list.jsonl": b"[1, 2]\n",
    "bytes.csv": BYTES,
    "empty.csv": b"",
    "bytes.parquet": b"xx",
    "bytes.safetensors": b"\xff" * 100,
}
TEXTS = (*FILES, "missing.txt", "nothing", "embedded:nope", "embedded:", "", "nul\0")
FOLDERS = (
    "truncated",
    "no_json",
    "a_list",
    "no_fields",
    "unknown",
    "nothing",
    "bytes.txt",
    "missing",
    "",
    "nul\0",
)
NUMBERS = ("-1", "999", "nan", "x", "1e9", "")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with broken SAEs and texts."""
    place = tmp_path_factory.mktemp("commands")
    sae = save_tiny_sae(place / "sae", "W_enc")
    for name, text in (
        ("no_json", "{not json"),
        ("a_list", "[1, 2]"),
        ("no_fields", "{}"),
        ("unknown", (sae / "cfg.json").read_text().replace('"standard"', '"<script>"')),
    ):
        (shutil.copytree(sae, place / name) / "cfg.json").write_text(text)
    weights = next(shutil.copytree(sae, place / "truncated").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    (place / "nothing").mkdir()
    (place / "others").mkdir()
    for name, content in FILES.items():
        (place / name).write_bytes(content)
    (place / "others" / "notes.bin").write_bytes(BYTES)
    (place / "tasks.jsonl").write_text('{"prompt": "1 + 1 =", "answer": 2}\n')
    return place


def commands() -> Iterator[tuple[str, ...]]:
    """Give every command line, none of which can be carried out."""
    for verb in VERBS:
        yield verb, "--nope"
    yield "train", "--seed", "x"
    for verb in (
        "augment",
        "stability",
        "flow",
        "steer",
        "train-vectors",
        "lens",
        "upload",
        "describe",
        "cite",
    ):
        yield (verb,)
    for folder in FOLDERS:
        yield "steer", folder, "--index", "1", "--prompt", "w1"
        yield "stability", folder, folder
        yield "flow", folder, "--all"
        yield "lens", "--sae", folder, "--feature", "1"
        yield "lens", folder
        yield "upload", folder, "--repo", "me/saes"
        yield "upload", f"{folder}=sae", "--repo", folder, "--card-only"
        yield "augment", folder, "--domain", "x=bytes.txt", "--out", "new"
        yield "train-vectors", folder, "--reward", "last_number", "--out", "new"
    for text in TEXTS:
        yield "train-vectors", text, "--reward", "last_number", "--out", "new"
        yield "collapse", "--text", text, "--out", "new.json"
        yield "train-lime", "--text", text, "--out", "new"
    for number in NUMBERS:
        for flag in (
            "index",
            "strengths",
            "positions",
            "max-new-tokens",
            "temperature",
            "top-p",
            "hook",
            "device",
            "phases",
        ):
            yield "steer", "sae", "--index", "1", "--prompt", "w", f"--{flag}={number}"
        for flag in ("feature", "top", "layers", "device"):
            yield "lens", "--sae", "sae", "--feature", "1", f"--{flag}={number}"
        yield "flow", "sae", "--start", f"1/res/{number}"
        yield "stability", "sae", "sae", f"--threshold={number}"
        yield "describe", number
        yield "cite", number
    for out in ("bytes.txt", "bytes.txt/x", "others"):
        yield "train-vectors", "tasks.jsonl", "--reward", "last_number", "--out", out
        yield "augment", "sae", "--domain", "d=tasks.jsonl", "--out", out
        yield "quickstart", "--out", out


ALL = sorted(set(commands()))
COMMANDS = ALL if os.environ.get("SAE_LENS_EXT_ALL_COMMANDS") else ALL[::4]
"""Every fourth, unless all are asked for."""


def run(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> tuple[int, str]:
    """Run the command and give its status and its last line on standard error."""
    try:
        status = main(words)
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, capsys.readouterr().err.strip().rpartition("\n")[2]


@pytest.mark.filterwarnings("ignore")  # third parties' own, of loading broken files
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: ascii(" ".join(words)))
def test_a_command_that_cannot_be_carried_out_says_so(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(place)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    status, last = run(capsys, words)
    assert status in (1, 2)
    assert re.match(r"sae-lens-ext( [\w-]+)?: error: .{10}", last)
    assert "Traceback" not in last
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
