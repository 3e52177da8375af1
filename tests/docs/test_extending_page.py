"""docs/extending.md, followed as somebody does who reads it: files written, snippets executed in order, commands run."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from sae_lens import SAE, LanguageModelSAERunnerConfig, LoggingConfig, TopKSAE, TrainingSAE
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

import sae_lens_ext as ext
from sae_lens_ext import extending
from sae_lens_ext.language_model import Site, read_activations
from sae_lens_ext.training.tensor_parallel.refusals import require_divisible

# SAELens' default configuration asks for a way to load the model, and warns of it whenever such an SAE is made.
pytestmark = pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty model_from_pretrained_kwargs")
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
NAME = "balanced_matryoshka"
HOOK = "blocks.0.hook_resid_post"
TEXTS = [" ".join(f"w{(7 * i + j * j) % 30}" for j in range(12)) for i in range(60)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


FILES = {m[1]: block for block in blocks("python") if (m := re.match(r"# (\w+\.py)\n", block))}
SNIPPETS = [block for block in blocks("python") if block not in FILES.values()]


@pytest.fixture
def author(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's files, from which they can be imported; afterwards nothing is registered any more."""
    for name, block in FILES.items():
        (tmp_path / name).write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for registry in (SAE_TRAINING_CLASS_REGISTRY, SAE_CLASS_REGISTRY):
        registry.pop(NAME, None)
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.fixture
def followed(
    author: Path,
    hooked_model: Any,
    token_dataset: Any,
    restored_signals: None,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """What the page's snippets have named, in a module of the reader's, when all have been executed."""
    reader = ModuleType("reader")
    monkeypatch.setitem(sys.modules, "reader", reader)
    named = vars(reader)
    named.update(model=hooked_model, dataset=token_dataset, texts=TEXTS)
    for snippet in SNIPPETS:
        exec(compile(snippet, "docs/extending.md", "exec"), named)
    return named


def test_what_the_page_says_comes_true(followed: dict[str, Any], author: Path) -> None:
    sae, trained, model = followed["sae"], followed["trained"], followed["model"]
    assert type(sae) is TopKSAE and sae.cfg.architecture() == "topk"
    details = sae.cfg.metadata.training_architecture_details
    assert (details["widths"], details["coefficients"]) == ([8, 24], [0.5, 0.75, 1.0])
    values, indices = followed["values"], followed["indices"]
    assert values.shape == indices.shape == (*followed["tokens"].shape, 4)
    torch.testing.assert_close(sae(followed["x"]), trained(followed["x"]), rtol=1e-4, atol=1e-5)

    found = followed["found"]
    assert followed["ActiveLatents"].load("active_latents.json") == found
    assert 0 < found.mean <= found.largest <= 4 and len(found.to_frame()) == 1
    assert followed["reward"].provenance["reward_name"].endswith("StartsWith(start='w5')")

    before = read_activations(model, followed["tokens"], Site(HOOK))
    along = followed["steered"] @ sae.W_dec[3]
    assert along[:, 1:].abs().max() < 1e-4 and torch.equal(followed["steered"][:, 0], before[:, 0])


def test_the_architecture_trains_in_the_other_runners_and_loads_by_name(
    author: Path, hooked_model: Any, token_dataset: Any, restored_signals: None
) -> None:
    module = importlib.import_module(NAME)
    cfg = LanguageModelSAERunnerConfig(
        sae=module.BalancedMatryoshkaTrainingSAEConfig(d_in=16, d_sae=32, k=4, widths=(8,)),
        model_name="tiny",
        hook_name=HOOK,
        context_size=16,
        training_tokens=256,
        train_batch_size_tokens=64,
        store_batch_size_prompts=8,
        n_batches_in_buffer=8,
        lr=3e-3,
        output_path=str(author / "seeds"),
        checkpoint_path=str(author / "checkpoints"),
        save_final_checkpoint=True,
        logger=LoggingConfig(log_to_wandb=False),
        verbose=False,
    )
    given = {"override_model": hooked_model, "override_dataset": token_dataset}
    one, other = ext.train_seeds(cfg, [0, 1], **given)
    assert type(one) is type(other) is TopKSAE and not torch.equal(one.W_dec, other.W_dec)
    cfg.output_path = str(author / "parallel")
    ext.DataParallelRunner(cfg, **given).run()
    assert type(ext.load_sae(author / "parallel")) is TopKSAE
    (checkpoint,) = (author / "checkpoints").glob("**/final_*")
    assert type(TrainingSAE.load_from_disk(checkpoint)) is module.BalancedMatryoshkaTrainingSAE
    assert type(SAE.load_from_disk(checkpoint)) is TopKSAE
    with pytest.raises(ValueError, match="cannot be divided over ranks"):
        require_divisible(cfg.sae)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (24, 8)}, r"widths = \(24, 8\) are not increasing between 0 and d_sae = 32"),
        ({"widths": (8, 32)}, "are not increasing"),
        ({"widths": (8,), "coefficients": (1.0,)}, "are not one number above 0 for each of 2 levels"),
        ({"coefficients": (0.0,)}, "are not one number above 0"),
        ({"width": (8,)}, "has no field 'width'. Did you mean 'widths'"),
        ({"k": 33}, "k = 33 is out of range"),
        (
            {"normalize_activations": "layer_norm"},
            "is not supported by the architecture 'balanced_matryoshka'",
        ),
    ],
)
def test_the_architecture_refuses_wrong_settings_in_a_sentence(
    author: Path, settings: dict[str, Any], message: str
) -> None:
    config = importlib.import_module(NAME).BalancedMatryoshkaTrainingSAEConfig
    with pytest.raises(ValueError, match=message):
        config.from_dict({"d_in": 8, "d_sae": 32, "k": 4} | settings)


def test_its_gradients_are_those_of_the_formula(author: Path) -> None:
    module = importlib.import_module(NAME)
    cfg = module.BalancedMatryoshkaTrainingSAEConfig(
        d_in=8, d_sae=32, k=4, widths=(8, 20), coefficients=(3.0, 1.0, 2.0), dtype="float64"
    )
    sae = module.BalancedMatryoshkaTrainingSAE(cfg)
    x = torch.randn(20, 8, dtype=torch.float64)
    inputs = extending.RankedLatents(*_ranked(sae, x))
    loss, reconstruction = sae.reconstruction_loss(inputs, x)
    dense = torch.zeros(20, 32, dtype=torch.float64).scatter(1, inputs.indices, inputs.weights)
    naive = sum(
        beta * (x - dense[:, :m] @ sae.W_dec[:m] - sae.b_dec).pow(2).sum(dim=-1).mean() / 6
        for m, beta in ((8, 3.0), (20, 1.0), (32, 2.0))
    )
    torch.testing.assert_close(loss, naive)
    torch.testing.assert_close(reconstruction, dense @ sae.W_dec + sae.b_dec)
    assert not reconstruction.requires_grad
    of = (sae.W_dec, sae.b_dec, inputs.weights)
    for found, expected in zip(torch.autograd.grad(loss, of), torch.autograd.grad(naive, of), strict=True):
        torch.testing.assert_close(found, expected)


def _ranked(sae: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    values, indices = sae.encode_sparse(x)
    weights = (values / sae.W_dec.norm(dim=-1)[indices]).detach().requires_grad_()
    return values.detach(), weights, indices


def test_every_name_that_is_offered_is_there_and_the_page_says_where() -> None:
    assert [name for name in extending.__all__ if not hasattr(extending, name)] == []
    used = set(re.findall(r"from sae_lens_ext\.(\w+) import", PAGE))
    assert used == {"extending", "ops"}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_battery_runs_over_the_architecture(author: Path) -> None:
    (command,) = blocks("bash")
    setting, *words = command.split()
    assert words[:3] == ["python", "-m", "pytest"]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    name, _, value = setting.partition("=")
    run = subprocess.run(
        [sys.executable, *words[1:], "-q", "-p", "no:cacheprovider"],
        env={**outside, name: value, "PYTHONPATH": os.pathsep.join((str(author), str(ROOT)))},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None and int(passed[1]) > 150
