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
from sae_lens.evals import ExplainedVarianceCalculator
from tqdm.auto import tqdm
from transformer_lens.utilities.lm_utils import lm_cross_entropy_loss

from sae_lens_ext.analysis.domains.report import DomainMeasurement, DomainReport
from sae_lens_ext.analysis.provenance import model_name, tokens_read, versions
from sae_lens_ext.analysis.texts import (
    pack_texts,
    require_detached,
    require_mapping,
    require_texts,
    special_tokens,
)
from sae_lens_ext.architectures.head_reshaping import flat_heads
from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.architectures.residual import BASE_METADATA_KEY
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.language_model import Site, find_hook_point, hooked


@torch.no_grad()
def evaluate_domains(
    model: Any,
    saes: Mapping[str, SAE[Any]],
    texts: Mapping[str, Sequence[str]],
    *,
    context_size: int = 128,
    max_tokens: int = 16_384,
    batch_size_prompts: int = 8,
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
        batch_size_prompts: Contexts per forward pass.
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
        "batch_size_prompts": batch_size_prompts,
    }
    for name, value in numbers.items():
        require_positive_int("evaluate_domains", name, value)
    require_detached(model)
    measured = {name: as_inference(sae) for name, sae in saes.items()}
    sites = {name: _site(name, sae) for name, sae in measured.items()}
    for site in sites.values():
        find_hook_point(model, site.hook_name)
    tokens = pack_texts(model, texts, context_size=context_size, max_tokens=max_tokens, seed=seed)
    special = special_tokens(model)
    device = next(model.parameters()).device
    totals = {(name, domain): _Totals() for name in measured for domain in texts}
    batches = [(domain, batch) for domain in texts for batch in tokens[domain].split(batch_size_prompts)]
    for domain, batch in tqdm(batches, desc="Evaluating", disable=not show_progress):
        run = _Pass(model, batch.to(device), ~torch.isin(batch, special).to(device), autocast)
        activations, ce = run.clean(set(sites.values()))
        ce_ablated = {site: run.spliced(site, torch.zeros_like(x)) for site, x in activations.items()}
        for name, sae in measured.items():
            site = sites[name]
            x = activations[site]
            _require_width(name, sae, site, x)
            with flat_heads(sae):
                acts = sae.encode(x.to(sae.device, sae.dtype))
                x_hat = sae.decode(acts).to(x.device, torch.float32)
            acts = acts.to_dense() if acts.is_sparse else acts
            _require_finite(name, domain, x, x_hat)
            total = totals[name, domain]
            total.variance.add_batch(x_hat[run.counted], x[run.counted])
            total.fired += int((acts != 0).sum(dim=-1).to(run.counted.device)[run.counted].sum())
            with_sae = torch.where(run.counted[..., None], x_hat.to(x.dtype), x)
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


@dataclass(frozen=True)
class _Pass:
    """Forward passes of the model over one batch of tokens."""

    model: Any
    tokens: torch.Tensor
    counted: torch.Tensor
    autocast: bool

    def clean(self, sites: set[Site]) -> tuple[dict[Site, torch.Tensor], torch.Tensor]:
        """Run the model as it is; gives the activations at the sites, and its losses."""
        found: dict[Site, torch.Tensor] = {}

        def keep(site: Site, activations: torch.Tensor) -> None:
            found[site] = site.read(activations).clone()

        by_hook: dict[str, list[Site]] = {}
        for site in sites:
            by_hook.setdefault(site.hook_name, []).append(site)

        def keep_all(at_hook: list[Site], activations: torch.Tensor) -> None:
            for site in at_hook:
                keep(site, activations)

        return found, self._losses(
            {name: lambda x, at_hook=at_hook: keep_all(at_hook, x) for name, at_hook in by_hook.items()}
        )

    def spliced(self, site: Site, new: torch.Tensor) -> torch.Tensor:
        """Run the model with `new` in place of the activations at a site; gives its losses."""
        return self._losses({site.hook_name: lambda x: site.write(x, new)})

    def _losses(self, functions: Mapping[str, Any]) -> torch.Tensor:
        """Cross-entropy of every next token that is predicted from one that counts, [n]."""
        with (
            hooked(self.model, functions),
            torch.autocast(self.tokens.device.type, dtype=torch.bfloat16, enabled=self.autocast),
        ):
            logits = self.model(self.tokens, return_type="logits")
        losses = lm_cross_entropy_loss(logits.float(), self.tokens.to(logits.device), per_token=True)
        return losses[self.counted[:, :-1].to(losses.device)]


@dataclass
class _Totals:
    """Sums over the batches of one SAE and one text."""

    variance: ExplainedVarianceCalculator = field(default_factory=ExplainedVarianceCalculator)
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


def _site(name: str, sae: SAE[Any]) -> Site:
    metadata = sae.cfg.metadata
    if metadata.hook_name is None:
        raise ValueError(
            f"The SAE {name!r} names no hook in its metadata. Set sae.cfg.metadata.hook_name to where it reads."
        )
    architecture = sae.cfg.architecture()
    if metadata.hook_name_out not in (None, metadata.hook_name) or "transcoder" in architecture:
        raise ValueError(
            f"The SAE {name!r} ({architecture}) reads {metadata.hook_name!r} and writes {metadata.hook_name_out!r}: it is a "
            "transcoder, whose explained variance is not of what it reads. evaluate_domains measures SAEs."
        )
    if sae.cfg.normalize_activations in ("expected_average_only_in", "covariance_whitening"):
        raise ValueError(
            f"The SAE {name!r} has normalize_activations = {sae.cfg.normalize_activations!r}, which was never folded into its "
            "weights, so it does not read the model's activations as they are. Fold it first, as SAELens' runner does at the "
            "end of training."
        )
    if metadata[BASE_METADATA_KEY] is not None:
        raise ValueError(
            f"The SAE {name!r} is a residual SAE by itself: it predicts its base's error and not the activations, so it has "
            'no explained variance of its own. Stack it: ResidualStackSAE.from_saes(base, {"domain": residual}).'
        )
    return Site(metadata.hook_name, metadata.hook_head_index)


def _require_width(name: str, sae: SAE[Any], site: Site, x: torch.Tensor) -> None:
    if x.shape[-1] != sae.cfg.d_in:
        raise ValueError(
            f"The activations at {site.hook_name!r} have width {x.shape[-1]}, but the SAE {name!r} has d_in = "
            f"{sae.cfg.d_in}. It belongs to another model or hook."
        )


def _require_finite(name: str, domain: str, x: torch.Tensor, x_hat: torch.Tensor) -> None:
    for what, tensor in (("the model's activations", x), (f"the output of the SAE {name!r}", x_hat)):
        if not torch.isfinite(tensor).all():
            raise ValueError(
                f"On the text {domain!r} there is NaN or infinity in {what}, so that nothing can be measured. Look at the precision: "
                "float16 overflows where bfloat16 does not."
            )
