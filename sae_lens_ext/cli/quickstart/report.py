"""The quickstart's table and its HTML page, from the measurements."""

import html
from typing import TYPE_CHECKING, Any

from sae_lens_ext.cli.quickstart.plan import HIERARCHICAL, KRON, TOPK_BUDGETS, Plan, topk_name

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLUMNS: tuple[str, ...] = ("SAE", "k", "EV", "CE score", "L0", "dead", "parameters", "on disk")
INK, MUTED, ACCENT, SECOND = "#1b1b1b", "#9a9a9a", "#0b5cad", "#c2510c"


def table(rows: list[dict[str, Any]]) -> str:
    """Lay the measurements out as a Markdown table."""
    cells = [list(COLUMNS), *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]

    def line(words: list[str]) -> str:
        aligned = [
            w.ljust(n) if i == 0 else w.rjust(n) for i, (w, n) in enumerate(zip(words, widths, strict=True))
        ]
        return f"| {' | '.join(aligned)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (n - 1) + ":" for n in widths[1:])]
    return "\n".join([line(cells[0]), line(rule), *(line(words) for words in cells[1:])])


def figure(rows: list[dict[str, Any]], curves: dict[str, Any]) -> "go.Figure":
    """Draw explained variance against k: HierarchicalTopK at every k, the others at theirs."""
    import plotly.graph_objects as go

    drawing = go.Figure()
    for k in TOPK_BUDGETS:
        drawing.add_scatter(
            x=curves[topk_name(k)]["k"],
            y=curves[topk_name(k)]["explained_variance"],
            mode="lines",
            line={"color": MUTED, "width": 1, "dash": "dot"},
            name="TopK SAEs, fewer latents than trained with",
            legendgroup="truncated",
            showlegend=k == TOPK_BUDGETS[0],
            hovertemplate=f"TopK trained at k = {k}<br>run at k = %{{x}}: EV %{{y:.3f}}<extra></extra>",
        )
    drawing.add_scatter(
        x=curves[HIERARCHICAL]["k"],
        y=curves[HIERARCHICAL]["explained_variance"],
        mode="lines",
        line={"color": ACCENT, "width": 3},
        name="one HierarchicalTopK SAE, at every k",
        hovertemplate="HierarchicalTopK at k = %{x}: EV %{y:.3f}<extra></extra>",
    )
    for title, names, symbol, colour in (
        ("four TopK SAEs, each at its k", [topk_name(k) for k in TOPK_BUDGETS], "circle", INK),
        ("one Kron SAE", [KRON], "diamond", SECOND),
    ):
        chosen = [row for row in rows if row["sae"] in names]
        drawing.add_scatter(
            x=[row["k"] for row in chosen],
            y=[row["explained_variance"] for row in chosen],
            mode="markers",
            marker={"color": colour, "size": 11, "symbol": symbol},
            name=title,
            hovertemplate="%{text} at k = %{x}: EV %{y:.3f}<extra></extra>",
            text=[row["sae"] for row in chosen],
        )
    ticks = [1, 2, 4, 8, 16, 32, 64]
    drawing.update_layout(
        template="simple_white",
        xaxis={
            "title": "latents per token, k",
            "type": "log",
            "tickvals": ticks,
            "ticktext": list(map(str, ticks)),
        },
        yaxis={"title": "explained variance on held-out text", "rangemode": "tozero"},
        legend={"x": 0.98, "y": 0.04, "xanchor": "right", "yanchor": "bottom"},
        margin={"l": 70, "r": 20, "t": 20, "b": 60},
        height=480,
    )
    return drawing


def page(plan: Plan, measured: dict[str, Any], trained: dict[str, Any]) -> str:
    """Write one self-contained HTML page: what was trained, the curve, the table."""
    rows = measured["rows"]
    header = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in _cells(row))}</tr>" for row in rows
    )
    drawing = figure(rows, measured["curves"]).to_html(full_html=False, include_plotlyjs=True)
    eval_tokens = plan.eval_batches_ev * plan.eval_batch_prompts * plan.context_size
    ce_tokens = plan.eval_batches_ce * plan.eval_batch_prompts * plan.context_size
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sae_lens_ext quickstart</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: {INK}; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin-bottom: .2rem; }}
h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }}
th, td {{ text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #ddd; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
.note {{ color: #555; }}
code {{ background: #f2f2f2; padding: .1rem .3rem; border-radius: 3px; }}
</style>
</head>
<body>
<h1>One SAE at every sparsity, against four</h1>
<p class="note">Six SAEs with {plan.d_sae} latents, trained together in one pass over {plan.training_tokens:,} tokens of
<code>{html.escape(plan.dataset)}</code> at <code>{html.escape(plan.hook)}</code> of
<code>{html.escape(plan.model)}</code>, in {trained["seconds"] / 60:.1f} minutes.</p>
{drawing}
<h2>Measurements</h2>
<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>
<p class="note">Held-out documents: explained variance and L0 on {eval_tokens:,} tokens, CE score (1 when splicing in
the SAE costs no cross-entropy, 0 when it costs as much as zeroing the activations) on {ce_tokens:,}. Dead: latents
that fire on none of those {eval_tokens:,} tokens. HierarchicalTopK is one set of weights, at four budgets. These are few tokens: the order of the architectures can change with more.</p>
</body>
</html>
"""


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["sae"],
        str(row["k"]),
        f"{row['explained_variance']:.3f}",
        f"{row['ce_loss_score']:.3f}",
        f"{row['l0']:.1f}",
        str(row["dead_latents"]),
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['bytes_on_disk'] / 2**20:.1f} MiB",
    ]
