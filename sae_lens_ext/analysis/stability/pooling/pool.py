"""One SAE of the features that come back, pooled from several seeds (arXiv 2606.12138; the algorithm is our reading)."""

import copy
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from sae_lens import SAE

from sae_lens_ext.analysis.dictionaries import (
    SAESources,
    decoder_rows,
    open_saes,
    require_folded,
    require_no_twins,
    require_same_site,
    require_threshold,
)
from sae_lens_ext.analysis.matching.cosines import top_cosines
from sae_lens_ext.analysis.stability.firing import FiringRates, firing_floor, rates_of
from sae_lens_ext.analysis.stability.pooling.selection import Selection, select_distinct
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.architectures.inference import assemble
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.number_checks import require_seed

Order = Literal["reappearance", "frequency", "random"]
_POOLABLE = ("topk", "jumprelu", "standard")
_ROWS_AT_ONCE = 2**14
_COMMON_SETTINGS = ("k", "apply_b_dec_to_input", "normalize_activations", "rescale_acts_by_decoder_norm")


@torch.no_grad()
def pool_features(
    saes: SAESources,
    d_sae: int,
    *,
    references: SAESources | None = None,
    order: Order = "reappearance",
    threshold: float = 0.7,
    firing_rates: FiringRates | Mapping[str, torch.Tensor] | None = None,
    min_firing_rate: float | None = None,
    seed: int = 0,
) -> SAE[Any]:
    """Build one SAE of distinct features of many.

    The latents of all SAEs are visited in an order, and one is kept unless a kept one has a decoder cosine of at least θ with it; then
    it joins the most similar one's cluster. A kept latent's decoder row points to the mean of its cluster's unit rows, with the length
    of its own; encoder vector, bias and threshold are its own, so that its pre-activations are those it had in its SAE. Which of them
    a topk SAE lets through depends on its new neighbours.

    The kept rows have cosines below θ with each other; the means of their clusters may come a little closer.

    How well the new SAE reconstructs without any training depends on how the seeds' latents get on with one another: see
    `retrain_encoder`, which trains all but the decoder.

    Args:
        saes: Two or more SAEs, as for `feature_stability`, of one architecture and one set of settings (k, …): topk, jumprelu or
            standard, in which each latent has an encoder vector of its own.
        d_sae: Latents of the new SAE, at least k.
        references: SAEs that are not pooled, two or more, on which p̂ is estimated: a latent's p̂ among the pooled SAEs would be what it
            is selected by and judged by at once. Needed for order = "reappearance".
        order: "reappearance": p̂ on the references first, then the mean largest cosine with them. The controls: "frequency", the
            firing rate (needs `firing_rates`); "random".
        threshold: θ, the cosine from which two latents are one feature.
        firing_rates: Of the pooled SAEs. Latents that fire too rarely are not visited.
        min_firing_rate: As for `feature_stability`.
        seed: For order = "random".

    Returns:
        An inference SAE of the pooled ones' architecture. Its metadata say what it was made of (`pooled_from`, `pooled_order`).

    Raises:
        ValueError: There are fewer than two SAEs, one twice, or one both pooled and a reference; they are of different settings, hooks
            or models, of an architecture that cannot be pooled, or have a normalisation that was not folded; there are fewer than
            d_sae distinct features; references or firing rates are missing; a setting is out of range.
    """
    require_positive_int("pool_features", "d_sae", d_sae)
    seed = require_seed("pool_features", seed)
    if order not in get_args(Order):
        raise ValueError(
            f"pool_features was given order = {order!r}. Give one of {', '.join(map(repr, get_args(Order)))}."
        )
    require_threshold("pool_features", threshold)
    opened = open_saes("pool_features", saes)
    _require_poolable(opened, d_sae)
    held_out = {} if references is None else open_saes("pool_features, for references,", references)
    everyone = {
        **{f"pooled {name}": sae for name, sae in opened.items()},
        **{f"reference {n}": s for n, s in held_out.items()},
    }
    require_same_site("pool_features", everyone)
    require_folded("pool_features", everyone)
    device = next(iter(opened.values())).device
    rows = {name: decoder_rows(name, sae).to(device) for name, sae in everyone.items()}
    require_no_twins("pool_features", rows)
    pooled = torch.cat([rows.pop(f"pooled {name}") for name in opened])
    rates = rates_of(firing_rates, opened)
    rate = None if rates is None else torch.cat(rates)
    floor = firing_floor(min_firing_rate, firing_rates)
    visited = (pooled != 0).any(dim=1).cpu()
    if rate is not None:
        visited &= (rate > 0) & (rate >= floor)
    keys = _keys(order, pooled, list(rows.values()), rate, threshold, seed)
    rows.clear()  # large, and no longer needed
    visits = visited.nonzero().flatten()
    for key in reversed(keys):  # the first counts most; a sort keeps the order of the one before among equals
        visits = visits[key[visits].argsort(descending=True, stable=True)]
    selection = select_distinct(pooled[visits.to(pooled.device)], d_sae, threshold)
    if len(selection.kept) < d_sae:
        raise ValueError(
            f"pool_features was asked for d_sae = {d_sae}, but the {len(visits)} latents that may be pooled hold {len(selection.kept)} distinct "
            f"features (cosines below {threshold}). Give a smaller d_sae, more SAEs, or a higher threshold."
        )
    return _assembled(opened, pooled, visits, selection, order)


def _keys(
    order: Order,
    pooled: torch.Tensor,
    references: list[torch.Tensor],
    rate: torch.Tensor | None,
    threshold: float,
    seed: int,
) -> list[torch.Tensor]:
    """Give what latents are ranked by, [n] each, larger first; the second decides among equals of the first."""
    if order == "reappearance":
        if not references:
            raise ValueError(
                'pool_features was given no references for order = "reappearance". Give two or more SAEs that are not pooled, on which p̂ is estimated.'
            )
        cosines = torch.stack([top_cosines(pooled, rows).values[:, 0].cpu() for rows in references])
        return [(cosines >= threshold).float().mean(dim=0), cosines.mean(dim=0)]
    if order == "frequency":
        if rate is None:
            raise ValueError(
                'pool_features was given no firing_rates for order = "frequency". Give those of the pooled SAEs, from measure_firing_rates.'
            )
        return [rate]
    return [torch.rand(len(pooled), generator=torch.Generator().manual_seed(seed))]


def _assembled(
    opened: Mapping[str, SAE[Any]],
    pooled: torch.Tensor,
    visits: torch.Tensor,
    selection: Selection,
    order: Order,
) -> SAE[Any]:
    saes: list[Any] = list(opened.values())
    first = saes[0]
    device, dtype = first.device, first.dtype
    best = visits[selection.kept]  # of all latents of all SAEs in a row
    directions = torch.zeros(len(best), pooled.shape[1])
    for members in (selection.cluster >= 0).nonzero().flatten().split(_ROWS_AT_ONCE):
        directions.index_add_(0, selection.cluster[members], pooled[visits[members].to(pooled.device)].cpu())
    b_dec = torch.stack([sae.b_dec.detach().float().to(device) for sae in saes]).mean(dim=0)

    def of_best(parts: list[torch.Tensor]) -> torch.Tensor:
        found, first_row = torch.empty(len(best), *parts[0].shape[1:]), 0
        for part in parts:  # one by one, as together they are as large as the SAEs
            mine = (best >= first_row) & (best < first_row + len(part))
            found[mine] = part.detach()[(best[mine] - first_row).to(part.device)].float().cpu()
            first_row += len(part)
        return found

    lengths = of_best([sae.W_dec.detach().float().norm(dim=1) for sae in saes])
    tensors = {
        "W_enc": of_best([sae.W_enc.T for sae in saes]).T,
        "b_enc": of_best([_bias_at(sae, b_dec) for sae in saes]),
        "W_dec": torch.nn.functional.normalize(directions, dim=1) * lengths[:, None],
        "b_dec": b_dec.cpu(),
    }
    if "threshold" in first.state_dict():
        tensors["threshold"] = of_best([sae.threshold for sae in saes])
    cfg = copy.deepcopy(first.cfg)
    cfg.d_sae = len(best)
    cfg.metadata.initialisation_seed = cfg.metadata.data_order_seed = None
    cfg.metadata.l0 = cfg.metadata.num_dead_features = cfg.metadata.neuronpedia_id = None
    cfg.metadata.pooled_order = order
    cfg.metadata.pooled_from = {name: weights_fingerprint(sae) for name, sae in opened.items()}
    return assemble(cfg, {name: tensor.contiguous().to(device, dtype) for name, tensor in tensors.items()})


def _bias_at(sae: Any, b_dec: torch.Tensor) -> torch.Tensor:
    """Give an SAE's encoder bias for another decoder bias, so that its latents fire as before, [d_sae]."""
    b_enc = sae.b_enc.detach().float()
    if not sae.cfg.apply_b_dec_to_input:
        return b_enc
    return b_enc + (b_dec - sae.b_dec.detach().float()) @ sae.W_enc.detach().float()


def _require_poolable(saes: Mapping[str, SAE[Any]], d_sae: int) -> None:
    first_name, first = next(iter(saes.items()))
    for name, sae in saes.items():
        architecture = sae.cfg.architecture()
        if architecture not in _POOLABLE:
            raise ValueError(
                f"The SAE {name!r} is of the architecture {architecture!r}, which pool_features does not take apart: it pools SAEs whose latents each "
                f"have one encoder vector and one bias, of the architectures {', '.join(_POOLABLE)}. Give such SAEs."
            )
        for setting in ("architecture", *_COMMON_SETTINGS):
            one, other = (
                s.cfg.architecture() if setting == "architecture" else getattr(s.cfg, setting, None)
                for s in (first, sae)
            )
            if one != other:
                raise ValueError(
                    f"pool_features was given SAEs of different {setting}: {one!r} ({first_name!r}) and {other!r} ({name!r}). Give SAEs that differ in "
                    "their seed only."
                )
    if (k := getattr(first.cfg, "k", 1)) > d_sae:
        raise ValueError(
            f"pool_features was asked for d_sae = {d_sae}, which is less than the k = {k} latents that fire at once. Give at least k."
        )
