"""A statistic over a million rows is its float64 reference to 1e-5, whatever the rows' precision and common offset."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import TopKSAE, TopKSAEConfig
from scipy.sparse import csc_array

import sae_lens_ext as ext
from sae_lens_ext.analysis.collapse.dimensions import DimensionStatistics
from sae_lens_ext.analysis.collapse.entropy import sequence_entropies
from sae_lens_ext.analysis.flow.activity.mann_whitney import compare_groups
from sae_lens_ext.analysis.flow.pearson_sums import most_correlated
from sae_lens_ext.analysis.stability.firing_counts import count_firings
from sae_lens_ext.explained_variance import ExplainedVariance
from sae_lens_ext.lime.reading.circuits.shares import TextShares
from sae_lens_ext.ops import dead_latent_loss, multi_budget_loss, squared_error
from sae_lens_ext.steering.reading.effect.direction_sums import DirectionSums
from sae_lens_ext.steering.reading.path_patching.distances import distance_sums
from tests.contract.cases import HIERARCHICAL_TOPK
from tests.reliability.numerics import step_input

N, D, K, OFFSET = 1_000_000, 8, 2, 1000.0
RELATIVE = 1e-5
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
in_each_precision = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def rows(dtype: torch.dtype, offset: float = OFFSET, n: int = N) -> torch.Tensor:
    """Rows of standard deviation 10 about an offset, [n, 8]."""
    drawn = torch.randn(n, D, generator=torch.Generator().manual_seed(1))
    return (10 * drawn + offset).to(dtype)


def about(expected: object) -> object:
    return pytest.approx(expected, rel=RELATIVE)


def naive_ev(x: torch.Tensor, x_hat: torch.Tensor) -> tuple[float, float]:
    """Explained variance and squared error per row, of all rows at once."""
    x = x.double()
    error = (x - x_hat.double()).square().sum()
    return float(1 - error / (x - x.mean(dim=0)).square().sum()), float(error / len(x))


@in_each_precision
def test_explained_variance_is_that_of_all_rows_at_once(dtype: torch.dtype) -> None:
    x = rows(dtype)
    x_hat = x.float() + torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    found = ExplainedVariance()
    for part, part_hat in zip(x.split(8192), x_hat.split(8192), strict=True):
        found.add_batch(part_hat, part)
    ev, mse = naive_ev(x, x_hat)
    assert (found.compute(), found.sum_squared_residual / N) == about((ev, mse))
    assert found.num_samples == N


def test_explained_variance_does_not_cancel_far_from_zero() -> None:
    x = torch.randn(16_384, D, generator=torch.Generator().manual_seed(1)) + 10 * OFFSET
    x_hat = x + 0.5
    found = ExplainedVariance()
    for part, part_hat in zip(x.split(256), x_hat.split(256), strict=True):
        found.add_batch(part_hat, part)
    assert found.compute() == about(
        naive_ev(x, x_hat)[0]
    )  # in float32, E‖x‖² − ‖E x‖² has no right digit here


def test_explained_variance_of_nothing_and_of_equal_rows_is_saelens() -> None:
    nothing, exact, wrong = ExplainedVariance(), ExplainedVariance(), ExplainedVariance()
    nothing.add_batch(torch.ones(0, D), torch.ones(0, D))
    exact.add_batch(torch.ones(3, D), torch.ones(3, D))
    wrong.add_batch(torch.zeros(3, D), torch.ones(3, D))
    assert (nothing.compute(), exact.compute(), wrong.compute()) == (0.0, 1.0, 0.0)


def topk() -> TopKSAE:
    """An SAE that reconstructs rows about the offset well."""
    sae = TopKSAE(TopKSAEConfig(d_in=D, d_sae=2 * D, k=K))
    with torch.no_grad():
        sae.W_enc.copy_(torch.cat([torch.eye(D), -torch.eye(D)]).T)
        sae.W_dec.copy_(sae.W_enc.T)
        sae.b_dec.fill_(OFFSET)
    return sae


@in_each_precision
def test_budget_curve_is_that_of_all_rows_at_once(dtype: torch.dtype) -> None:
    sae, x = topk(), rows(dtype, n=N // 20)  # each chunk's own sum is what may cancel
    curve = ext.budget_curve(sae, x.split(10_000), [1, K])
    with torch.no_grad():
        expected = [naive_ev(x, ext.with_k(sae, k)(x.float())) for k in (1, K)]
    assert curve.explained_variance == about([ev for ev, _ in expected])
    assert curve.mse == about([mse for _, mse in expected])


def test_budget_curve_of_a_bfloat16_sae_is_against_the_rows_that_were_given() -> None:
    sae = topk().to(dtype=torch.bfloat16)
    with torch.no_grad():
        sae.W_dec.zero_(), sae.b_dec.zero_()
    x = torch.full((10, D), 1.003)  # 1 in bfloat16
    assert ext.budget_curve(sae, x, [1]).mse[0] == about(D * 1.003**2)


def test_nothing_uses_a_calculator_that_cancels() -> None:
    package = Path(ext.__file__).parent
    users = [path for path in package.rglob("*.py") if "ExplainedVarianceCalculator" in path.read_text()]
    assert users == []


@in_each_precision
def test_firing_counts_are_exact(dtype: torch.dtype) -> None:
    sae, x = topk(), rows(dtype)
    counts = count_firings({"sae": sae}, [x])
    with torch.no_grad():
        fired = np.sum([(sae.encode(part.float()) != 0).numpy().sum(0) for part in x.split(50_000)], axis=0)
    assert counts.n_tokens == N and counts.fired["sae"].tolist() == fired.tolist()


@in_each_precision
def test_mean_and_deviation_of_dimensions(dtype: torch.dtype) -> None:
    x = rows(dtype)
    found = DimensionStatistics(D)
    for part in x.split(8192):
        found.add(part)
    expected = x.double().numpy()
    assert found.mean.numpy() == about(expected.mean(axis=0))
    assert found.std.numpy() == about(expected.std(axis=0))


@in_each_precision
def test_matrix_entropies_of_z_scored_rows(dtype: torch.dtype) -> None:
    z = rows(dtype).view(1000, 1000, D)
    exact = z.double().numpy()
    exact = (exact - exact.mean(axis=(0, 1))) / exact.std(axis=(0, 1))
    p = np.linalg.eigvalsh(exact.transpose(0, 2, 1) @ exact)
    p = p / p.sum(axis=1, keepdims=True)
    assert sequence_entropies(z, alpha=0.5).numpy() == about(2 * np.log(np.sqrt(p).sum(axis=1)))


def test_pearson_correlations() -> None:
    x = rows(torch.float32).double().numpy()
    y = 0.5 * x[:, :4] + 0.5 * x[:, 4:]
    indices, scores = most_correlated(csc_array(x), csc_array(y), range(D), 1)
    expected = np.corrcoef(x.T, y.T)[:D, D:]
    assert scores[:, 0].numpy() == about(np.take_along_axis(expected, indices.numpy(), 1)[:, 0])


@in_each_precision
def test_mann_whitney_counts_pairs(dtype: torch.dtype) -> None:
    a, b = (rows(dtype, n=N // D).flatten().float().numpy()[i::2].astype(np.float64) for i in (0, 1))
    (found,) = compare_groups({"a": a, "b": b})
    ordered = np.sort(b)
    below, upto = (np.searchsorted(ordered, a, side=side).sum() for side in ("left", "right"))
    assert found["u"] == about((int(below) + int(upto)) / 2)


@in_each_precision
def test_sums_of_directions(dtype: torch.dtype) -> None:
    gap = rows(dtype).double().view(100, -1, D)
    found = DirectionSums(1, 100, D)
    for row, part in enumerate(gap):
        found.add(0, [row], part[None])
    flat = gap.flatten(0, 1).numpy()
    norms = np.linalg.norm(flat, axis=1)
    assert found.vectors.sum(dim=(0, 1)).numpy() == about(flat.sum(axis=0))
    assert found.units.sum(dim=(0, 1)).numpy() == about((flat / norms[:, None]).sum(axis=0))
    assert float(found.squares.sum()) == about(float((norms**2).sum()))


@in_each_precision
def test_distances_of_distributions(dtype: torch.dtype) -> None:
    n = N // 10  # with eight logits, it is the number of calls that takes time
    logits = rows(dtype, offset=0.0, n=n)
    base = logits.roll(1, dims=1)
    of = {"reference": base, "base": base, "full": base}
    found = distance_sums(logits, of, *torch.zeros(2, n, dtype=torch.long), 1)
    log_p, log_q = (torch.log_softmax(x.double(), dim=1) for x in (base, logits))
    assert found[0, 0] == about(float((log_p.exp() * (log_p - log_q)).sum()))


@in_each_precision
def test_shares_of_routed_values(dtype: torch.dtype) -> None:
    x = rows(dtype).float().view(N // 4, 2, 2, D)
    found = TextShares(torch.ones(2, 2, D))
    for part in x.split(8192):
        found.add(part, part[:, :, 0, 0])
    expected = x.double().sum(dim=0) / x[:, :, 0, 0].double().sum(dim=0)[:, None, None]
    assert found.shares().numpy() == about(expected.numpy())


@in_each_precision
@pytest.mark.parametrize("budgets", [(K,), (1, K)], ids=str)
def test_loss_over_budgets(dtype: torch.dtype, budgets: tuple[int, ...]) -> None:
    x, decoder = rows(dtype), torch.eye(D).repeat(2, 1).to(dtype)
    indices = torch.randint(0, 2 * D, (N, K), generator=torch.Generator().manual_seed(3))
    values = torch.rand(N, K).sort(dim=1, descending=True).values.to(dtype)
    bias = torch.full((D,), OFFSET).to(dtype)
    loss, _ = multi_budget_loss(values, indices, decoder, bias, x, budgets)
    levels = (values.double()[..., None] * decoder.double()[indices]).cumsum(dim=1) + bias.double()
    expected = torch.stack([(levels[:, j - 1] - x.double()).square().sum(dim=1).mean() for j in budgets])
    assert float(loss) == about(float(expected.mean()))


def _zero(x: torch.Tensor, rows_used: torch.Tensor) -> torch.Tensor:
    return x @ rows_used.T


LOSSES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "dead latents": lambda x: dead_latent_loss(_zero, x, x, (torch.zeros_like(x[:3]),), x[:3], 1),
    "squared error": lambda x: squared_error(torch.zeros_like(x), x),
}


@in_each_precision
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_summed_in_float32(loss: str, dtype: torch.dtype) -> None:
    x = rows(dtype)  # whose squares are beyond float16
    found = LOSSES[loss](x)
    assert float(found) == about(float(x.double().square().sum(dim=1).mean()))


def test_logged_error_of_a_float16_sae_is_finite() -> None:
    sae = HIERARCHICAL_TOPK.make_training(dtype="float16")
    x = torch.full((64, sae.cfg.d_in), 300.0).half()
    error = sae.training_forward_pass(step_input(sae, x)).metrics["mse_loss_full_budget"]()
    assert error.dtype == torch.float32 and torch.isfinite(error)
