"""Dose responses: what is sampled, what is measured of it, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.utilities.logits_utils import sample_logits

from sae_lens_ext.steering import AblateFeature, AddFeature, AddVector, ClampFeature, ScaleFeature, steer
from sae_lens_ext.steering.dose_response import dose_response, share_of_words
from tests.architectures.bases import base_sae

PROMPTS = ("w1 w2 w3", "w4 w5 w6", "w7 w8")
WORD = 13  # the id of "w11"
LAST = "blocks.1.hook_resid_post"
SETTINGS: dict[str, Any] = {
    "behaviour": share_of_words(["w11"]),
    "max_new_tokens": 6,
    "n_resamples": 100,
    "show_progress": False,
}


def towards(model: Any, word: int = WORD) -> torch.Tensor:
    """A direction that makes a word likelier, whatever the final layer norm does to its length."""
    W_U = model.W_U.detach()
    return (W_U[:, word] - W_U.mean(dim=1)).float()


def steering(model: Any) -> AddVector:
    return AddVector(LAST, towards(model))


def ids_of(model: Any, prompt: str) -> torch.Tensor:
    return model.to_tokens(prompt, prepend_bos=True)


@torch.no_grad()
def write_slowly(
    model: Any, tokens: torch.Tensor, n: int, seed: int, temperature: float, top_p: float
) -> torch.Tensor:
    """Sample without a cache, reading everything anew for each token."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(n):
            logits = model(tokens, return_type="logits")[:, -1]
            new = sample_logits(logits, temperature=temperature, top_p=top_p)
            tokens = torch.cat([tokens, new[:, None]], dim=1)
    return tokens


def test_strength_0_writes_the_unsteered_models_text(any_model: Any) -> None:
    found = dose_response(any_model, steering(any_model), [0, 5], PROMPTS, samples_per_prompt=2, **SETTINGS)
    assert found.texts(0) == found.texts(None) and len(found.texts(0)) == 6
    assert found.at(0) != found.at(5)
    assert found.unsteered.coherence.value == 1 and found.at(0).score == found.unsteered.score
    cut = [c for c in found.completions if c.strength == 0]
    assert [c.cross_entropy for c in cut] == [
        c.cross_entropy for c in found.completions if c.strength is None
    ]


def test_the_unsteered_text_is_what_generate_writes(any_model: Any) -> None:
    found = dose_response(any_model, steering(any_model), [0], PROMPTS[:1], temperature=0, **SETTINGS)
    tokens = any_model.generate(
        ids_of(any_model, PROMPTS[0]), max_new_tokens=6, do_sample=False, return_type="tokens", verbose=False
    )
    new = tokens[0, 4:].tolist()
    expected = any_model.tokenizer.decode(new[: new.index(0)] if 0 in new else new)
    assert found.texts(None) == [expected]


def test_steering_towards_a_word_brings_it_at_the_cost_of_coherence(any_model: Any) -> None:
    found = dose_response(
        any_model,
        steering(any_model),
        [0, 1000],
        PROMPTS,
        theme_texts=["w11 w11 w11", "w11 w3"],
        temperature=0,
        **SETTINGS,
    )
    strong = found.at(1000)
    assert strong.behaviour.value == 1 and found.at(0).behaviour.value < 0.5
    assert strong.coherence.value < 0.99 and strong.score.value == pytest.approx(strong.coherence.value)
    assert strong.distinct_bigrams.value == pytest.approx(1 / 5) and found.at(0).distinct_bigrams.value > 0.5
    assert found.at(0).theme_log_prob is not None and found.at(0).theme_log_prob.value == 0
    assert strong.theme_log_prob is not None and strong.theme_log_prob.value > 0
    suppressed = dose_response(
        any_model, steering(any_model), [1000], PROMPTS, mode="suppress", temperature=0, **SETTINGS
    )
    assert suppressed.best.score.value == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampling_agrees_with_reading_everything_anew(any_model: Any, temperature: float) -> None:
    from sae_lens_ext.steering.dose_response.sampling import Sampler

    sampler = Sampler(any_model, 6, temperature, 0.9)
    (batch,) = sampler.batches([ids_of(any_model, p)[0] for p in PROMPTS[:2]], 2, 8, seed=3)
    push = 3 * steering(any_model)
    with steer(any_model, push):
        written = sampler.write(batch)
        found = sampler.read(batch, written)
        slow = write_slowly(any_model, batch.tokens, 6, batch.seed, temperature, 0.9)
    for one, row in zip(found, slow[:, batch.tokens.shape[1] :].tolist(), strict=True):
        assert list(one.tokens) == (row[: row.index(0)] if 0 in row else row)


def test_cross_entropy_is_the_unsteered_models_on_the_steered_text(any_model: Any) -> None:
    found = dose_response(any_model, steering(any_model), [2.0], PROMPTS, seed=5, **SETTINGS)
    tokenizer = any_model.tokenizer
    checked = 0
    for one in found.completions:
        prompt = ids_of(any_model, PROMPTS[one.prompt])[0].tolist()
        new = tokenizer(one.text, add_special_tokens=False)["input_ids"]
        assert len(new) == one.n_tokens
        new = new if len(new) == 6 else [*new, 0]
        losses: list[float] = []
        for i in range(len(new)):
            with torch.no_grad():
                logits = any_model(torch.tensor([[*prompt, *new[:i]]]), return_type="logits")[0, -1]
            losses.append(-float(logits.float().log_softmax(-1)[new[i]]))
        assert one.cross_entropy == pytest.approx(np.mean(losses), abs=2e-4)
        checked += 1
    assert checked == 6
    by_prompt = {s: [c.cross_entropy for c in found.completions if c.strength == s] for s in (None, 2.0)}
    gap = np.mean(by_prompt[None]) - np.mean(by_prompt[2.0])
    distinct = {
        s: np.mean([c.distinct_bigrams for c in found.completions if c.strength == s]) for s in (None, 2.0)
    }
    expected = np.exp(min(0, gap)) * min(1, distinct[2.0] / distinct[None])
    assert found.at(2).coherence.value == pytest.approx(expected)


def test_theme_log_prob_is_the_steered_models_minus_the_unsteered_ones(any_model: Any) -> None:
    texts = ("w11 w11", "w2 w11 w3")
    push = 4 * steering(any_model)
    found = dose_response(any_model, lambda _: push, [1], PROMPTS, theme_texts=texts, **SETTINGS)

    def log_prob(text: str) -> float:
        tokens = ids_of(any_model, text)
        with torch.no_grad():
            logs = any_model(tokens, return_type="logits").float().log_softmax(-1)[0, :-1]
        return float(logs.gather(1, tokens[0, 1:, None]).mean())

    unsteered = [log_prob(text) for text in texts]
    with steer(any_model, push):
        steered = [log_prob(text) for text in texts]
    assert found.theme_log_prob == pytest.approx(np.mean(unsteered), abs=1e-4)
    gained = found.rows[0].theme_log_prob
    assert gained is not None
    assert gained.value == pytest.approx(np.mean(steered) - np.mean(unsteered), abs=2e-4)


def test_prompts_of_different_lengths_do_not_disturb_each_other(any_model: Any) -> None:
    push = steering(any_model)
    together = dose_response(any_model, push, [1], PROMPTS, temperature=0, batch_size=2, **SETTINGS)
    for i, prompt in enumerate(PROMPTS):
        alone = dose_response(any_model, push, [1], [prompt], temperature=0, **SETTINGS)
        assert alone.texts(1) == [together.texts(1)[i]]
        assert alone.rows[0].score.low is None


def test_dose_response_leaves_the_random_state_and_the_model_alone(any_model: Any) -> None:
    any_model.train()
    state, tokens = torch.get_rng_state(), ids_of(any_model, PROMPTS[0])
    any_model.eval()
    before = any_model(tokens, return_type="logits")
    any_model.train()
    dose_response(any_model, steering(any_model), [3], PROMPTS, theme_texts=["w1"], **SETTINGS)
    assert torch.equal(torch.get_rng_state(), state) and any_model.training
    any_model.eval()
    assert torch.equal(any_model(tokens, return_type="logits"), before)
    assert not any_model.unembed._forward_hooks or len(any_model.unembed._forward_hooks) == 0


def test_equal_seeds_give_equal_results(hooked_model: Any) -> None:
    runs = [
        dose_response(hooked_model, steering(hooked_model), [2, 1], PROMPTS, seed=seed, **SETTINGS)
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] and runs[0].completions != runs[2].completions
    assert [row.strength for row in runs[0].rows] == [2, 1]


def test_an_intervention_may_come_of_a_function_or_be_none(hooked_model: Any) -> None:
    push = steering(hooked_model)
    scaled = dose_response(hooked_model, push, [2], PROMPTS, **SETTINGS)
    made = dose_response(hooked_model, lambda s: s * push, [2], PROMPTS, **SETTINGS)
    assert scaled.completions == made.completions and scaled.provenance["hook_names"] == [LAST]
    none = dose_response(hooked_model, lambda s: s * push if s else None, [0, 2], PROMPTS, **SETTINGS)
    assert none.texts(0) == none.texts(None) and none.texts(2) == made.texts(2)


def test_NaN_in_the_logits_is_an_error(any_model: Any) -> None:
    huge = AddVector(LAST, torch.full((16,), 1e38))
    with pytest.raises(ValueError, match="The model gives NaN or infinity as logits.*Steer less strongly"):
        dose_response(any_model, huge, [1e38], PROMPTS, **SETTINGS)
    any_model(ids_of(any_model, PROMPTS[0]), return_type="logits")  # nothing is left behind


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"strengths": []}, r"strengths = \[\]. Give a list of numbers"),
        ({"strengths": 3}, "strengths = 3. Give a list"),
        ({"strengths": None}, "strengths = None. Give a list of numbers"),
        ({"strengths": torch.ones(1, 2)}, "Give a list of numbers"),
        ({"strengths": {1: 2}}, "Give a list of numbers"),
        ({"strengths": [1, float("nan")]}, "a strength = nan. Give a finite number"),
        ({"strengths": ["a"]}, "a strength = 'a'. Give a finite number"),
        ({"temperature": "a"}, "temperature = 'a'. Give a finite number"),
        ({"temperature": None}, "temperature = None. Give a finite number"),
        ({"top_p": "a"}, "top_p = 'a'. Give a finite number"),
        ({"top_p": 1.5}, "top_p = 1.5. Give a number above 0"),
        ({"strengths": [1, 1.0]}, "a strength twice"),
        ({"prompts": "w1"}, "prompts = 'w1'. Give a list of strings"),
        ({"prompts": []}, r"prompts = \[\]. Give a list"),
        ({"prompts": ["w1", " "]}, "' ' in prompts. Give strings that are not empty"),
        ({"prompts": ["w1", "w1"]}, "'w1' twice in prompts.*samples_per_prompt"),
        ({"prompts": [" ".join(["w1"] * 12)]}, "is more than the 16 tokens that this model reads"),
        ({"theme_texts": [""]}, "'' in theme_texts"),
        ({"behaviour": "sea"}, "behaviour = 'sea'. Give a function"),
        ({"behaviour": lambda _: 2.0}, "The behaviour gave 2.0"),
        ({"mode": "both"}, "mode = 'both'. Give one of 'activate', 'suppress'"),
        ({"temperature": -1}, "temperature = -1"),
        ({"top_p": 0}, "top_p = 0"),
        ({"max_new_tokens": 0}, "dose_response.max_new_tokens = 0 is out of range"),
        ({"samples_per_prompt": 0}, "dose_response.samples_per_prompt = 0"),
        ({"intervention_of": 3}, "int as intervention_of. Give a function from the strength"),
        ({"intervention_of": lambda _: "no"}, "intervention_of gave str for strength 1"),
        (
            {
                "intervention_of": AddVector(LAST, torch.ones(16), phases=("generation",)),
                "theme_texts": ["w1"],
            },
            "theme_texts, which are read as prompts, but AddVector.* acts on what is generated alone",
        ),
        ({"intervention_of": AddVector("blocks.7.hook_resid_post", torch.ones(16))}, "has no hook 'blocks.7"),
    ],
)
def test_dose_response_says_what_is_wrong(hooked_model: Any, changed: dict[str, Any], complaint: str) -> None:
    arguments = {"intervention_of": steering(hooked_model), "strengths": [1], "prompts": PROMPTS, **SETTINGS}
    with pytest.raises(ValueError, match=complaint):
        dose_response(hooked_model, **{**arguments, **changed})


def test_dose_response_refuses_a_model_with_SAEs_or_without_a_tokenizer(hooked_model: Any) -> None:
    sae = base_sae("standard", d_in=16)
    sae.cfg.metadata.hook_name = LAST
    hooked_model.add_sae(sae)
    with pytest.raises(ValueError, match="has SAEs attached"):
        dose_response(hooked_model, steering(hooked_model), [1], PROMPTS, **SETTINGS)
    hooked_model.reset_saes()
    hooked_model.tokenizer = None
    with pytest.raises(ValueError, match="without a tokenizer"):
        dose_response(hooked_model, steering(hooked_model), [1], PROMPTS, **SETTINGS)


def test_features_are_steered_as_vectors_are(hooked_model: Any) -> None:
    sae = base_sae("standard", d_in=16)
    sae.cfg.metadata.hook_name = LAST
    found = dose_response(hooked_model, lambda s: ClampFeature(sae, 2, s), [0, 20], PROMPTS, **SETTINGS)
    assert found.provenance["hook_names"] == [LAST] and found.at(20).coherence.value < 1


@pytest.mark.parametrize(
    "make",
    [
        lambda sae: ClampFeature(sae, 2, 3.0),
        lambda sae: AblateFeature(sae, 2),
        lambda sae: AddFeature(sae, 1, 1.0) + ScaleFeature(sae, 2, 2.0),
    ],
)
def test_a_live_feature_must_be_made_of_the_strength(hooked_model: Any, make: Any) -> None:
    sae = base_sae("standard", d_in=16)
    sae.cfg.metadata.hook_name = LAST
    with pytest.raises(ValueError, match=r"Give a function from .* lambda s: ClampFeature\(sae, i, s\)"):
        dose_response(hooked_model, make(sae), [1], PROMPTS, **SETTINGS)
    both = AddFeature(sae, 1, 1.0) + steering(hooked_model)
    assert dose_response(hooked_model, both, [1], PROMPTS[:1], **SETTINGS).rows


def test_the_provenance_tells_what_steered_at_each_strength(hooked_model: Any) -> None:
    push = steering(hooked_model)
    found = dose_response(
        hooked_model,
        lambda s: sum([push] * 20) if s == 7 else (s * push if s else None),
        [0, torch.tensor(2.0), 7],  # type: ignore[list-item]
        PROMPTS[:1],
        **SETTINGS,
    )
    none, one, many = found.provenance["interventions"]
    assert none is None and one == repr(2 * push) == f"AddVector({LAST!r}, [16], strength=2)"
    assert len(many) == 300 and many.startswith("AddVector(")
