"""SAEs on several texts, against SAELens' `run_evals`, against splicing by hand, and where the numbers are known."""

import copy
from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens import (
    SAE,
    ActivationsStore,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    StandardSAE,
    StandardSAEConfig,
)
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.load_model import load_model
from sae_lens.training.activation_scaler import ActivationScaler

from sae_lens_ext import ResidualStackSAE
from sae_lens_ext.analysis.domains import DomainMeasurement
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
    by_hand,
    evaluate,
    numbers,
    read_tokens,
    sae_at,
    special,
)
from tests.architectures.bases import base_sae, residual_for
from tests.language_model.test_hook_points import own_name


def by_run_evals(model: Any, sae: SAE[Any], tokens: torch.Tensor) -> dict[str, float]:
    """SAELens' numbers for one SAE on these tokens, by our names."""
    data = Dataset.from_dict({"tokens": tokens.tolist()})
    store = ActivationsStore.from_sae(model, sae, data, store_batch_size_prompts=BATCH, total_tokens=1)
    config = EvalConfig(
        batch_size_prompts=BATCH,
        n_eval_reconstruction_batches=len(tokens) // BATCH,
        n_eval_sparsity_variance_batches=len(tokens) // BATCH,
        compute_ce_loss=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )
    groups, _ = run_evals(sae, store, model, ActivationScaler(), config, exclude_special_tokens=True)
    theirs = {name: value for group in groups.values() for name, value in group.items()}
    return {
        "ev": theirs["explained_variance"],
        "ce": theirs["ce_loss_without_sae"],
        "ce_with": theirs["ce_loss_with_sae"],
        "ce_ablated": theirs["ce_loss_with_ablation"],
        "ce_score": theirs["ce_loss_score"],
        "l0": theirs["l0"],
    }


def assert_same_numbers(measurement: DomainMeasurement, expected: dict[str, float]) -> None:
    ours = numbers(measurement)
    # SAELens means float32 losses; what they differ by is amplified in the score, a ratio of differences.
    assert {name: ours[name] for name in expected} == pytest.approx(expected, rel=2e-4, abs=1e-6)
    exact = {name: value for name, value in expected.items() if name != "ce_score"}
    assert {name: ours[name] for name in exact} == pytest.approx(exact, rel=2e-6, abs=1e-6)


def test_evaluate_domains_is_run_evals_for_every_sae_and_text(any_model: Any) -> None:
    hook, later = own_name(any_model, *RESIDUAL), own_name(any_model, *LATER)
    saes = {"first": sae_at(hook, seed=0), "second": sae_at(hook, seed=1), "later": sae_at(later, seed=2)}
    report = evaluate(any_model, saes)
    assert report.saes == ("first", "second", "later") and report.domains == ("code", "general")
    for domain in TEXTS:
        tokens = read_tokens(any_model, domain)
        for name, sae in saes.items():
            assert_same_numbers(report.at(name, domain), by_run_evals(any_model, sae, tokens))
            assert report.at(name, domain).n_tokens == (tokens != 0).sum()
    spread = {round(row.ce_with, 4) for row in report.measurements}
    assert len(spread) == 6  # nothing was taken for something else
    assert all(0 < row.l0 < 24 and row.ce_with != row.ce_ablated for row in report.measurements)


def test_evaluate_domains_is_run_evals_on_heads(hooked_model) -> None:
    sae = sae_at(HEADS[0], reshape_activations="hook_z")
    sae.cfg.metadata.hook_head_index = None
    report = evaluate(hooked_model, {"all heads": sae})
    assert sae.hook_z_reshaping_mode
    for domain in TEXTS:
        expected = by_run_evals(hooked_model, sae, read_tokens(hooked_model, domain))
        assert_same_numbers(report.at("all heads", domain), expected)


@pytest.mark.parametrize("head", [0, 1])
def test_evaluate_domains_is_run_evals_on_one_head(hooked_model, head: int) -> None:
    sae = sae_at(HEADS[0], d_in=8)
    sae.cfg.metadata.hook_head_index = head
    tokens = read_tokens(hooked_model, "code")
    row = evaluate(hooked_model, {"head": sae}).at("head", "code")
    assert_same_numbers(row, by_run_evals(hooked_model, sae, tokens))


def test_evaluate_domains_is_splicing_by_hand_on_heads(any_model: Any) -> None:
    hook, tokens = own_name(any_model, *HEADS), read_tokens(any_model, "general")
    reshape = {"reshape_activations": "hook_z"} if hook.endswith("_z") else {}  # SAELens knows it by its name
    everything, one = sae_at(hook, **reshape), sae_at(hook, d_in=8, seed=1)
    one.cfg.metadata.hook_head_index = 1

    def splice_all(z: torch.Tensor) -> torch.Tensor:
        x_hat = everything(z if reshape else z.flatten(2)).reshape(z.shape)
        return torch.where(special(tokens)[..., None], z, x_hat)

    def splice_one(z: torch.Tensor) -> torch.Tensor:
        return torch.stack([z[:, :, 0], torch.where(special(tokens), z[:, :, 1], one(z[:, :, 1]))], dim=2)

    report = evaluate(any_model, {"all": everything, "one": one})
    expected = {
        "all": (
            by_hand(any_model, hook, tokens, splice_all),
            by_hand(any_model, hook, tokens, torch.zeros_like),
        ),
        "one": (
            by_hand(any_model, hook, tokens, splice_one),
            by_hand(any_model, hook, tokens, lambda z: z * torch.tensor([1.0, 0.0])[:, None]),
        ),
    }
    for name, (ce_with, ce_ablated) in expected.items():
        row = report.at(name, "general")
        assert row.ce == pytest.approx(by_hand(any_model, hook, tokens, lambda z: z), rel=1e-5)
        assert row.ce_with == pytest.approx(ce_with, rel=1e-5)
        assert row.ce_ablated == pytest.approx(ce_ablated, rel=1e-5)
    assert expected["all"] != expected["one"]


def test_evaluate_domains_of_several_hooks_together_is_each_alone(any_model: Any) -> None:
    hooks = [own_name(any_model, *names) for names in (RESIDUAL, LATER, HEADS)]
    head = sae_at(hooks[2], d_in=8)
    head.cfg.metadata.hook_head_index = 0
    saes: dict[str, SAE[Any]] = {
        "early": sae_at(hooks[0]),
        "late": sae_at(hooks[1]),
        "head": head,
        "heads": sae_at(hooks[2]),
        "again": sae_at(hooks[0], seed=5),
    }
    together = evaluate(any_model, saes)
    assert together.provenance["hook_names"] == sorted(hooks)
    for name, sae in saes.items():
        assert evaluate(any_model, {name: sae}).measurements == tuple(
            together.at(name, domain) for domain in TEXTS
        )


def test_evaluate_domains_finds_the_hook_by_both_names(any_model: Any) -> None:
    report = evaluate(any_model, {name: sae_at(name) for name in RESIDUAL})
    for domain in TEXTS:
        first, second = (numbers(report.at(name, domain)) for name in RESIDUAL)
        assert first == second


def test_evaluate_domains_reads_a_plain_hugging_face_model(gpt2_folder, sae_bridge) -> None:
    proxy = load_model("AutoModelForCausalLM", str(gpt2_folder)).eval()
    theirs = evaluate(proxy, {"a": sae_at("transformer.h.0")})
    ours = evaluate(sae_bridge, {"a": sae_at(RESIDUAL[1])})
    for row, expected in zip(theirs.measurements, ours.measurements, strict=True):
        assert numbers(row) == pytest.approx(numbers(expected), rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 5, 12, 100])
def test_evaluate_domains_does_not_depend_on_the_batches(hooked_model, batch_size: int) -> None:
    saes = {"a": sae_at(RESIDUAL[0])}
    expected = evaluate(hooked_model, saes)
    report = evaluate(hooked_model, saes, batch_size=batch_size)
    for row, same in zip(report.measurements, expected.measurements, strict=True):
        assert numbers(row) == pytest.approx(numbers(same), rel=1e-4)


def test_evaluate_domains_reads_max_tokens_of_the_contexts_that_the_seed_says(hooked_model) -> None:
    saes = {"a": sae_at(RESIDUAL[0])}
    few = evaluate(hooked_model, saes, max_tokens=3 * CONTEXT + 1)
    assert few.at("a", "code").n_tokens == (read_tokens(hooked_model, "code")[:3] != 0).sum()
    first, again, other = (evaluate(hooked_model, saes, seed=seed) for seed in (1, 1, 2))
    assert first == again and first.measurements != other.measurements
    tokens = read_tokens(hooked_model, "code", seed=2)
    assert other.at("a", "code").ce == pytest.approx(by_hand(hooked_model, RESIDUAL[0], tokens, lambda x: x))


def test_evaluate_domains_of_an_sae_in_bfloat16(hooked_model) -> None:
    sae, tokens = sae_at(RESIDUAL[0]).to(dtype=torch.bfloat16), read_tokens(hooked_model, "code")
    row = evaluate(hooked_model, {"a": sae}).at("a", "code")
    with torch.no_grad():
        x = hooked_model.run_with_cache(tokens)[1][RESIDUAL[0]]
        acts = sae.encode(x.bfloat16())
        x_hat = sae.decode(acts).float()
    spliced = torch.where(special(tokens), x, x_hat)
    assert row.ce_with == pytest.approx(
        by_hand(hooked_model, RESIDUAL[0], tokens, lambda _: spliced), rel=1e-5
    )
    x, x_hat, acts = x[tokens != 0], x_hat[tokens != 0], acts[tokens != 0]
    ev = 1 - (x - x_hat).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert row.ev == pytest.approx(ev.item(), rel=1e-5)
    assert row.l0 == pytest.approx((acts != 0).float().sum(-1).mean().item())
    assert sae.dtype == torch.bfloat16
    assert row.ev != evaluate(hooked_model, {"a": sae_at(RESIDUAL[0])}).at("a", "code").ev


def test_evaluate_domains_with_autocast_is_the_model_in_bfloat16_and_the_sae_as_it_is(any_model: Any) -> None:
    hook, tokens = own_name(any_model, *LATER), read_tokens(any_model, "code")[:BATCH]
    sae = sae_at(hook)
    report = evaluate(any_model, {"a": sae}, autocast=True, max_tokens=BATCH * CONTEXT)
    row = report.at("a", "code")
    plain = evaluate(any_model, {"a": sae}, max_tokens=BATCH * CONTEXT)
    assert (report.provenance["autocast"], plain.provenance["autocast"]) == (True, False)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        x = any_model.run_with_cache(tokens, names_filter=[hook])[1][hook]
        ce = by_hand(any_model, hook, tokens, lambda x: x)
    with torch.no_grad():
        x_hat = sae(x.float())  # outside of autocast
    assert x.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ce_with = by_hand(
            any_model, hook, tokens, lambda x: torch.where(special(tokens), x, x_hat.to(x.dtype))
        )
    assert row.ce == pytest.approx(ce, rel=1e-5) and row.ce_with == pytest.approx(ce_with, rel=1e-5)
    assert row.ce != plain.at("a", "code").ce
    x, x_hat = x.float()[tokens != 0], x_hat[tokens != 0]
    ev = 1 - (x - x_hat).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert row.ev == pytest.approx(ev.item(), rel=1e-4)


def test_evaluate_domains_takes_a_training_sae_in_its_inference_form(hooked_model) -> None:
    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D_MODEL, d_sae=24, k=3))
    sae.topk_threshold.fill_(0.05)
    sae.cfg.metadata.hook_name = RESIDUAL[0]
    before = copy.deepcopy(sae.state_dict())
    report = evaluate(hooked_model, {"training": sae, "inference": as_inference(sae)})
    for domain in TEXTS:
        row = report.at("training", domain)
        assert numbers(row) == numbers(report.at("inference", domain))
        assert row.l0 != pytest.approx(3)  # and not by the batch's k
    assert all(torch.equal(before[name], tensor) for name, tensor in sae.state_dict().items())


@pytest.mark.parametrize("kind", ["jumprelu", "topk", "gated"])
def test_evaluate_domains_of_a_stack_by_its_switches(hooked_model, kind: str) -> None:
    base = base_sae(kind, d_in=D_MODEL)
    base.cfg.metadata.hook_name = RESIDUAL[0]
    residuals = {name: residual_for(base, seed=seed, d_in=D_MODEL) for seed, name in enumerate("ab", start=1)}
    stack = ResidualStackSAE.from_saes(base, residuals)
    report = evaluate(
        hooked_model,
        {"base": base, "off": stack.with_active(()), "a": stack.with_active(("a",)), "both": stack},
    )
    parts = {name: as_inference(sae) for name, sae in residuals.items()}
    for domain in TEXTS:
        tokens = read_tokens(hooked_model, domain)
        off = report.at("off", domain)
        assert numbers(off) == pytest.approx(numbers(report.at("base", domain)), rel=1e-5)
        for name, active in (("off", ""), ("a", "a"), ("both", "ab")):

            def boosted(x: torch.Tensor, active: str = active, tokens: torch.Tensor = tokens) -> torch.Tensor:
                return torch.where(special(tokens), x, base(x) + sum(parts[part](x) for part in active))

            expected = by_hand(hooked_model, RESIDUAL[0], tokens, boosted)
            assert report.at(name, domain).ce_with == pytest.approx(expected, rel=1e-4)
        assert off.l0 < report.at("a", domain).l0 < report.at("both", domain).l0


def perfect_sae(hook_name: str) -> StandardSAE:
    """x = relu(x) − relu(−x), to the last bit."""
    sae = StandardSAE(StandardSAEConfig(d_in=D_MODEL, d_sae=2 * D_MODEL))
    both = torch.cat([torch.eye(D_MODEL), -torch.eye(D_MODEL)])
    sae.load_state_dict({**sae.state_dict(), "W_enc": both.T, "W_dec": both})
    sae.cfg.metadata.hook_name = hook_name
    return sae


def test_evaluate_domains_of_a_perfect_sae_costs_nothing(any_model: Any) -> None:
    report = evaluate(any_model, {"perfect": perfect_sae(own_name(any_model, *RESIDUAL))})
    for row in report.measurements:
        assert (row.ev, row.ce_score, row.l0) == (1.0, 1.0, D_MODEL)
        assert row.ce_with == row.ce != row.ce_ablated


def test_evaluate_domains_of_a_zero_sae_is_the_model_with_special_tokens_left_in_place(
    any_model: Any,
) -> None:
    hook = own_name(any_model, *RESIDUAL)
    zero = sae_at(hook)
    zero.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in zero.state_dict().items()})
    zero.threshold.data += 1
    report = evaluate(any_model, {"zero": zero})
    for domain in TEXTS:
        tokens, row = read_tokens(any_model, domain), report.at("zero", domain)
        left = by_hand(any_model, hook, tokens, lambda x, tokens=tokens: x * special(tokens))
        assert row.ce_with == pytest.approx(left, rel=1e-5)
        assert row.ce_ablated == pytest.approx(by_hand(any_model, hook, tokens, lambda x: 0 * x), rel=1e-5)
        assert row.ce_with != pytest.approx(row.ce_ablated, rel=1e-5)
        with torch.no_grad():
            x = any_model.run_with_cache(tokens, names_filter=[hook])[1][hook][tokens != 0]
        assert row.ev == pytest.approx((1 - x.pow(2).sum() / (x - x.mean(0)).pow(2).sum()).item(), abs=1e-4)
        assert row.l0 == 0


def test_evaluate_domains_does_not_count_what_an_sae_does_at_special_tokens(any_model: Any) -> None:
    hook = own_name(any_model, *RESIDUAL)
    tokens = read_tokens(any_model, "code")
    assert (tokens[:, 1:] == 0).any()  # also between documents
    wild = sae_at(hook)
    for point, nonsense in ((wild.hook_sae_recons, 1e3), (wild.hook_sae_acts_post, 7.0)):
        point.add_hook(lambda x, hook, nonsense=nonsense: torch.where(special(tokens), nonsense, x))
    report = evaluate(
        any_model,
        {"tame": sae_at(hook), "wild": wild},
        {"code": TEXTS["code"]},
        batch_size=N_CONTEXTS,
    )
    tame, wild = report.measurements
    assert numbers(tame) == numbers(wild)
