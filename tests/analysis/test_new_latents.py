"""New latents beside the base's, against a loop over every context; and what is refused."""

import pytest
import torch
from sae_lens import TopKSAE, TopKSAEConfig

from sae_lens_ext import ResidualStackSAE
from sae_lens_ext.analysis.new_latents import LatentUse, compare_new_latents
from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.language_model import packed_contexts
from tests.architectures.bases import D_BASE, D_RESIDUAL, HOOK, base_sae, residual_for

MODELS = ["hooked_model", "sae_bridge", "native_bridge"]
FAST = {"context_size": 12, "batch_size": 3, "show_progress": False}


def documents(n: int, seed: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    return [
        " ".join(f"w{i}" for i in torch.randint(30, (17,), generator=generator).tolist()) for _ in range(n)
    ]


TEXTS = {"python": documents(8, seed=1), "general": documents(6, seed=2)}


def stack_of(kind: str = "jumprelu", hook: str = HOOK, **fields) -> tuple[ResidualStackSAE, dict]:
    fields = {"d_in": 16, **fields}
    base = base_sae(kind, **fields)
    base.cfg.metadata.hook_name = hook
    residuals = {name: residual_for(base, seed=seed, **fields) for seed, name in ((1, "code"), (2, "french"))}
    parts = {"base": base, **{name: as_inference(sae) for name, sae in residuals.items()}}
    return ResidualStackSAE.from_saes(base, residuals), parts


def activations_by_context(
    model, part, *, hook: str = HOOK, head: int | None = None, max_tokens: int = 65_536
) -> list:
    """The slow form: every context by itself, as (text, token ids, the part's activations [pos, d_sae])."""
    found = []
    for text, docs in TEXTS.items():
        rows = packed_contexts(
            docs, model.tokenizer, context_size=12, max_tokens=max_tokens, seed=0, what="The text"
        )
        for row in rows:
            _, cache = model.run_with_cache(row[None])
            x = cache[hook if hook in cache.cache_dict else "blocks.1.hook_out"][0]
            acts = part.encode(x if head is None else x[:, head]).detach()
            acts[row == 0] = 0
            found.append((text, row.tolist(), acts))
    return found


def require_agrees(use: LatentUse, found: list, n_contexts: int, around: int) -> None:
    """Compare what was found of one latent with the slow form."""
    for text, rate in use.firing_rates.items():
        mine = [(row, acts[:, use.index]) for name, row, acts in found if name == text]
        counted = sum(token != 0 for row, _ in mine for token in row)
        assert rate == pytest.approx(sum(int((acts != 0).sum()) for _, acts in mine) / counted)
    strongest = sorted((acts[:, use.index].max().item() for _, _, acts in found), reverse=True)
    strongest = [value for value in strongest[:n_contexts] if value > 0]
    assert use.max_activation == pytest.approx(strongest[0] if strongest else 0.0, rel=1e-4)
    shown = [context.activations[context.peak] for context in use.contexts]
    assert shown == pytest.approx(strongest, rel=1e-4)
    for context in use.contexts:  # each is a window of some context, with that context's activations
        assert any(
            context.text == text
            and list(context.tokens) == ["<|endoftext|>" if i == 0 else f"w{i - 2}" for i in row[start:stop]]
            and torch.allclose(torch.tensor(context.activations), acts[start:stop, use.index], atol=1e-4)
            and context.peak == peak - start
            for text, row, acts in found
            for peak in (int(acts[:, use.index].argmax()),)
            for start, stop in ((max(0, peak - around), min(len(row), peak + around + 1)),)
        )
    assert len({(c.text, c.tokens, c.activations) for c in use.contexts}) == len(use.contexts)


@pytest.mark.parametrize("kind", ["jumprelu", "topk"])
@pytest.mark.parametrize("model_fixture", MODELS)
def test_compare_new_latents_agrees_with_a_loop_over_every_context(
    kind: str, model_fixture: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(model_fixture)
    stack, parts = stack_of(kind)
    found = {name: activations_by_context(model, parts[name]) for name in ("base", "french")}
    result = compare_new_latents(
        model, stack, TEXTS, domain="french", n_latents=4, n_contexts=3, tokens_around=2, **FAST
    )

    rows = parts["french"].W_dec.detach()
    contribution = sum(acts.double().square().sum(dim=0) for _, _, acts in found["french"])
    contribution = contribution * rows.double().norm(dim=-1) ** 2
    assert [p.new.index for p in result.pairs] == contribution.argsort(descending=True)[:4].tolist()
    assert contribution.count_nonzero() >= 4
    for pair in result.pairs:
        cosines = torch.cosine_similarity(rows[pair.new.index], parts["base"].W_dec.detach(), dim=-1)
        assert pair.base.index == pair.base.flat_index == cosines.argmax()
        assert pair.cosine == pytest.approx(cosines.max().item(), abs=1e-5)
        assert pair.new.flat_index == D_BASE + D_RESIDUAL + pair.new.index
        require_agrees(pair.new, found["french"], 3, 2)
        require_agrees(pair.base, found["base"], 3, 2)
    assert result.domain == "french" and result.texts == ("python", "general")


def test_compare_new_latents_does_not_depend_on_the_batches(hooked_model) -> None:
    stack, _ = stack_of()
    one, many = (
        compare_new_latents(hooked_model, stack, TEXTS, domain="code", **{**FAST, "batch_size": size})
        for size in (1, 64)
    )
    assert [p.new.index for p in one.pairs] == [p.new.index for p in many.pairs]
    for a, b in zip(one.pairs, many.pairs, strict=True):
        assert a.new.firing_rates == b.new.firing_rates and a.base.firing_rates == b.base.firing_rates
        assert a.new.max_activation == pytest.approx(b.new.max_activation, rel=1e-4)


def test_compare_new_latents_reads_max_tokens_and_seed_and_autocast(hooked_model) -> None:
    stack, parts = stack_of()
    few = {**FAST, "max_tokens": 25}  # two contexts of 12
    found = activations_by_context(hooked_model, parts["code"], max_tokens=25)
    result = compare_new_latents(hooked_model, stack, TEXTS, domain="code", **few)
    assert result.provenance["n_tokens"] == {
        text: sum(token != 0 for name, row, _ in found if name == text for token in row) for text in TEXTS
    }
    require_agrees(result.pairs[0].new, found, 6, 12)
    other = compare_new_latents(hooked_model, stack, TEXTS, domain="code", **few, seed=3)
    assert other.pairs[0].new != result.pairs[0].new
    half = compare_new_latents(hooked_model, stack, TEXTS, domain="code", **few, autocast=True)
    assert half.pairs[0].new.max_activation != result.pairs[0].new.max_activation
    assert half.pairs[0].new.max_activation == pytest.approx(result.pairs[0].new.max_activation, rel=0.1)
    made = half.provenance
    assert (made["seed"], made["autocast"], made["context_size"], made["max_tokens"]) == (0, True, 12, 25)
    assert (
        made["latents_given"] is False
        and made["hook_name"] == HOOK
        and made["sae_lens_ext_version"]
        and made["base_sha256"]
    )
    assert other.provenance["seed"] == 3


@pytest.mark.parametrize("active", [(), ("code",), ("code", "french")])
def test_compare_new_latents_reads_the_domain_whatever_is_active_and_leaves_it(hooked_model, active) -> None:
    stack, _ = stack_of()
    expected = compare_new_latents(hooked_model, stack, TEXTS, domain="french", **FAST)
    stack.active = active
    result = compare_new_latents(hooked_model, stack, TEXTS, domain="french", **FAST)
    assert stack.active == active
    assert result == expected and result.pairs[0].new.contexts


def test_compare_new_latents_takes_latents_as_given_and_lets_them_share_a_base(hooked_model) -> None:
    stack, _ = stack_of()
    default = {
        p.new.index: p for p in compare_new_latents(hooked_model, stack, TEXTS, domain="code", **FAST).pairs
    }
    given = compare_new_latents(
        hooked_model, stack, TEXTS, domain="code", latents=[7, 2], n_latents=1, **FAST
    )
    assert [p.new.index for p in given.pairs] == [7, 2] and given.provenance["latents_given"] is True
    for pair, expected in zip(given.pairs, (default[7], default[2]), strict=True):
        assert (pair.new, pair.base) == (expected.new, expected.base)
        assert pair.cosine == pytest.approx(
            expected.cosine
        )  # of other rows beside it: some processors add in another order
    with torch.no_grad():
        stack.W_dec[stack.flat_index("code", 2)] = 3 * stack.W_dec[stack.flat_index("code", 7)]
    first, second = compare_new_latents(
        hooked_model, stack, TEXTS, domain="code", latents=torch.tensor([7, 2]), **FAST
    ).pairs
    assert first.base == second.base and first.cosine == pytest.approx(second.cosine)
    assert first.new != second.new


def test_compare_new_latents_in_bfloat16(hooked_model) -> None:
    stack, _ = stack_of()
    exact = compare_new_latents(hooked_model, stack, TEXTS, domain="code", latents=[0, 1], **FAST)
    rough = compare_new_latents(
        hooked_model, stack.to(dtype=torch.bfloat16), TEXTS, domain="code", latents=[0, 1], **FAST
    )
    for a, b in zip(exact.pairs, rough.pairs, strict=True):
        assert a.new.max_activation == pytest.approx(b.new.max_activation, rel=0.05)


@pytest.mark.parametrize("head", [None, 1])
@pytest.mark.parametrize("model_fixture", ["hooked_model", "native_bridge"])
def test_compare_new_latents_at_hook_z(model_fixture: str, head: int | None, request) -> None:
    model = request.getfixturevalue(model_fixture)
    fields = {"reshape_activations": "hook_z"} if head is None else {"d_in": 8}
    hook = "blocks.1.attn.hook_z"
    stack, parts = stack_of("standard", hook, **fields)
    stack.cfg.metadata.hook_head_index = head
    result = compare_new_latents(model, stack, TEXTS, domain="code", latents=range(D_RESIDUAL), **FAST)
    found = {
        name: activations_by_context(model, parts[name], hook=hook, head=head) for name in ("base", "code")
    }
    for pair in result.pairs:
        require_agrees(pair.new, found["code"], 6, 12)
        require_agrees(pair.base, found["base"], 6, 12)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"domain": "german"}, "domain = 'german', but this stack has 'code', 'french'. Name one of these"),
        ({"domain": "base"}, "domain = 'base', but this stack has"),
        (
            {"domain": None},
            "several domains, 'code', 'french', and no domain. Name one of them, such as domain='code'",
        ),
        ({"latents": [0, 10, -1]}, "latents 10, -1, but the domain 'code' has 0 to 9. Give indices within"),
        ({"latents": [3, 1, 3]}, "latents 3 more than once. Give each once"),
        ({"latents": []}, "no latents. Give indices within the domain 'code', or leave them out"),
        ({"latents": [1.5]}, r"latents = \[1.5\], which are not whole numbers in a sequence"),
        ({"latents": 4}, "latents = 4, which are not whole numbers in a sequence"),
        ({"n_latents": 0}, "compare_new_latents.n_latents = 0 is out of range. Give an int of at least 1"),
        ({"n_contexts": 2.0}, "compare_new_latents.n_contexts must be a whole number, but 2.0"),
        ({"tokens_around": -1}, "compare_new_latents.tokens_around = -1"),
        ({"context_size": 0}, "compare_new_latents.context_size = 0"),
        ({"max_tokens": 0}, "compare_new_latents.max_tokens = 0"),
        ({"batch_size": True}, "compare_new_latents.batch_size must be a whole number"),
        (
            {"texts": {}},
            "compare_new_latents was given texts of type dict without an entry. Give a mapping by name",
        ),
        ({"texts": ["w1"]}, "compare_new_latents was given texts of type list. Give a mapping by name"),
        ({"texts": {"a": "w1 w2"}}, "The text 'a' is one string. Give a sequence of documents"),
        ({"texts": {"a": ["w1"]}}, "The text 'a' is too short: its 1 documents fill 0 contexts of 12"),
        ({"texts": {"a": []}}, "The text 'a' is too short"),
        ({"texts": {"a": ["<|endoftext|> " * 40]}}, "The text 'a' has nothing but special tokens"),
    ],
)
def test_compare_new_latents_refuses(hooked_model, arguments: dict, complaint: str) -> None:
    stack, _ = stack_of()
    stack.active = ("french",)
    with pytest.raises(ValueError, match=complaint):
        compare_new_latents(
            hooked_model, stack, **{"texts": TEXTS, "domain": "code", "latents": None, **FAST, **arguments}
        )
    assert stack.active == ("french",)


def test_compare_new_latents_refuses_what_does_not_fit_the_model(hooked_model) -> None:
    def compare(stack, **fields) -> None:
        compare_new_latents(hooked_model, stack, **{"texts": TEXTS, "domain": "code", **FAST, **fields})

    stack, parts = stack_of()
    with pytest.raises(ValueError, match="stack of type JumpReLUSAE. Give a ResidualStackSAE"):
        compare(parts["base"])
    with pytest.raises(ValueError, match="stack without domains: it is its base alone"):
        compare(ResidualStackSAE.from_saes(parts["base"], {}), domain=None)
    narrow = base_sae("standard")
    with pytest.raises(
        ValueError, match=f"at '{HOOK}' have width 16, but the stack has d_in = 8. It belongs to"
    ):
        compare(ResidualStackSAE.from_saes(narrow, {"code": residual_for(narrow)}))
    stack.cfg.metadata.hook_name = "blocks.1.hook_resid_pots"
    with pytest.raises(ValueError, match="no hook 'blocks.1.hook_resid_pots'. Did you mean"):
        compare(stack, texts={"a": ["too short"]})  # and before the texts are read
    stack.cfg.metadata.hook_name = None
    with pytest.raises(
        ValueError, match="The stack names no hook in its metadata. Set stack.cfg.metadata.hook_name"
    ):
        compare(stack)
    attached = TopKSAE(TopKSAEConfig(d_in=16, d_sae=8, k=2))
    attached.cfg.metadata.hook_name = "blocks.0.hook_resid_post"
    hooked_model.add_sae(attached)
    with pytest.raises(
        ValueError, match=r"SAEs attached at 'blocks.0.hook_resid_post'.*model.reset_saes\(\) first"
    ):
        compare(stack_of()[0])
