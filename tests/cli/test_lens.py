"""`sae-lens-ext lens`: what it prints and writes, and what it refuses."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from sae_lens import StandardSAE
from safetensors.torch import save_file

from sae_lens_ext.cli import lens as verb
from sae_lens_ext.cli.app import USER_ERRORS, main
from sae_lens_ext.embedded.model import MODEL_NAME
from sae_lens_ext.steering.reading.lens import logit_lens
from sae_lens_ext.steering.vectors import SteeringVectors
from tests.cli.stand_ins import HOOK, load_instead, run_verb, save_tiny_sae


def drawn(*layers: int) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {layer: torch.randn(16, generator=generator) for layer in layers}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    SteeringVectors(drawn(0, 1), {"model_name": "tiny"}).save(tmp_path / "my.safetensors")
    return tmp_path / "my.safetensors"


@pytest.fixture
def sae_folder(tmp_path: Path) -> Path:
    return save_tiny_sae(tmp_path / "my_sae", "W_dec")


@pytest.fixture
def loaded(hooked_model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    return load_instead(monkeypatch, verb, "load_named_model", hooked_model)


def command(*words: Any) -> None:
    run_verb(verb, "lens", *words)


def tables(printed: str) -> dict[str, list[tuple[str, float, str, float]]]:
    """What was printed for each vector: token and value at the top and at the bottom, by rank."""
    found: dict[str, list[tuple[str, float, str, float]]] = {}
    for line in printed.splitlines():
        if "‖x‖ = " in line:
            found[line.split("   ")[0]] = rows = []
        elif line.startswith("    "):
            words = [word for word in line.split() if word != "*"]
            assert words[0] == str(len(rows) + 1)
            rows.append((words[1], float(words[2]), words[3], float(words[4])))
    return found


def test_lens_prints_both_ends_of_every_vector(
    file: Path, loaded: list[Any], hooked_model: Any, capsys: Any
) -> None:
    command(file, "--top", 3)
    printed = capsys.readouterr().out
    result = logit_lens(hooked_model, SteeringVectors.load(file), top_k=3)
    found = tables(printed)
    assert list(found) == ["layer 0", "layer 1"]
    for label, rows in found.items():
        assert [row[:2] for row in rows] == [(t, pytest.approx(v, abs=6e-4)) for t, v in result.top(label, 3)]
        assert [row[2:] for row in rows] == [
            (t, pytest.approx(v, abs=6e-4)) for t, v in result.bottom(label, 3)
        ]
        assert f"{label}   ‖x‖ = {drawn(0, 1)[int(label[-1])].norm():.4g}" in printed
    assert f"Steering vectors of {file}" in printed
    assert "cos(W_U[v], x), without the final norm" in printed
    assert f"* exceeds {result.random_largest:.3f}, as one in twenty random vectors does" in printed
    assert loaded == [("tiny", "cpu")]


def test_stars_mark_what_exceeds_random_vectors(
    file: Path, loaded: list[Any], hooked_model: Any, capsys: Any
) -> None:
    column = hooked_model.W_U[:, 7].detach()
    SteeringVectors({1: column / column.norm()}, {"model_name": "tiny"}).save(file)
    command(file, "--top", 2)
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("    "))
    assert first.split()[:4] == ["1", "w5", "1.000", "*"]
    assert second.split()[3] != "*"
    command(file, "--top", 1, "--measure", "dot")
    out = capsys.readouterr().out
    assert (
        "W_U[v] · x" in out
        and "* exceeds what all but one in twenty random vectors of the same length stay below" in out
    )
    assert next(line for line in out.splitlines() if line.startswith("    ")).split()[3] == "*"


def test_lens_reads_the_layers_asked_for(file: Path, loaded: list[Any], capsys: Any) -> None:
    command(file, "--layers", "1", "--final-norm", "--measure", "dot")
    out = capsys.readouterr().out
    assert list(tables(out)) == ["layer 1"]
    assert "W_U[v] · (γ ∘ (x − mean x)), γ of the final LayerNorm" in out


def test_lens_writes_a_table_and_a_figure(file: Path, loaded: list[Any], tmp_path: Path, capsys: Any) -> None:
    command(file, "--top", 4, "--csv", tmp_path / "t.csv", "--html", tmp_path / "t.html")
    frame = pd.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert list(frame.columns) == ["layer", "rank", "token", "token_id", "value", "side"]
    assert len(frame) == 2 * 2 * 4
    page = (tmp_path / "t.html").read_text()
    assert "raised most" in page and "<script" in page and 'src="http' not in page


def test_lens_reads_a_decoder_row(
    sae_folder: Path, loaded: list[Any], hooked_model: Any, capsys: Any
) -> None:
    command("--sae", sae_folder, "--feature", 3, "--top", 5)
    out = capsys.readouterr().out
    row = StandardSAE.load_from_disk(sae_folder).W_dec[3].detach()
    assert f"Decoder row of feature 3 of {sae_folder} (standard)" in out
    assert f"{HOOK}   ‖x‖ = {row.norm():.4g}" in out
    expected = logit_lens(hooked_model, row, top_k=5)
    assert [line[:2] for line in tables(out)[HOOK]] == [
        (token, pytest.approx(value, abs=6e-4)) for token, value in expected.top(n=5)
    ]
    assert loaded == [("tiny", "cpu")]


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_lens_reads_a_checkpoint_of_biases(tmp_path: Path, loaded: list[Any], name: str, capsys: Any) -> None:
    biases = {f"model.layers.{layer}.mlp.down_proj.bias": bias for layer, bias in drawn(0, 1).items()}
    biases["model.norm.weight"] = torch.ones(16)
    (save_file if name.endswith("safetensors") else torch.save)(biases, tmp_path / name)
    for given in (tmp_path / name, tmp_path):
        if given.is_file() or name == "model.safetensors":
            command(given, "--model", "tiny", "--top", 2)
            assert list(tables(capsys.readouterr().out)) == ["layer 0", "layer 1"]


def test_vectors_of_zeros_are_named_and_left_out(tmp_path: Path, loaded: list[Any], capsys: Any) -> None:
    path = tmp_path / "my.safetensors"
    SteeringVectors({**drawn(1), 0: torch.zeros(16)}, {"model_name": "tiny"}).save(path)
    command(path, "--top", 2)
    out = capsys.readouterr().out
    assert "(zero, so without tokens: layer 0)" in out and list(tables(out)) == ["layer 1"]
    with pytest.raises(USER_ERRORS, match="holds nothing but zeros in these layers"):
        command(path, "--layers", "0")


def test_a_folder_is_loaded_as_a_bridge(file: Path, gpt2_folder: Path, sae_bridge: Any, capsys: Any) -> None:
    command(file, "--model", gpt2_folder, "--top", 3)
    found = tables(capsys.readouterr().out)
    expected = logit_lens(sae_bridge, SteeringVectors.load(file), top_k=3)
    assert [row[0] for row in found["layer 1"]] == [token for token, _ in expected.top(1, 3)]


def test_a_folder_without_a_model_is_refused(file: Path, sae_folder: Path) -> None:
    with pytest.raises(USER_ERRORS, match="holds no model"):
        command(file, "--model", sae_folder)
    with pytest.raises(USER_ERRORS, match="There is no folder of a model"):
        command(file, "--model", sae_folder / "nowhere")


def test_the_embedded_model_is_known_by_its_name(file: Path, loaded: list[Any], capsys: Any) -> None:
    SteeringVectors(drawn(0), {"model_name": MODEL_NAME}).save(file)
    command(file, "--top", 1)
    command(file, "--top", 1, "--model", "embedded", "--device", "cuda")
    assert loaded == [("embedded", "cpu"), ("embedded", "cuda")]


def test_the_model_of_a_sum_is_that_of_its_terms(file: Path, loaded: list[Any], capsys: Any) -> None:
    one, other = SteeringVectors.load(file), SteeringVectors(drawn(1), {"model_name": "tiny", "seed": 2})
    (one + 2 * other).save(file)
    command(file, "--layers", "1", "--top", "1")
    assert loaded == [("tiny", "cpu")]
    (one + SteeringVectors(drawn(1), {"model_name": "small"})).save(file)
    with pytest.raises(USER_ERRORS, match="are of small and tiny. Name the model with --model"):
        command(file)


def test_wide_characters_keep_their_columns() -> None:
    assert (verb._width("abc"), verb._width("字a"), verb._width("é")) == (3, 3, 1)
    assert verb._padded("字", 4) == "字  "


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "neither VECTORS nor --sae"),
        (["{file}", "--sae", "{sae}", "--feature", "1"], "both VECTORS and --sae"),
        (["--sae", "{sae}"], "--sae and --feature go together"),
        (["{file}", "--feature", "1"], "--sae and --feature go together"),
        (["--sae", "{sae}", "--feature", "1", "--layers", "0"], "--layers is for steering vectors"),
        (["--sae", "{sae}", "--feature", "24"], "features 0 to 23"),
        (
            ["--sae", "{sae}", "--feature", "1", "--hook", "blocks.0.attn.hook_z"],
            "no place of the residual stream",
        ),
        (["{file}", "--hook", "x"], "--hook is for an SAE"),
        (["{file}", "--top", "0"], "--top 0 shows nothing"),
        (["{file}", "--layers", "a"], "--layers 'a' is no list of layers"),
        (["{file}", "--layers", "0,7"], "There is no steering vector of layer 7"),
        (["{file}", "--csv", "{nowhere}/t.csv"], "--csv .* cannot be written: there is no folder"),
        (["{file}", "--html", "{sae}"], "--html .* is a folder"),
        (["{nowhere}"], "There is no file or folder"),
        (["{broken}", "--model", "tiny"], "truncated or not a safetensors file"),
        (["{unnamed}"], "does not say which model its vectors are of. Name the model with --model"),
        (["{wide}"], "17 numbers, but the model's residual stream has width 16"),
    ],
)
def test_lens_says_what_is_wrong(
    file: Path, sae_folder: Path, loaded: list[Any], tmp_path: Path, words: list[str], complaint: str
) -> None:
    (tmp_path / "broken.safetensors").write_bytes(file.read_bytes()[:50])
    SteeringVectors(drawn(0)).save(tmp_path / "unnamed.safetensors")
    SteeringVectors({0: torch.ones(17)}, {"model_name": "tiny"}).save(tmp_path / "wide.safetensors")
    places = {
        "file": file,
        "sae": sae_folder,
        "nowhere": tmp_path / "nowhere",
        **{name: tmp_path / f"{name}.safetensors" for name in ("broken", "unnamed", "wide")},
    }
    with pytest.raises(USER_ERRORS, match=complaint) as caught:
        command(*(word.format(**places) for word in words))
    assert "\n" not in str(caught.value)


def test_the_command_has_the_verb(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["lens", "--help"])
    assert "bias_only_checkpoint/" in capsys.readouterr().out
    assert main(["lens", "no_such_file"]) == 1
    assert capsys.readouterr().err.startswith(
        "sae-lens-ext: error: There is no file or folder 'no_such_file'"
    )
