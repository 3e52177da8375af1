"""What `masking_curve` does beside its numbers: it leaves all as it was, notes its sources, and refuses."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sae_lens import SAE
from torch import nn

from sae_lens_ext import weights_fingerprint
from sae_lens_ext.analysis.stability.masking.result import MaskingCurve
from sae_lens_ext.architectures.inference import as_inference
from tests.analysis.domains import BATCH, CONTEXT, D_MODEL, N_CONTEXTS, RESIDUAL, TEXTS, sae_at
from tests.analysis.stability.masking.masking_cases import CE_CONTEXTS, SEED, STABLE, curve_of, report_of
from tests.analysis.test_domains_conduct import bare_residual, transcoder, unfolded, with_nan, without_hook
from tests.language_model.test_hook_points import hooks_left, own_name


def test_masking_curve_runs_the_model_once_for_ev_and_once_a_row_for_cross_entropy(hooked_model) -> None:
    passes: list[int] = []
    hooked_model.hook_dict["hook_embed"].add_perma_hook(lambda x, hook: passes.append(len(x)))
    curve_of(hooked_model, sae_at(RESIDUAL[0]), max_ce_tokens=None)
    assert passes == [BATCH] * 3
    passes.clear()
    curve = curve_of(hooked_model, sae_at(RESIDUAL[0]))
    masked = [row for row in curve.rows if row.n_masked]
    # Of 12 contexts 3 are for cross-entropy: clean, with the SAE, and with each set masked; 4, 4 and 1 are for EV alone.
    assert sorted(passes) == [1, *[CE_CONTEXTS] * (2 + len(masked)), BATCH, BATCH]


def test_masking_curve_without_cross_entropy_is_the_same_but_for_it(hooked_model) -> None:
    with_ce, without = (curve_of(hooked_model, sae_at(RESIDUAL[0]), max_ce_tokens=n) for n in (48, 0))
    assert all(row.ce is not None for row in with_ce.rows) and all(row.ce is None for row in without.rows)
    assert [row.ev for row in without.rows] == pytest.approx([row.ev for row in with_ce.rows])
    assert (without.ce, without.ce_with, without.n_predictions) == (None, None, 0)
    few = curve_of(hooked_model, sae_at(RESIDUAL[0]), max_ce_tokens=1)  # one context, at least
    assert 0 < few.n_predictions < CONTEXT


def test_masking_curve_shows_progress_only_if_asked(hooked_model, monkeypatch) -> None:
    switches: list[tuple[str, int, bool]] = []

    class Bar:
        def __init__(self, iterable: Any = None, *, desc: str, disable: bool, total: int = 0) -> None:
            self.iterable = iterable
            switches.append((desc, total or len(iterable), disable))

        def __iter__(self) -> Any:
            return iter(self.iterable)

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: Any) -> None: ...

        def update(self) -> None:
            updates.append(1)

    updates: list[int] = []
    monkeypatch.setattr("sae_lens_ext.analysis.stability.masking.curve.tqdm", Bar)
    for show in (True, False):
        curve_of(hooked_model, sae_at(RESIDUAL[0]), show_progress=show)
    # Four batches; by draw a set of stable, of unstable and three of matched latents.
    assert switches == [
        ("Reading", 4, off) if i == 0 else ("Masking", 40, off) for off in (False, True) for i in (0, 1)
    ]
    assert len(updates) == 80


def test_masking_curve_leaves_model_sae_and_randomness_as_they_were(any_model: Any, tokens) -> None:
    hook = own_name(any_model, *RESIDUAL)
    sae = sae_at(hook)
    weights, plain, state = copy.deepcopy(sae.state_dict()), any_model(tokens), torch.random.get_rng_state()
    curve_of(any_model, sae)
    assert torch.equal(state, torch.random.get_rng_state())
    assert hooks_left(any_model) == [] and torch.equal(any_model(tokens), plain)
    assert all(torch.equal(weights[name], tensor) for name, tensor in sae.state_dict().items())
    assert sae.cfg == sae_at(hook).cfg


def test_masking_curve_follows_its_seed(hooked_model) -> None:
    first, again, other = (curve_of(hooked_model, sae_at(RESIDUAL[0]), seed=seed) for seed in (0, 0, 1))
    assert first == again and first.rows != other.rows


def test_masking_curve_notes_where_its_numbers_come_from(hooked_model, tmp_path) -> None:
    report = report_of(provenance={"seed": 9, "dataset": "tiny"}, min_firing_rate=0.01)
    sae = sae_at(RESIDUAL[0])
    curve = curve_of(hooked_model, sae, report, anchor=2)
    expected = {
        "model_name": "custom",
        "hook_name": RESIDUAL[0],
        "sae_fingerprint": weights_fingerprint(sae),
        "dataset": "tiny",
        "stability_seed": 9,
        "threshold": 0.7,
        "anchor": 2,
        "counts": [2, 5, 8, 16],
        "n_draws": 2,
        "context_size": CONTEXT,
        "max_tokens": CONTEXT * N_CONTEXTS,
        "max_ce_tokens": CONTEXT * CE_CONTEXTS,
        "autocast": False,
        "seed": SEED,
    }
    assert expected.items() <= curve.provenance.items() and curve.sae == "three"
    assert len(curve.provenance["tokens_sha256"]) == 64 and "torch_version" in curve.provenance
    curve.save(tmp_path / "curve.json")
    assert MaskingCurve.load(tmp_path / "curve.json") == curve


def test_masking_curve_knows_the_report_s_sae_by_its_fingerprint(hooked_model) -> None:
    saes = {name: sae_at(RESIDUAL[0], seed=seed) for seed, name in enumerate(("one", "two", "three"))}
    prints = {name: weights_fingerprint(sae) for name, sae in saes.items()}
    report = report_of(provenance={"sae_fingerprints": prints})
    assert curve_of(hooked_model, saes["two"], report, anchor=1).sae == "two"
    with pytest.raises(
        ValueError,
        match=r"not those of the report's SAE at anchor = 0, 'one'. It is the report's 'two': give anchor = 1",
    ):
        curve_of(hooked_model, saes["two"], report)
    with pytest.raises(ValueError, match=r"at anchor = 2, 'three'. It is none of the report's SAEs"):
        curve_of(hooked_model, sae_at(RESIDUAL[0], seed=7), report, anchor=2)
    del prints["three"]
    curve_of(hooked_model, sae_at(RESIDUAL[0], seed=7), report, anchor=2)


def hooked_sae(function: Callable[[torch.Tensor], torch.Tensor]) -> SAE[Any]:
    sae = sae_at(RESIDUAL[0])
    sae.hook_sae_recons.add_hook(lambda x, hook: function(x))
    return sae


def transposed() -> SAE[Any]:
    sae = sae_at(RESIDUAL[0])
    sae.W_dec = nn.Parameter(sae.W_dec.data.T)
    return sae


def silent() -> SAE[Any]:
    sae = sae_at(RESIDUAL[0])
    sae.threshold.data += 1e6
    return sae


NO_SUM = r"SAE 'one' \(jumprelu\) does not decode to a sum of its latents' decoder rows"


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: "a folder", r"given sae of type str. Give the SAE 'one' itself; load_sae\(folder\)"),
        (lambda: sae_at(RESIDUAL[0], d_in=12), r"have width 16, but the SAE 'one' has d_in = 12"),
        (lambda: sae_at("blocks.7.hook_out"), r"has no hook 'blocks.7.hook_out'"),
        (without_hook, r"SAE 'one' names no hook in its metadata"),
        (unfolded, r"normalize_activations = 'expected_average_only_in', which was never folded"),
        (with_nan, r"On the text 'held-out' there is NaN or infinity in the output of the SAE 'one'"),
        (lambda: hooked_sae(torch.tanh), NO_SUM),
        (lambda: hooked_sae(lambda x: 2 * x), NO_SUM),
        (transposed, NO_SUM),
        (
            silent,
            r"No latent of the SAE 'one' fires on any of the \d+ tokens, so that masking changes nothing",
        ),
    ],
)
def test_masking_curve_refuses_an_sae(hooked_model, make: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        curve_of(hooked_model, make())
    assert hooks_left(hooked_model) == []


def test_masking_curve_refuses_an_sae_that_is_none_of_the_activations_it_reads(hooked_model) -> None:
    for make, complaint in (
        (transcoder, "masking_curve measures SAEs"),
        (bare_residual, "is a residual SAE by itself"),
    ):
        sae = as_inference(make())
        report = report_of([0], [1], d_sae=sae.cfg.d_sae)
        with pytest.raises(ValueError, match=complaint):
            curve_of(hooked_model, sae, report, counts=[1])


@pytest.mark.parametrize(
    ("report", "settings", "complaint"),
    [
        (None, {"n_draws": 0}, r"masking_curve.n_draws = 0 is out of range"),
        (None, {"n_draws": 2.5}, r"masking_curve.n_draws must be a whole number"),
        (None, {"max_tokens": 0}, r"masking_curve.max_tokens = 0 is out of range"),
        (None, {"max_ce_tokens": -1}, r"masking_curve.max_ce_tokens = -1 is out of range"),
        (None, {"batch_size": 0}, r"masking_curve.batch_size = 0 is out of range"),
        (None, {"context_size": 17}, r"context_size = 17 is more than the 16 tokens that this model"),
        (None, {"context_size": 2}, r"The text 'held-out' holds no pair of tokens that counts"),
        (None, {"anchor": 3}, r"anchor = 3 is no position of an SAE. This report has 3: give 0 to 2"),
        (
            None,
            {"counts": (2, 17)},
            r"masking_curve.counts = 17 is out of range.*\(8 stable, 16 unstable\) = 16",
        ),
        (None, {"texts": TEXTS}, r"given texts as a mapping. Give a sequence of documents"),
        (None, {"texts": "w1 w2"}, r"The text 'held-out' is one string"),
        (None, {"texts": ["w1 w2"]}, r"The text 'held-out' is too short: its 1 documents fill 0 contexts"),
        (None, {"texts": ["<|endoftext|>"] * 99}, r"The text 'held-out' holds no token that counts"),
        ("report.json", {}, r"given str as report. Give the StabilityReport"),
        (report_of(d_sae=30), {}, r"d_sae = 24, but the report's SAE at anchor = 0, 'one', has 30 latents"),
        (
            report_of([], STABLE),
            {},
            r"The report has no stable latents of 'one' \(anchor = 0\), so that there is",
        ),
        (report_of(STABLE, []), {"anchor": 1}, r"The report has no unstable latents of 'two' \(anchor = 1\)"),
    ],
)
def test_masking_curve_refuses(hooked_model, report: Any, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        curve_of(hooked_model, sae_at(RESIDUAL[0]), report, **settings)
    assert hooks_left(hooked_model) == []


@pytest.mark.parametrize("kind", ["hooked_model", "sae_bridge"])
def test_masking_curve_refuses_a_model_with_saes_attached(kind: str, request) -> None:
    model = request.getfixturevalue(kind)
    sae = sae_at(own_name(model, *RESIDUAL))
    model.add_sae(sae)
    with pytest.raises(ValueError, match=r"SAEs attached at .*Call model.reset_saes\(\) first"):
        curve_of(model, sae)


def test_masking_curve_leaves_latents_of_neither_class_alone(hooked_model) -> None:
    sae, report = sae_at(RESIDUAL[0]), report_of([0, 1], [2, 3])
    assert set(report.labels().tolist()) == {"stable", "unstable", "middle"}
    before = curve_of(hooked_model, sae, report, counts=[2])
    sae.W_dec.data[4:] = torch.randn(20, D_MODEL, generator=torch.Generator().manual_seed(5))
    after = curve_of(hooked_model, sae, report, counts=[2])
    assert [row.mean_firing_rate for row in after.rows] == [row.mean_firing_rate for row in before.rows]
    assert before.at("stable", 2)[0].share_of_activation + before.at("unstable", 2)[0].share_of_activation < 1
