"""`upload`: the card alone, an upload and what it prints, and that a reader with SAELens alone can load what needs no more."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sae_lens_ext import model_card, save_sae
from sae_lens_ext.cli import main
from tests.hub.stand_in import Repository, StandIn

READER = """
import sys
from sae_lens import SAE

assert SAE.from_pretrained("me/saes", "base").cfg.k == 4
assert SAE.from_pretrained("me/saes", "nested").cfg.k == 4
assert SAE.from_pretrained("me/saes", "boost/code").cfg.architecture() == "jumprelu"
assert "sae_lens_ext" not in sys.modules
for name in ("kron", "stack"):
    try:
        SAE.from_pretrained("me/saes", name)
    except KeyError:
        continue
    raise SystemExit(f"{name} was loaded without this package, and the card says that it cannot be")
import sae_lens_ext

assert type(SAE.from_pretrained("me/saes", "kron")) is sae_lens_ext.KronSAE
assert SAE.from_pretrained("me/saes", "stack").domains == ("code",)
"""


@pytest.fixture
def folder(saes: dict[str, Any], tmp_path: Path) -> Path:
    for name, sae in saes.items():
        save_sae(sae, tmp_path / "my_saes" / name)
    return tmp_path / "my_saes"


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    try:
        status = main([*map(str, words)])
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err.strip().rpartition("\n")[2]


def test_card_only_prints_the_card_and_asks_nobody(
    hub: StandIn,
    folder: Path,
    saes: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, _ = run(capsys, "upload", folder, "--repo", "me/saes", "--card-only", "--license", "mit")
    assert status == 0 and hub.requests == []
    assert out == model_card({name: saes[name] for name in sorted(saes)}, "me/saes", license="mit")


def test_what_was_done_is_printed_in_words_and_as_json(
    hub: StandIn,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, _ = run(
        capsys, "upload", f"k={folder / 'kron'}", folder / "base", "--repo", "me/saes", "--private"
    )
    assert status == 0 and hub.repositories["me/saes"].private
    assert out.splitlines() == [f"{hub.endpoint}/me/saes", "  k: sent", "  base: sent", "  card: written"]
    words = ("upload", folder / "base", "--repo", "me/saes", "--existing", "keep")
    assert run(capsys, *words)[1].splitlines()[1:] == ["  base: there already", "  card: kept"]
    status, out, _ = run(capsys, *words, "--json")
    done = json.loads(out)
    assert done["unchanged"] == ["base"] and done["others"] == ["k"] and done["card"] == "kept"


def test_the_users_own_card(
    hub: StandIn,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "card.md").write_text("# Mine", encoding="utf-8")
    assert run(capsys, "upload", folder / "base", "--repo", "me/saes", "--card", tmp_path / "card.md")[0] == 0
    assert hub.files("me/saes")["README.md"] == b"# Mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "there is no such folder"),
        (("empty",), "holds no saved SAE, and no folder below it does"),
        (("=x",), "is not ID=FOLDER"),
        (("my_saes/base", "base=my_saes/kron"), "would both be called 'base'"),
        (("a b=my_saes/base",), "was given the id 'a b'"),
        (("my_saes/base", "--card", "nothing.md"), "--card nothing.md cannot be read"),
        (("my_saes/base", "--card-only", "--card", "x"), "Leave one out"),
        (("my_saes/base", "--revision", "a b"), "revision = 'a b'"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_sends_nothing(
    hub: StandIn,
    folder: Path,
    monkeypatch,
    capsys,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(folder.parent)
    Path("empty").mkdir()
    status, out, err = run(capsys, "upload", *words, "--repo", "me/saes")
    assert (status, out) == (1, "") and message in err and hub.requests == []


def test_what_is_there_is_refused_and_an_interruption_says_what_is_there(
    hub: StandIn,
    folder: Path,
    monkeypatch,
    capsys,
) -> None:
    from huggingface_hub import HfApi

    hub.repositories["me/saes"] = Repository()
    hub.repositories["me/saes"].commit("main", "mine", {"README.md": b"mine"})
    status, _, err = run(capsys, "upload", folder / "base", "--repo", "me/saes")
    assert status == 1 and "holds something else already" in err

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HfApi, "create_commit", stop)
    assert main(["upload", str(folder / "base"), "--repo", "me/new"]) == 130
    assert "The upload to me/new was interrupted. The repository me/new was made." in capsys.readouterr().err


def test_a_reader_loads_what_the_card_promises(
    hub: StandIn,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A process of its own, told of the hub by its environment alone."""
    assert run(capsys, "upload", folder, "--repo", "me/saes")[0] == 0
    environment = {
        key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")
    }
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
