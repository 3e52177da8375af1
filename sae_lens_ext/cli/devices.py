"""The device that `--device` names, for this process."""

import torch

from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.ranks import own_device


def usable_device(name: str) -> str:
    """Give this rank's device, once something has been put there.

    Raises:
        CommandError: It is not there.
        ValueError: The ranks of this machine cannot have one each.
    """
    device = own_device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CommandError(
            f"--device {name} cannot be used here ({reason}). Give another, such as cpu."
        ) from error
    return device
