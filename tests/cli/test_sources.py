"""Texts as users have them: files, folders, saved data sets; and what is no text."""

import json
import logging
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.sources import load_documents

DOCUMENTS = ["one thing", "another\nthing", "déjà vu"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_load_documents_reads_data_files_by_their_column_text(tmp_path: Path) -> None:
    dataset = Dataset.from_dict({"text": DOCUMENTS, "id": [1, 2, 3]})
    dataset.to_parquet(tmp_path / "a.parquet")
    dataset.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    for kind in ("parquet", "csv", "jsonl"):
        assert load_documents(str(tmp_path / f"a.{kind}")) == DOCUMENTS
    (tmp_path / "lines.txt").write_text("one thing\nanother\n")
    assert load_documents(str(tmp_path / "lines.txt")) == ["one thing", "another"]


def test_load_documents_reads_a_folder_of_text_files_each_a_document(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, text in zip(("b/two.md", "a.py", "c.txt"), DOCUMENTS, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
    with caplog.at_level(logging.WARNING):
        assert load_documents(str(tmp_path)) == [DOCUMENTS[1], DOCUMENTS[0], DOCUMENTS[2]]
    assert (
        "1 files in" in caplog.text and "not UTF-8 text and were left out, such as picture.png" in caplog.text
    )


def test_load_documents_reads_a_folder_of_data_files_and_a_saved_data_set(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for i, text in enumerate(DOCUMENTS):
        (tmp_path / "data" / f"{i}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    assert load_documents(str(tmp_path / "data")) == DOCUMENTS
    Dataset.from_dict({"text": DOCUMENTS}).save_to_disk(tmp_path / "saved")
    assert load_documents(str(tmp_path / "saved")) == DOCUMENTS


def test_load_documents_reads_code_beside_a_data_file_as_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import this")
    (tmp_path / "package.json").write_text('{"name": "x"}')
    assert load_documents(str(tmp_path)) == ["import this", '{"name": "x"}']


def test_load_documents_reads_no_more_of_the_hub_than_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def rows(*_, **settings):
        assert settings == {"split": "train", "streaming": True}
        for i in range(1000):
            read.append(i)
            yield {"text": "x" * 10}

    monkeypatch.setattr(datasets, "load_dataset", rows)
    assert load_documents("the/pile", 25) == ["x" * 10] * 3 and len(read) == 3
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: iter([{"tokens": [1]}]))
    with pytest.raises(CommandError, match=r"'the/pile' has the columns \['tokens'\]"):
        load_documents("the/pile", 25)


def test_load_documents_refuses_what_holds_no_documents(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CommandError, match="holds no text: no UTF-8 file that is not empty"):
        load_documents(str(tmp_path / "empty"))
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(CommandError, match="a.pdf' is of a kind that is not read. Give one of .jsonl"):
        load_documents(str(tmp_path / "a.pdf"))
    for missing in (tmp_path / "missing", "missing.jsonl", "./missing"):
        with pytest.raises(CommandError, match="There is no file or folder"):
            load_documents(str(missing))
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(CommandError, match=r"1 rows and the columns \['body'\], but documents are read from"):
        load_documents(str(tmp_path / "a.jsonl"))
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n{"text": null}\n')
    with pytest.raises(CommandError, match='has rows whose "text" is no text, such as null'):
        load_documents(str(tmp_path / "b.jsonl"))
    DatasetDict(train=Dataset.from_dict({"text": DOCUMENTS})).save_to_disk(tmp_path / "splits")
    with pytest.raises(CommandError, match="holds several splits"):
        load_documents(str(tmp_path / "splits"))
