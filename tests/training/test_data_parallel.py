"""Data parallel training against SAELens' trainer with the whole batch, for every architecture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import TrainingSAE

from sae_lens_ext.ranks import RankError, current_ranks
from sae_lens_ext.training.batch_topk import BatchTopKOverRanks
from sae_lens_ext.training.data_parallel import DataParallelTrainer, require_mean_over_rows
from sae_lens_ext.training.gradients import GradientAverage
from tests.contract.cases import BATCHTOPK, GATED, KRON, TOPK, TRAINED, ArchitectureCase
from tests.contract.synthetic import BATCH, D_SAE, batches, copy_of_state, make_trainer, run_steps
from tests.in_ranks import in_ranks

STEPS = 20
SETTINGS = {"lr_scheduler_name": "cosineannealing", "lr_warm_up_steps": 3, "dead_feature_window": 3}
SAELENS = [
    GATED,
    *(
        ArchitectureCase(name, lambda settings=settings: settings, saved_as="")
        for name, settings in [
            ("standard", {"l1_coefficient": 0.1}),
            ("jumprelu", {"l0_coefficient": 0.1}),
            ("abstopk", {"k": 4}),
            ("matching_pursuit", {"residual_threshold": 0.2, "decoder_init_norm": 1.0}),
            ("matryoshka_batchtopk", {"k": 4, "matryoshka_widths": [16, 64]}),
        ]
    ),
]
ALL = [*TRAINED, *SAELENS]


def parallel_trainer(sae: TrainingSAE[Any], **overrides: Any) -> DataParallelTrainer:
    """A trainer on this rank's rows of the batches that SAELens' trainer gets."""
    ranks = current_ranks()

    def rows() -> Iterator[torch.Tensor]:
        return (batch.chunk(ranks.size)[ranks.rank] for batch in batches())

    cfg = make_trainer(sae, **{**SETTINGS, **overrides}).cfg
    return DataParallelTrainer(cfg, sae, rows(), ranks, whole_batches=batches(seed=500))


def fitted(case: ArchitectureCase, **overrides: Any) -> dict[str, torch.Tensor]:
    sae = case.make_training(**overrides)
    parallel_trainer(sae, total_training_samples=STEPS * BATCH, n_batches_for_norm_estimate=4).fit()
    return copy_of_state(sae)


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_one_process_is_saelens_trainer_to_the_bit(case: ArchitectureCase) -> None:
    torch.manual_seed(1)
    expected = case.make_training()
    make_trainer(expected, batches(), **SETTINGS, total_training_samples=STEPS * BATCH).fit()
    torch.manual_seed(1)
    assert_same(fitted(case), copy_of_state(expected))


@pytest.mark.parametrize("case", ALL, ids=str)
def test_two_ranks_train_what_one_process_trains(case: ArchitectureCase) -> None:
    torch.manual_seed(1)
    expected = fitted(case)

    def train() -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        return fitted(case)

    first, second = in_ranks(2, train)
    assert_same(second, first)
    assert_close(first, expected)


@pytest.mark.parametrize("case", [TOPK, BATCHTOPK, KRON], ids=str)
def test_four_ranks_train_what_one_process_trains(case: ArchitectureCase) -> None:
    torch.manual_seed(1)
    expected = fitted(case)

    def train() -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        return fitted(case)

    for found in in_ranks(4, train):
        assert_close(found, expected)


@pytest.mark.parametrize("mode", ["expected_average_only_in", "covariance_whitening"])
def test_normalisation_statistics_are_those_of_whole_batches(mode: str) -> None:
    torch.manual_seed(1)
    expected = fitted(TOPK, normalize_activations=mode)

    def train() -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        return fitted(TOPK, normalize_activations=mode)

    for found in in_ranks(2, train):
        assert_close(found, expected)


@pytest.mark.parametrize("case", [TOPK, BATCHTOPK], ids=str)
def test_counts_of_firings_and_of_dead_latents_are_the_whole_batch_s(case: ArchitectureCase) -> None:
    def counts(trainer: Any) -> dict[str, Any]:
        run_steps(trainer, trainer.data_provider, 7)
        return {
            "fired": trainer.act_freq_scores,
            "passes": trainer.n_forward_passes_since_fired,
            "samples": trainer.n_frac_active_samples,
            "seen": trainer.n_training_samples,
            "dead": trainer.dead_neurons,
        }

    torch.manual_seed(1)
    expected = counts(make_trainer(case.make_training(), batches(), **SETTINGS))
    assert 0 < expected["dead"].sum() < D_SAE

    def train() -> dict[str, Any]:
        torch.manual_seed(1)
        trainer = parallel_trainer(case.make_training())
        from sae_lens_ext.training.batch_topk import batch_topk_over_ranks

        with batch_topk_over_ranks(trainer.sae, trainer.ranks):
            return counts(trainer)

    for found in in_ranks(2, train):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("written_by", [1, 2])
@pytest.mark.parametrize("read_by", [1, 2, 4, "SAELens"])
def test_a_checkpoint_is_taken_up_by_any_number_of_ranks_and_by_saelens(
    written_by: int, read_by: int | str, tmp_path: Path
) -> None:
    """KronSAE, whose gradients have an axis of latents in one of three parameters."""
    torch.manual_seed(1)
    expected = fitted(KRON)

    def write() -> list[str]:
        torch.manual_seed(1)
        trainer = parallel_trainer(KRON.make_training(), total_training_samples=STEPS * BATCH)
        run_steps(trainer, trainer.data_provider, 8)
        trainer.save_checkpoint(str(trainer.n_training_samples), base_path=tmp_path)
        return sorted(path.name for path in tmp_path.iterdir())

    assert all(names == [str(8 * BATCH)] for names in in_ranks(written_by, write))
    checkpoint = tmp_path / str(8 * BATCH)

    def go_on() -> dict[str, torch.Tensor]:
        torch.manual_seed(5)
        sae = KRON.make_training()
        if read_by == "SAELens":
            trainer: Any = make_trainer(sae, batches(), **SETTINGS, total_training_samples=STEPS * BATCH)
            trainer.load_trainer_state(checkpoint)
            sae.load_weights_from_checkpoint(checkpoint)
        else:
            trainer = parallel_trainer(sae, total_training_samples=STEPS * BATCH)
            trainer.resume(checkpoint)
        assert trainer.n_training_steps == 8
        for _ in range(8):
            next(trainer.data_provider)
        run_steps(trainer, trainer.data_provider, STEPS - 8)
        return copy_of_state(sae)

    for found in in_ranks(1 if read_by == "SAELens" else int(read_by), go_on):
        assert_close(found, expected)


def test_losses_of_a_logged_step_are_the_whole_batch_s() -> None:
    torch.manual_seed(1)
    trainer = make_trainer(TOPK.make_training(), batches(), **SETTINGS)
    expected = [output.loss.item() for output in run_steps(trainer, trainer.data_provider, 4)]

    def train() -> list[tuple[float, float]]:
        torch.manual_seed(1)
        trainer = parallel_trainer(TOPK.make_training())
        trainer._log_every = 2
        outputs = run_steps(trainer, trainer.data_provider, 4)
        return [(output.loss.item(), output.losses["mse_loss"].item()) for output in outputs]

    first, second = in_ranks(2, train)
    for step in (1, 3):
        assert first[step] == second[step]
        assert first[step] == pytest.approx((expected[step],) * 2, rel=1e-5)
    assert first[0] != second[0]


def test_ranks_whose_weights_have_come_apart_save_nothing(tmp_path: Path) -> None:
    def train() -> str:
        torch.manual_seed(1)
        trainer = parallel_trainer(TOPK.make_training())
        with torch.no_grad():
            trainer.sae.b_enc[3] += 0.5 * trainer.ranks.rank
        with pytest.raises(RankError, match="weights are no longer equal, so nothing was saved") as caught:
            trainer.save_checkpoint("64", base_path=tmp_path)
        return str(caught.value)

    in_ranks(2, train)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_architecture_is_refused_by_several_ranks_alone() -> None:
    class Stranger(type(TOPK.make_training())):
        pass

    require_mean_over_rows("mine", Stranger, 1)
    with pytest.raises(
        ValueError, match="The architecture 'mine' is not known to have a loss that is a mean"
    ):
        require_mean_over_rows("mine", Stranger, 2)
    Stranger.loss_is_mean_over_rows = True
    require_mean_over_rows("mine", Stranger, 2)


@pytest.mark.parametrize("k", [1.0, 2.5, 0.1])
@pytest.mark.parametrize("ties", [False, True])
def test_batch_topk_over_ranks_keeps_as_many_as_in_one_process(k: float, ties: bool) -> None:
    x = torch.randn(12, 10, generator=torch.Generator().manual_seed(4))
    if ties:
        x = (2 * x).round()
    values, n_kept = x.relu().flatten(), int(k * 12)

    def choose() -> torch.Tensor:
        ranks = current_ranks()
        return BatchTopKOverRanks(k, ranks)(x.chunk(ranks.size)[ranks.rank])

    for n in (1, 2, 3):
        found = torch.cat(in_ranks(n, choose)).flatten()
        assert int((found > 0).sum()) == min(n_kept, int((values > 0).sum()))
        torch.testing.assert_close(
            found.sort().values,
            torch.cat([values.topk(n_kept).values, values.new_zeros(120 - n_kept)]).sort().values,
        )
        assert ((found == 0) | (found == values)).all()


def gradient(used: list[int], rank: int) -> torch.Tensor:
    result = torch.zeros(8, 3)
    result[used] = torch.arange(3.0) + 1 + rank
    return result


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("used", "rows_sent"),
    [([[0, 2], [2, 5]], 3), ([[], []], 0), ([list(range(8)), [1]], 8)],
)
def test_gradients_are_averaged_and_rows_that_nobody_uses_are_not_sent(
    used: list[list[int]], rows_sent: int, transposed: bool
) -> None:
    expected = (gradient(used[0], 0) + gradient(used[1], 1)) / 2

    def average() -> tuple[torch.Tensor, int]:
        ranks = current_ranks()
        own = gradient(used[ranks.rank], ranks.rank)
        own = own.T.contiguous() if transposed else own
        GradientAverage(ranks, 8)({"W": own})
        return own.T if transposed else own, ranks.tell.sent_bytes

    for found, sent in in_ranks(2, average):
        assert torch.equal(found, expected)
        assert sent == 8 + rows_sent * 3 * 4


def test_a_gradient_that_is_mostly_in_use_is_not_looked_at_again_for_a_while() -> None:
    def average() -> list[int]:
        ranks = current_ranks()
        mean, sent = GradientAverage(ranks, 8), []
        for _ in range(52):
            before = ranks.tell.sent_bytes
            mean({"W": torch.ones(8, 3)})
            sent.append(ranks.tell.sent_bytes - before)
        return sent

    dense = 8 * 3 * 4
    assert in_ranks(2, average)[0] == [dense + 8, *[dense] * 50, dense + 8]
