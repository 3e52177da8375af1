"""Putting a deactivation test together: each method on its own targets, and all methods on those they have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sae_lens_ext.analysis.flow.deactivation.layer import Outcome
from sae_lens_ext.analysis.flow.deactivation.plan import Plan
from sae_lens_ext.analysis.flow.deactivation.result import DeactivationResult, DeactivationRow, TestedSite
from sae_lens_ext.analysis.flow.deactivation.summary import draw_texts, mean_of
from sae_lens_ext.analysis.flow.deactivation.targets import Targets
from sae_lens_ext.analysis.flow.sites import Kind


def assemble(
    plan: Plan,
    targets: Mapping[int, Targets],
    outcomes: Mapping[tuple[int, Kind], Outcome],
    text: torch.Tensor,
    position: torch.Tensor,
    seed: int,
    provenance: dict[str, Any],
) -> DeactivationResult:
    """Put the layers together, and summarise them.

    Args:
        plan: What was tested.
        targets: The targets, by layer.
        outcomes: What became of them, by layer and kind of predecessor.
        text: Text of each sampled token, [t].
        position: Its position there, [t].
        seed: Which texts the bootstrap draws.
        provenance: Where the numbers come from.
    """
    n_methods = len(plan.methods)
    together = {
        name: torch.cat(
            [
                torch.stack(
                    [
                        getattr(
                            outcomes.get(
                                (site.layer, kind), Outcome.empty(len(targets[site.layer].feature), n_methods)
                            ),
                            name,
                        )
                        for kind in plan.kinds
                    ],
                    dim=1,
                )
                for site in plan.tested
            ]
        )
        for name in ("predecessor", "predecessor_activation", "new_activation", "activation_change")
    }
    token = torch.cat([targets[site.layer].token for site in plan.tested])
    layer = torch.cat([torch.full_like(targets[site.layer].feature, site.layer) for site in plan.tested])
    rows = table(
        plan.tested,
        plan.kinds,
        plan.methods,
        layer=layer,
        text=text[token],
        change=together["activation_change"],
        new=together["new_activation"],
        n_texts=len(plan.contexts),
        seed=seed,
    )
    return DeactivationResult(
        rows=rows,
        sites=plan.tested,
        kinds=plan.kinds,
        methods=plan.methods,
        n_texts=len(plan.contexts),
        text=text[token],
        position=position[token],
        token_id=plan.contexts[text[token], position[token]],
        layer=layer,
        feature=torch.cat([targets[site.layer].feature for site in plan.tested]),
        activation=torch.cat([targets[site.layer].activation for site in plan.tested]),
        provenance=provenance,
        **together,
    )


def table(
    sites: Sequence[TestedSite],
    kinds: Sequence[str],
    methods: Sequence[str],
    *,
    layer: torch.Tensor,
    text: torch.Tensor,
    change: torch.Tensor,
    new: torch.Tensor,
    n_texts: int,
    seed: int,
) -> tuple[DeactivationRow, ...]:
    """Summarise pairs by layer, kind and method, over each method's own targets and over those where all methods were tested.

    Args:
        sites: The sites, by layer.
        kinds: Kinds of predecessors, k.
        methods: Methods, m.
        layer: Layer of each target, [n].
        text: Text of each target, [n].
        change: Activation change, [n, k, m]; NaN where not tested.
        new: The target's activation after it, [n, k, m]; NaN where not tested.
        n_texts: Number of texts.
        seed: Which texts the bootstrap draws.
    """
    weights = draw_texts(n_texts, seed)
    layers, texts = layer.numpy(), text.numpy()
    changes, news = change.double().numpy(), new.double().numpy()
    tested = ~np.isnan(changes)
    rows: list[DeactivationRow] = []
    for number in (*(site.layer for site in sites), None):
        for k, kind in enumerate(kinds):
            with_kind = [site.layer for site in sites if kind in site.predecessors]
            wanted = [number] if number is not None else with_kind
            there = np.isin(layers, [one for one in wanted if one in with_kind])
            if not there.any():
                continue
            common = tested[:, k].all(axis=1)
            for m, method in enumerate(methods):
                for name, members in (("own", tested[:, k, m]), ("common", common)):
                    inside = members & there
                    own_text = texts[inside]
                    mean, mean_low, mean_high = mean_of(changes[inside, k, m], own_text, weights)
                    success, success_low, success_high = mean_of(
                        (news[inside, k, m] == 0).astype(float), own_text, weights
                    )
                    share, share_low, share_high = mean_of(inside[there].astype(float), texts[there], weights)
                    rows.append(
                        DeactivationRow(
                            layer=number,
                            predecessor=kind,
                            method=method,
                            set=name,
                            mean_activation_change=mean,
                            mean_activation_change_low=mean_low,
                            mean_activation_change_high=mean_high,
                            median_activation_change=float(np.median(changes[inside, k, m]))
                            if inside.any()
                            else None,
                            success=success,
                            success_low=success_low,
                            success_high=success_high,
                            n_pairs=int(inside.sum()),
                            n_targets=int(there.sum()),
                            share_with_active_predecessor=share,
                            share_low=share_low,
                            share_high=share_high,
                        )
                    )
    return tuple(rows)
