"""Training over divided latents, against SAELens' trainer on the same batches; checkpoints that any number of ranks takes up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig, TrainingSAE
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from sae_lens_ext.checksum import CHECKSUMS_FILE
from sae_lens_ext.ranks import current_ranks
from sae_lens_ext.training.tensor_parallel import DividedTopKTrainingSAE
from sae_lens_ext.training.tensor_parallel.trainer import TensorParallelTrainer
from tests.contract.synthetic import BATCH, D_IN, D_SAE, K, batches
from tests.in_ranks import in_ranks
from tests.training.tensor_parallel.divided import joined

STEPS, HALF = 24, 12
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def sae_cfg(**fields: Any) -> TopKTrainingSAEConfig:
    return TopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K, **fields)


def trainer_cfg(folder: Path | None = None, **fields: Any) -> SAETrainerConfig:
    """With latents that count as dead after three steps, so that their loss is there, and with gradients that are clipped."""
    return SAETrainerConfig(
        **{
            "total_training_samples": BATCH * STEPS,
            "train_batch_size_samples": BATCH,
            "checkpoint_path": None if folder is None else str(folder),
            "dead_feature_window": 3,
            "feature_sampling_window": 7,
            "lr": 1e-3,
            "lr_end": 1e-4,
            "lr_warm_up_steps": 5,
            "n_batches_for_norm_estimate": 4,
            "save_final_checkpoint": folder is not None,
            "logger": LoggingConfig(log_to_wandb=False),
            **fields,
        }
    )


def data(first: int = 0) -> Iterator[torch.Tensor]:
    return batches(seed=first, scale=5.0, offset=0.3)


def theirs(cfg: SAETrainerConfig, batches: Iterator[torch.Tensor], **fields: Any) -> SAETrainer[Any, Any]:
    torch.manual_seed(0)
    return SAETrainer(cfg, TopKTrainingSAE(sae_cfg(**fields)), batches)


def ours(cfg: SAETrainerConfig, batches: Iterator[torch.Tensor], **fields: Any) -> TensorParallelTrainer:
    torch.manual_seed(0)
    return TensorParallelTrainer(cfg, DividedTopKTrainingSAE(sae_cfg(**fields)), batches, current_ranks())


def weights(sae: TrainingSAE[Any]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in sae.state_dict().items()}


def require_same(parts: list[dict[str, torch.Tensor]], expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in joined(parts).items():
        torch.testing.assert_close(
            tensor, expected[name], msg=lambda text, name=name: f"{name}: {text}", **CLOSE
        )


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rescale_acts_by_decoder_norm": False, "apply_b_dec_to_input": False},
        {"normalize_activations": "expected_average_only_in"},
        {"normalize_activations": "covariance_whitening"},
    ],
    ids=["defaults", "plain", "scaled", "whitened"],
)
def test_ranks_train_as_saelens(n: int, fields: dict[str, Any]) -> None:
    def train() -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, dict[str, Any]]:
        trainer = ours(trainer_cfg(), data(), **fields)
        trainer.fit()
        metadata = trainer.sae.cfg.metadata
        return (
            weights(trainer.sae),
            trainer.feature_sparsity,
            trainer.n_forward_passes_since_fired,
            {"l0": metadata.l0, "dead": metadata.num_dead_features},
        )

    expected = theirs(trainer_cfg(), data(), **fields)
    expected.fit()
    assert 0 < expected.sae.cfg.metadata.num_dead_features < D_SAE  # the loss for dead latents is there
    parts = in_ranks(n, train)
    require_same([part for part, *_ in parts], weights(expected.sae))
    assert torch.cat([fired for _, _, fired, _ in parts]).equal(expected.n_forward_passes_since_fired)
    for _, sparsity, _, metadata in parts:
        torch.testing.assert_close(sparsity, expected.feature_sparsity)
        assert metadata["l0"] == pytest.approx(expected.sae.cfg.metadata.l0)
        assert metadata["dead"] == expected.sae.cfg.metadata.num_dead_features


def first_half(folder: Path) -> None:
    """Train half of the steps and save, as a run that is interrupted does."""
    stream = data()
    trainer = ours(trainer_cfg(folder), stream)
    for _ in range(HALF):
        trainer.step(next(stream))
        trainer.n_training_steps += 1
    trainer.save_checkpoint(str(trainer.n_training_samples))


def second_half(trainer: Any, checkpoint: Path) -> dict[str, torch.Tensor]:
    trainer.load_trainer_state(checkpoint)
    trainer.sae.load_weights_from_checkpoint(checkpoint)
    trainer.fit()
    return weights(trainer.sae)


def test_a_checkpoint_of_two_ranks_is_taken_up_by_any_number_and_by_saelens(tmp_path: Path) -> None:
    uninterrupted = theirs(trainer_cfg(), data())
    uninterrupted.fit()
    in_ranks(2, lambda: first_half(tmp_path))
    checkpoint = tmp_path / str(HALF * BATCH)
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint.name]

    for n in (1, 2, 4):
        parts = in_ranks(n, lambda: second_half(ours(trainer_cfg(), data(HALF)), checkpoint))
        require_same(parts, weights(uninterrupted.sae))
    require_same([second_half(theirs(trainer_cfg(), data(HALF)), checkpoint)], weights(uninterrupted.sae))


def test_a_checkpoint_of_saelens_is_taken_up_by_ranks(tmp_path: Path) -> None:
    uninterrupted, interrupted, stream = (
        theirs(trainer_cfg(), data()),
        theirs(trainer_cfg(tmp_path), data()),
        data(),
    )
    uninterrupted.fit()
    for _ in range(HALF):
        interrupted.step(next(stream))
        interrupted.n_training_steps += 1
    interrupted.save_checkpoint("half")
    parts = in_ranks(2, lambda: second_half(ours(trainer_cfg(), data(HALF)), tmp_path / "half"))
    require_same(parts, weights(uninterrupted.sae))


def test_the_files_of_ranks_hold_what_those_of_saelens_hold(tmp_path: Path) -> None:
    expected = theirs(trainer_cfg(tmp_path / "theirs"), data())
    expected.fit()
    in_ranks(4, lambda: weights(ours(trainer_cfg(tmp_path / "ours"), data()).fit()))
    final = [tmp_path / whose / f"final_{STEPS * BATCH}" for whose in ("ours", "theirs")]
    own, saelens = ({path.name for path in folder.iterdir()} for folder in final)
    assert own == saelens | {CHECKSUMS_FILE}
    states = [torch.load(path / "trainer_state.pt") for path in final]
    torch.testing.assert_close(states[0]["optimizer"], states[1]["optimizer"], **CLOSE)
    for name in (
        "act_freq_scores",
        "n_forward_passes_since_fired",
        "n_frac_active_samples",
        "n_training_samples",
    ):
        torch.testing.assert_close(states[0][name], states[1][name])
    saes = [TrainingSAE.load_from_disk(path) for path in final]
    assert {**saes[0].cfg.to_dict(), "metadata": None} == {**saes[1].cfg.to_dict(), "metadata": None}
    torch.testing.assert_close(saes[0].state_dict(), saes[1].state_dict(), **CLOSE)


def test_moments_are_laid_out_as_their_parameters(tmp_path: Path) -> None:
    in_ranks(2, lambda: first_half(tmp_path))

    def strides() -> bool:
        trainer = ours(trainer_cfg(), data())
        trainer.load_trainer_state(tmp_path / str(HALF * BATCH))
        return all(
            trainer.optimizer.state[p]["exp_avg"].stride() == p.stride() for p in trainer.sae.parameters()
        )

    assert in_ranks(2, strides) == [True, True]


def test_numbers_for_the_log_are_those_of_all_latents() -> None:
    def log(trainer: SAETrainer[Any, Any]) -> dict[str, Any]:
        output, stream = None, data()
        for _ in range(6):
            output = trainer.step(next(stream))
            trainer.n_training_steps += 1
        return trainer.build_train_step_log_dict(output, trainer.n_training_samples)

    def of_rank() -> dict[str, Any]:
        trainer = ours(trainer_cfg(), data())
        trainer._log_every = 6
        return log(trainer)

    expected = log(theirs(trainer_cfg(), data()))
    for found in in_ranks(2, of_rank):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    in_ranks(1, lambda: first_half(tmp_path))
    larger = TopKTrainingSAEConfig(d_in=D_IN, d_sae=2 * D_SAE, k=K)
    trainer = TensorParallelTrainer(trainer_cfg(), DividedTopKTrainingSAE(larger), data(), current_ranks())
    with pytest.raises(ValueError, match="holds the state of training 64 latents, but the SAE has 128"):
        trainer.load_trainer_state(tmp_path / str(HALF * BATCH))


def test_ranks_whose_decoder_bias_has_come_apart_save_nothing(tmp_path: Path) -> None:
    def save() -> None:
        trainer = ours(trainer_cfg(tmp_path), data())
        trainer.step(next(data()))
        with torch.no_grad():
            trainer.sae.b_dec[0] += current_ranks().rank
        with pytest.raises(
            RuntimeError, match="the ranks' weights are no longer equal, so nothing was saved"
        ):
            trainer.save_checkpoint("apart")

    in_ranks(2, save)
    assert not list(tmp_path.iterdir())


def test_an_undivided_sae_and_an_evaluator_are_refused() -> None:
    with pytest.raises(ValueError, match="TopKTrainingSAE is not divided over ranks by its latents"):
        TensorParallelTrainer(trainer_cfg(), TopKTrainingSAE(sae_cfg()), data(), current_ranks())

    def evaluated() -> None:
        sae = DividedTopKTrainingSAE(sae_cfg())
        with pytest.raises(ValueError, match="An evaluator runs on the first rank alone"):
            TensorParallelTrainer(trainer_cfg(), sae, data(), current_ranks(), evaluator=lambda *_: {})

    in_ranks(2, evaluated)
