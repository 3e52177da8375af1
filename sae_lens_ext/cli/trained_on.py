"""What an SAE was trained on: what the user says, else what its metadata say."""

from typing import Any

from sae_lens import SAE

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.sources import EMBEDDED_MODEL, default_model_class
from sae_lens_ext.embedded.model import MODEL_NAME


def model_of(sae: SAE[Any], named: str | None) -> str:
    """Say which model an SAE was trained on: the one the user names, else the one its metadata name.

    Raises:
        CommandError: Neither does.
    """
    name = named or sae.cfg.metadata.model_name
    if name is None:
        raise CommandError("The SAE does not say which model it was trained on. Name it with --model.")
    return EMBEDDED_MODEL if name in (EMBEDDED_MODEL, MODEL_NAME) else name


def hook_of(sae: SAE[Any], named: str | None) -> str:
    """Say where an SAE reads: where the user says, else where its metadata say.

    Raises:
        CommandError: Neither does.
    """
    name = named or sae.cfg.metadata.hook_name
    if name is None:
        raise CommandError("The SAE does not say which hook it was trained on. Name it with --hook.")
    return name


def model_class_of(sae: SAE[Any], model: str, named: str | None) -> str:
    """Say as what class to load the model: the user's, else what its metadata say, else the usual one."""
    if named is not None:
        return named
    recorded = sae.cfg.metadata.model_class_name
    return recorded if recorded is not None and model != EMBEDDED_MODEL else default_model_class(model)
