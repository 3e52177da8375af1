"""SAEs divided over ranks: to the bit those of one process, whoever trains them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, LoggingConfig
from sae_lens.training._interruption import InterruptedException
from sae_lens.training.multi_sae_trainer import MultiSAETrainer

from sae_lens_ext import KronTrainingSAEConfig
from sae_lens_ext.training.divided import DividedRunner
from tests.analysis.seeds.tiny import BATCH, HOOK, several, topk
from tests.cli.interrupting import interrupt_once
from tests.in_ranks import in_ranks
from tests.training.test_runner import Logged

OTHER = "blocks.1.hook_resid_post"
SAES = {
    "early": topk(),
    "late": topk(normalize_activations="expected_average_only_in"),
    "kron": KronTrainingSAEConfig(d_in=16, d_sae=32, k=4, base_dim=2, extension_dim=4),
    "whitened": topk(normalize_activations="covariance_whitening"),
}
HOOKS = {"early": HOOK, "late": OTHER, "kron": OTHER, "whitened": HOOK}


@pytest.fixture
def run(hooked_model, token_dataset, restored_signals) -> Any:
    def train(folder: Path | None, **overrides: Any) -> dict[str, dict[str, torch.Tensor]]:
        cfg = several(dict(SAES), folder, hook_names=HOOKS, **overrides)
        runner = DividedRunner(cfg, override_model=hooked_model, override_dataset=token_dataset)
        return {
            name: {k: v.clone() for k, v in sae.state_dict().items()} for name, sae in runner.run().items()
        }

    return train


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, state in expected.items():
        assert all(torch.equal(found[name][key], state[key]) for key in state), name


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: state for part in parts for name, state in part.items()}


@pytest.mark.parametrize("n", [2, 3, 4])
def test_saes_are_the_same_to_the_bit_however_they_are_divided(run, n: int, tmp_path: Path) -> None:
    expected = run(tmp_path / "one", checkpoint_path=None)
    found = in_ranks(n, lambda: run(tmp_path / "many", checkpoint_path=None))
    assert [list(part) for part in found] == [list(SAES)[rank::n] for rank in range(n)]
    assert_same(joined(found), expected)
    for name in SAES:
        one, many = (SAE.load_from_disk(tmp_path / who / name) for who in ("one", "many"))
        assert_same({name: one.state_dict()}, {name: many.state_dict()})
    configs = [
        (tmp_path / who / "runner_cfg.json").read_text().replace(f"/{who}", "") for who in ("one", "many")
    ]
    assert configs[0] == configs[1]


def test_an_sae_is_the_same_to_the_bit_whatever_is_trained_beside_it(
    run, hooked_model, token_dataset
) -> None:
    expected = run(None)
    alone = several({"late": SAES["late"]}, hook_names={"late": OTHER})
    runner = DividedRunner(alone, override_model=hooked_model, override_dataset=token_dataset)
    found = {name: dict(sae.state_dict()) for name, sae in runner.run().items()}
    assert_same(found, {"late": expected["late"]})


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 3), (2, 4)])
def test_a_checkpoint_is_taken_up_by_another_number_of_ranks(
    run, monkeypatch: pytest.MonkeyPatch, first: int, then: int, tmp_path: Path
) -> None:
    expected = run(None)

    def stopped() -> list[str]:
        interrupt_once(monkeypatch, MultiSAETrainer, after=4)
        with pytest.raises(InterruptedException):
            run(tmp_path, checkpoint_path=str(tmp_path / "checkpoints"))
        return [str(path) for path in (tmp_path / "checkpoints").glob("*/*")]

    (checkpoint,) = in_ranks(first, stopped)[0]
    assert checkpoint.endswith(f"/{4 * BATCH}")
    found = in_ranks(then, lambda: run(tmp_path / "sae", resume_from_checkpoint=checkpoint))
    assert_same(joined(found), expected)


def test_each_rank_runs_the_model_no_further_than_its_saes_need(
    run, hooked_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def layers() -> set[int | None]:
        found: set[int | None] = set()
        run_with_cache = hooked_model.run_with_cache

        def noting(*arguments: Any, **options: Any) -> Any:
            found.add(options["stop_at_layer"])
            return run_with_cache(*arguments, **options)

        monkeypatch.setattr(hooked_model, "run_with_cache", noting)
        run(None)
        return found

    assert in_ranks(4, layers) == [{1}, {2}, {2}, {1}]


@pytest.mark.parametrize(
    ("n", "overrides", "message"),
    [
        (5, {}, "There are 4 SAEs to train on 5 ranks, so that some would have none."),
        (
            2,
            {"evaluator": print},
            "reads from the stream that is trained on, which 2 ranks must read in step.",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(
    run, n: int, overrides: dict[str, Any], message: str, tmp_path: Path
) -> None:
    def refused() -> str:
        with pytest.raises(ValueError) as caught:
            run(tmp_path / "saes", **overrides)
        return str(caught.value)

    assert all(message in said for said in in_ranks(n, refused))
    assert not (tmp_path / "saes").exists()


def test_the_first_rank_logs_without_a_folder_for_checkpoints(run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(None, checkpoint_path=None)

    def train() -> tuple[dict[str, Any], int]:
        logged = Logged(monkeypatch)
        logger = LoggingConfig(log_to_wandb=True, wandb_log_frequency=2, eval_every_n_wandb_logs=1000)
        options = {"checkpoint_path": None, "n_checkpoints": 2, "save_final_checkpoint": True}
        return run(None, logger=logger, **options), len(logged.lines)

    (first, lines), (second, none) = in_ranks(2, train)
    assert none == 0 < lines
    assert_same({**first, **second}, expected)
