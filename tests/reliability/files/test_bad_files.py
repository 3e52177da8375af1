"""Whatever is in a file, reading it gives the thing that was saved or an error of ours, soon and in little memory."""

import importlib
import inspect
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sae_lens_ext
from sae_lens_ext import DomainReport
from sae_lens_ext.json_file import parse_finite_json, parse_json, read_json, require_file
from sae_lens_ext.lime import LimeRouters
from sae_lens_ext.run_folder import RunFolder
from sae_lens_ext.steering.vectors import SteeringVectors
from tests.analysis.test_domain_report import REPORT
from tests.reliability.files import harness
from tests.reliability.files.loaders import loaders
from tests.reliability.files.results import saved_results

N, SEED = 150, 6  # benchmarks/reliability_files.py runs thousands
UNREAD = {"RewardRatio"}  # what PairGain and Transfer have in common


def classes_with_load() -> set[type[Any]]:
    found: set[type[Any]] = set()
    for module in pkgutil.walk_packages(sae_lens_ext.__path__, "sae_lens_ext."):
        if "triton" not in module.name and not module.name.endswith("__main__"):
            members = vars(importlib.import_module(module.name)).values()
            found |= {c for c in members if inspect.isclass(c) and c.__module__.startswith("sae_lens_ext")}
    return {c for c in found if isinstance(inspect.getattr_static(c, "load", None), classmethod)}


def test_every_class_that_can_be_loaded_is_among_the_loaders() -> None:
    known = {type(result).__name__ for result in saved_results()}
    states = {"Checkpoint"}  # of both trainings: "state of ..."
    others = {c.__name__ for c in classes_with_load()} - known - UNREAD - states
    assert others <= {loader.name for loader in loaders()}


def test_damaged_files_are_refused_or_read_as_they_were() -> None:
    found = harness.run(N, SEED)
    assert len(found) == N
    assert harness.faults(found) == []
    assert any(one.result == harness.REFUSED for one in found)


def test_a_result_that_was_edited_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    REPORT.save(path)
    content = json.loads(path.read_text())
    content["measurements"][0]["ev"] = 0.99
    path.write_text(json.dumps(content, indent=1))
    with pytest.raises(ValueError, match=r"report.json .* was changed after it was saved.*delete its line"):
        DomainReport.load(path)
    lines = path.read_text().split("\n")
    assert '"sha256"' in lines[2]
    path.write_text("\n".join(lines[:2] + lines[3:]))
    assert DomainReport.load(path).measurements[0].ev == 0.99


def test_a_result_of_an_earlier_version_is_read_and_its_types_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    REPORT.save(path)
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content))
    assert DomainReport.load(path).measurements == REPORT.measurements
    content["measurements"][0]["ev"] = "much"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"DomainReport.measurements.ev is 'much' and not float"):
        DomainReport.load(path)


def test_line_endings_of_another_system_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    REPORT.save(path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert DomainReport.load(path).measurements == REPORT.measurements


def test_a_result_is_written_over_a_damaged_one(tmp_path: Path) -> None:
    report = next(result for result in saved_results() if type(result).__name__ == "StabilityReport")
    path = tmp_path / "report.json"
    for damaged in ("[" * 100_000, '{"tensors_sha256": [1, 2]}', '{"tensors_sha256": "../../x"}', "\x00"):
        path.write_text(damaged)
        report.save(path)
        assert type(report).load(path).names == report.names


def test_a_damaged_note_of_a_runs_seconds_costs_the_seconds_alone(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {"a": 1}, "a test")
    (tmp_path / "training_seconds").mkdir()
    for damaged in ('{"a": 1}', '"x"', "-1.0", "null", "[[", "[" * 100_000):
        (tmp_path / "training_seconds" / "s.json").write_text(damaged)
        assert run.training_seconds("s") == 0.0


@pytest.mark.parametrize("kind", ["vectors", "routers"])
def test_a_number_changed_in_a_tensor_file_is_found(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    thing: Any = (
        SteeringVectors({0: torch.ones(3), 1: torch.ones(3)}) if kind == "vectors" else LimeRouters(3, 2)
    )
    thing.save(path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors["layer.1"][0] += 1e-6
    save_file(tensors, path, header)
    with pytest.raises(ValueError, match=r"a.safetensors .*does not have the checksum that is noted in it"):
        type(thing).load(path)


def test_a_tensor_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    LimeRouters(3, 2).save(path)
    with safe_open(path, framework="pt") as file:
        header = {name: value for name, value in file.metadata().items() if "sha256" not in name}
    save_file(load_file(path), path, header)
    assert LimeRouters.load(path).n_layers == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1, "b": 2, "a": 3}', "the name 'a' twice"),
        (b"\xff", "codec can't decode"),
        ("7" * 100_000, "digits"),
        ("{", "Expecting"),
    ],
)
def test_json_that_is_none_is_a_ValueError(text: str | bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_json(text)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", '[[1], {}, {"a": -1e999}]'])
def test_finite_json_has_no_number_that_is_none(number: str) -> None:
    parse_json(number)
    with pytest.raises(ValueError, match="is no number of JSON"):
        parse_finite_json(number)


def test_a_folder_or_nothing_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is a folder, where a file should be. Give one."):
        require_file(tmp_path, "Give one.")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*nothing. Give one."):
        require_file(tmp_path / "nothing", "Give one.")
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
