"""The functional asymmetry of stable and unstable latents: what silencing each costs (arXiv 2606.12138).

Unstable latents can be silenced by the thousand at little cost in explained variance and cross-entropy, stable ones cannot. But
unstable ones also fire less often (in the paper on 0.18 % of tokens, against 0.44 %), and a latent that fires half as often takes
half as much away. So beside the two classes stands a control: stable latents that fire as often as the unstable ones masked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import SAE
from tqdm.auto import tqdm

from sae_lens_ext.analysis.provenance import model_name, tokens_read
from sae_lens_ext.analysis.splicing import site_of
from sae_lens_ext.analysis.stability.masking.reading import TEXT, Reading, TextReader, split_batches
from sae_lens_ext.analysis.stability.masking.result import MaskingCurve, MaskingRow
from sae_lens_ext.analysis.stability.masking.subsets import GROUPS, Masking, draw_maskings, mask_counts
from sae_lens_ext.analysis.stability.report import STABLE, UNSTABLE, StabilityReport
from sae_lens_ext.analysis.stability.same_saes import mistaken_for, report_provenance
from sae_lens_ext.analysis.texts import pack_texts, require_detached, require_texts, special_tokens
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.language_model import find_hook_point


@torch.no_grad()
def masking_curve(
    model: Any,
    sae: SAE[Any],
    report: StabilityReport,
    texts: Sequence[str],
    *,
    anchor: int = 0,
    counts: Sequence[int] | None = None,
    n_draws: int = 5,
    context_size: int = 128,
    max_tokens: int = 16_384,
    max_ce_tokens: int | None = 2_048,
    batch_size: int = 8,
    autocast: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> MaskingCurve:
    """Measure EV and the model's cross-entropy with growing random sets of stable and of unstable latents set to 0.

    Latents are set to 0 after the SAE has chosen which fire, and no others take their place (our reading: a TopK SAE then has fewer
    than k). Three groups are masked: stable latents; unstable latents; and as the control, for each set of unstable latents, as many
    stable ones that fire as often, matched one to one so that the differences of the logarithms of their firing rates are smallest
    in sum (our addition). The rates are measured here, on the same tokens, and the mean rate of every set is in the result, so that
    a poor match shows: where there are few stable latents, a large set has none that fire so rarely.

    In each draw the sets of stable and of unstable latents grow by adding to the one before; those of the control are matched anew
    for each count. The model and the SAE run once on every token for EV, whatever is masked, since an SAE that decodes to a sum of
    decoder rows loses exactly the rows of what is masked. Cross-entropy needs a forward pass over `max_ce_tokens` for each row of
    the result, which is most of the work. What is held in memory is the SAE's error [tokens, d_in] and its firings.

    Args:
        model: A HookedTransformer, a TransformerBridge or SAELens' HookedProxyLM, with no SAE attached.
        sae: The report's SAE at `anchor`. A training SAE is taken in its inference form.
        report: Which latents are stable and which unstable; latents of neither class are left alone.
        texts: Held-out documents. They are packed into contexts, BOS first and between them; special tokens are left as they are
            and do not count.
        anchor: Position of the SAE in the report.
        counts: How many latents to mask; 0 is always measured as well. One that is larger than a group is left out for that group.
            By default 1/16, 1/8, 1/4, 1/2, 1, 2 and 4 times the stable latents as far as there are so many, and all unstable
            latents if these are fewer than 4 times the stable ones.
        n_draws: How many random orders of each class.
        context_size: Tokens per context.
        max_tokens: Tokens read, at most.
        max_ce_tokens: Of these, how many cross-entropy is measured on, at most, in whole contexts; 0 or None for no cross-entropy.
        batch_size: Contexts per forward pass.
        autocast: Run the model in bfloat16, as SAELens' `autocast_lm` does; the SAE keeps its precision.
        seed: Which contexts of the text are read, and which latents are masked.
        show_progress: Show progress bars.

    Returns:
        A row for every group, count and draw.

    Raises:
        ValueError: The SAE is not the report's; the report has no stable or no unstable latents there; a count is out of range for
            all groups; the text is too short, one string or not a sequence; the SAE names no hook, is a transcoder, has a
            normalisation that was not folded, is a residual SAE by itself, or does not decode to a sum of decoder rows; no latent
            fires; the model has no such hook, another width there, or SAEs attached, or reads fewer tokens; something is NaN or
            infinite.
    """
    for what, value in (
        ("n_draws", n_draws),
        ("context_size", context_size),
        ("max_tokens", max_tokens),
        ("batch_size", batch_size),
        ("max_ce_tokens", max_ce_tokens or 1),
    ):
        require_positive_int("masking_curve", what, value)
    if isinstance(texts, Mapping):
        raise ValueError(
            "masking_curve was given texts as a mapping. Give a sequence of documents, such as one of its values."
        )
    require_texts("masking_curve", {TEXT: texts})
    require_detached(model)
    sae, fingerprint = _require_anchor_sae(sae, report, anchor)
    name = report.names[anchor]
    site = site_of("masking_curve", name, sae)
    find_hook_point(model, site.hook_name)
    stable, unstable = (_require_members(report, label, anchor) for label in (STABLE, UNSTABLE))
    sizes = mask_counts(counts, len(stable), len(unstable))

    tokens = pack_texts(model, {TEXT: texts}, context_size=context_size, max_tokens=max_tokens, seed=seed)
    n_with_losses = min(len(tokens[TEXT]), max(1, max_ce_tokens // context_size)) if max_ce_tokens else 0
    reader = TextReader(model, name, sae, site, special_tokens(model), autocast)
    batches = list(split_batches(tokens[TEXT], n_with_losses, batch_size))
    readings = [
        reader.read(batch, with_losses)
        for batch, with_losses in tqdm(batches, desc="Reading", disable=not show_progress)
    ]
    reader.require_enough(with_losses=n_with_losses > 0)

    maskings = draw_maskings(stable, unstable, sizes, reader.fired, n_draws=n_draws, seed=seed)
    totals = [_Totals.of(masking, reader) for masking in maskings]
    with tqdm(total=len(readings) * len(totals), desc="Masking", disable=not show_progress) as progress:
        for reading in readings:
            for total in totals:
                total.add(reading, reader)
                progress.update()
    return MaskingCurve(
        rows=_rows(totals, reader),
        sae=name,
        n_stable=len(stable),
        n_unstable=len(unstable),
        ev=reader.ev,
        ce=reader.mean_loss(reader.clean_losses),
        ce_with=reader.mean_loss(reader.losses_with),
        n_tokens=reader.n_tokens,
        n_predictions=reader.n_predictions,
        provenance=report_provenance(
            report,
            model_name=model_name(model, sae),
            hook_name=site.hook_name,
            sae_fingerprint=fingerprint,
            tokens_sha256=tokens_read(tokens)[TEXT],
            anchor=anchor,
            counts=list(sizes),
            n_draws=n_draws,
            context_size=context_size,
            max_tokens=max_tokens,
            max_ce_tokens=max_ce_tokens,
            autocast=autocast,
            seed=seed,
        ),
    )


@dataclass(frozen=True, eq=False)
class _Totals:
    """Sums over the batches with each set of a masking set to 0."""

    masking: Masking
    steps: torch.Tensor
    squared_error: torch.Tensor
    losses: torch.Tensor

    @classmethod
    def of(cls, masking: Masking, reader: TextReader) -> "_Totals":
        squared_error, losses = torch.zeros(2, len(masking.counts), dtype=torch.float64)
        return cls(masking, masking.steps(len(reader.rows)).to(reader.device), squared_error, losses)

    def add(self, reading: Reading, reader: TextReader) -> None:
        masked = reading.masked(self.steps, reader.rows, len(self.masking.counts))
        errors = reading.error[:, None] + masked
        self.squared_error.add_(errors.square().sum(dim=(0, 2), dtype=torch.float64).cpu())
        if reading.x is not None:
            losses = [reading.losses(reader.site, masked[:, i]) for i in range(len(self.losses))]
            self.losses.add_(torch.stack([part.double().sum().cpu() for part in losses]))

    def rows(self, reader: TextReader) -> list[MaskingRow]:
        found: list[MaskingRow] = []
        for n, squared_error, losses in zip(
            self.masking.counts, self.squared_error.tolist(), self.losses.tolist(), strict=True
        ):
            members = self.masking.order[:n]
            found.append(
                MaskingRow(
                    group=self.masking.group,
                    n_masked=n,
                    draw=self.masking.draw,
                    ev=reader.explained_variance(squared_error),
                    ce=reader.mean_loss(losses),
                    mean_firing_rate=float(reader.fired[members].double().mean()) / reader.n_tokens,
                    share_of_activation=float(reader.activity[members].sum() / reader.activity.sum()),
                )
            )
        return found


def _rows(totals: Sequence[_Totals], reader: TextReader) -> tuple[MaskingRow, ...]:
    """Give all rows by group, draw and count, each curve from where nothing is masked."""
    ce_with = reader.mean_loss(reader.losses_with)
    curves = {(total.masking.group, total.masking.draw) for total in totals}
    rows = [MaskingRow(group, 0, draw, reader.ev, ce_with, None, 0.0) for group, draw in curves]
    rows += [row for total in totals for row in total.rows(reader)]
    return tuple(sorted(rows, key=lambda row: (GROUPS.index(row.group), row.draw, row.n_masked)))


def _require_anchor_sae(sae: Any, report: Any, anchor: int) -> tuple[SAE[Any], str]:
    """Give the SAE in its inference form, and its fingerprint, if it is the one that the report has at this position."""
    if not isinstance(report, StabilityReport):
        raise ValueError(
            f"masking_curve was given {type(report).__name__} as report. Give the StabilityReport that feature_stability found."
        )
    report.require_anchor(anchor)
    name = report.names[anchor]
    if not isinstance(sae, SAE):
        raise ValueError(
            f"masking_curve was given sae of type {type(sae).__name__}. Give the SAE {name!r} itself; load_sae(folder) loads one."
        )
    d_sae = len(report.included[anchor])
    if sae.cfg.d_sae != d_sae:
        raise ValueError(
            f"masking_curve was given an SAE with d_sae = {sae.cfg.d_sae}, but the report's SAE at anchor = {anchor}, {name!r}, has {d_sae} "
            "latents. Give that SAE, or the anchor that this one is."
        )
    inference = as_inference(sae)
    found = weights_fingerprint(inference)
    known = mistaken_for(found, name, report)
    if known is not None:
        what = (
            f"It is the report's {known[0]!r}: give anchor = {report.names.index(known[0])}."
            if known
            else "It is none of the report's SAEs. Give one that feature_stability was given."
        )
        raise ValueError(
            f"masking_curve was given an SAE whose weights are not those of the report's SAE at anchor = {anchor}, {name!r}. {what}"
        )
    return inference, found


def _require_members(report: StabilityReport, label: str, anchor: int) -> torch.Tensor:
    members = report.members(label, anchor)
    if len(members) == 0:
        raise ValueError(
            f"The report has no {label} latents of {report.names[anchor]!r} (anchor = {anchor}), so that there is nothing to compare. Give a "
            "report over other SAEs, or with another threshold or firing floor."
        )
    return members
