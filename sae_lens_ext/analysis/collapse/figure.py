"""The picture of representation collapse: entropy and separability by layer, of one report or several."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sae_lens_ext.analysis.collapse.result import CollapseReport, Measure

if TYPE_CHECKING:
    import plotly.graph_objects as go

Reports = Mapping[str, CollapseReport | Sequence[CollapseReport]]
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_EACH_LAYER = 12
"""Layers up to which each has its number on the axis."""
_NULL_COLOUR = "#888888"
_MEASURES: tuple[Measure, ...] = ("entropy", "separability")


def plot_collapse(
    reports: Reports, *, measure: Measure | None = None, sites: Sequence[str] | None = None
) -> "go.Figure":
    """Draw entropy and separability by layer, of several models together; returns the figure without showing it.

        plot_collapse({"plain": plain, "LIMe": with_lime})
        plot_collapse({"plain": [plain_of_seed_0, plain_of_seed_1], "LIMe": [...]})

    One report by itself has a colour for each site; several have one each, and their sites a dash each. Bands: of one report the 95 % interval of the mean
    entropy over sequences, and one standard deviation over folds either way of the accuracy; of several seeds, whose mean is drawn, from the lowest to the highest. Grey
    lines: the entropy's maximum, ln min(t, d), and chance.

    Args:
        reports: By name, a report or those of several seeds.
        measure: "entropy" or "separability" alone; None for both, or for entropy if a report has no separability.
        sites: Which to draw; all by default. A report without one is drawn without it.

    Raises:
        ValueError: There is no report, or none with such a site, or one lacks the measure; reports are of other orders, or those of one name
            of other sites or layers.
    """
    import plotly.graph_objects as go
    from plotly.colors import qualitative
    from plotly.subplots import make_subplots

    groups = _groups(reports)
    everyone = [report for group in groups.values() for report in group]
    measures = _measures(everyone, measure)
    known = list(dict.fromkeys(site for report in everyone for site in report.sites))
    drawn = known if sites is None else list(sites)
    if isinstance(sites, str) or not drawn or any(site not in known for site in drawn):
        raise ValueError(
            f"plot_collapse was given sites = {sites!r}. Give some of {', '.join(map(repr, known))}."
        )
    alpha = everyone[0].alphas[0]
    titles = {
        "entropy": f"matrix entropy, α = {alpha:g}, nats",
        "separability": f"separability of {len(everyone[0].words)} words, accuracy",
    }
    drawing = make_subplots(
        rows=1, cols=len(measures), subplot_titles=[titles[one] for one in measures], horizontal_spacing=0.08
    )
    colours = qualitative.Safe
    for column, one in enumerate(measures, start=1):
        at: Any = {"row": 1, "col": column}
        for i, (name, group) in enumerate(groups.items()):
            for j, site in enumerate(drawn):
                if site not in group[0].layers:
                    continue
                colour = colours[(i if len(groups) > 1 else j) % len(colours)]
                line: dict[str, Any] = {
                    "color": colour,
                    "dash": _DASHES[j % len(_DASHES)] if len(groups) > 1 else "solid",
                }
                label = " · ".join(
                    part for part in (name, site if len(drawn) > 1 or len(groups) == 1 else "") if part
                )
                label = escape(label, quote=False)  # plotly would take it for markup
                x = np.array(group[0].layers[site])
                middle, low, high = _line(group, site, one)
                drawing.add_trace(_band(x, low, high, colour, label), row=1, col=column)
                drawing.add_trace(
                    go.Scatter(
                        x=x,
                        y=middle,
                        mode="lines+markers",
                        marker={"size": 4},
                        line=line,
                        name=label,
                        legendgroup=label,
                        showlegend=column == 1,
                        customdata=np.stack([low, high], axis=1),
                        hovertemplate="layer %{x}: %{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
                    ),
                    row=1,
                    col=column,
                )
        for height in sorted(
            {round(value, 9) for report in everyone for value in _references(report, drawn, one)}
        ):
            drawing.add_hline(y=height, line={"color": _NULL_COLOUR, "dash": "dot", "width": 1}, **at)
    last = max(layer for report in everyone for site in drawn for layer in report.layers.get(site, ()))
    drawing.update_xaxes(dtick=1 if last < _EACH_LAYER else None)
    drawing.update_xaxes(title_text="layer (−1: before block 0)" if "residual" in drawn else "layer")
    if "separability" in measures:
        drawing.update_yaxes(rangemode="tozero", row=1, col=len(measures))
    return drawing.update_layout(
        template="plotly_white",
        legend={"orientation": "h", "y": -0.22},
        margin={"l": 60, "r": 20, "t": 50, "b": 60},
        height=440,
    )


def _groups(reports: Any) -> dict[str, list[CollapseReport]]:
    """Give the reports of each name as a list, if they can be drawn together."""
    if not isinstance(reports, Mapping) or not reports:
        raise ValueError(
            'plot_collapse draws reports by name. Give a mapping with an entry, such as {"plain": report}.'
        )
    several: dict[str, Any] = {str(name): of for name, of in reports.items()}
    groups: dict[str, list[Any]] = {
        name: list(of) if isinstance(of, (list, tuple)) else [of] for name, of in several.items()
    }
    for name, group in groups.items():
        if not group or any(not isinstance(report, CollapseReport) for report in group):
            raise ValueError(
                f"plot_collapse was given no report as {name!r}. Give a CollapseReport, or a sequence of those of several seeds."
            )
        if any(report.layers != group[0].layers for report in group):
            raise ValueError(
                f"plot_collapse was given reports of other sites or layers as {name!r}. Give those of one model by different seeds."
            )
        alike = {(r.provenance.get("skip_positions"), r.provenance.get("context_size")) for r in group}
        if len(alike) > 1:
            raise ValueError(
                f"plot_collapse was given reports of other skip_positions or context_size as {name!r}: {sorted(map(str, alike))}. Give reports that were measured alike."
            )
    everyone = [report for group in groups.values() for report in group]
    orders = {report.alphas[0] for report in everyone}
    if len(orders) > 1:
        raise ValueError(
            f"plot_collapse was given reports whose first orders are {sorted(orders)}. Give reports that were measured alike."
        )
    if len({report.provenance.get("z_score") for report in everyone}) > 1:
        raise ValueError(
            "plot_collapse was given reports with z-scoring and without. Give reports that were measured alike."
        )
    return groups


def _measures(reports: Sequence[CollapseReport], measure: Any) -> tuple[Measure, ...]:
    if measure is not None and measure not in _MEASURES:
        raise ValueError(
            f"plot_collapse was given measure = {measure!r}. Give 'entropy', 'separability', or None for both."
        )
    has_words = all(report.words for report in reports)
    if measure == "separability" and not has_words:
        raise ValueError(
            "There is no separability in this report: it was measured with words=None. Measure again with words."
        )
    measures = (measure,) if measure is not None else _MEASURES if has_words else _MEASURES[:1]
    told_apart = {report.words for report in reports}
    if "separability" in measures and len(told_apart) > 1:
        raise ValueError(
            f"plot_collapse was given reports that tell other words apart: {sorted(told_apart)}. Give reports that were measured alike, or measure='entropy'."
        )
    return measures


def _line(
    group: Sequence[CollapseReport], site: str, measure: Measure
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Give the height of a line and its band, [layers] each."""
    if measure == "entropy":
        estimates = [report.entropy[site] for report in group]
        values = np.array([[e.value for e in of] for of in estimates])
        low = np.array([[e.value if e.low is None else e.low for e in of] for of in estimates])
        high = np.array([[e.value if e.high is None else e.high for e in of] for of in estimates])
    else:
        values = np.array([report.separability[site] for report in group])
        spread = np.array([report.separability_spread[site] for report in group])
        low, high = values - spread, values + spread
    return (values[0], low[0], high[0]) if len(group) == 1 else (values.mean(0), values.min(0), values.max(0))


def _band(x: NDArray[Any], low: NDArray[Any], high: NDArray[Any], colour: str, label: str) -> "go.Scatter":
    import plotly.graph_objects as go

    return go.Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        mode="none",
        fill="toself",
        fillcolor=colour.replace("rgb(", "rgba(").replace(")", ", 0.2)"),
        hoverinfo="skip",
        legendgroup=label,
        showlegend=False,
    )


def _references(report: CollapseReport, sites: Sequence[str], measure: Measure) -> list[float]:
    """Give the maximum of the entropy at each site, or chance."""
    if measure == "separability":
        return [report.chance or 0.0]
    return [report.max_entropy[site] for site in sites if site in report.max_entropy]
