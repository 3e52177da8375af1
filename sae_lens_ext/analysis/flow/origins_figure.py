"""The picture of where features come from."""

from html import escape
from typing import TYPE_CHECKING

from sae_lens_ext.analysis.flow.colours import ORIGIN_COLOURS

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from sae_lens_ext.analysis.flow.origins import FeatureOrigins


def origins_figure(origins: "FeatureOrigins") -> "go.Figure":
    """Draw each feature by s(R) (across) and the larger of s(M) and s(A) (up); a score that is not there counts as 0."""
    import plotly.graph_objects as go

    frame = origins.to_frame()
    modules = [f"{kind}_score" for kind in ("mlp", "attention") if kind in origins.scores]
    up = frame[modules].max(axis=1).fillna(0) if modules else frame["feature"] * 0.0
    across = frame["residual_score"].fillna(0) if "residual" in origins.scores else frame["feature"] * 0.0
    figure = go.Figure()
    for origin, colour in ORIGIN_COLOURS.items():
        part = frame["origin"] == origin
        figure.add_scatter(
            x=across[part],
            y=up[part],
            mode="markers",
            name=f"{origin} ({part.sum()})",
            marker={"color": colour, "size": 5, "opacity": 0.7},
            text=frame["feature"][part],
            hovertemplate="feature %{text}<br>s(R) %{x:.2f}<br>s(M) or s(A) %{y:.2f}<extra></extra>",
        )
    return figure.update_layout(
        title=f"Where the features of {escape(str(origins.provenance.get('hook') or 'the target'), quote=False)} come from",
        xaxis_title="s(R): best cosine with the stream one layer before",
        yaxis_title="largest of s(M) and s(A)",
        template="plotly_white",
    )
