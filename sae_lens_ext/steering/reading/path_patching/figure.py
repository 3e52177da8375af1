"""Pictures of what each path mode leaves of a vector's effect: bars by mode, and maps of single heads."""

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sae_lens_ext.bootstrap import Estimate
from sae_lens_ext.steering.reading.path_patching.modes import PARTS, PathMode
from sae_lens_ext.steering.reading.path_patching.result import PathPatching, PathRow

_BARS = (  # colours of Okabe and Ito's palette
    ("effect_kept", "effect kept", "#0072B2", ".1%"),
    ("kl_to_reference", "KL({reference}‖mode), nats per token", "#D55E00", ".2g"),
    ("reward", "mean reward", "#009E73", ".3f"),
)
_LAYOUT: dict[str, Any] = {"template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 100, "b": 50}}


def bars_figure(result: PathPatching) -> go.Figure:
    """Draw each measure by mode of the whole block, with its interval."""
    rows = [row for row in result.rows if not PathMode.parse(row.mode).of_head]
    panels = [panel for panel in _BARS if any(getattr(row, panel[0]) is not None for row in rows)]
    titles = [title.format(reference=result.reference) for _, title, _, _ in panels]
    drawing = make_subplots(rows=1, cols=len(panels), subplot_titles=titles, horizontal_spacing=0.09)
    for column, (name, _, colour, form) in enumerate(panels, start=1):
        _add_bars(drawing, rows, name, colour, form, row=1, col=column)
    drawing.update_layout(**_LAYOUT, height=420, showlegend=False, title=_title(result))
    return drawing


def heads_figure(result: PathPatching) -> go.Figure:
    """Draw a map, q, k and v × head, of what is lost with one head vanilla, and of what is won with only one steered.

    Raises:
        ValueError: No mode of a single head was measured.
    """
    rows = [(mode, row) for row in result.rows if (mode := PathMode.parse(row.mode)).of_head]
    if not rows:
        raise ValueError(
            'No mode of a single head was measured. Call path_patching with heads="all", or with such as "vanilla:q:3" among the modes.'
        )
    maps = [
        ([(mode, row) for mode, row in rows if mode.kind == kind], *_measured(kind, result))
        for kind in ("vanilla", "only")
        if any(mode.kind == kind for mode, _ in rows)
    ]
    gap = 0.28 if len(maps) > 1 else 0.0
    drawing = make_subplots(
        rows=len(maps), cols=1, subplot_titles=[title for _, title, _ in maps], vertical_spacing=gap
    )
    height = (1 - gap) / len(maps)
    form = ".2f" if all(row.effect_kept is None for row in result.rows) else ".2%"
    for row, (pairs, _, value) in enumerate(maps, start=1):
        middle = 1 - (row - 1) * (height + gap) - height / 2
        _add_map(drawing, pairs, value, {"y": middle, "len": height}, form, row=row, col=1)
    drawing.update_layout(**_LAYOUT, height=130 + 220 * len(maps), title=_title(result))
    return drawing


def _title(result: PathPatching) -> dict[str, Any]:
    said = f"The vector of layer {result.layer} enters block {result.layer + 1}"
    if result.n_tokens:
        said += f"; {result.n_tokens} generated tokens of {result.n_sequences} sequences"
    return {"text": said, "font_size": 15}


def _add_bars(
    drawing: go.Figure, rows: Sequence[PathRow], name: str, colour: str, form: str, **panel: Any
) -> None:
    shown: list[tuple[str, Estimate]] = [
        (row.mode, found) for row in rows if (found := getattr(row, name)) is not None
    ]
    drawing.add_bar(
        x=[mode for mode, _ in shown],
        y=[found.value for _, found in shown],
        error_y={
            "array": [0.0 if found.high is None else found.high - found.value for _, found in shown],
            "arrayminus": [0.0 if found.low is None else found.value - found.low for _, found in shown],
            "color": "#444444",
        },
        marker_color=colour,
        **panel,
    )
    # Below the bars, where no interval crosses it.
    labels = [f"{mode}<br>{found.value:{form}}" for mode, found in shown]
    drawing.update_xaxes(tickvals=[mode for mode, _ in shown], ticktext=labels, tickangle=0, **panel)
    drawing.update_yaxes(rangemode="tozero", tickformat=".0%" if form.endswith("%") else None, **panel)


def _measured(kind: str, result: PathPatching) -> tuple[str, Callable[[PathRow], float | None]]:
    """Say what a map shows, and how to have it of a row."""
    if all(row.effect_kept is None for row in result.rows):
        said = "without" if kind == "vanilla" else "with"
        return f"mean reward, only this head {said} the vector", lambda row: _value(row.reward)
    if kind == "vanilla":
        return (
            "share of the effect lost where this head alone reads without the vector",
            lambda row: None if row.effect_kept is None else 1 - row.effect_kept.value,
        )
    without = next((row.effect_kept for row in result.rows if row.mode == "skip_attn"), None)
    if without is None:
        return "effect kept where of all q, k, v this one alone reads the vector", lambda row: _value(
            row.effect_kept
        )
    return (
        "share of the effect won over skip_attn where of all q, k, v this one alone reads the vector",
        lambda row: None if row.effect_kept is None else row.effect_kept.value - without.value,
    )


def _value(found: Estimate | None) -> float | None:
    return None if found is None else found.value


def _add_map(
    drawing: go.Figure,
    pairs: Sequence[tuple[PathMode, PathRow]],
    value: Callable[[PathRow], float | None],
    bar: dict[str, float],
    form: str,
    **panel: Any,
) -> None:
    n_heads = 1 + max(mode.head or 0 for mode, _ in pairs)
    cells: list[list[float | None]] = [[None] * n_heads for _ in PARTS]
    for mode, row in pairs:
        if mode.part is not None and mode.head is not None:
            cells[PARTS.index(mode.part)][mode.head] = value(row)
    largest = max((abs(cell) for line in cells for cell in line if cell is not None), default=0.0) or 1.0
    drawing.add_heatmap(
        z=cells,
        x=[str(head) for head in range(n_heads)],
        y=list(PARTS),
        text=[["" if cell is None else f"{cell:{form}}" for cell in line] for line in cells],
        texttemplate="%{text}",
        hovertemplate="%{y} of head %{x}: %{z:.4g}<extra></extra>",
        hoverongaps=False,
        colorscale="RdBu_r",
        zmin=-largest,
        zmax=largest,
        colorbar={**bar, "thickness": 14, "tickformat": "~%" if form.endswith("%") else None},
        xgap=2,
        ygap=2,
        **panel,
    )
    drawing.update_xaxes(
        title_text="head (of k and v: key-value head)", type="category", showgrid=False, **panel
    )
    drawing.update_yaxes(autorange="reversed", showgrid=False, **panel)
