"""The deactivation test against full forward passes, where its numbers are known, and by what must hold."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from sae_lens_ext.analysis.flow.deactivation import DeactivationResult
from sae_lens_ext.analysis.texts import pack_texts
from sae_lens_ext.language_model import Site, read_activations
from tests.analysis.domains import CONTEXT, TEXTS
from tests.analysis.flow.deactivation.cases import (
    HOOKS,
    N_TEXTS,
    PER_TEXT,
    SEED,
    deactivate,
    deactivated,
    encode,
    flow_sae,
    saes_of,
)
from tests.analysis.flow.dictionaries import sae_of
from tests.language_model.test_hook_points import own_name

KINDS = ("residual", "mlp", "attention")
EARLY, LATE = (HOOKS[site][0] for site in ("early", "late"))


def contexts_of(model: Any) -> torch.Tensor:
    packed = pack_texts(
        model, {"a": TEXTS["code"]}, context_size=CONTEXT, max_tokens=(N_TEXTS + 20) * CONTEXT, seed=SEED
    )
    return packed["a"]


def unit(sae: Any) -> np.ndarray:
    return torch.nn.functional.normalize(sae.W_dec.detach(), dim=1).numpy()


def check_every_pair(
    model: Any, saes: dict[str, Any], result: DeactivationResult, factor: float = 0.0
) -> int:
    """Repeat every pair by full passes; gives how many were tested."""
    contexts, frame = contexts_of(model), result.pairs_frame()
    site = result.sites[0]
    target = saes[site.hook_name]
    for (text, position, kind, predecessor), pairs in frame[frame.tested].groupby(
        ["text", "position", "predecessor_kind", "predecessor"]
    ):
        source = saes[site.predecessors[kind]]
        new, old = deactivated(model, contexts[text], position, source, predecessor, target, factor)
        for pair in pairs.itertuples():
            z_new, z_old = new[pair.feature].item(), old[pair.feature].item()
            assert pair.activation == pytest.approx(z_old, rel=1e-4)
            assert pair.new_activation == pytest.approx(z_new, rel=1e-3, abs=1e-5)
            assert pair.activation_change == pytest.approx(1 - z_new / z_old, rel=1e-3, abs=1e-4)
    return int(frame.tested.sum())


def test_deactivation_test_is_a_full_forward_pass_for_each_pair(any_model: Any) -> None:
    saes = saes_of(any_model, "early", "late", "mlp", "attention")
    result = deactivate(any_model, saes, predecessors=KINDS, tokens_per_text=1, max_features=4)
    assert check_every_pair(any_model, saes, result) > 60


def test_deactivation_test_of_heads_is_a_full_forward_pass(hooked_model) -> None:
    saes = saes_of(hooked_model, "early", "late", "heads")
    result = deactivate(hooked_model, saes, predecessors=("attention",), factor=-1.5, max_features=3)
    assert result.sites[0].predecessors == {"attention": "blocks.1.attn.hook_z"}
    assert check_every_pair(hooked_model, saes, result, factor=-1.5) > 25


def test_deactivation_test_names_the_predecessors_that_the_methods_mean(hooked_model) -> None:
    saes = saes_of(hooked_model, "early", "late")
    result = deactivate(hooked_model, saes)
    cosines = unit(saes[LATE]) @ unit(saes[EARLY]).T
    partners = linear_sum_assignment(cosines, maximize=True)[1]
    contexts = contexts_of(hooked_model)
    x = {h: read_activations(hooked_model, contexts[N_TEXTS:], Site(h)) for h in (EARLY, LATE)}
    counted = contexts[N_TEXTS:] != 0
    acts = {h: encode(saes[h], x[h][counted]).detach().double().numpy() for h in x}
    own = read_activations(hooked_model, contexts[:N_TEXTS], Site(EARLY))
    drawn: set[int] = set()
    for pair in result.pairs_frame().itertuples():
        f, named = pair.feature, pair.predecessor
        here = encode(saes[EARLY], own[pair.text, pair.position])
        assert pair.predecessor_activation == pytest.approx(here[named].item(), rel=1e-4, abs=1e-6)
        assert pair.tested == bool(here[named] > 0)
        if pair.method == "cosine":
            assert named == cosines[f].argmax()
        elif pair.method == "permutation":
            assert named == (partners[f] if cosines[f, partners[f]] > 0 else -1)
        elif pair.method == "random_of_top_5":
            rank = cosines[f].argsort()[::-1].tolist().index(named)
            assert rank < 5
            drawn.add(rank)
        elif pair.method == "pearson":
            columns = acts[EARLY][:, acts[EARLY].std(axis=0) > 0]
            r = [np.corrcoef(acts[LATE][:, f], column)[0, 1] for column in columns.T]
            kept = np.flatnonzero(acts[EARLY].std(axis=0) > 0)
            assert named == kept[int(np.nanargmax(r))]
        else:
            assert here[named] > 0
    assert len(drawn) >= 4


def test_deactivation_test_exhaustive_bounds_every_other_method(hooked_model) -> None:
    result = deactivate(
        hooked_model, saes_of(hooked_model, "early", "late", "mlp"), predecessors=("residual", "mlp")
    )
    best = result.activation_change[:, :, result.methods.index("exhaustive"), None]
    change = result.activation_change
    assert (change.isnan() | (change <= best)).all()
    assert result.methods == (
        "cosine", "permutation", "random_of_top_5", "pearson", "exhaustive", "random_active",
    )  # fmt: skip


def identity_block(model: Any) -> None:
    """Block 1 adds nothing: what is at layer 0 is at layer 1."""
    with torch.no_grad():
        for name, parameter in model.blocks[1].named_parameters():
            if "W_O" in name or "b_O" in name or "W_out" in name or "b_out" in name:
                parameter.zero_()


def orthogonal(seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(seed)))[0]


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0, -2.0, 3.0])
def test_deactivation_test_where_the_only_cause_is_known(hooked_model, factor: float) -> None:
    identity_block(hooked_model)
    rows, order = orthogonal(), torch.randperm(16)
    saes = {
        EARLY: sae_of(rows[order], EARLY),
        LATE: sae_of(2 * rows, LATE),
    }  # rows of norm 2: activations of twice
    saes[LATE].W_enc.data /= 4
    result = deactivate(hooked_model, saes, factor=factor, max_features=16)
    expected = min(1.0, 1 - factor)
    at = result.methods.index
    true = order.argsort()[result.feature]
    for method in ("cosine", "permutation"):
        assert torch.equal(result.predecessor[:, 0, at(method)], true)
        assert (result.predecessor_activation[:, 0, at(method)] > 0).all()
    for row in result.rows:
        if row.method in ("cosine", "permutation") and row.set == "own":
            assert row.mean_activation_change == pytest.approx(expected, abs=1e-4)
            assert row.median_activation_change == pytest.approx(expected, abs=1e-4)
            assert row.mean_activation_change_high == pytest.approx(expected, abs=1e-4)
            if factor > 0 or factor < -1:  # at 0 rounding may leave something
                assert row.success == float(factor < 0)
            assert row.share_with_active_predecessor == 1 and row.n_pairs == row.n_targets
    other = result.predecessor[:, 0, at("random_active")] != true
    assert other.any()
    assert result.activation_change[:, 0, at("random_active")][other].abs().max() < 1e-3


def test_deactivation_test_random_of_top_5_draws_only_what_has_a_positive_cosine(hooked_model) -> None:
    identity_block(hooked_model)
    rows = orthogonal()
    saes = {EARLY: sae_of(rows, EARLY), LATE: sae_of(rows - 0.1 * rows.sum(dim=0), LATE)}
    result = deactivate(hooked_model, saes, methods=["random_of_top_5"])
    assert torch.equal(result.predecessor[:, 0, 0], result.feature)  # all the others are negative


def test_deactivation_test_counts_own_and_common_sets(hooked_model) -> None:
    result = deactivate(hooked_model, saes_of(hooked_model, "early", "late"))
    tested = ~result.new_activation[:, 0].isnan()
    common = tested.all(dim=1)
    assert 0 < common.sum() < tested[:, 0].sum() < len(common)
    for row in result.rows:
        m = result.methods.index(row.method)
        inside = common if row.set == "common" else tested[:, m]
        change = result.activation_change[inside, 0, m].double()
        assert (row.n_pairs, row.n_targets) == (inside.sum(), len(common))
        assert row.share_with_active_predecessor == pytest.approx(inside.double().mean().item())
        assert row.mean_activation_change == pytest.approx(change.mean().item())
        assert row.median_activation_change == pytest.approx(np.median(change.numpy()))
        gone = result.new_activation[inside, 0, m] == 0
        assert row.success == pytest.approx(gone.double().mean().item())
        assert row.mean_activation_change_low <= row.mean_activation_change <= row.mean_activation_change_high
    assert {row.layer for row in result.rows} == {1, None}


def test_deactivation_test_without_a_named_predecessor_tests_nothing(hooked_model) -> None:
    identity_block(hooked_model)
    rows = torch.eye(16)
    saes = {EARLY: sae_of(rows[:8], EARLY), LATE: sae_of(-rows[:8], LATE)}
    result = deactivate(hooked_model, saes, methods=["cosine"])
    own = next(row for row in result.rows if row.method == "cosine" and row.set == "own")
    assert (own.n_pairs, own.share_with_active_predecessor) == (0, 0.0)
    assert own.mean_activation_change is None and own.success is None and own.median_activation_change is None
    assert (result.predecessor[:, 0, 0] == -1).all()
    assert next(r for r in result.rows if r.method == "random_active" and r.set == "own").n_pairs > 0


def test_deactivation_test_tests_only_tokens_that_are_not_special(any_model: Any) -> None:
    result = deactivate(
        any_model, saes_of(any_model, "early", "late"), tokens_per_text=50, methods=["cosine"]
    )
    contexts = contexts_of(any_model)[:N_TEXTS]
    assert (result.token_id != 0).all()
    assert torch.equal(result.token_id, contexts[result.text, result.position])
    seen = {(t, p) for t, p in zip(result.text.tolist(), result.position.tolist(), strict=True)}
    assert len(seen) <= (contexts != 0).sum()
    few = deactivate(any_model, saes_of(any_model, "early", "late"), methods=["cosine"])
    assert len({(t, p) for t, p in zip(few.text.tolist(), few.position.tolist(), strict=True)}) <= 8
    assert few.provenance["n_tokens"] == N_TEXTS * PER_TEXT


@pytest.mark.parametrize("choice", ["random", "strongest"])
def test_deactivation_test_takes_at_most_max_features(hooked_model, choice: Any) -> None:
    saes = saes_of(hooked_model, "early", "late")
    result = deactivate(hooked_model, saes, methods=["cosine"], max_features=3, choice=choice)
    everything = deactivate(hooked_model, saes, methods=["cosine"], max_features=32)
    for text, position in {*zip(result.text.tolist(), result.position.tolist(), strict=True)}:
        here, there = ((r.text == text) & (r.position == position) for r in (result, everything))
        assert here.sum() == min(3, int(there.sum()))
        assert set(result.feature[here].tolist()) <= set(everything.feature[there].tolist())
        if choice == "strongest":
            best = everything.activation[there].sort(descending=True).values[:3]
            assert torch.equal(result.activation[here].sort(descending=True).values, best)


def test_deactivation_test_under_autocast_is_close(hooked_model) -> None:
    saes = saes_of(hooked_model, "early", "late")
    exact, rounded = (
        deactivate(hooked_model, saes, methods=["cosine"], max_features=32, autocast=on)
        for on in (False, True)
    )
    means = [
        next(r.mean_activation_change for r in result.rows if r.method == "cosine")
        for result in (exact, rounded)
    ]
    assert means[0] == pytest.approx(means[1], abs=0.1) and not math.isnan(means[1])


def test_deactivation_test_of_sae_names_and_layers(hooked_model) -> None:
    saes = saes_of(hooked_model, "early", "late", "mlp")
    bridge_name = dict(zip(HOOKS["late"], reversed(HOOKS["late"]), strict=True))[LATE]
    renamed = {bridge_name if name == LATE else name: sae for name, sae in saes.items()}
    first = deactivate(hooked_model, saes, layers=[1], methods=["cosine"])
    again = deactivate(hooked_model, renamed, methods=["cosine"])
    assert torch.equal(first.new_activation.nan_to_num(), again.new_activation.nan_to_num())
    assert again.sites[0].hook_name == bridge_name and again.sites[0].predecessors == {"residual": EARLY}
    assert own_name(hooked_model, *HOOKS["late"]) == LATE
    with_zero = {**saes, **{str(s.cfg.metadata.hook_name): s for s in [mlp_of_layer_zero(hooked_model)]}}
    both = deactivate(hooked_model, with_zero, predecessors=("residual", "mlp"), methods=["cosine"])
    assert [site.predecessors for site in both.sites] == [
        {"mlp": "blocks.0.hook_mlp_out"},
        {"residual": EARLY, "mlp": HOOKS["mlp"][0]},
    ]
    shown = {(row.layer, row.predecessor) for row in both.rows}
    assert shown == {(0, "mlp"), (1, "mlp"), (1, "residual"), (None, "mlp"), (None, "residual")}
    pooled = {(r.predecessor, r.layer): r.n_targets for r in both.rows}
    assert pooled["residual", None] == pooled["residual", 1]
    assert pooled["mlp", None] == pooled["mlp", 0] + pooled["mlp", 1]
    assert len(both.pairs_frame()) == 2 * (pooled["mlp", None] + pooled["residual", None])


def mlp_of_layer_zero(model: Any) -> Any:
    sae = flow_sae(model, "mlp", seed=9)
    sae.cfg.metadata.hook_name = "blocks.0.hook_mlp_out"
    return sae
