"""Depthwise circuits of models: against a loop, of known routers, and what they leave as it was."""

from collections import defaultdict
from typing import Any

import pytest
import torch

from sae_lens_ext.lime import LimeRouters, attach_lime
from sae_lens_ext.lime.reading import DepthwiseCircuits, depthwise_circuits

TEXTS = [" ".join(f"w{(7 * i + 3 * j * j) % 30}" for j in range(40)) for i in range(6)]


def read(model: Any, routers: LimeRouters, tokens: Any, **settings: Any) -> DepthwiseCircuits:
    return depthwise_circuits(
        model, routers, tokens, **{"min_count": 1, "batch_size": 3, "show_progress": False, **settings}
    )


def recorded(model: Any, routers: LimeRouters, tokens: torch.Tensor) -> Any:
    with torch.no_grad(), routers.recording() as memory:
        model(tokens)
    return memory


def test_circuits_are_those_of_a_loop(any_carrier: Any, tokens: torch.Tensor) -> None:
    tokens[1, 3] = tokens[2, 0] = 0  # special: they do not count
    routers = attach_lime(any_carrier, initial="random", seed=4)
    found = read(any_carrier, routers, tokens, top_k=2, own_layer=True, tokens_per_circuit=30)
    memory = recorded(any_carrier, routers, tokens)
    H = routers.n_kv_heads
    layer = routers.n_layers - 1
    R = routers.weights[layer].detach().double()
    counted = [(n, s) for n in range(4) for s in range(16) if tokens[n, s] != 0]
    assert found.n_tokens == len(counted) == 62
    for name, buffers, routed, shares in (
        ("values", memory.values, memory.routed_values, found.value_shares),
        ("keys", memory.keys, memory.routed_keys, found.key_shares),
    ):
        for h in range(H):
            for source_layer in range(layer + 1):
                for source_head in range(H):
                    total = size = 0.0
                    for n, s in counted:
                        c = (
                            R[h, source_layer, source_head]
                            * buffers[source_layer][n, s, source_head].double()
                        )
                        whole = routed[layer][n, s, h].double()  # what the attention of the model reads
                        total += float(c @ whole)
                        size += float(whole @ whole)
                    share = float(shares[layer][h, source_layer, source_head])
                    assert share == pytest.approx(total / size, rel=1e-3, abs=1e-4), name


def test_tokens_served_are_those_of_a_loop(any_carrier: Any, tokens: torch.Tensor) -> None:
    routers = attach_lime(any_carrier, initial="random", seed=4)
    found = read(any_carrier, routers, tokens, top_k=1, tokens_per_circuit=3, min_count=2, window=5)
    memory = recorded(any_carrier, routers, tokens)
    layer = routers.n_layers - 1
    (circuit,) = found.sources(layer, 0, own_layer=False)[:1]
    R = float(routers.weights[layer][0, circuit.source_layer, circuit.source_head].detach())
    sign = 1 if circuit.value_share > 0 else -1
    shares, of_token = (
        torch.zeros(tokens.shape, dtype=torch.float64),
        defaultdict[int, list[tuple[float, float]]](list),
    )
    for n in range(4):
        for s in range(16):
            whole = memory.routed_values[layer][n, s, 0].double()
            c = R * memory.values[circuit.source_layer][n, s, circuit.source_head].double()
            shares[n, s] = c @ whole / (whole @ whole)
            of_token[int(tokens[n, s])].append((float(c @ whole), float(whole @ whole)))
    means = {
        token: sum(c for c, _ in own) / sum(size for _, size in own)
        for token, own in of_token.items()
        if len(own) >= 2
    }
    best = sorted((token for token in means if sign * means[token] > 0), key=lambda t: -sign * means[t])[:3]
    assert [one.token_id for one in circuit.tokens] == best
    assert [one.value for one in circuit.tokens] == pytest.approx([means[t] for t in best], rel=1e-3)
    assert [one.count for one in circuit.tokens] == [len(of_token[t]) for t in best]
    peak = divmod(int((sign * shares).argmax()), 16)
    first = circuit.contexts[0]
    assert first.activations[first.peak] == pytest.approx(float(shares[peak]), rel=1e-3)
    assert first.tokens[first.peak] == any_carrier.tokenizer.decode([int(tokens[peak])])
    assert len(first.tokens) == 5


def test_shares_of_all_sources_of_a_head_sum_to_one(any_carrier: Any, tokens: torch.Tensor) -> None:
    found = read(any_carrier, attach_lime(any_carrier, initial="random"), tokens)
    for shares in (found.value_shares, found.key_shares):
        assert set(shares) == set(range(1, any_carrier.cfg.n_layers))
        for own in shares.values():
            sums = own.sum(dim=(1, 2))
            assert sums.tolist() == pytest.approx([1.0] * len(sums), abs=1e-3)


def test_with_identity_routers_every_head_reads_itself_alone(any_carrier: Any, tokens: torch.Tensor) -> None:
    routers = attach_lime(any_carrier)
    found = read(any_carrier, routers, tokens)
    for layer, own in found.value_shares.items():
        assert torch.allclose(own, routers.weights[layer].detach().double(), atol=1e-6)
    assert not found.served  # nothing between layers
    assert {c.value_share for c in found.strongest(5)} == {0.0}
    served = read(any_carrier, routers, tokens, own_layer=True).served
    assert set(served) == {
        (layer, h, layer, h) for layer in found.value_shares for h in range(found.n_kv_heads)
    }


def test_averaging_equal_values_gives_equal_shares(hooked_model: Any, tokens: torch.Tensor) -> None:
    with torch.no_grad():
        for block in hooked_model.blocks:
            block.attn.W_V.zero_()
            block.attn.b_V.fill_(0.5)
    found = read(hooked_model, attach_lime(hooked_model, initial="average"), tokens)
    expected = torch.eye(2, dtype=torch.float64)[:, None].repeat(1, 2, 1) / 2
    assert torch.allclose(found.value_shares[1], expected)


def test_batches_do_not_change_the_result(hooked_model: Any, tokens: torch.Tensor) -> None:
    routers = attach_lime(hooked_model, initial="random")
    one, four = (read(hooked_model, routers, tokens, batch_size=n) for n in (1, 4))
    assert torch.allclose(one.value_shares[1], four.value_shares[1], atol=1e-5)
    assert one.to_frame()["tokens"].equals(four.to_frame()["tokens"])


def test_texts_are_packed_and_their_special_tokens_do_not_count(hooked_model: Any) -> None:
    routers = attach_lime(hooked_model, initial="random")
    found = read(hooked_model, routers, TEXTS, context_size=16, max_tokens=100)
    assert found.n_tokens < 6 * 16
    assert all("endoftext" not in t for tokens in found.to_frame()["tokens"] for t in tokens)
    assert found.provenance["max_tokens"] == 100
    again = read(hooked_model, routers, TEXTS, context_size=16, max_tokens=100)
    assert again.to_frame().equals(found.to_frame())
    other = read(hooked_model, routers, TEXTS, context_size=16, max_tokens=100, seed=1)
    assert other.provenance["tokens_sha256"] != found.provenance["tokens_sha256"]


def test_no_more_tokens_are_read_than_asked_for(hooked_model: Any, tokens: torch.Tensor) -> None:
    routers = attach_lime(hooked_model, initial="random")
    found = read(hooked_model, routers, tokens, max_tokens=40)
    assert found.n_tokens == 32
    assert found.to_frame().equals(read(hooked_model, routers, tokens[:2]).to_frame())


def test_without_a_tokenizer_all_tokens_count_and_have_their_ids_as_text(
    hooked_model: Any, tokens: torch.Tensor
) -> None:
    hooked_model.tokenizer = None
    tokens[:, 0] = 0
    found = read(hooked_model, attach_lime(hooked_model, initial="random"), tokens)
    assert found.n_tokens == 64
    circuit = found.strongest(1)[0]
    assert circuit.tokens[0].token == f"<{circuit.tokens[0].token_id}>"


def test_norm_ranks_tokens_by_the_size_of_the_contribution(hooked_model: Any, tokens: torch.Tensor) -> None:
    routers = attach_lime(hooked_model, initial="random")
    found = read(hooked_model, routers, tokens, tokens_by="norm", tokens_per_circuit=30)
    memory = recorded(hooked_model, routers, tokens)
    circuit = found.strongest(1)[0]
    sizes = memory.values[circuit.source_layer][:, :, circuit.source_head].norm(dim=-1) * abs(circuit.weight)
    for one in circuit.tokens:
        assert one.value == pytest.approx(float(sizes[tokens == one.token_id].mean()), rel=1e-4)
    assert len(circuit.tokens) == len(tokens.unique())


def test_model_and_routers_are_left_as_they_were(hooked_model: Any, tokens: torch.Tensor) -> None:
    routers = attach_lime(hooked_model, initial="random")
    hooked_model.train()
    before, given = hooked_model(tokens), tokens.clone()
    weights = {name: p.clone() for name, p in routers.named_parameters()}
    read(hooked_model, routers, tokens)
    assert hooked_model.training
    assert torch.equal(hooked_model(tokens), before)
    assert torch.equal(tokens, given)
    assert all(torch.equal(p, weights[name]) and p.grad is None for name, p in routers.named_parameters())
