"""Several steerings in one figure, if their scores compare."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sae_lens_ext.steering.dose_response.result import DoseResponse

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MEASURED_ALIKE = ("model_name", "behaviour", "max_new_tokens", "temperature", "top_p")


def plot_dose_responses(responses: Mapping[str, DoseResponse]) -> "go.Figure":
    """Draw the scores of several steerings against their strengths, with intervals.

    Args:
        responses: By name, such as {"single layer": a, "cumulative": b}: of one mode and one model, on the same prompts.

    Returns:
        The figure, not shown.

    Raises:
        ValueError: There are none, or they differ in mode, prompts, model, behaviour, or in how they were sampled, so that their scores
            do not compare.
    """
    if not isinstance(responses, Mapping) or not responses:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"plot_dose_responses was given {type(responses).__name__} without entries by name. Give a mapping such as "
            '{"single layer": a, "cumulative": b}.'
        )
    first_name, first = next(iter(responses.items()))
    for name, response in responses.items():
        if not isinstance(response, DoseResponse):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"plot_dose_responses was given {type(response).__name__} as {name!r}. Give what dose_response returns."
            )
        ours, theirs = _what_must_agree(first), _what_must_agree(response)
        differing = next((what for what in ours if ours[what] != theirs[what]), None)
        if differing is not None:
            raise ValueError(
                f"plot_dose_responses was given {first_name!r} and {name!r}, which differ in {differing} ({ours[differing]!r:.60} and "
                f"{theirs[differing]!r:.60}), so that their scores do not compare. Measure both alike."
            )
    from sae_lens_ext.steering.dose_response.figure import compared

    return compared(responses)


def _what_must_agree(response: DoseResponse) -> dict[str, Any]:
    noted = {name: response.provenance.get(name) for name in _MEASURED_ALIKE}
    return {"mode": response.mode, "prompts": response.prompts, **noted}
