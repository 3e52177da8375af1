"""The pictures of a PredecessorActivity: shares of groups by layer, and which groups differ in which score."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

from sae_lens_ext.analysis.flow.activity.groups import GROUPS, LETTERS

if TYPE_CHECKING:
    import pandas as pd

_NOWHERE = "#bbbbbb"


def shares_figure(groups: "pd.DataFrame") -> go.Figure:
    """Draw a bar for each layer, stacked by group; the counts of all texts are added."""
    counts = groups.pivot_table(index="layer", columns="group", values="count", aggfunc="sum", observed=False)
    shares = counts.div(counts.sum(axis=1), axis=0)
    drawing = go.Figure()
    for i, group in enumerate(GROUPS):
        drawing.add_bar(
            x=[str(layer) for layer in shares.index],
            y=shares[group],
            name=group,
            marker_color=_NOWHERE if i == 0 else qualitative.Safe[i - 1],
            customdata=counts[group],
            hovertemplate=f"layer %{{x}}, {group}<br>%{{y:.1%}} (%{{customdata}})<extra></extra>",
        )
    drawing.update_xaxes(title_text="layer", type="category")
    drawing.update_yaxes(title_text="share of active features", tickformat=".0%", range=[0, 1])
    return drawing.update_layout(
        template="plotly_white",
        barmode="stack",
        legend={"title_text": "active predecessors"},
        margin={"l": 60, "r": 20, "t": 30, "b": 60},
        height=440,
    )


def tests_figure(significant: "pd.DataFrame", alpha: float) -> go.Figure:
    """Draw a panel for each score: of each pair of groups the share of tests with p < alpha; a pair never tested stays empty."""
    kinds = [kind for kind in LETTERS if kind in set(significant["score"])] or list(LETTERS)
    titles = [f"s({letter})" for kind, letter in LETTERS.items() if kind in kinds]
    drawing = make_subplots(rows=1, cols=len(kinds), subplot_titles=titles, shared_yaxes=True)
    for column, kind in enumerate(kinds, start=1):
        shares, tests = np.full((2, len(GROUPS), len(GROUPS)), np.nan)
        for row in significant[significant["score"] == kind].itertuples():
            i, j = GROUPS.index(str(row.group_1)), GROUPS.index(str(row.group_2))
            shares[i, j] = shares[j, i] = row.share
            tests[i, j] = tests[j, i] = row.tests
        drawing.add_heatmap(
            x=GROUPS,
            y=GROUPS,
            z=shares,
            customdata=tests,
            zmin=0,
            zmax=1,
            colorscale="Viridis",
            colorbar={"tickformat": ".0%", "title": {"text": f"tests with<br>p < {alpha:g}"}},
            showscale=column == len(kinds),
            hovertemplate="%{y} against %{x}<br>%{z:.0%} of %{customdata} tests<extra></extra>",
            row=1,
            col=column,
        )
    return drawing.update_layout(
        template="plotly_white", margin={"l": 90, "r": 20, "t": 50, "b": 90}, height=440
    )
