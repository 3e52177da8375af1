"""Checks that every configuration of ours makes at construction, each a full sentence."""

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from sae_lens import LanguageModelSAERunnerConfig, SAEConfig

# The modes whose numbers SAELens' trainer estimates before the first step and folds into the weights in the end.
ESTIMATED_NORMALIZATIONS = ("expected_average_only_in", "covariance_whitening")
# The others scale each token by itself, and keep that scale on the SAE.
FOLDABLE_NORMALIZATIONS = ("none", *ESTIMATED_NORMALIZATIONS)


def require_positive_int(
    owner: str, name: str, value: Any, maximum: int | None = None, maximum_name: str = ""
) -> None:
    """Raise ValueError unless `value` is an int in 1..maximum.

    Args:
        owner: Class or function the value was given to, for the message.
        name: Its name there.
        value: What the user gave.
        maximum: Largest value that makes sense, if there is one.
        maximum_name: What that largest value is, for the message.
    """
    limits = "of at least 1" if maximum is None else f"between 1 and {maximum_name} = {maximum}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(
            f"{owner}.{name} must be a whole number, but {value!r} was given. Give an int {limits}."
        )
    if value < 1 or (maximum is not None and value > maximum):
        raise ValueError(f"{owner}.{name} = {value} is out of range. Give an int {limits}.")


class RefusesUnknownFields:
    """Mixed into a training configuration: `from_dict` raises where SAELens drops an unknown key silently."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any]) -> Any:
        """Make the configuration from its fields by name.

        SAELens passes the fields of a whole runner's configuration at times, and adds one of its own when it loads from
        disk; these are let through.

        Raises:
            ValueError: There is no such field.
        """
        valid = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        runners = {field.name for field in fields(LanguageModelSAERunnerConfig)}
        unknown = sorted(set(config_dict) - valid - runners - {"architecture", "finetuning_scaling_factor"})
        if unknown:
            close = difflib.get_close_matches(unknown[0], valid, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"{cls.__name__} has no field {', '.join(map(repr, unknown))}.{hint} Remove or rename what was given."
            )
        return super().from_dict(config_dict)  # type: ignore[misc]


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
