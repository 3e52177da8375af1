"""top_activations against a loop over every token, and what must not change it."""

from typing import Any

import pytest
import torch

from sae_lens_ext.analysis.flow.top_activations import TopActivations, top_activations
from sae_lens_ext.analysis.texts import pack_texts
from sae_lens_ext.language_model import Site, read_activations
from tests.analysis.flow.top_activations.tiny import MLP, RESIDUAL, documents, random_sae, random_saes

TEXTS = {"one": documents(6, seed=1), "two": documents(4, seed=2)}
SIZES = {"context_size": 12, "window": 5, "n_contexts": 3, "n_tokens": 4}
HOOKS = (*RESIDUAL, MLP[1])


def every_token(model: Any, saes: dict, hook: str) -> list[tuple[str, list[int], torch.Tensor]]:
    """Run a context at a time: text, token ids, latents [pos, d_sae], 0 at special tokens."""
    rows = pack_texts(model, TEXTS, context_size=12, max_tokens=65_536, seed=0)
    found = []
    for text, packed in rows.items():
        for row in packed:
            acts = saes[hook].encode(read_activations(model, row[None], Site(hook))[0]).detach()
            acts[row == 0] = 0
            found.append((text, row.tolist(), acts))
    return found


def slow(model: Any, read: list, index: int) -> dict[str, Any]:
    """Look at every token by itself."""
    fired = n = 0
    contexts, tokens = [], {}
    for number, (text, row, latents) in enumerate(read):
        acts = latents[:, index].tolist()
        n += sum(token != 0 for token in row)
        fired += sum(act != 0 for act in acts)
        best = max(acts)
        if best > 0:
            contexts.append((-best, number, acts.index(best), text, row, acts))
        for token, act in zip(row, acts, strict=True):
            if act > 0:
                tokens[token] = max(tokens.get(token, 0.0), act)
    name = model.tokenizer.convert_ids_to_tokens
    shown = []
    for best, _, peak, text, row, acts in sorted(contexts)[:3]:
        start = min(max(0, peak - 2), 12 - 5)
        shown.append(
            (text, tuple(name(row[start : start + 5])), acts[start : start + 5], peak - start, -best)
        )
    ranked = sorted(tokens.items(), key=lambda pair: (-pair[1], pair[0]))[:4]
    return {
        "rate": fired / n,
        "contexts": shown,
        "tokens": [(name(token), act) for token, act in ranked],
    }


def require_same(first: TopActivations, second: TopActivations) -> None:
    assert first.hooks == second.hooks
    for name in first.hooks:
        for field, value in vars(first.sites[name]).items():
            torch.testing.assert_close(getattr(second.sites[name], field), value, rtol=1e-4, atol=1e-5)
    assert torch.equal(first.contexts_read, second.contexts_read)
    assert (first.vocabulary, first.n_tokens, first.text_sizes) == (
        second.vocabulary,
        second.n_tokens,
        second.text_sizes,
    )


@pytest.mark.parametrize("kind", ["hooked_model", "sae_bridge"])
def test_every_feature_is_what_a_loop_over_every_token_finds(
    kind: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(kind)
    saes = random_saes(HOOKS)
    found = top_activations(model, saes, TEXTS, batch_size=3, show_progress=False, **SIZES)

    for hook in HOOKS:
        read = every_token(model, saes, hook)
        for index in range(12):
            expected = slow(model, read, index)
            assert found.firing_rate(hook, index) == pytest.approx(expected["rate"])
            assert [t for t, _ in found.tokens(hook, index)] == [t for t, _ in expected["tokens"]]
            assert [a for _, a in found.tokens(hook, index)] == pytest.approx(
                [a for _, a in expected["tokens"]], rel=1e-4
            )
            contexts = found.contexts(hook, index)
            assert len(contexts) == len(expected["contexts"])
            for context, (text, tokens, acts, peak, best) in zip(contexts, expected["contexts"], strict=True):
                assert (context.text, context.tokens, context.peak) == (text, tokens, peak)
                assert context.activations == pytest.approx(acts, rel=1e-4, abs=1e-6)
                assert context.activations[context.peak] == pytest.approx(best, rel=1e-4)
            if contexts:
                assert found.max_activation(hook, index) == contexts[0].activations[contexts[0].peak]


def test_a_feature_that_never_fires_has_nothing_and_a_rate_of_0(hooked_model: Any) -> None:
    found = top_activations(hooked_model, random_saes(HOOKS), TEXTS, show_progress=False, **SIZES)

    assert found.tokens(HOOKS[0], 3) == found.contexts(HOOKS[0], 3) == []
    assert found.firing_rate(HOOKS[0], 3) == found.max_activation(HOOKS[0], 3) == 0.0


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_the_batch_size_changes_nothing(hooked_model: Any, batch_size: int) -> None:
    saes = random_saes(HOOKS)
    one = top_activations(hooked_model, saes, TEXTS, batch_size=3, show_progress=False, **SIZES)
    other = top_activations(hooked_model, saes, TEXTS, batch_size=batch_size, show_progress=False, **SIZES)

    require_same(one, other)


def test_some_features_are_found_as_among_all(hooked_model: Any) -> None:
    saes = random_saes(HOOKS)
    every = top_activations(hooked_model, saes, TEXTS, show_progress=False, **SIZES)
    some = top_activations(
        hooked_model,
        saes,
        TEXTS,
        features={"blocks.1.hook_out": [7, 3, 7], HOOKS[2]: [0]},
        show_progress=False,
        **SIZES,
    )

    assert some.hooks == (HOOKS[1], HOOKS[2])
    assert some.sites[HOOKS[1]].features.tolist() == [3, 7]
    assert (HOOKS[1], 7) in some
    assert (HOOKS[1], 8) not in some
    assert (HOOKS[0], 7) not in some
    assert "7" not in some
    for hook, index in ((HOOKS[1], 3), (HOOKS[1], 7), (HOOKS[2], 0)):
        assert some.contexts(hook, index) == every.contexts(hook, index)
        assert some.tokens(hook, index) == every.tokens(hook, index)
        assert some.firing_rate(hook, index) == every.firing_rate(hook, index)


def test_a_feature_has_one_entry_for_each_context(hooked_model: Any) -> None:
    found = top_activations(hooked_model, random_saes(HOOKS), TEXTS, show_progress=False, **SIZES)

    for site in found.sites.values():
        for row in site.context.tolist():
            known = [number for number in row if number >= 0]
            assert len(set(known)) == len(known)


def test_documents_without_a_name_and_fewer_tokens(hooked_model: Any) -> None:
    found = top_activations(
        hooked_model, random_saes(HOOKS[:1]), TEXTS["one"], max_tokens=24, show_progress=False, **SIZES
    )

    assert found.text_sizes == {"texts": 2}
    assert found.contexts_read.shape == (2, 12)
    assert found.n_tokens == int((found.contexts_read != 0).sum())


def test_a_window_is_no_longer_than_the_context(hooked_model: Any) -> None:
    found = top_activations(
        hooked_model, random_saes(HOOKS[:1]), TEXTS, context_size=8, window=24, show_progress=False
    )

    assert {len(context.tokens) for context in found.contexts(HOOKS[0], 0)} == {8}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_contexts": 0}, "n_contexts"),
        ({"texts": "one string"}, "is one string"),
        ({"features": {}}, "was given features = {}"),
        ({"features": {RESIDUAL[0]: []}}, "no features of 'blocks.0.hook_resid_post'"),
        ({"features": {RESIDUAL[0]: [12]}}, "the feature 12 of 'blocks.0.hook_resid_post', whose SAE has"),
        ({"features": {RESIDUAL[0]: [0.5]}}, "no whole numbers"),
        ({"features": {MLP[0]: [0]}}, "no SAE at 'blocks.0.hook_mlp_out'"),
        ({"texts": ["w1"]}, "is too short"),
    ],
)
def test_what_cannot_be_read_is_refused(hooked_model: Any, changed: dict, message: str) -> None:
    arguments = {"sites": random_saes(HOOKS), "texts": TEXTS, "show_progress": False, **SIZES, **changed}
    with pytest.raises(ValueError, match=message):
        top_activations(hooked_model, **arguments)


def test_an_sae_of_another_width_is_refused(hooked_model: Any) -> None:
    with pytest.raises(ValueError, match="have width 16, but the SAE .* has d_in = 8"):
        top_activations(
            hooked_model, [random_sae(RESIDUAL[0], 0, d_in=8)], TEXTS, show_progress=False, **SIZES
        )
