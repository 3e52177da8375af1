"""The page of an augmentation: what was gained where, what it cost elsewhere, and what the new latents are."""

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sae_lens_ext.analysis.new_latents.page import SECTION_CSS
from sae_lens_ext.cli.augment.plan import ALONE, Plan

if TYPE_CHECKING:
    import pandas as pd

    from sae_lens_ext.analysis.domains import DomainReport
    from sae_lens_ext.analysis.new_latents import NewLatents

CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 76rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.table { overflow-x: auto; }
.table table { border-collapse: collapse; border: 0; font-variant-numeric: tabular-nums; }
.table th, .table td { text-align: right; padding: .3rem .8rem; border: 0; border-bottom: 1px solid #ddd; white-space: nowrap; }
.table th:nth-child(-n+2), .table td:nth-child(-n+2) { text-align: left; }
.note { color: #555; }
code { background: #f2f2f2; padding: .1rem .3rem; border-radius: 3px; }
"""


def page(
    plan: Plan,
    trained: Mapping[str, Mapping[str, Any]],
    report: "DomainReport",
    latents: Mapping[str, "NewLatents"],
    not_native: str | None,
) -> str:
    """Write one self-contained HTML page.

    Args:
        plan: What was done.
        trained: For each domain, the tokens and seconds of its training.
        report: The measurements.
        latents: The new latents of each domain.
        not_native: Why there is no native form, or None if there is one.
    """
    base = plan.base_path or f"{plan.base_release}/{plan.base_sae_id}"
    figure = report.plot().to_html(full_html=False, include_plotlyjs=True)
    domains = "".join(
        f"<li><strong>{html.escape(name)}</strong>: {plan.d_sae:,} latents, {plan.k:g} a token on average, trained on "
        f"{record['tokens']:,} tokens of <code>{html.escape(plan.domains[name])}</code>"
        + (
            f", {plan.general_fraction:.0%} of them from <code>{html.escape(str(plan.general))}</code>"
            if plan.general_fraction
            else ""
        )
        + f", in {record['seconds'] / 60:.1f} minutes</li>"
        for name, record in trained.items()
    )
    sections = "".join(
        f"<h2>What the latents of {html.escape(name)} are</h2>\n{found.html_section()}"
        for name, found in latents.items()
    )
    native = (
        "The folder <code>native</code> holds base and domains as one ordinary SAELens <code>jumprelu</code> SAE."
        if not_native is None
        else html.escape(not_native)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(base)}, augmented</title>
<style>{CSS}{SECTION_CSS}</style>
</head>
<body>
<h1>An SAE augmented with {html.escape(", ".join(plan.domains))}</h1>
<p class="note">Base: <code>{html.escape(base)}</code>, at <code>{html.escape(plan.hook)}</code> of
<code>{html.escape(plan.model)}</code>; it was not changed.</p>
<ul>{domains}</ul>
<p>{native}</p>
<h2>Gained, and at what cost</h2>
{figure}
<div class="table">{_table(report.to_frame(), lambda x: f"{x:.3f}")}</div>
<p class="note">Documents on which no domain was trained (the base may have been), {_tokens(report)} tokens of each text. ev: explained variance. ce:
cross-entropy of the model left alone, ce_with: with the SAE's reconstruction in place of its activations, in nats per
token. ce_score: 1 costs nothing, 0 as much as zeros in their place. l0: latents per token.</p>
<h2>Against the base</h2>
<div class="table">{_table(report.changes(ALONE), lambda x: f"{x:+.1%}")}</div>
<p class="note">ev_change: relative change of explained variance, more is better. ce_increase_change: relative change of
what splicing the SAE in adds to the cross-entropy, less is better.</p>
{sections}
</body>
</html>
"""


def _table(frame: "pd.DataFrame", number: Any) -> str:
    return frame.to_html(index=False, float_format=number, border=0)


def _tokens(report: "DomainReport") -> str:
    counts = sorted({row.n_tokens for row in report.measurements})
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
