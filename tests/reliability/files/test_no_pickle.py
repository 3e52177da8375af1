"""Nothing that the package reads can run code: no pickle anywhere, and a pickle put in place of a file stays unread."""

import ast
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import sae_lens_ext
from tests.reliability.files import harness
from tests.reliability.files.damage import pickled, pickled_by_torch
from tests.reliability.files.loaders import Loader, loaders

PACKAGE = Path(sae_lens_ext.__file__).parent
MODULES = {"pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
CALLS = {"torch.save", "yaml.load", "yaml.unsafe_load", "eval", "exec", "compile", "torch.package"}


def dangers(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        yield from (f"{path.name}:{node.lineno} imports {n}" for n in names if n.split(".")[0] in MODULES)  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            unsafe = (
                called in CALLS
                or (called == "torch.load" and given.get("weights_only") != "True")
                or (called in ("np.load", "numpy.load") and given.get("allow_pickle") == "True")
                or (called.endswith("read_pickle"))
            )
            if unsafe:
                yield f"{path.name}:{node.lineno} calls {ast.unparse(node)[:80]}"


def test_the_package_has_no_pickle_in_it() -> None:
    assert not [danger for path in PACKAGE.rglob("*.py") for danger in dangers(path)]


def test_what_is_looked_for_is_found(tmp_path: Path) -> None:
    code = "import pickle\nfrom dill import loads\ntorch.load(f)\ntorch.load(f, weights_only=False)\neval(x)\ntorch.save(a, b)\n"
    (tmp_path / "bad.py").write_text(code)
    assert len(list(dangers(tmp_path / "bad.py"))) == 6


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("foreign")


@pytest.mark.parametrize("loader", loaders(), ids=lambda loader: loader.name)
def test_a_pickle_in_place_of_a_file_is_refused_and_does_not_run(loader: Loader, foreign: Path) -> None:
    for file in harness.prepared(loader).files:
        for damage in (pickled, pickled_by_torch):
            found = harness.outcome(loader, file, damage, Random(file).randrange(2**32), foreign)
            # A training's seconds and the earlier checkpoint are no promise of the thing read.
            assert found.result in (harness.REFUSED, harness.EQUAL), found
