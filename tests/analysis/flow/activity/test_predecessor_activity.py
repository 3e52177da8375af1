"""predecessor_activity: planted groups, a loop over tokens and features, and what is drawn."""

from typing import Any

import pytest
import torch

from sae_lens_ext.analysis.flow.activity import GROUPS, PredecessorActivity, group_name, predecessor_activity
from sae_lens_ext.analysis.flow.activity.measure import draw_tokens
from sae_lens_ext.analysis.texts import pack_texts
from sae_lens_ext.language_model import Site, read_activations
from tests.analysis.flow.activity.planted import HALF, PREDECESSORS, TARGET, planted_saes
from tests.analysis.flow.top_activations.tiny import documents, random_saes

FAST = {"context_size": 12, "batch_size": 3, "n_null": 64, "show_progress": False}
TEXTS = {"a": documents(6, seed=1), "b": documents(4, seed=2)}


@pytest.fixture
def planted(hooked_model: Any) -> PredecessorActivity:
    return predecessor_activity(hooked_model, planted_saes(), TEXTS, thresholds=HALF, **FAST)


def test_the_groups_are_named_by_who_is_active() -> None:
    assert GROUPS == ("from nowhere", "R", "M", "R&M", "A", "R&A", "M&A", "R&M&A")
    assert group_name() == "from nowhere"
    assert group_name(residual=True, attention=True) == "R&A"


def test_planted_predecessors_give_each_feature_its_group(planted: PredecessorActivity) -> None:
    frame = planted.to_frame()

    assert set(zip(frame["feature"], frame["group"], strict=True)) == {
        *((i, GROUPS[i]) for i in range(8)),
        (9, "from nowhere"),
    }
    assert len(frame) == 9 * planted.n_tokens
    assert set(frame["layer"]) == {1}
    origins = planted.origins[TARGET]
    for kind, bit in (("residual", 1), ("mlp", 2), ("attention", 4)):
        assert origins.indices[kind].tolist() == [7, 6, 5, 4, 3, 2, 1, 0, -1, -1]
        assert origins.scores[kind][:8].tolist() == pytest.approx([1 if i & bit else 0.25 for i in range(8)])


def test_planted_shares_by_hand(planted: PredecessorActivity) -> None:
    table = planted.groups()
    of_a = table[table["text"] == "a"].set_index("group")

    assert list(of_a.index) == list(GROUPS)
    n = of_a["count"].sum() / 9
    assert of_a["count"].tolist() == [2 * n, *[n] * 7]
    assert of_a["share"].tolist() == pytest.approx([2 / 9, *[1 / 9] * 7])
    assert set(of_a["hook"]) == {TARGET}
    features = planted.groups("feature")
    assert features["count"].tolist() == [2, 1, 1, 1, 1, 1, 1, 1] * 2


@pytest.mark.parametrize("kind", ["hooked_model", "sae_bridge"])
def test_every_occurrence_is_what_a_loop_finds(kind: str, request: pytest.FixtureRequest) -> None:
    model, saes = request.getfixturevalue(kind), random_saes()
    found = predecessor_activity(model, saes, TEXTS, tokens_per_sample=4, n_samples=3, seed=5, **FAST)

    packed = pack_texts(model, TEXTS, context_size=12, max_tokens=36, seed=5)
    contexts = torch.cat(list(packed.values()))
    chosen = draw_tokens(contexts, torch.tensor([0, 1]), 4, 5)
    active = {
        hook: (sae.encode(read_activations(model, contexts, Site(hook))) > 0) for hook, sae in saes.items()
    }
    expected = set()
    for layer in (0, 1):
        target = f"blocks.{layer}.hook_resid_post"
        before = {
            "R": f"blocks.{layer - 1}.hook_resid_post",
            "M": f"blocks.{layer}.hook_mlp_out",
            "A": f"blocks.{layer}.hook_attn_out",
        }
        for c, p in chosen.nonzero().tolist():
            for f in active[target][c, p].nonzero()[:, 0].tolist():
                names = []
                for letter, hook in before.items():
                    if hook in saes:
                        cosines = saes[hook].W_dec @ saes[target].W_dec[f]
                        k = int(cosines.argmax())
                        if cosines[k] > 0 and active[hook][c, p, k]:
                            names.append(letter)
                text = "a" if c < len(packed["a"]) else "b"
                expected.add((layer, text, c, p, f, "&".join(names) or "from nowhere"))
    columns = ["layer", "text", "sample", "position", "feature", "group"]
    rows = found.to_frame()[columns].itertuples(index=False, name=None)
    assert sorted(rows) == sorted(expected)
    assert found.n_tokens == int(chosen.sum())
    assert "residual" not in found.origins["blocks.0.hook_resid_post"].scores


def test_the_batch_size_changes_nothing(hooked_model: Any) -> None:
    frames = [
        predecessor_activity(hooked_model, random_saes(), TEXTS, **{**FAST, "batch_size": size})
        .to_frame()
        .sort_values(["layer", "sample", "position", "feature"], ignore_index=True)
        for size in (1, 7)
    ]
    assert frames[0].equals(frames[1])


def test_tokens_are_drawn_without_replacement_and_never_special() -> None:
    contexts = torch.randint(0, 4, (50, 10), generator=torch.Generator().manual_seed(0))
    drawn = draw_tokens(contexts, torch.tensor([0, 1]), 3, seed=0)

    counted = contexts >= 2
    assert not (drawn & ~counted).any()
    assert drawn.sum(dim=1).tolist() == counted.sum(dim=1).clamp(max=3).tolist()
    assert torch.equal(drawn, draw_tokens(contexts, torch.tensor([0, 1]), 3, seed=0))
    assert not torch.equal(drawn, draw_tokens(contexts, torch.tensor([0, 1]), 3, seed=1))


def test_every_token_is_drawn_as_often() -> None:
    drawn = draw_tokens(torch.full((20_000, 5), 7), torch.tensor([0]), 2, seed=0)
    assert drawn.float().mean(dim=0).tolist() == pytest.approx([0.4] * 5, abs=0.02)


def test_a_site_without_an_sae_is_told_and_never_active(hooked_model: Any) -> None:
    saes = planted_saes()
    del saes[PREDECESSORS["mlp"]]
    found = predecessor_activity(hooked_model, saes, TEXTS, **FAST)

    assert any("mlp" in sentence for sentence in found.missing)
    assert set(found.to_frame()["group"]) == {"from nowhere", "R", "A", "R&A"}
    assert found.to_frame()["mlp_score"].isna().all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_samples": 0}, "n_samples"),
        ({"layers": [0]}, r"layers = \[0\]. A residual SAE and one of a predecessor are at the layers 1"),
        ({"layers": []}, r"layers = \[\]"),
        ({"texts": "words"}, "one string"),
        ({"sites": [planted_saes()[PREDECESSORS["mlp"]]]}, "none is on the residual stream"),
        ({"thresholds": "high"}, "thresholds = 'high'"),
    ],
)
def test_what_cannot_be_seen_is_refused(hooked_model: Any, changed: dict, message: str) -> None:
    arguments = {"sites": planted_saes(), "texts": TEXTS, **FAST, **changed}
    with pytest.raises(ValueError, match=message):
        predecessor_activity(hooked_model, **arguments)


def test_features_that_are_never_active_are_refused(hooked_model: Any) -> None:
    saes = planted_saes()
    with torch.no_grad():
        saes[TARGET].b_enc.fill_(-1.0)
    with pytest.raises(ValueError, match="No residual feature is active at any of the"):
        predecessor_activity(hooked_model, saes, TEXTS, **FAST)
