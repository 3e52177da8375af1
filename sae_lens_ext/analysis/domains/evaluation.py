"""Measure SAEs on several texts in one pass over each: EV, cross-entropy, L0.

SAELens' `run_evals` measures one SAE on one text, and runs the model four times a batch for it. Here one
clean pass gives the activations of all SAEs and the cross-entropy they are compared with, one pass a hook
that of zeros, and one pass an SAE what its reconstruction costs. The numbers are those of `run_evals` on
the same tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from sae_lens import SAE
from tqdm.auto import tqdm

from sae_lens_ext.analysis.domains.report import DomainMeasurement, DomainReport
from sae_lens_ext.analysis.provenance import model_name, tokens_read, versions
from sae_lens_ext.analysis.splicing import ForwardPasses, reconstruct, require_finite, require_width, site_of
from sae_lens_ext.analysis.texts import (
    pack_texts,
    require_detached,
    require_mapping,
    require_texts,
    special_tokens,
)
from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.explained_variance import ExplainedVariance
from sae_lens_ext.language_model import find_hook_point


@torch.no_grad()
def evaluate_domains(
    model: Any,
    saes: Mapping[str, SAE[Any]],
    texts: Mapping[str, Sequence[str]],
    *,
    context_size: int = 128,
    max_tokens: int = 16_384,
    batch_size: int = 8,
    autocast: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> DomainReport:
    """Measure every SAE on every text: explained variance, cross-entropy with and without it, L0.

    The documents of a text are packed into contexts, BOS first and between them. Special tokens are left
    as they are and do not count, as in SAELens' `run_evals`.

    Args:
        model: A HookedTransformer, a TransformerBridge or SAELens' HookedProxyLM, with no SAE attached.
        saes: SAEs by name; those of several hooks may be mixed. A training SAE is taken in its inference form.
        texts: Held-out documents by domain, such as `{"code": [...], "general": [...]}`.
        context_size: Tokens per context.
        max_tokens: Tokens read of each text, at most.
        batch_size: Contexts per forward pass.
        autocast: Run the model in bfloat16, as SAELens' `autocast_lm` does; the SAEs keep their precision.
        seed: Which contexts of a text are read, and in which order.
        show_progress: Show a progress bar.

    Returns:
        A measurement for each SAE and text.

    Raises:
        ValueError: There are no SAEs or no texts; a text is too short or one string; an SAE names no hook, is a
            transcoder, has a normalisation that was not folded, or is a residual SAE by itself (stack it on its
            base); the model has no such hook, other widths there, or SAEs attached, or reads fewer tokens;
            something is NaN or infinite.
    """
    require_mapping("evaluate_domains", "saes", saes, '{"base": sae}')
    require_texts("evaluate_domains", texts)
    numbers = {
        "context_size": context_size,
        "max_tokens": max_tokens,
        "batch_size": batch_size,
    }
    for name, value in numbers.items():
        require_positive_int("evaluate_domains", name, value)
    require_detached(model)
    measured = {name: as_inference(sae) for name, sae in saes.items()}
    sites = {name: site_of("evaluate_domains", name, sae) for name, sae in measured.items()}
    for site in sites.values():
        find_hook_point(model, site.hook_name)
    tokens = pack_texts(model, texts, context_size=context_size, max_tokens=max_tokens, seed=seed)
    special = special_tokens(model)
    device = next(model.parameters()).device
    totals = {(name, domain): _Totals() for name in measured for domain in texts}
    batches = [(domain, batch) for domain in texts for batch in tokens[domain].split(batch_size)]
    for domain, batch in tqdm(batches, desc="Evaluating", disable=not show_progress):
        run = ForwardPasses(model, batch.to(device), ~torch.isin(batch, special).to(device), autocast)
        activations, ce = run.clean(set(sites.values()))
        ce_ablated = {site: run.spliced(site, torch.zeros_like(x)) for site, x in activations.items()}
        for name, sae in measured.items():
            site = sites[name]
            x = activations[site]
            require_width(name, sae, site, x)
            made = reconstruct(sae, x)
            require_finite(name, domain, x, made.x_hat)
            total = totals[name, domain]
            total.variance.add_batch(made.x_hat[run.counted], x[run.counted])
            total.fired += int((made.acts != 0).sum(dim=-1).to(run.counted.device)[run.counted].sum())
            with_sae = torch.where(run.counted[..., None], made.x_hat.to(x.dtype), x)
            total.add_losses(ce, run.spliced(site, with_sae), ce_ablated[site])
    provenance = {
        **versions(),
        "model_name": model_name(model, next(iter(measured.values()))),
        "hook_names": sorted({site.hook_name for site in sites.values()}),
        "tokens_sha256": tokens_read(tokens),
        "context_size": context_size,
        "max_tokens": max_tokens,
        "autocast": autocast,
        "seed": seed,
    }
    return DomainReport(
        tuple(totals[name, domain].measurement(name, domain) for name in measured for domain in texts),
        provenance,
    )


@dataclass
class _Totals:
    """Sums over the batches of one SAE and one text."""

    variance: ExplainedVariance = field(default_factory=ExplainedVariance)
    fired: int = 0
    n_predictions: int = 0
    losses: torch.Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def add_losses(self, *losses: torch.Tensor) -> None:
        self.losses += torch.stack([part.double().sum() for part in losses]).cpu()
        self.n_predictions += len(losses[0])

    def measurement(self, sae: str, domain: str) -> DomainMeasurement:
        ce, ce_with, ce_ablated = (self.losses / self.n_predictions).tolist()
        return DomainMeasurement(
            sae=sae,
            domain=domain,
            ev=self.variance.compute(),
            ce=ce,
            ce_with=ce_with,
            ce_ablated=ce_ablated,
            l0=self.fired / self.variance.num_samples,
            n_tokens=self.variance.num_samples,
        )
