"""`train_seeds` over ranks: one folder, with the SAEs of one process to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from sae_lens.training._interruption import InterruptedException
from sae_lens.training.multi_sae_trainer import MultiSAETrainer

from tests.cli.interrupting import interrupt_once
from tests.in_ranks import in_ranks

from .tiny import BATCH, EVERY_VARY, equal_weights, single, topk


def states(saes: list[SAE[Any]]) -> list[dict[str, torch.Tensor]]:
    return [{name: tensor.clone() for name, tensor in sae.state_dict().items()} for sae in saes]


def same(found: list[dict[str, torch.Tensor]], expected: list[SAE[Any]]) -> bool:
    return all(
        torch.equal(tensor, sae.state_dict()[name])
        for state, sae in zip(found, expected, strict=True)
        for name, tensor in state.items()
    )


@pytest.mark.parametrize("vary", EVERY_VARY)
@pytest.mark.parametrize("n", [2, 3])
def test_ranks_give_all_saes_of_one_process_to_the_bit(
    train, restored_signals, vary: str, n: int, tmp_path: Path
) -> None:
    sae = topk(normalize_activations="expected_average_only_in")
    expected = train(single(tmp_path / "one", sae), range(4), vary=vary)
    found = in_ranks(n, lambda: states(train(single(tmp_path / "many", sae), range(4), vary=vary)))
    assert all(same(states_of_rank, expected) for states_of_rank in found)
    names = [
        sorted(p.relative_to(tmp_path / who) for p in (tmp_path / who).rglob("*")) for who in ("one", "many")
    ]
    assert names[0] == names[1]
    loaded = [SAE.load_from_disk(tmp_path / "many" / f"seed_{seed}") for seed in range(4)]
    assert all(equal_weights(*pair) for pair in zip(loaded, expected, strict=True))
    assert json.loads((tmp_path / "many/trained/saes.json").read_text())["resumed"] is False


@pytest.mark.parametrize("vary", EVERY_VARY)
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_run_is_taken_up_by_another_number_of_ranks(
    train, restored_signals, monkeypatch: pytest.MonkeyPatch, vary: str, first: int, then: int, tmp_path: Path
) -> None:
    expected = train(single(tmp_path / "one"), range(2), vary=vary)

    def stopped() -> list[str]:
        interrupt_once(monkeypatch, MultiSAETrainer, after=8)  # in the second pool of batches
        with pytest.raises(InterruptedException):
            train(single(tmp_path / "many"), range(2), vary=vary)
        return [path.name for path in (tmp_path / "many/checkpoints/saes/run").iterdir()]

    assert in_ranks(first, stopped)[0] == [str(8 * BATCH)]
    found = in_ranks(then, lambda: states(train(single(tmp_path / "many"), range(2), vary=vary)))
    assert all(same(states_of_rank, expected) for states_of_rank in found)
    assert json.loads((tmp_path / "many/trained/saes.json").read_text())["resumed"] is True


def test_a_checkpoint_that_one_rank_has_not_finished_does_not_count(
    train, restored_signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = train(single(tmp_path / "one"), range(2))

    def stopped() -> None:
        interrupt_once(monkeypatch, MultiSAETrainer, after=8)
        with pytest.raises(InterruptedException):
            train(single(tmp_path / "many", n_checkpoints=1), range(2))

    in_ranks(2, stopped)
    run = tmp_path / "many/checkpoints/saes/run"
    assert sorted(int(path.name) for path in run.iterdir()) == [6 * BATCH, 8 * BATCH]
    (run / str(8 * BATCH) / "seed_1" / "trainer_state.pt").unlink()
    found = in_ranks(2, lambda: states(train(single(tmp_path / "many", n_checkpoints=1), range(2))))
    assert same(found[0], expected)


@pytest.mark.parametrize(
    ("n", "folder", "message"),
    [
        (3, "saes", "There are 2 SAEs to train on 3 ranks"),
        (2, None, "train_seeds was given no output_path, but the 2 ranks come together in a folder"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    train, n: int, folder: str | None, message: str, tmp_path: Path
) -> None:
    def refused() -> str:
        with pytest.raises(ValueError) as caught:
            train(single(None if folder is None else tmp_path / folder), range(2))
        return str(caught.value)

    assert all(message in said for said in in_ranks(n, refused))
    assert list(tmp_path.iterdir()) == []


def test_seeds_that_draw_the_same_weights_are_found_out_across_ranks(
    train, monkeypatch, tmp_path: Path
) -> None:
    from sae_lens_ext.analysis.seeds import runner

    draw = runner.initialised
    monkeypatch.setattr(runner, "initialised", lambda cfg, _: draw(cfg, 1))

    def refused() -> str:
        with pytest.raises(ValueError) as caught:
            train(single(tmp_path / "saes"), range(2))
        return str(caught.value)

    assert all(
        "draws the same initial weights from the seeds 0 and 1" in said for said in in_ranks(2, refused)
    )
    assert not (tmp_path / "saes").exists()
