"""What a deactivation test was asked for, checked before the model runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, cast

import torch

from sae_lens_ext.analysis.flow.deactivation.naming import CONTROL, METHODS
from sae_lens_ext.analysis.flow.deactivation.result import TestedSite
from sae_lens_ext.analysis.flow.deactivation.sampling import CHOICES
from sae_lens_ext.analysis.flow.pearson import own_site
from sae_lens_ext.analysis.flow.sites import KINDS, FlowSites, FlowSources, Kind
from sae_lens_ext.analysis.texts import pack_texts, require_detached, require_documents
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.language_model import Site, find_hook_point

_CALLER = "deactivation_test"


@dataclass(frozen=True, eq=False)
class Plan:
    """Which sites are tested, on which tokens, by which methods."""

    sites: FlowSites
    """All SAEs that were given."""
    tested: tuple[TestedSite, ...]
    """The targets' sites and their predecessors, by layer."""
    kinds: tuple[Kind, ...]
    """Kinds of predecessors, in the order of KINDS."""
    methods: tuple[str, ...]
    """Methods in the order of METHODS, and the control."""
    places: Mapping[str, Site]
    """Where each SAE that takes part reads, by hook."""
    contexts: torch.Tensor
    """Token ids of the texts that are tested, [n_texts, context_size]."""
    pearson_contexts: torch.Tensor
    """Token ids for correlations, of other contexts; none unless asked for."""

    def predecessors(self, site: TestedSite) -> dict[Kind, str]:
        """Give the hooks of a site's predecessors by kind."""
        return {kind: site.predecessors[kind] for kind in self.kinds if kind in site.predecessors}


def make_plan(
    model: Any,
    sites: FlowSources | FlowSites,
    texts: Sequence[str],
    *,
    layers: Sequence[int] | None,
    predecessors: Sequence[str],
    methods: Sequence[str],
    factor: float,
    choice: str,
    n_texts: int,
    pearson_tokens: int,
    context_size: int,
    seed: int,
    counts: Mapping[str, Any],
) -> Plan:
    """Check what was asked for, and pack the texts; see `deactivation_test`, whose arguments these are.

    Args:
        model: The language model.
        sites: The SAEs.
        texts: Documents.
        layers: Layers of the targets.
        predecessors: Kinds.
        methods: Methods.
        factor: r.
        choice: Which of many active features.
        n_texts: Texts to be tested.
        pearson_tokens: Tokens for correlations.
        context_size: Tokens per context.
        seed: Which contexts.
        counts: Other arguments that must be whole numbers of at least 1, by name.

    Raises:
        ValueError: As `deactivation_test` says.
    """
    numbers = {"n_texts": n_texts, "pearson_tokens": pearson_tokens, "context_size": context_size, **counts}
    for name, value in numbers.items():
        require_positive_int(_CALLER, name, value)
    if isinstance(factor, bool) or not isinstance(factor, Real) or not math.isfinite(factor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"{_CALLER} was given factor = {factor!r}. Give a number: 0 removes the predecessor, below 0 over-subtracts."
        )
    _require_known("methods", methods, METHODS)
    _require_known("predecessors", predecessors, KINDS)
    _require_known("choice", [choice], CHOICES)
    require_documents(_CALLER, texts)
    require_detached(model)
    flow = FlowSites.open(_CALLER, sites, model=model)
    kinds: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind in predecessors)
    tested = _tested_sites(flow, layers, kinds)
    hooks = dict.fromkeys(name for site in tested for name in (site.hook_name, *site.predecessors.values()))
    places = {name: own_site(_CALLER, flow, name) for name in hooks}
    for name in hooks:
        find_hook_point(model, name)
    n_other = max(1, pearson_tokens // context_size) if "pearson" in methods else 0
    packed = pack_texts(
        model,
        {"texts": texts},
        context_size=context_size,
        max_tokens=(n_texts + n_other) * context_size,
        seed=seed,
    )["texts"]
    if len(packed) < n_texts + min(n_other, 1):
        beside = ", and at least one more to correlate activations on" if n_other else ""
        raise ValueError(
            f"{_CALLER} was given texts that fill {len(packed)} contexts of {context_size} tokens, but n_texts = {n_texts} were asked for{beside}. "
            "Give more text, a smaller n_texts, or shorter contexts."
        )
    return Plan(
        sites=flow,
        tested=tested,
        kinds=kinds,
        methods=(*(method for method in METHODS if method in methods), CONTROL),
        places=places,
        contexts=packed[:n_texts],
        pearson_contexts=packed[n_texts:],
    )


def _tested_sites(
    flow: FlowSites, layers: Sequence[int] | None, kinds: Sequence[Kind]
) -> tuple[TestedSite, ...]:
    def predecessors(hook_name: str) -> dict[str, str]:
        found = flow.predecessors(hook_name)
        return {kind: found[kind] for kind in kinds if kind in found}

    wanted = flow.layers if layers is None else sorted(set(layers))
    tested: list[TestedSite] = []
    for layer in wanted:
        hook_name = flow.at(layer, "residual")
        if hook_name is None:
            if layers is None:
                continue
            raise ValueError(
                f"{_CALLER} was asked for layer {layer!r}, but was given no SAE of the residual stream after that block. There are SAEs at "
                f"{', '.join(map(repr, flow))}."
            )
        found = predecessors(hook_name)
        if found:
            tested.append(TestedSite(layer, hook_name, found))
        elif layers is not None:
            raise ValueError(
                f"{_CALLER} was asked for layer {layer}, but was given no SAE at a predecessor of {hook_name!r} of the kind {' or '.join(kinds)}. Give the "
                "residual stream's of one layer before, or this layer's MLP's or attention's, and name the kind in predecessors."
            )
    if not tested:
        raise ValueError(
            f"{_CALLER} was given no residual site with a predecessor of the kind {' or '.join(kinds)}. {' '.join(flow.missing)} There are SAEs at "
            f"{', '.join(map(repr, flow))}; give two neighbouring layers, or name other kinds in predecessors."
        )
    return tuple(tested)


def _require_known(name: str, given: Any, known: Sequence[str]) -> None:
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise ValueError(
            f"{_CALLER} was given {name} = {given!r}. Give a list with one or more of {', '.join(map(repr, known))}."
        )
    for one in cast("Sequence[Any]", given):
        if one not in known:
            raise ValueError(
                f"{_CALLER} was given {name} with {one!r}. Known are {', '.join(map(repr, known))}."
            )
