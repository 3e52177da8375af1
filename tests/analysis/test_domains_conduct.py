"""What `evaluate_domains` does beside its numbers: it leaves all as it was, notes its sources, and refuses."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sae_lens import SAE, Transcoder, TranscoderConfig
from sae_lens.load_model import load_model

from sae_lens_ext.analysis.domains import DomainReport
from sae_lens_ext.architectures.inference import as_inference
from tests.analysis.domains import (
    BATCH,
    CONTEXT,
    D_MODEL,
    HEADS,
    LATER,
    N_CONTEXTS,
    RESIDUAL,
    TEXTS,
    evaluate,
    sae_at,
)
from tests.architectures.bases import base_sae, residual_for
from tests.language_model.test_hook_points import hooks_left, own_name


def test_evaluate_domains_shows_progress_only_if_asked(hooked_model, monkeypatch) -> None:
    switches = []

    def tqdm(iterable: Any, *, desc: str, disable: bool) -> Any:
        switches.append((len(iterable), disable))
        return iterable

    monkeypatch.setattr("sae_lens_ext.analysis.domains.evaluation.tqdm", tqdm)
    for show in (True, False):
        evaluate(hooked_model, {"a": sae_at(RESIDUAL[0])}, show_progress=show)
    assert switches == [(6, False), (6, True)]


def test_evaluate_domains_runs_the_model_once_clean_once_a_hook_and_once_an_sae(hooked_model) -> None:
    passes = []
    hooked_model.hook_dict["hook_embed"].add_perma_hook(lambda x, hook: passes.append(len(x)))
    saes = {"a": sae_at(RESIDUAL[0]), "b": sae_at(RESIDUAL[0], seed=1), "c": sae_at(LATER[0])}
    evaluate(hooked_model, saes, {"code": TEXTS["code"]})
    assert passes == [BATCH] * 3 * (1 + 2 + 3)  # three batches


def test_evaluate_domains_leaves_model_and_saes_as_they_were(any_model: Any, tokens) -> None:
    hook = own_name(any_model, *RESIDUAL)
    sae = sae_at(hook)
    weights, plain, runs = copy.deepcopy(sae.state_dict()), any_model(tokens), []
    any_model.hook_dict[hook].add_hook(lambda x, hook: runs.append("foreign"))
    evaluate(any_model, {"a": sae})
    assert hooks_left(any_model).count(hook) == 1 and len(any_model.hook_dict[hook].fwd_hooks) == 1
    runs.clear()
    assert torch.equal(any_model(tokens), plain) and runs == ["foreign"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in sae.state_dict().items())
    assert sae.cfg == sae_at(hook).cfg


def test_evaluate_domains_leaves_no_hooks_when_an_sae_fails(any_model: Any) -> None:
    broken = sae_at(own_name(any_model, *RESIDUAL))
    broken.hook_sae_recons.add_hook(lambda x, hook: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(any_model, {"a": broken})
    assert hooks_left(any_model) == []


def test_evaluate_domains_notes_where_its_numbers_come_from(hooked_model, sae_bridge, tmp_path) -> None:
    report = evaluate(hooked_model, {"a": sae_at(RESIDUAL[0])}, seed=3)
    expected = {
        "hook_names": [RESIDUAL[0]],
        "context_size": CONTEXT,
        "max_tokens": CONTEXT * N_CONTEXTS,
        "autocast": False,
        "seed": 3,
        "model_name": "custom",
    }
    assert expected.items() <= report.provenance.items()
    versions = {"torch_version", "sae_lens_version", "transformer_lens_version", "sae_lens_ext_version"}
    assert set(report.provenance) == set(expected) | versions | {"tokens_sha256"}
    read = report.provenance["tokens_sha256"]
    assert set(read) == set(TEXTS) and all(len(digest) == 64 for digest in read.values())
    sae = {"a": sae_at(RESIDUAL[0])}
    assert evaluate(hooked_model, sae, seed=3).provenance["tokens_sha256"] == read
    assert evaluate(hooked_model, sae, seed=4).provenance["tokens_sha256"] != read
    report.save(tmp_path / "report.json")
    assert DomainReport.load(tmp_path / "report.json") == report


def test_evaluate_domains_names_the_model_by_the_sae_if_the_model_has_no_name(gpt2_folder) -> None:
    proxy = load_model("AutoModelForCausalLM", str(gpt2_folder)).eval()
    sae = sae_at("transformer.h.0")
    assert evaluate(proxy, {"a": sae}).provenance["model_name"] is None
    sae.cfg.metadata.model_name = "gpt2"
    assert evaluate(proxy, {"a": sae}).provenance["model_name"] == "gpt2"


def bare_residual() -> SAE[Any]:
    base = base_sae("jumprelu", d_in=D_MODEL)
    base.cfg.metadata.hook_name = RESIDUAL[0]
    residual = residual_for(base, d_in=D_MODEL)
    residual.cfg.metadata.hook_name = RESIDUAL[0]
    return residual


def transcoder_like() -> SAE[Any]:
    sae = sae_at("blocks.0.mlp.hook_in")
    sae.cfg.metadata.hook_name_out = "blocks.0.hook_mlp_out"
    return sae


def transcoder() -> SAE[Any]:
    sae: SAE[Any] = Transcoder(
        TranscoderConfig(d_in=D_MODEL, d_sae=4, d_out=D_MODEL, apply_b_dec_to_input=False)
    )
    sae.cfg.metadata.hook_name = RESIDUAL[0]
    return sae


def unfolded() -> SAE[Any]:
    sae = sae_at(RESIDUAL[0])
    sae.cfg.normalize_activations = "expected_average_only_in"
    return sae


def with_nan() -> SAE[Any]:
    sae = sae_at(RESIDUAL[0])
    sae.b_dec.data[3] = torch.nan
    return sae


def at_head_9() -> SAE[Any]:
    sae = sae_at(HEADS[0], d_in=8)
    sae.cfg.metadata.hook_head_index = 9
    return sae


def without_hook() -> SAE[Any]:
    sae = sae_at(RESIDUAL[0])
    sae.cfg.metadata.hook_name = None
    return sae


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (without_hook, r"SAE 'a' names no hook in its metadata. Set sae.cfg.metadata.hook_name"),
        (
            transcoder_like,
            r"SAE 'a' \(jumprelu\) reads 'blocks.0.mlp.hook_in' and writes 'blocks.0.hook_mlp_out': it is a transcoder",
        ),
        (transcoder, r"SAE 'a' \(transcoder\) reads .*: it is a transcoder"),
        (unfolded, r"SAE 'a' has normalize_activations = 'expected_average_only_in', which was never folded"),
        (with_nan, r"On the text 'code' there is NaN or infinity in the output of the SAE 'a'"),
        (at_head_9, r"in which there is no head 9. Heads are the third of four dimensions"),
        (bare_residual, r"SAE 'a' is a residual SAE by itself.*ResidualStackSAE.from_saes"),
        (lambda: as_inference(bare_residual()), r"SAE 'a' is a residual SAE by itself"),
        (lambda: sae_at("blocks.7.hook_out"), r"has no hook 'blocks.7.hook_out'"),
        (
            lambda: sae_at(RESIDUAL[0], d_in=12),
            r"activations at 'blocks.0.hook_resid_post' have width 16, but the SAE 'a' has d_in = 12",
        ),
        (lambda: sae_at(HEADS[0], d_in=8), r"activations at 'blocks.0.attn.hook_z' have width 16"),
    ],
)
def test_evaluate_domains_refuses_an_sae(hooked_model, make: Callable[[], SAE[Any]], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        evaluate(hooked_model, {"good": sae_at(RESIDUAL[0]), "a": make()})
    assert hooks_left(hooked_model) == []


@pytest.mark.parametrize(
    ("saes", "texts", "settings", "complaint"),
    [
        (
            {},
            TEXTS,
            {},
            r"given saes of type dict without an entry. Give a mapping by name, such as \{\"base\": sae\}",
        ),
        ([1], TEXTS, {}, r"given saes of type list. Give a mapping by name"),
        (None, {}, {}, r"given texts of type dict without an entry.*\{\"code\": \[...\]\}"),
        (None, ["w1"], {}, r"given texts of type list. Give a mapping by name"),
        (None, {"code": "w1 w2"}, {}, r"The text 'code' is one string.*such as \['w1 w2'\]"),
        (
            None,
            {"law": ["w1 w2"]},
            {},
            r"The text 'law' is too short: its 1 documents fill 0 contexts of 16 tokens",
        ),
        (None, TEXTS, {"context_size": 0}, r"evaluate_domains.context_size = 0 is out of range"),
        (None, TEXTS, {"context_size": 17}, r"context_size = 17 is more than the 16 tokens that this model"),
        (None, TEXTS, {"context_size": 1}, r"context_size = 1 leaves no room for text"),
        (
            None,
            TEXTS,
            {"context_size": 16.0},
            r"evaluate_domains.context_size must be a whole number, but 16.0",
        ),
        (None, TEXTS, {"max_tokens": 0}, r"evaluate_domains.max_tokens = 0 is out of range"),
        (
            None,
            TEXTS,
            {"max_tokens": 1e4},
            r"evaluate_domains.max_tokens must be a whole number, but 10000.0",
        ),
        (
            None,
            TEXTS,
            {"batch_size": -1},
            r"evaluate_domains.batch_size = -1 is out of range",
        ),
        (None, TEXTS, {"batch_size": True}, r"batch_size must be a whole number, but True"),
    ],
)
def test_evaluate_domains_refuses(
    hooked_model, saes: Any, texts: Any, settings: dict, complaint: str
) -> None:
    saes = {"a": sae_at(RESIDUAL[0])} if saes is None else saes
    with pytest.raises(ValueError, match=complaint):
        evaluate(hooked_model, saes, texts, **settings)


@pytest.mark.parametrize("kind", ["hooked_model", "sae_bridge"])
def test_evaluate_domains_refuses_a_model_with_saes_attached(kind: str, request) -> None:
    model = request.getfixturevalue(kind)
    hook = own_name(model, *RESIDUAL)
    sae = sae_at(hook)
    model.add_sae(sae)
    with pytest.raises(ValueError, match=f"SAEs attached at '{hook}'.*Call model.reset_saes\\(\\) first"):
        evaluate(model, {"a": sae})
    model.reset_saes()
    evaluate(model, {"a": sae})


def test_evaluate_domains_at_a_hook_that_never_fires_says_so(any_model: Any) -> None:
    with pytest.raises(RuntimeError, match="'blocks.0.hook_mlp_in' never fired"):
        evaluate(any_model, {"a": sae_at("blocks.0.hook_mlp_in")})
