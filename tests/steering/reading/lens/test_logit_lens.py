"""`logit_lens`: by hand, against a loop, on every kind of model, folded and not."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sae_lens import HookedSAETransformer
from transformer_lens import HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.steering import AddVector
from sae_lens_ext.steering.reading.effect import PropagatedEffect
from sae_lens_ext.steering.reading.lens import logit_lens
from sae_lens_ext.steering.reading.lens import ranking as ranking_module
from sae_lens_ext.steering.reading.lens.unembedding import unembedding_of
from sae_lens_ext.steering.vectors import SteeringVectors
from tests.conftest import TINY, VOCABULARY
from tests.steering.reading.lens.by_hand import all_values, naive, stub, vectors, with_random_norms


def test_cosines_and_dot_products_by_hand() -> None:
    # columns: (3, 4) of length 5, (0, 2), (-1, 0), (0, 0)
    model = stub(torch.tensor([[3.0, 0.0, -1.0, 0.0], [4.0, 2.0, 0.0, 0.0]]))
    x = torch.tensor([2.0, 0.0])
    cosine = logit_lens(model, x, top_k=2)
    assert cosine.top() == [("<0>", pytest.approx(0.6)), ("<1>", 0.0)]  # of 1 and 3, both 0, the lower id
    assert cosine.bottom() == [("<2>", -1.0), ("<1>", 0.0)]
    dot = logit_lens(model, x, measure="dot", top_k=2)
    assert dot.top() == [("<0>", 6.0), ("<1>", 0.0)]
    assert dot.bottom() == [("<2>", -2.0), ("<1>", 0.0)]
    assert cosine.norms == dot.norms == (2.0,)


def test_the_gain_of_the_final_norm_by_hand(native_bridge: Any, hooked_model: Any) -> None:
    for model in (hooked_model, native_bridge):  # both have LayerNorm
        gain = torch.arange(1.0, 17.0)
        with torch.no_grad():
            norm = model.ln_final
            (norm.original_component.weight if model is native_bridge else norm.w).copy_(gain)
        x = torch.zeros(16)
        x[0] = 16.0  # centred: 15 at the first, −1 elsewhere
        centred = torch.full((16,), -1.0)
        centred[0] = 15.0
        expected = naive(model.W_U.detach(), gain * centred, "dot")
        result = logit_lens(model, x, measure="dot", top_k=32, final_norm=True)
        assert result.final_norm == "LayerNorm"
        assert all_values(result) == pytest.approx(dict(expected), abs=1e-4)


@pytest.mark.parametrize("measure", ["cosine", "dot"])
@pytest.mark.parametrize("top_k", [1, 7, 32])
def test_the_lens_equals_a_loop(any_model: Any, measure: Any, top_k: int) -> None:
    given = vectors()
    result = logit_lens(any_model, given, measure=measure, top_k=top_k)
    for i, x in enumerate(given.values()):
        found = naive(any_model.W_U.detach(), x, measure)
        top = sorted(found, key=lambda one: -one[1])[:top_k]
        bottom = sorted(found, key=lambda one: one[1])[:top_k]
        assert result.top_ids[i].tolist() == [token for token, _ in top]
        assert result.bottom_ids[i].tolist() == [token for token, _ in bottom]
        assert result.top_values[i].tolist() == pytest.approx([value for _, value in top], abs=1e-5)
        assert result.bottom_values[i].tolist() == pytest.approx([value for _, value in bottom], abs=1e-5)
        assert result.top(f"v{i}", 1) == [(VOCABULARY[top[0][0]], pytest.approx(top[0][1], abs=1e-5))]


@pytest.mark.parametrize("final_norm", [False, True])
def test_dot_products_say_how_the_logits_change(
    any_model: Any, tokens: torch.Tensor, final_norm: bool
) -> None:
    """The model's own logits: (γ ∘ centred h / scale + β) · W_U + b, so that a step along x moves them by the dot product over the scale."""
    model = with_random_norms(any_model)
    hidden = torch.randn(1, 1, 16)
    x = torch.randn(16)
    result = logit_lens(model, x, measure="dot", top_k=32, final_norm=final_norm)
    values = torch.tensor([all_values(result)[token] for token in range(32)])
    with torch.no_grad():
        if final_norm:
            scale = (hidden - hidden.mean()).square().mean().add(1e-5).sqrt()
            # The norm's scale is frozen by hand: a step along x changes it as well.
            normed = model.ln_final(hidden)
            change = model.unembed(normed + _gain_applied(model, x) / scale) - model.unembed(normed)
            assert (change[0, 0] * scale - values).abs().max() < 1e-4
        else:
            change = model.unembed(hidden + x) - model.unembed(hidden)
            assert (change[0, 0] - values).abs().max() < 1e-4


def _gain_applied(model: Any, x: torch.Tensor) -> torch.Tensor:
    """γ ∘ (x − mean x), out of the norm itself: the norm is linear but for its scale, which is that of 1000 · x."""
    large = 1000 * x
    without_beta = (model.ln_final(large[None, None]) - model.ln_final(-large[None, None])) / 2
    return without_beta[0, 0] * (x - x.mean()).square().mean().sqrt()


def test_both_kinds_of_model_read_alike(hooked_model: Any, native_bridge: Any) -> None:
    with torch.no_grad():
        native_bridge.unembed.original_component.weight.copy_(hooked_model.W_U.T)
        gain = 1 + torch.rand(16)
        hooked_model.ln_final.w.copy_(gain)
        native_bridge.ln_final.original_component.weight.copy_(gain)
    for final_norm in (False, True):
        for measure in ("cosine", "dot"):
            hooked, bridge = (
                logit_lens(model, vectors(), measure=measure, final_norm=final_norm)
                for model in (hooked_model, native_bridge)
            )
            assert torch.equal(hooked.top_ids, bridge.top_ids)
            assert torch.allclose(hooked.top_values, bridge.top_values, atol=1e-5)
            assert hooked.random_largest == pytest.approx(bridge.random_largest, abs=1e-5)
            assert hooked.final_norm == bridge.final_norm


def hooked(norm: str, tokenizer: Any, **processing: bool) -> HookedSAETransformer:
    """A HookedTransformer with random gains, processed or not; always the same weights."""
    torch.manual_seed(7)
    cfg = HookedTransformerConfig(**TINY, normalization_type=norm, device="cpu")
    model = with_random_norms(HookedSAETransformer(cfg, tokenizer=tokenizer))
    if processing:
        names = ("fold_ln", "center_unembed", "center_writing_weights", "fold_value_biases")
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_and_process_state_dict(state, **{name: processing.get(name, False) for name in names})
    return model.eval()


def bridge(norm: str, tokenizer: Any, **processing: bool) -> TransformerBridge:
    torch.manual_seed(7)
    model = with_random_norms(
        TransformerBridge.boot_native({**TINY, "normalization_type": norm}, tokenizer=tokenizer).eval()
    )
    if processing:
        names = ("fold_ln", "center_unembed", "center_writing_weights", "fold_value_biases")
        model.enable_compatibility_mode(**{name: processing.get(name, False) for name in names})
    return model


@pytest.mark.parametrize("make", [hooked, bridge])
@pytest.mark.parametrize(("norm", "kind"), [("LN", "LayerNorm"), ("RMS", "RMSNorm")])
def test_a_folded_model_reads_as_the_unfolded_one_with_its_final_norm(
    make: Any, norm: str, kind: str, tokenizer: Any
) -> None:
    plain, folded = make(norm, tokenizer), make(norm, tokenizer, fold_ln=True)
    assert (unembedding_of("test", plain).state, unembedding_of("test", folded).state) == (
        "as trained",
        "with the final norm folded in",
    )
    with_norm = logit_lens(plain, vectors(), measure="dot", top_k=32, final_norm=True)
    assert with_norm.final_norm == kind
    for final_norm in (False, True):
        read = logit_lens(folded, vectors(), measure="dot", top_k=32, final_norm=final_norm)
        assert torch.equal(read.top_ids, with_norm.top_ids)
        assert torch.allclose(read.top_values, with_norm.top_values, atol=1e-4)
        assert "γ is folded into W_U" in repr(read)
        assert "γ ∘" not in repr(read) and ("− mean x" in repr(read)) == (final_norm and norm == "LN")
    without = logit_lens(plain, vectors(), measure="dot", top_k=32)
    assert not torch.allclose(without.top_values, with_norm.top_values, atol=1e-2)
    with pytest.raises(ValueError, match=r"final norm is folded into W_U.*Load the model without"):
        logit_lens(folded, vectors(), final_norm=True)


@pytest.mark.parametrize("make", [hooked, bridge])
def test_a_centred_unembedding_is_told_and_shifts_every_dot_product_alike(make: Any, tokenizer: Any) -> None:
    plain, centred = make("LN", tokenizer), make("LN", tokenizer, center_unembed=True)
    x = vectors(1)["v0"]
    before, after = (logit_lens(model, x, measure="dot", top_k=32) for model in (plain, centred))
    assert (before.unembedding_centred, after.unembedding_centred) == (False, True)
    assert "centred over tokens" in repr(after) and "centred" not in repr(before)
    assert after.unembedding == "as trained"  # processed, but γ was left alone
    shift = float(plain.W_U.detach().mean(dim=1) @ x)
    assert torch.allclose(after.top_values, before.top_values - shift, atol=1e-4)


def test_a_gain_kept_as_its_difference_from_1_counts_as_it_multiplies(native_bridge: Any) -> None:
    class Gemma(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.linspace(-0.5, 0.5, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)

    norm = Gemma()
    native_bridge.ln_final.set_original_component(norm)
    x = vectors(1)["v0"]
    result = logit_lens(native_bridge, x, top_k=32, final_norm=True)
    assert result.final_norm == "RMSNorm"
    expected = naive(native_bridge.W_U.detach(), (1 + norm.weight.detach()) * x, "cosine")
    assert all_values(result) == pytest.approx(dict(expected), abs=1e-5)


def test_columns_that_are_no_tokens_are_left_out(tokenizer: Any) -> None:
    W_U = torch.randn(16, 40)
    W_U[:, 32:] *= 100  # padding
    result = logit_lens(stub(W_U, tokenizer), vectors(), measure="dot", top_k=50)
    assert result.n_tokens == 32 and result.top_ids.shape == (3, 32)
    assert int(result.top_ids.max()) == 31
    assert result.provenance["columns_left_out"] == 8
    narrow = logit_lens(stub(W_U[:, :20], tokenizer), vectors())  # a tokenizer with more tokens than columns
    assert narrow.n_tokens == 20


def test_a_vocabulary_with_gaps_is_read_where_it_has_tokens() -> None:
    known = {f"t{i}": i for i in range(0, 40, 3)}
    tokenizer = SimpleNamespace(
        get_vocab=lambda: known,
        decode=lambda ids: f"t{ids[0]}",
        convert_ids_to_tokens=lambda token: f"t{token}",
    )
    W_U, x = torch.randn(16, 40), vectors(1)["v0"]
    result = logit_lens(stub(W_U, tokenizer), x)
    expected = {token: value for token, value in naive(W_U, x, "cosine") if token % 3 == 0}
    assert all_values(result) == pytest.approx(expected, abs=1e-5)
    assert result.top(n=1)[0][0] == f"t{result.top_ids[0, 0]}"


def test_chunks_change_nothing(hooked_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = logit_lens(hooked_model, vectors())
    monkeypatch.setattr(ranking_module, "CHUNK", 5)
    chunked = logit_lens(hooked_model, vectors())
    assert torch.equal(whole.top_ids, chunked.top_ids)
    assert torch.allclose(whole.top_values, chunked.top_values, atol=1e-6)
    assert whole.random_largest == pytest.approx(chunked.random_largest, abs=1e-6)


def test_equal_values_come_by_id() -> None:
    W_U = torch.ones(4, 30)
    W_U[:, 10] = 2.0
    W_U[:, 20] = -1.0
    result = logit_lens(stub(W_U), torch.ones(4), measure="dot", top_k=6)
    assert result.top_ids.tolist() == [[10, 0, 1, 2, 3, 4]]
    assert result.bottom_ids.tolist() == [[20, 0, 1, 2, 3, 4]]


@pytest.mark.parametrize("measure", ["cosine", "dot"])
def test_what_random_vectors_reach_is_the_95th_percentile_of_their_largest_value(measure: Any) -> None:
    W_U = torch.randn(6, 20)
    result = logit_lens(stub(W_U), 3 * vectors(1, 6)["v0"], measure=measure, seed=11)
    random = torch.randn(100, 6, generator=torch.Generator().manual_seed(11))
    largest: list[float] = []
    for row in random:
        found = naive(W_U, row / row.norm(), measure)
        largest.append(max(abs(value) for _, value in found))
    assert result.random_largest == pytest.approx(torch.tensor(largest).quantile(0.95).item(), abs=1e-4)
    if measure == "cosine":
        assert result.null_of() == result.null_cosine == result.random_largest
    else:
        assert result.null_cosine is None
        assert result.null_of() == pytest.approx(result.random_largest * result.norms[0])
    assert (
        logit_lens(stub(W_U), vectors(1, 6), measure=measure, seed=12).random_largest != result.random_largest
    )


def test_the_global_random_state_is_left_alone(hooked_model: Any) -> None:
    before = torch.get_rng_state()
    logit_lens(hooked_model, vectors())
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_read_is_not_changed(any_model: Any) -> None:
    given = vectors()
    copies = {label: x.clone() for label, x in given.items()}
    weights = {name: tensor.clone() for name, tensor in any_model.state_dict().items()}
    logit_lens(any_model, given, final_norm=True)
    assert all(torch.equal(copies[label], given[label]) for label in given)
    assert all(torch.equal(weights[name], tensor) for name, tensor in any_model.state_dict().items())


def test_no_hook_fires(any_model: Any) -> None:
    fired: list[str] = []
    for name, point in any_model.hook_dict.items():
        point.add_hook(lambda _, hook, name=name: fired.append(name))
    logit_lens(any_model, vectors(), final_norm=True)
    assert fired == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_in_other_precisions_are_read_in_float32(dtype: torch.dtype) -> None:
    W_U, x = torch.randn(16, 32).to(dtype), vectors(1)["v0"]
    result = logit_lens(stub(W_U), x)
    assert all_values(result) == pytest.approx(dict(naive(W_U, x, "cosine")), abs=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(logit_lens(stub(W_U), x).top_values, result.top_values)


def test_whatever_holds_vectors_is_read(hooked_model: Any) -> None:
    first, second, third = vectors().values()
    steering = SteeringVectors({1: first, 0: second}, {"made_by": "a test"})
    result = logit_lens(hooked_model, steering)
    assert (result.labels, result.layers) == (("layer 0", "layer 1"), (0, 1))
    assert result.provenance["vectors"] == {"made_by": "a test"}
    tensor = logit_lens(hooked_model, first)
    assert (tensor.labels, tensor.layers) == (("vector",), (None,))
    assert torch.equal(tensor.top_ids[0], result.top_ids[1])
    hook = "blocks.1.hook_resid_post"
    added = logit_lens(hooked_model, AddVector(hook, first, 2.0) + AddVector(hook, third, -1.0))
    assert (added.labels, added.layers) == ((hook,), (1,))
    assert torch.equal(added.top_ids, logit_lens(hooked_model, 2 * first - third).top_ids)


def test_the_mean_of_a_propagated_effect_is_read(hooked_model: Any) -> None:
    mean = torch.stack([vectors()["v0"], vectors()["v1"]])
    one = torch.ones(2, dtype=torch.float64)
    effect = PropagatedEffect(("layer 0", "layer 1"), (0, 1), mean, one, one, one, 5, {"tokens": "all"})
    result = logit_lens(hooked_model, effect)
    plain = logit_lens(hooked_model, {"layer 0": mean[0], "layer 1": mean[1]})
    assert torch.equal(result.top_ids, plain.top_ids)
    assert result.layers == (0, 1) and result.provenance["vectors"] == {"tokens": "all"}
    assert repr(result).startswith("LogitLensResult of 2 propagated effects")


def test_about_one_random_vector_in_twenty_exceeds_the_null(hooked_model: Any) -> None:
    drawn = torch.randn(400, 16, generator=torch.Generator().manual_seed(5))
    result = logit_lens(hooked_model, drawn, top_k=1)
    assert result.labels[:2] == ("vector 0", "vector 1")
    largest = torch.maximum(result.top_values[:, 0], -result.bottom_values[:, 0])
    assert 0.01 < (largest > result.random_largest).double().mean() < 0.12


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_size_does_not_matter_to_the_cosine(hooked_model: Any, size: float) -> None:
    x = torch.randn(16)
    expected = logit_lens(hooked_model, x, top_k=5, final_norm=True)
    found = logit_lens(hooked_model, x * size, top_k=5, final_norm=True)
    assert found.top_ids.tolist() == expected.top_ids.tolist()
