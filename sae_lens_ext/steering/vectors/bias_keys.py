"""What Hugging Face calls the bias on an MLP's last projection, and which layer such a name means."""

import re
from collections.abc import Iterable

BIAS_KEY = re.compile(r"(?:.*\.)?layers\.(\d+)\.mlp\.down_proj(?:\.base_layer)?\.bias")
"""With any prefix, as PEFT, compiled and wrapped models have; PEFT keeps what it adapts in `base_layer`."""
HF_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)")


def bias_keys(where: str, keys: Iterable[str]) -> dict[int, str]:
    """Give the names of the biases by layer, ascending; none if there are none.

    Args:
        where: What has these names, for the message.
        keys: All names.

    Raises:
        ValueError: Two are of one layer.
    """
    found: dict[int, str] = {}
    for key in keys:
        match = BIAS_KEY.fullmatch(
            key.replace("_original_component.", "")
        )  # of a model that a bridge has wrapped
        if match is None:
            continue
        layer = int(match[1])
        if layer in found:
            raise ValueError(
                f"{where} has two biases of layer {layer}, {found[layer]!r} and {key!r}, as models of several parts have. Take those of one part, and give "
                "SteeringVectors({layer: bias, ...})."
            )
        found[layer] = key
    return {layer: found[layer] for layer in sorted(found)}


def some(keys: Iterable[str], at_most: int = 5) -> str:
    """Show some names in a message."""
    names = list(keys)
    shown = ", ".join(map(repr, names[:at_most]))
    more = len(names) - at_most
    return (f"{shown} and {more} more" if more > 0 else shown) or "no names at all"
