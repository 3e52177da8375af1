"""Steering with a flow graph's features: which, where, how strongly, and what that does to a model."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

from sae_lens_ext.analysis.flow import FlowGraph, flow_map, trace_feature
from sae_lens_ext.architectures.fold_thresholds import fold_thresholds
from sae_lens_ext.steering import AddFeature, AddVector, ScaleFeature, steer
from sae_lens_ext.steering.flow_steering import flow_steering, layer_strengths
from tests.analysis.flow.dictionaries import MLP, RES, axes, sae_of

FOUR_LAYERS = {
    RES.format(0): sae_of(axes(0, 2, 4), RES.format(0)),
    RES.format(1): sae_of(axes(2, 0), RES.format(1)),
    RES.format(2): sae_of(axes(1, 0, 2), RES.format(2)),
    RES.format(3): sae_of(axes(0, 1), RES.format(3)),
    MLP.format(2): sae_of(axes(5, 0), MLP.format(2)),
}
CHAIN = ((RES.format(0), 0), (RES.format(1), 1), (RES.format(2), 1), (MLP.format(2), 1), (RES.format(3), 0))


def graph_of(sites: Any = None, start: tuple[str, int] = (RES.format(1), 1)) -> FlowGraph:
    return trace_feature(sites or FOUR_LAYERS, start, thresholds="paper")


def steered(intervention: Any) -> dict[tuple[str, int], float]:
    """What is steered with: each part's hook and the axis its vector lies along, with its strength."""
    found: dict[tuple[str, int], float] = {}
    for part in intervention.parts:
        assert isinstance(part, AddVector) and torch.equal(part.vector.norm(), torch.tensor(1.0))
        found[part.hook_name, int(part.vector.argmax())] = part.strength
    assert len(found) == len(intervention.parts)
    return found


def test_layer_strengths_worked_by_hand() -> None:
    assert layer_strengths([0, 1, 4], 8.0) == pytest.approx(
        {0: 8, 1: 8 * math.exp(-0.05), 4: 8 * math.exp(-0.2)}
    )
    assert layer_strengths([2, 3], 8.0, decay=-1.0) == pytest.approx({2: 8, 3: 8 / math.e})
    assert layer_strengths([0, 1, 4], 9.0, schedule="linear") == {0: 9, 1: 7, 4: 1}
    assert layer_strengths([1, 2, 3], -3.0, schedule="linear") == {1: -3, 2: -1, 3: 1}
    assert layer_strengths([0, 1, 4], -3.0, mode="suppress") == pytest.approx(
        {0: -3, 1: 1 - 4 * math.exp(-0.05), 4: 1 - 4 * math.exp(-0.2)}
    )
    assert layer_strengths([0, 5, 9], 1.0, mode="suppress") == {0: 1, 5: 1, 9: 1}
    assert layer_strengths([1, 2, 3], -3.0, mode="suppress", schedule="linear") == {1: -3, 2: -1, 3: 1}
    assert layer_strengths([1, 7], -2.0, mode="suppress", schedule="constant") == {1: -2, 7: -2}
    assert layer_strengths([1, 7], 2.0, schedule="constant") == {1: 2, 7: 2}
    assert layer_strengths([5], 3.0, schedule="linear") == layer_strengths([5], 3.0) == {5: 3}


@given(
    st.sets(st.integers(0, 40), min_size=1).map(sorted),
    st.floats(-64, 64),
    st.sampled_from(["exponential", "linear", "constant"]),
)
def test_the_first_layer_steered_gets_the_strength_itself(
    layers: list[int], strength: float, schedule: Any
) -> None:
    found = layer_strengths(layers, strength, schedule=schedule)
    assert list(found) == layers and found[layers[0]] == pytest.approx(strength)
    assert all(
        min(strength, 1) - 1e-9 <= abs(s) or abs(s) <= max(abs(strength), 1) + 1e-9 for s in found.values()
    )
    if schedule == "linear" and len(layers) > 1:
        assert found[layers[-1]] == pytest.approx(1)


def test_cumulative_steering_adds_the_graphs_features_of_the_first_layers() -> None:
    e = math.exp(-0.05)
    assert steered(flow_steering(graph_of(), 4.0)) == pytest.approx(
        {
            (RES.format(0), 0): 4,
            (RES.format(1), 0): 4 * e,
            (RES.format(2), 0): 4 * e**2,
            (MLP.format(2), 0): 4 * e**2,
            (RES.format(3), 0): 4 * e**3,
        }
    )
    two = flow_steering(graph_of(), 4.0, layers=1, schedule="constant")
    assert steered(two) == {(RES.format(0), 0): 4, (RES.format(1), 0): 4}


def test_layers_may_be_one_or_several() -> None:
    graph = graph_of()
    one = {(RES.format(2), 0): 4.0, (MLP.format(2), 0): 4.0}
    assert steered(flow_steering(graph, 4.0, layers=(2,))) == one  # the first layer steered: no decay
    assert steered(flow_steering(graph, 4.0, layers=range(2, 3))) == one
    assert steered(flow_steering(graph, 4.0, layers=[3, 1], schedule="linear")) == {
        (RES.format(1), 0): 4,
        (RES.format(3), 0): 1,
    }


def test_features_of_a_graph_are_steered_with_once() -> None:
    graph = trace_feature(FOUR_LAYERS, (RES.format(2), 1), thresholds="paper")
    parts = flow_steering(replace(graph, starts=graph.starts * 2), 1.0).parts
    assert len(parts) == len(CHAIN)
    twice = replace(
        graph,
        node_hook=torch.cat([graph.node_hook, graph.node_hook]),
        node_index=torch.cat([graph.node_index, graph.node_index]),
    )
    assert len(flow_steering(twice, 1.0).parts) == len(CHAIN)


def test_seeds_choose_whose_flow_is_steered() -> None:
    whole = flow_map(FOUR_LAYERS, thresholds="paper", show_progress=False)
    chosen = flow_steering(whole, 2.0, starts=(RES.format(1), 1), schedule="constant")
    assert {hook for hook, _ in CHAIN} == set(chosen.hook_names)
    assert all(axis == 0 for _, axis in steered(chosen))
    with pytest.raises(
        ValueError, match=r"features that was traced from none, such as a whole model's. Give starts="
    ):
        flow_steering(whole, 2.0)


def test_suppress_multiplies_live_activations() -> None:
    parts = flow_steering(graph_of(), -4.0, mode="suppress", schedule="linear").parts
    assert all(isinstance(part, ScaleFeature) for part in parts)
    found = {(part.hook_name, part.index): part.factor for part in parts}  # type: ignore[attr-defined]
    assert {name: found[name] for name in CHAIN} == pytest.approx(
        dict(zip(CHAIN, (-4, -4 + 5 / 3, -4 + 10 / 3, -4 + 10 / 3, 1), strict=True))
    )
    assert parts[0].sae is FOUR_LAYERS[RES.format(0)]  # type: ignore[attr-defined]


def test_suppress_fades_towards_no_change() -> None:
    factors = [part.factor for part in flow_steering(graph_of(), -4.0, mode="suppress").parts]  # type: ignore[attr-defined]
    assert sorted(set(factors)) == pytest.approx([1 - 5 * math.exp(-0.05 * layer) for layer in range(4)])
    nothing = flow_steering(graph_of(), 1.0, mode="suppress")
    assert {part.factor for part in nothing.parts} == {1.0}  # type: ignore[attr-defined]


def test_linear_steering_is_not_weaker_than_where_it_ends() -> None:
    for strength in (0.99, 0.0, -8.0):
        with pytest.raises(ValueError, match='schedule = "linear", which ends at 1 .* steer even from 0'):
            flow_steering(graph_of(), strength, schedule="linear")
    assert set(steered(flow_steering(graph_of(), 1, schedule="linear")).values()) == {1.0}
    flow_steering(graph_of(), 0.0, mode="suppress", schedule="linear")


def test_positions_and_phases_reach_every_part() -> None:
    for mode, strength in (("activate", 2.0), ("suppress", -2.0)):
        made = flow_steering(
            graph_of(),
            strength,
            mode=mode,
            positions=slice(1, None),
            phases=("generation",),  # type: ignore[arg-type]
        )
        assert all(
            p.tokens.positions == slice(1, None) and p.tokens.phases == ("generation",) for p in made.parts
        )


def test_a_loaded_graph_needs_its_sites(tmp_path: Path) -> None:
    graph = graph_of()
    graph.save(tmp_path / "graph.json")
    loaded = FlowGraph.load(tmp_path / "graph.json")
    with pytest.raises(
        ValueError, match="a graph without its SAEs, as one loaded from a file is. Give sites="
    ):
        flow_steering(loaded, 1.0)
    assert steered(flow_steering(loaded, 3.0, sites=FOUR_LAYERS)) == steered(flow_steering(graph, 3.0))
    canonical = {name.replace("hook_resid_post", "hook_out"): sae for name, sae in FOUR_LAYERS.items()}
    found = flow_steering(loaded, 3.0, sites=canonical)
    assert set(found.hook_names) == {name for name in canonical if "mlp" not in name} | {MLP.format(2)}
    with pytest.raises(ValueError, match="flow_steering was given no SAE at 'blocks.2.hook_mlp_out'"):
        flow_steering(loaded, 3.0, sites={k: v for k, v in FOUR_LAYERS.items() if k != MLP.format(2)})
    small = {**FOUR_LAYERS, RES.format(1): sae_of(axes(2), RES.format(1))}
    with pytest.raises(
        ValueError, match="the feature 1 of 'blocks.1.hook_resid_post', whose SAE has the features 0"
    ):
        flow_steering(loaded, 3.0, sites=small)


def jumprelu_of(rows: list[list[float]], thresholds: list[float], hook: str) -> JumpReLUSAE:
    plain = sae_of(rows, hook)
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=6, d_sae=len(rows), apply_b_dec_to_input=False))
    sae.W_dec.data, sae.W_enc.data = plain.W_dec.data, plain.W_enc.data
    sae.threshold.data = torch.tensor(thresholds)
    sae.cfg.metadata = plain.cfg.metadata
    return sae


def test_fold_adds_thresholds_times_unit_rows() -> None:
    sites = {
        RES.format(0): jumprelu_of([[2.0, 0, 0, 0, 0, 0], *axes(2)], [1.5, 0.5], RES.format(0)),
        RES.format(1): jumprelu_of(axes(2, 0), [9.0, 0.25], RES.format(1)),
    }
    graph = trace_feature(sites, (RES.format(1), 1), thresholds="paper")
    expected = {(RES.format(0), 0): 4 * 2 * 1.5, (RES.format(1), 0): 4 * 0.25}
    assert steered(flow_steering(graph, 4.0, fold=True, schedule="constant")) == pytest.approx(expected)
    folded = {name: fold_thresholds(sae) for name, sae in sites.items()}
    assert steered(flow_steering(graph, 4.0, sites=folded, fold=True, schedule="constant")) == pytest.approx(
        expected
    )
    for name, sae in folded.items():  # s · θ · d is s times the folded row
        index = dict(graph.nodes)[name]
        assert sae.W_dec[index].norm().item() * 4 == pytest.approx(expected[name, 0])
    with pytest.raises(ValueError, match="'standard' has no threshold for each latent"):
        flow_steering(graph_of(), 1.0, fold=True)


def model_sites(seed: int = 0) -> dict[str, Any]:
    """SAEs of a two-layer model of width 16, one feature of which flows from layer 0 to layer 1."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(16, generator=generator)
    names = (RES.format(0), MLP.format(1), RES.format(1))
    return {
        name: sae_of(torch.stack([torch.randn(16, generator=generator), 2 * shared]), name) for name in names
    }


def test_activate_adds_unit_rows_at_every_token(any_model: Any, tokens: torch.Tensor) -> None:
    sites = model_sites()
    graph = trace_feature(sites, (RES.format(1), 1), thresholds="paper")
    made = flow_steering(graph, 3.0)
    assert len(made.parts) == 3
    d = sites[RES.format(0)].W_dec[1] / sites[RES.format(0)].W_dec[1].norm()
    before = activations(any_model, tokens, RES.format(0))
    with steer(any_model, made):
        after = activations(any_model, tokens, RES.format(0))
    torch.testing.assert_close(after, before + 3 * d, atol=1e-5, rtol=1e-4)


def test_suppress_takes_away_what_is_active(any_model: Any, tokens: torch.Tensor) -> None:
    sites = model_sites()
    graph = trace_feature(sites, (RES.format(1), 1), thresholds="paper")
    sae = sites[RES.format(0)]
    before = activations(any_model, tokens, RES.format(0))
    a = sae.encode(before)[..., 1:]
    with steer(any_model, flow_steering(graph, -2.0, mode="suppress")):
        after = activations(any_model, tokens, RES.format(0))
    assert bool((a > 0).any()) and bool((a == 0).any())
    torch.testing.assert_close(after, before - 3 * a * sae.W_dec[1], atol=1e-4, rtol=1e-4)
    with steer(any_model, flow_steering(graph, 1.0, mode="suppress", schedule="constant")):
        torch.testing.assert_close(activations(any_model, tokens, RES.format(0)), before)


def test_features_of_heads_are_added_in_the_heads_space(hooked_model: Any, tokens: torch.Tensor) -> None:
    name = "blocks.1.attn.hook_z"
    W_O = hooked_model.W_O[1].detach().reshape(16, 16)
    generator = torch.Generator().manual_seed(4)
    z = torch.randn(2, 16, generator=generator)
    sae = sae_of(z, name)
    sites = {name: sae, RES.format(1): sae_of(z @ W_O, RES.format(1))}
    from sae_lens_ext.analysis.flow import FlowSites

    found = FlowSites.open("test", sites, model=hooked_model)
    made = flow_steering(trace_feature(found, (RES.format(1), 0), thresholds="paper"), 2.0)
    assert [type(part) for part in made.parts] == [AddVector, AddFeature]
    before = activations(hooked_model, tokens, name).flatten(2)
    with steer(hooked_model, made):
        after = activations(hooked_model, tokens, name).flatten(2)
    torch.testing.assert_close(after, before + 2 * z[0] / z[0].norm())


@torch.no_grad()
def activations(model: Any, tokens: torch.Tensor, name: str) -> torch.Tensor:
    from sae_lens_ext.language_model import find_hook_point

    found: list[torch.Tensor] = []
    point = find_hook_point(model, name)
    point.add_hook(lambda x, hook: found.append(x.clone()), level=99)
    try:
        model(tokens, return_type="logits")
    finally:
        point.remove_hooks("fwd", level=99)
    return found[0]


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"graph": {"a": 1}}, "was given dict as the graph. Give what trace_feature returns"),
        ({"strength": float("nan")}, "strength = nan"),
        ({"decay": "much"}, "decay = 'much'"),
        ({"mode": "push"}, "mode = 'push'. Give one of 'activate', 'suppress'"),
        ({"schedule": "cosine"}, "schedule = 'cosine'. Give one of 'exponential', 'linear', 'constant'"),
        ({"mode": "suppress", "strength": 2.0}, 'strength = 2.0 with mode = "suppress", where it multiplies'),
        ({"mode": "suppress", "strength": -1.0, "fold": True}, 'fold = True with mode = "suppress"'),
        ({"fold": 1}, "fold = 1. Give True or False"),
        ({"layers": (7, 9)}, r"no features in the layers .* was given, 7, 9. It has features in 0, 1, 2, 3"),
        ({"layers": ()}, r"layers = \(\). Give l for layers 0 to l"),
        ({"layers": range(3, 3)}, "Give l for layers 0 to l"),
        ({"layers": -1}, "layers = -1. Give l"),
        ({"layers": True}, "layers = True. Give l"),
        ({"layers": (0, 1.5)}, "the layer 1.5. Layers are whole numbers"),
        ({"starts": (RES.format(0), 2)}, "has no node .'blocks.0.hook_resid_post', 2"),
        ({"phases": ("later",)}, "the phase 'later'"),
        ({"sites": "saes"}, "flow_steering was given 'saes' as sites"),
    ],
)
def test_flow_steering_says_what_is_wrong(changed: dict[str, Any], complaint: str) -> None:
    arguments: dict[str, Any] = {"graph": graph_of(), "strength": 1.0}
    with pytest.raises(ValueError, match=complaint):
        flow_steering(**{**arguments, **changed})


def test_a_row_without_direction_is_refused() -> None:
    alone = {RES.format(1): FOUR_LAYERS[RES.format(1)]}
    sites = {RES.format(1): sae_of(axes(2, -1), RES.format(1))}
    with pytest.raises(
        ValueError, match="feature 1 of 'blocks.1.hook_resid_post', whose decoder row is zero"
    ):
        flow_steering(graph_of(alone), 1.0, sites=sites)
