"""What the deactivation test does beside its numbers: it leaves all as it was, follows its seed, notes its sources, refuses."""

import copy
import re
from typing import Any

import pytest
import torch
from sae_lens import Transcoder, TranscoderConfig

from tests.analysis.domains import CONTEXT
from tests.analysis.flow.deactivation.cases import (
    HOOKS,
    N_TEXTS,
    PER_TEXT,
    SEED,
    deactivate,
    flow_sae,
    saes_of,
)
from tests.language_model.test_hook_points import hooks_left

EARLY, LATE = (HOOKS[site][0] for site in ("early", "late"))


def same(first: Any, second: Any) -> bool:
    names = ("text", "position", "feature", "predecessor", "new_activation", "activation_change")
    pairs = [(getattr(first, n).nan_to_num(nan=-9), getattr(second, n).nan_to_num(nan=-9)) for n in names]
    return first.rows == second.rows and all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def test_deactivation_test_leaves_model_saes_and_randomness_as_they_were(any_model: Any, tokens) -> None:
    saes = saes_of(any_model, "early", "late")
    weights = {name: copy.deepcopy(sae.state_dict()) for name, sae in saes.items()}
    plain, state = any_model(tokens), torch.random.get_rng_state()
    deactivate(any_model, saes)
    assert torch.equal(state, torch.random.get_rng_state())
    assert hooks_left(any_model) == [] and torch.equal(any_model(tokens), plain)
    for name, sae in saes.items():
        assert all(torch.equal(weights[name][key], tensor) for key, tensor in sae.state_dict().items())


def test_deactivation_test_that_fails_leaves_no_hooks(hooked_model) -> None:
    with pytest.raises(ValueError, match="max_exhaustive"):
        deactivate(hooked_model, saes_of(hooked_model, "early", "late"), max_exhaustive=1)
    assert hooks_left(hooked_model) == []


def test_deactivation_test_follows_its_seed(hooked_model) -> None:
    saes = saes_of(hooked_model, "early", "late")
    first, again, other = (deactivate(hooked_model, saes, seed=seed) for seed in (0, 0, 1))
    assert same(first, again) and not same(first, other)


def test_deactivation_test_chooses_targets_whatever_the_methods(hooked_model) -> None:
    saes = saes_of(hooked_model, "early", "late")
    few, all_methods = (deactivate(hooked_model, saes, **given) for given in ({"methods": ["cosine"]}, {}))
    assert torch.equal(few.feature, all_methods.feature) and torch.equal(few.position, all_methods.position)
    assert torch.equal(few.predecessor[:, :, -1], all_methods.predecessor[:, :, -1])


@pytest.mark.parametrize(
    "settings", [{"batch_size_interventions": 1}, {"batch_size_interventions": 3}, {"batch_size": 1}]
)
def test_deactivation_test_does_not_depend_on_the_batches(hooked_model, settings: Any) -> None:
    saes = saes_of(hooked_model, "early", "late")
    expected, result = deactivate(hooked_model, saes), deactivate(hooked_model, saes, **settings)
    assert torch.equal(result.predecessor, expected.predecessor)
    torch.testing.assert_close(
        result.activation_change, expected.activation_change, equal_nan=True, atol=1e-4, rtol=1e-3
    )


def test_deactivation_test_runs_different_predecessors_of_a_token_once(hooked_model) -> None:
    rows: list[int] = []
    point = hooked_model.hook_dict["blocks.1.hook_resid_pre"]
    point.add_perma_hook(lambda x, hook: rows.append(len(x)))
    result = deactivate(
        hooked_model, saes_of(hooked_model, "early", "late"), methods=["cosine", "permutation"]
    )
    frame = result.pairs_frame()
    expected = frame[frame.predecessor_activation > 0].groupby(["text", "position"]).predecessor.nunique()
    assert rows[-len(expected) :] == [1 + n for n in expected]


def test_deactivation_test_notes_where_its_numbers_come_from(hooked_model) -> None:
    result = deactivate(hooked_model, saes_of(hooked_model, "early", "late"), factor=-1)
    expected = {
        "model_name": "custom",
        "factor": -1.0,
        "n_texts": N_TEXTS,
        "tokens_per_text": PER_TEXT,
        "n_tokens": N_TEXTS * PER_TEXT,
        "context_size": CONTEXT,
        "pearson_tokens": 20 * CONTEXT,
        "seed": SEED,
        "choice": "random",
    }
    assert {name: result.provenance[name] for name in expected} == expected
    assert {"torch_version", "sae_lens_version", "tokens_sha256"} <= set(result.provenance)


def test_deactivation_test_shows_progress_only_if_asked(hooked_model, monkeypatch) -> None:
    switches: list[tuple[str, bool]] = []

    def bar(iterable: Any, *, desc: str, disable: bool) -> Any:
        switches.append((desc, disable))
        return iterable

    for module in ("flow.deactivation.layer", "site_reading"):
        monkeypatch.setattr(f"sae_lens_ext.analysis.{module}.tqdm", bar)
    for show in (True, False):
        deactivate(hooked_model, saes_of(hooked_model, "early", "late"), show_progress=show)
    names = ["Reading tokens", "Correlating activations", f"Deactivating {EARLY}"]
    assert switches == [(name, off) for off in (False, True) for name in names]


SILENT = "found no active feature of 'blocks.1.hook_resid_post' at any of the 8 sampled tokens"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["cosine", "correlation"]}, "methods with 'correlation'. Known are 'cosine', 'permutation', "),
        ({"methods": "cosine"}, "methods = 'cosine'. Give a list with one or more of 'cosine',"),
        ({"methods": []}, "methods = []. Give a list"),
        ({"predecessors": "residual"}, "predecessors = 'residual'. Give a list with one or more of 'residual', 'mlp'"),
        ({"predecessors": ["res"]}, "predecessors with 'res'. Known are"),
        ({"choice": "first"}, "choice with 'first'. Known are 'random', 'strongest'"),
        ({"factor": float("nan")}, "factor = nan. Give a number: 0 removes the predecessor"),
        ({"factor": "0"}, "factor = '0'. Give a number"),
        ({"n_texts": 0}, "deactivation_test.n_texts = 0 is out of range. Give an int of at least 1"),
        ({"max_features": 2.5}, "deactivation_test.max_features must be a whole number"),
        ({"layers": [2]}, "asked for layer 2, but was given no SAE of the residual stream after that block"),
        ({"layers": [0]}, "asked for layer 0, but was given no SAE at a predecessor of 'blocks.0.hook_resid_post'"),
        ({"predecessors": ["mlp"]}, "no residual site with a predecessor of the kind mlp."),
        ({"max_exhaustive": 2}, "features of 'blocks.0.hook_resid_post' are active at a token, more than max_exhaustive = 2"),
        ({"texts": ["w1 w2 w3"]}, "The text 'texts' is too short"),
        ({"texts": "w1 w2"}, "The text 'texts' is one string"),
        ({"texts": {"a": ["w1"]}}, "texts as a mapping"),
        ({"n_texts": 500}, "n_texts = 500 were asked for, and at least one more to correlate activations on."),
        ({"n_texts": 500, "methods": ["cosine"]}, "n_texts = 500 were asked for. Give more text"),
    ],
)  # fmt: skip
def test_deactivation_test_refuses(hooked_model, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        deactivate(hooked_model, saes_of(hooked_model, "early", "late"), **settings)


def test_deactivation_test_refuses_sites_that_do_not_fit(hooked_model) -> None:
    saes = saes_of(hooked_model, "early", "late")
    with pytest.raises(
        ValueError, match="no residual site with a predecessor of the kind residual.*two neighbouring layers"
    ):
        deactivate(hooked_model, {LATE: saes[LATE]})
    silent = flow_sae(hooked_model, "late")
    silent.threshold.data.fill_(1e9)
    with pytest.raises(ValueError, match=SILENT):
        deactivate(hooked_model, {EARLY: saes[EARLY], LATE: silent})
    transcoder = Transcoder(TranscoderConfig(d_in=16, d_sae=8, d_out=16, apply_b_dec_to_input=False))
    transcoder.cfg.metadata.hook_name = "blocks.1.ln2.hook_normalized"
    transcoder.cfg.metadata.hook_name_out = HOOKS["mlp"][0]
    with pytest.raises(ValueError, match="a transcoder, which reads 'blocks.1.ln2.hook_normalized'"):
        deactivate(hooked_model, [*saes.values(), transcoder], predecessors=["mlp"])
    far = flow_sae(hooked_model, "late")
    far.cfg.metadata.hook_name = "blocks.2.hook_resid_post"
    with pytest.raises(ValueError, match="has no hook 'blocks.2.hook_resid_post'"):
        deactivate(hooked_model, [*saes.values(), far])
    broken = saes_of(hooked_model, "early", "late")
    broken[EARLY].W_dec.data[3] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        deactivate(hooked_model, broken)


def test_deactivation_test_refuses_texts_of_special_tokens_alone(hooked_model) -> None:
    nothing = ["<|endoftext|> " * 40] * 40
    with pytest.raises(ValueError, match="nothing but special tokens, which do not count"):
        deactivate(hooked_model, saes_of(hooked_model, "early", "late"), nothing)


def test_deactivation_test_of_a_silent_predecessor_site_tests_nothing(hooked_model) -> None:
    saes = saes_of(hooked_model, "early", "late")
    saes[EARLY].threshold.data.fill_(1e9)  # type: ignore[union-attr]
    result = deactivate(hooked_model, saes)
    assert all(row.n_pairs == 0 and row.success is None for row in result.rows)
    assert "no predecessor was active" in repr(result)
