"""The report against loops on tiny models of every kind, and its refusals."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from sae_lens_ext.analysis.collapse import collapse_report, reading, separability, sequence_entropies
from tests.analysis.collapse.naive import activations
from tests.conftest import CONTEXT, TINY, VOCABULARY

WORDS = (5, 9, 11)
Measured = Callable[..., Any]


@pytest.fixture
def contexts() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(2, len(VOCABULARY), (24, CONTEXT), generator=generator)


def report(model: Any, contexts: Any, **settings: Any) -> Any:
    return collapse_report(
        model,
        contexts,
        **{"words": WORDS, "n_folds": 3, "max_tokens": 10 * CONTEXT, "batch_size": 4} | settings,
    )


def hooks(site: str) -> dict[int, str]:
    if site == "residual":
        return {-1: "blocks.0.hook_resid_pre"} | {i: f"blocks.{i}.hook_resid_post" for i in range(2)}
    return {i: f"blocks.{i}.attn.hook_{site[0]}" for i in range(2)}


def test_entropy_is_that_of_the_first_contexts(any_model: Any, contexts: torch.Tensor) -> None:
    found = report(any_model, contexts, sites=("residual", "keys", "values"), alpha=(0.5, 1), words=None)
    assert found.sites == ("residual", "keys", "values")
    for site in found.sites:
        assert found.layers[site] == tuple(hooks(site))
        assert found.entropies[site].shape == (2, len(hooks(site)), 10)
        for i, hook in enumerate(hooks(site).values()):
            x = activations(any_model, contexts[:10], hook)
            for j, alpha in enumerate((0.5, 1)):
                expected = sequence_entropies(x, alpha=alpha)
                assert found.entropies[site][j, i].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
                assert found.entropy_at(alpha)[site][i].value == pytest.approx(
                    float(expected.mean()), abs=1e-4
                )


def test_separability_is_that_of_the_first_occurrences_of_all_contexts(
    any_model: Any, contexts: torch.Tensor
) -> None:
    found = report(any_model, contexts, sites=("values", "residual"), max_tokens=1)
    n = min(int((contexts == word).sum()) for word in WORDS)
    assert (found.per_word, found.n_sequences, found.chance) == (n, 1, 1 / 3)
    for site in found.sites:
        for i, hook in enumerate(hooks(site).values()):
            x = activations(any_model, contexts, hook)
            chosen = []
            for label, word in enumerate(WORDS):
                places = [(r, p) for r in range(24) for p in range(CONTEXT) if contexts[r, p] == word][:n]
                chosen += [(r, p, label) for r, p in places]
            chosen.sort(key=lambda one: one[0])
            features = torch.stack([x[r, p] for r, p, _ in chosen])
            labels = torch.tensor([label for _, _, label in chosen])
            assert found.separability[site][i] == pytest.approx(
                separability(features, labels, n_folds=3), abs=0.03
            )


def test_the_embedding_of_a_model_without_positions_tells_words_apart(
    tokenizer: Any, contexts: torch.Tensor
) -> None:
    cfg = HookedTransformerConfig(**TINY, positional_embedding_type="rotary", rotary_dim=8)
    found = report(HookedTransformer(cfg, tokenizer=tokenizer), contexts, sites=("residual",))
    assert found.separability["residual"][0] == 1.0


@pytest.mark.parametrize("z_score", [True, False])
def test_keeping_activations_and_reading_twice_give_the_same(
    hooked_model: Any, contexts: torch.Tensor, monkeypatch: pytest.MonkeyPatch, z_score: bool
) -> None:
    kept = report(hooked_model, contexts, z_score=z_score)
    monkeypatch.setattr(reading, "KEPT_BYTES", 5_000)
    again = report(hooked_model, contexts, z_score=z_score)
    for site in kept.sites:
        assert torch.equal(kept.entropies[site], again.entropies[site])
        assert torch.equal(kept.fold_accuracies[site], again.fold_accuracies[site])


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_batch_size_is_no_matter(hooked_model: Any, contexts: torch.Tensor, batch_size: int) -> None:
    one, other = report(hooked_model, contexts), report(hooked_model, contexts, batch_size=batch_size)
    for site in one.sites:
        assert other.entropies[site] == pytest.approx(one.entropies[site], abs=1e-4)
        assert other.separability[site] == pytest.approx(one.separability[site], abs=0.03)


def test_first_positions_are_left_out_of_the_entropy_alone(hooked_model: Any, contexts: torch.Tensor) -> None:
    whole, found = report(hooked_model, contexts), report(hooked_model, contexts, skip_positions=3)
    x = activations(hooked_model, contexts[:10], "blocks.1.hook_resid_post")[:, 3:]
    assert found.entropies["residual"][0, 2].tolist() == pytest.approx(
        sequence_entropies(x).tolist(), abs=1e-4
    )
    assert found.n_positions == CONTEXT - 3
    assert torch.equal(found.fold_accuracies["residual"], whole.fold_accuracies["residual"])


def test_documents_are_packed_and_words_are_text(any_model: Any) -> None:
    texts = [" ".join(f"w{(i * j) % 30}" for i in range(40)) for j in range(1, 20)]
    found = report(any_model, texts, words=(" w3", " w7"), context_size=8, max_tokens=40, per_word=4)
    assert (found.words, found.per_word, found.n_sequences, found.n_positions) == ((" w3", " w7"), 4, 5, 8)
    assert found.provenance["word_token_ids"] == [5, 9]
    assert report(any_model, texts, words=None, context_size=8, max_tokens=40).entropies[
        "values"
    ] == pytest.approx(found.entropies["values"])


def test_a_model_without_a_tokenizer_takes_ids(contexts: torch.Tensor) -> None:
    model = HookedTransformer(HookedTransformerConfig(**TINY))
    assert report(model, contexts).words == ("<5>", "<9>", "<11>")


def test_the_model_is_as_it_was(any_model: Any, contexts: torch.Tensor) -> None:
    before, given = any_model(contexts[:2]), contexts.clone()
    any_model.train()
    state = torch.get_rng_state()
    report(any_model, contexts)
    assert torch.equal(state, torch.get_rng_state())
    assert any_model.training and torch.equal(contexts, given)
    assert torch.equal(any_model.eval()(contexts[:2]), before)
    assert not any(point.fwd_hooks for point in any_model.hook_dict.values())


def test_autocast_is_near(hooked_model: Any, contexts: torch.Tensor) -> None:
    plain, low = report(hooked_model, contexts), report(hooked_model, contexts, autocast=True)
    assert low.provenance["autocast"] and not torch.equal(plain.entropies["values"], low.entropies["values"])
    assert low.entropies["values"] == pytest.approx(plain.entropies["values"], abs=0.05)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"sites": ("mlp",)}, r"sites = \('mlp',\).*'residual', 'keys', 'values'"),
        ({"sites": "values"}, "sites = 'values'"),
        ({"sites": ()}, "sites = "),
        ({"sites": ("keys", "keys")}, "each once"),
        ({"alpha": -1}, "not negative"),
        ({"alpha": (0.5, 0.5)}, "each once"),
        ({"alpha": ()}, "Give one order"),
        ({"max_tokens": 0}, "max_tokens = 0"),
        ({"per_word": 1.5}, "per_word must be a whole number"),
        ({"per_word": 2}, "per_word = 2 and n_folds = 3.*at least 3"),
        ({"seed": -1}, "seed = -1. Give a whole number from 0"),
        ({"seed": "x"}, "seed = 'x'"),
        ({"batch_size": True}, "batch_size"),
        ({"n_folds": 1}, "n_folds = 1"),
        ({"n_folds": 50}, "separability with n_folds = 50 needs 50 of each.*words=None"),
        ({"skip_positions": CONTEXT}, "skip_positions = 16 of contexts of 16 tokens"),
        ({"skip_positions": -1}, "skip_positions = -1"),
        ({"z_score": None}, "z_score = None"),
        ({"words": (" w3",)}, "at least two"),
        ({"words": " w3"}, "at least two"),
        ({"words": (5, 5)}, "twice"),
        ({"words": (5, 32)}, "from 0 to 31"),
        ({"words": (5, -1)}, "from 0 to 31"),
        ({"words": (5, True)}, "the word True"),
        ({"words": (" w3 w4", " w5")}, "' w3 w4', which the model's tokenizer cuts into 2 tokens"),
        ({"words": (" never", " w5")}, "or does not know"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    hooked_model: Any, contexts: torch.Tensor, settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        report(hooked_model, contexts, **settings)


def test_too_rare_words_are_counted_in_the_refusal(hooked_model: Any, contexts: torch.Tensor) -> None:
    contexts[contexts == 9] = 10
    contexts[0, 0] = 9
    with pytest.raises(ValueError, match="1 of 'w7'.*takes 1 of each.*Give more text"):
        report(hooked_model, contexts)


def test_words_as_text_need_a_tokenizer(contexts: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="no tokenizer.*ids of tokens.*words=None"):
        report(HookedTransformer(HookedTransformerConfig(**TINY)), contexts, words=(" is", " was"))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (torch.zeros(2, 4), "float32"),
        (torch.full((2, 4), 32), "vocabulary"),
        (torch.zeros(2, CONTEXT + 1, dtype=torch.long), "more than the 16 tokens"),
        ([], "no texts"),
        ("text", "one string"),
        (["w1"], "too short"),
    ],
)
def test_what_is_no_text_is_refused(hooked_model: Any, given: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        report(hooked_model, given, context_size=8)


def test_a_model_without_hooks_is_refused(contexts: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="Linear is no model with hook points"):
        report(torch.nn.Linear(2, 2), contexts)


def test_nan_names_its_place(hooked_model: Any, contexts: torch.Tensor) -> None:
    hooked_model.blocks[1].attn.W_V.data[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity in the values of layer 1"):
        report(hooked_model, contexts, sites=("values",))


def test_a_layer_that_holds_a_constant_is_named(hooked_model: Any, contexts: torch.Tensor) -> None:
    hooked_model.blocks[1].attn.W_V.data.zero_()
    with pytest.raises(ValueError, match="values of layer 1, was given a sequence that is zero everywhere"):
        report(hooked_model, contexts)
