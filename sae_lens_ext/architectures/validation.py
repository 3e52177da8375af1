"""Checks that every configuration of ours makes at construction, each a full sentence."""

from collections.abc import Iterable
from typing import Any

from sae_lens import SAEConfig

# The modes that SAELens folds into the weights; the others scale each token by itself, and keep that scale on the SAE.
FOLDABLE_NORMALIZATIONS = ("none", "expected_average_only_in", "covariance_whitening")


def require_positive_int(owner: str, name: str, value: Any, maximum: int, maximum_name: str) -> None:
    """Raise ValueError unless `value` is an int in 1..maximum.

    Args:
        owner: Class the field belongs to, for the message.
        name: Field name.
        value: What the user gave.
        maximum: Largest value that makes sense.
        maximum_name: What that largest value is, for the message.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(
            f"{owner}.{name} must be a whole number, but {value!r} was given. "
            f"Give an int between 1 and {maximum_name} = {maximum}."
        )
    if not 1 <= value <= maximum:
        raise ValueError(
            f"{owner}.{name} = {value} is out of range. Give an int between 1 and {maximum_name} = {maximum}."
        )


def require_normalization(cfg: SAEConfig, supported: Iterable[str], why: str) -> None:
    """Raise ValueError if `cfg.normalize_activations` is a mode the architecture cannot honour.

    Args:
        cfg: The configuration under construction.
        supported: Modes that train, fold and save exactly.
        why: The reason, one sentence, for the message.
    """
    modes = tuple(supported)
    if cfg.normalize_activations not in modes:
        raise ValueError(
            f"{type(cfg).__name__}.normalize_activations = {cfg.normalize_activations!r} is not supported "
            f"by the architecture {cfg.architecture()!r}. {why} Use one of {', '.join(map(repr, modes))}."
        )
