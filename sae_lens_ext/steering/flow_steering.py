"""Steering with the features of a flow graph, in one layer or in many (arXiv 2502.03032, section 3.4).

Left out: the search over strengths and layers, for which there is `dose_response`.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from sae_lens_ext.architectures.fold_thresholds import unit_row_thresholds
from sae_lens_ext.number_checks import require_bool, require_number
from sae_lens_ext.renamed import renamed_arguments
from sae_lens_ext.steering.add_feature import AddFeature
from sae_lens_ext.steering.add_vector import AddVector
from sae_lens_ext.steering.intervention import InterventionSum, SingleIntervention
from sae_lens_ext.steering.scale_feature import ScaleFeature
from sae_lens_ext.steering.token_selection import PHASES, Positions

if TYPE_CHECKING:
    from sae_lens_ext.analysis.flow import FlowGraph, FlowSites

CALLER = "flow_steering"
Feature = tuple[str, int]
FlowSteeringMode = Literal["activate", "suppress"]
Schedule = Literal["exponential", "linear", "constant"]
MODES: tuple[FlowSteeringMode, ...] = ("activate", "suppress")
SCHEDULES: tuple[Schedule, ...] = ("exponential", "linear", "constant")
Layers = int | range | Sequence[int]
_LAST_LINEAR = 1.0


@renamed_arguments(seeds="starts")
def flow_steering(
    graph: "FlowGraph",
    strength: float,
    *,
    sites: Any = None,
    mode: FlowSteeringMode = "activate",
    schedule: Schedule = "exponential",
    layers: Layers | None = None,
    decay: float = -0.05,
    fold: bool = False,
    starts: Feature | Sequence[Feature] | None = None,
    positions: Positions = None,
    phases: Sequence[str] = PHASES,
) -> InterventionSum:
    """Make an intervention of a flow graph's features: the paper's single-layer and cumulative steering.

        graph = trace_feature(sites, ("blocks.20.hook_resid_post", 1234), thresholds="paper")
        with steer(model, flow_steering(graph, 4.0, layers=12)):
            model.generate("Once upon a time", max_new_tokens=36)

    "activate" adds s · d at every token, d the feature's decoder row at unit length. "suppress" multiplies the feature's live activation by
    r = s, h += (r − 1) · a · d: 0 removes it, the paper goes down to −64, and where it is not active nothing is touched.

    The strength s of a layer follows the schedule. The layers are counted from the first that is steered, which so gets `strength`
    itself under every schedule; of a chain that goes back to layer 0 this is the paper's s · e^{αl}. With "suppress" it is the change
    r − 1 that fades, so that r = 1 changes nothing in any layer, and later layers are suppressed less: r_l = 1 + (r − 1) · e^{αl}.

    The activations of BOS are changed too, unless `positions=slice(1, None)`. SAEs are trained without BOS, and many features fire on it.

    Args:
        graph: What `trace_feature` gives. Of a graph of a whole model the `starts` must be named.
        strength: s: length of what is added, in the units of the activations, or of θ with `fold`; with "suppress" the factor r, at
            most 1.
        sites: The SAEs by hook, as `trace_feature` takes them; by default those the graph was traced through, which a graph that
            was loaded from a file does not have.
        mode: "activate" or "suppress".
        schedule: Over the layers: "exponential", s · e^{αl}, or 1 + (r − 1) · e^{αl}; "linear", from s or r at the first layer steered
            to 1 at the last, so that "activate" takes no strength below 1; "constant".
        layers: A number l for layers 0 to l (cumulative); several, such as range(5, 10); or (l,) for one (single layer). By
            default all. A module's features are of its own layer.
        decay: α of the exponential schedule, per layer; negative changes later layers less.
        fold: Add s · θ · d, with the threshold θ that the feature has when its decoder row is of unit norm (`fold_thresholds`), so that
            s counts in activations just above the threshold. JumpReLU SAEs only, "activate" only: a rescaling is the same with it.
        starts: Take only what flows into these features and what they flow into, with the modules' features that join on the way;
            (hook name, index) or several.
        positions: Which tokens; see `steer`.
        phases: Whether in the prompt, in what is generated, or both.

    Returns:
        One part for each feature, by layer.

    Raises:
        ValueError: There are no SAEs, or none at a hook of a feature; no feature is left in these layers; a graph without starts was given none; the mode,
            schedule, strength, decay or layers are none; "linear" with "activate" and a strength below 1; `fold` with "suppress" or with SAEs that are not JumpReLU; a decoder row
            is zero.
    """
    strength, decay = _require_settings(strength, mode, schedule, decay, fold)
    found = _sites(graph, sites)
    by_hook = _selected(graph, found, starts, _wanted_layers(layers))
    steered = sorted({found.site(hook).layer for hook in by_hook})
    strengths = layer_strengths(steered, strength, mode=mode, schedule=schedule, decay=decay)
    parts: list[SingleIntervention] = []
    where: dict[str, Any] = {"positions": positions, "phases": phases}
    for hook, indices in by_hook.items():
        s = strengths[found.site(hook).layer]
        if mode == "suppress":
            parts += [ScaleFeature(found[hook], i, s, hook_name=hook, **where) for i in indices]
        else:
            parts += _additions(found, hook, indices, s, fold, where)
    return InterventionSum(parts)


def layer_strengths(
    layers: Sequence[int],
    strength: float,
    *,
    mode: FlowSteeringMode = "activate",
    schedule: Schedule = "exponential",
    decay: float = -0.05,
) -> dict[int, float]:
    """Give the strength of each layer under a schedule.

    Args:
        layers: The layers steered, ascending.
        strength: That of the first, s or r.
        mode: As for `flow_steering`.
        schedule: As for `flow_steering`.
        decay: As for `flow_steering`.

    Returns:
        By layer: s · e^{α(l − l₀)}, or to suppress 1 + (r − 1) · e^{α(l − l₀)}; or s + (1 − s)(l − l₀)/(l₁ − l₀), from the first layer
        l₀ to the last l₁; or s.
    """
    first, span = layers[0], layers[-1] - layers[0]
    if schedule == "exponential":
        unchanged = 1.0 if mode == "suppress" else 0.0
        return {
            layer: unchanged + (strength - unchanged) * math.exp(decay * (layer - first)) for layer in layers
        }
    if schedule == "linear" and span:
        return {layer: strength + (_LAST_LINEAR - strength) * (layer - first) / span for layer in layers}
    return dict.fromkeys(layers, strength)


def _additions(
    sites: "FlowSites", hook: str, indices: Sequence[int], strength: float, fold: bool, where: dict[str, Any]
) -> list[SingleIntervention]:
    """Make the additions of some features at a hook."""
    theta = unit_row_thresholds(sites[hook], indices).tolist() if fold else [1.0] * len(indices)
    if sites.is_of_heads(hook):  # rows of the heads' space, perhaps of one head
        return [
            AddFeature(sites[hook], i, strength * t, hook_name=hook, **where)
            for i, t in zip(indices, theta, strict=True)
        ]
    rows = sites.rows(hook)[indices].clone()  # the SAE itself need not stay in memory
    zero = [i for i, row in zip(indices, rows, strict=True) if not row.any()]
    if zero:
        raise ValueError(
            f"{CALLER} was given the feature {zero[0]} of {hook!r}, whose decoder row is zero, so it has no direction. Leave it out of the graph."
        )
    return [AddVector(hook, row, strength * t, **where) for row, t in zip(rows, theta, strict=True)]


def _sites(graph: Any, sites: Any) -> "FlowSites":
    from sae_lens_ext.analysis.flow import FlowGraph, FlowSites

    if not isinstance(graph, FlowGraph):
        raise ValueError(
            f"{CALLER} was given {type(graph).__name__} as the graph. Give what trace_feature returns."
        )
    if sites is not None:
        found = FlowSites.open(CALLER, sites)
        graph.require_made_of(found)
        return found
    if graph.sites is None:
        raise ValueError(
            f"{CALLER} was given a graph without its SAEs, as one loaded from a file is. Give sites=, the SAEs by hook name that it was traced "
            "through."
        )
    return graph.sites


def _selected(
    graph: "FlowGraph",
    sites: "FlowSites",
    starts: Feature | Sequence[Feature] | None,
    wanted: frozenset[int] | None,
) -> dict[str, list[int]]:
    """Give the features to steer with, ascending, by hook in the order of the layers."""
    if starts is None and not graph.starts:
        raise ValueError(
            f"{CALLER} was given a graph of {len(graph.node_hook):,} features that was traced from none, such as a whole model's. Give starts=, the features "
            "whose flow shall be steered, or a graph of trace_feature."
        )
    features = (graph if starts is None else graph.subgraph(starts)).feature_indices()
    chosen = {
        hook: list(dict.fromkeys(indices))
        for hook, indices in features.items()
        if wanted is None or graph.site(hook).layer in wanted
    }
    if not chosen:
        there = sorted({graph.site(hook).layer for hook in features})
        raise ValueError(
            f"The graph has no features in the layers that {CALLER} was given, {_shown(wanted)}. It has features in {_shown(there)}. Give one of these."
        )
    for hook, indices in chosen.items():
        for index in indices:
            sites.index(hook, index)
    return {sites.name_of(hook): indices for hook, indices in chosen.items()}


def _wanted_layers(layers: Any) -> frozenset[int] | None:
    if layers is None:
        return None
    several = range(layers + 1) if _is_layer(layers) else layers
    if isinstance(several, (str, bytes)) or not isinstance(several, Sequence) or not several:
        raise ValueError(
            f"{CALLER} was given layers = {layers!r}. Give l for layers 0 to l, (l,) for one, or several such as range(5, 10)."
        )
    for layer in several:
        if not _is_layer(layer):
            raise ValueError(f"{CALLER} was given the layer {layer!r}. Layers are whole numbers from 0 on.")
    return frozenset(several)


def _is_layer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shown(layers: Any) -> str:
    return ", ".join(map(str, sorted(layers or ()))) or "none"


def _require_settings(strength: Any, mode: str, schedule: str, decay: Any, fold: Any) -> tuple[float, float]:
    """Give strength and decay as floats; raise ValueError unless the settings go together."""
    strength = require_number(CALLER, "strength", strength)
    decay = require_number(CALLER, "decay", decay)
    require_bool(CALLER, "fold", fold)
    for what, value, known in (("mode", mode, MODES), ("schedule", schedule, SCHEDULES)):
        if value not in known:
            raise ValueError(
                f"{CALLER} was given {what} = {value!r}. Give one of {', '.join(map(repr, known))}."
            )
    if mode == "activate" and schedule == "linear" and strength < 1:
        raise ValueError(
            f'{CALLER} was given strength = {strength:g} with schedule = "linear", which ends at 1 and so would strengthen towards the last layer, and '
            'steer even from 0. Give at least 1, or schedule = "exponential" or "constant".'
        )
    if mode == "suppress" and strength > 1:
        raise ValueError(
            f'{CALLER} was given strength = {strength!r} with mode = "suppress", where it multiplies activations and so would strengthen the features. '
            "Give 0 to remove them, or less, such as -4; 1 changes nothing."
        )
    if mode == "suppress" and fold:
        raise ValueError(
            f'{CALLER} was given fold = True with mode = "suppress", which it does not change: a rescaled activation times its row is the same folded '
            "or not. Leave fold out."
        )
    return strength, decay
