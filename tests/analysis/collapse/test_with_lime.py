"""With LIMe: each layer's own keys and values, and those that attention reads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.analysis.collapse import collapse_report, sequence_entropies
from sae_lens_ext.lime import attach_lime
from tests.analysis.collapse.naive import activations
from tests.tiny_llama import save_tiny_llama

WORDS = (5, 9)


def report(model: Any, tokens: torch.Tensor, **settings: Any) -> Any:
    return collapse_report(model, tokens, **{"words": WORDS, "n_folds": 2, "max_tokens": 10_000} | settings)


@pytest.fixture
def many(tokens: torch.Tensor) -> torch.Tensor:
    return torch.cat([tokens, tokens.flip(0, 1), tokens.roll(3, dims=1)])


def set_last_router(routers: Any, weights: torch.Tensor) -> None:
    routers.set_weights({routers.n_layers - 1: weights})


def test_routers_at_the_identity_leave_both_alike(any_model: Any, many: torch.Tensor) -> None:
    plain = report(any_model, many, sites=("residual", "keys", "values"), words=None)
    with attach_lime(any_model) as routers:
        found = report(any_model, many, routers=routers, sites=("residual", "keys", "values"), words=None)
    assert found.sites == ("residual", "keys", "routed keys", "values", "routed values")
    for site in plain.sites:
        for other in (site, f"routed {site}") if site != "residual" else (site,):
            assert found.entropies[other] == pytest.approx(plain.entropies[site], abs=1e-4)
            assert found.layers[other] == plain.layers[site] and found.widths[other] == plain.widths[site]


def test_known_routers_give_attention_the_first_layers_values(any_model: Any, many: torch.Tensor) -> None:
    with attach_lime(any_model) as routers:
        first = torch.zeros(2, 2, 2)
        first[:, 0] = torch.eye(2)  # layer 1 reads layer 0 alone
        set_last_router(routers, first)
        found = report(any_model, many, routers=routers, sites=("values", "keys"))
        with routers.paused():
            own = activations(any_model, many, "blocks.0.attn.hook_v")
    for name in ("values", "keys"):
        assert torch.equal(found.entropies[f"routed {name}"][:, 1], found.entropies[name][:, 0])
        assert torch.equal(found.entropies[f"routed {name}"][:, 0], found.entropies[name][:, 0])
        assert torch.equal(found.fold_accuracies[f"routed {name}"][1], found.fold_accuracies[name][0])
        assert not torch.equal(found.entropies[name][:, 1], found.entropies[name][:, 0])
    assert found.entropies["values"][0, 0] == pytest.approx(sequence_entropies(own), abs=1e-4)


def test_routing_is_that_of_a_loop_over_heads(hooked_model: Any, many: torch.Tensor) -> None:
    R = torch.randn(2, 2, 2)
    with attach_lime(hooked_model) as routers:
        set_last_router(routers, R)
        with routers.recording() as memory:
            hooked_model(many)
        found = report(hooked_model, many, routers=routers, sites=("values",))
    routed = torch.zeros_like(memory.values[1])
    for h in range(2):
        for layer in range(2):
            for source in range(2):
                routed[:, :, h] += R[h, layer, source] * memory.values[layer][:, :, source]
    expected = sequence_entropies(routed.flatten(start_dim=2))
    assert found.entropies["routed values"][0, 1] == pytest.approx(expected, abs=1e-4)


def test_grouped_query_attention_has_the_width_of_its_key_value_heads(
    tmp_path: Path, tokenizer_folder: Path, many: torch.Tensor
) -> None:
    folder = save_tiny_llama(
        tmp_path / "llama", tokenizer_folder, num_attention_heads=4, num_key_value_heads=2
    )
    model = TransformerBridge.boot_transformers(str(folder)).eval()
    with attach_lime(model, initial="random") as routers:
        found = report(model, many, routers=routers)
    assert found.widths == {"residual": 16, "values": 8, "routed values": 8}
    assert found.max_entropy["values"] == pytest.approx(torch.tensor(8.0).log().item())
    assert not torch.equal(found.entropies["values"][:, 1:], found.entropies["routed values"][:, 1:])


def test_routers_that_were_not_given_are_noticed(any_model: Any, many: torch.Tensor) -> None:
    with attach_lime(any_model):
        for sites in (("values",), ("residual",)):
            with pytest.raises(ValueError, match=r"LIMe attached.*routers=.*detach"):
                report(any_model, many, sites=sites)


def test_routers_of_another_model_are_refused(
    hooked_model: Any, native_bridge: Any, many: torch.Tensor
) -> None:
    with attach_lime(native_bridge) as routers, pytest.raises(ValueError, match="attached to another model"):
        report(hooked_model, many, routers=routers)
    with pytest.raises(ValueError, match="attached to no model"):
        report(native_bridge, many, routers=routers)


def test_paused_routers_are_refused(hooked_model: Any, many: torch.Tensor) -> None:
    with attach_lime(hooked_model) as routers, routers.paused(), pytest.raises(RuntimeError, match="paused"):
        report(hooked_model, many, routers=routers)
