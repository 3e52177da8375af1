"""Reading activations at a hook without running the model past it."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from sae_lens_ext.language_model.hook_points import hooked


@dataclass(frozen=True)
class Site:
    """Where an SAE reads and writes: a hook, and one head of it or all of them, flattened."""

    hook_name: str
    """As for `find_hook_point`."""
    head: int | None = None
    """The head, of a hook that has them; None for all (or for a hook without)."""

    def read(self, activations: torch.Tensor) -> torch.Tensor:
        """Give the activations [batch, pos, d_in] that an SAE of this site sees.

        Raises:
            ValueError: There are no heads at the hook, or not so many.
        """
        if self.head is not None:
            if activations.ndim != 4 or not 0 <= self.head < activations.shape[2]:
                raise ValueError(
                    f"The activations at {self.hook_name!r} have the shape {tuple(activations.shape)}, in which there is no "
                    f"head {self.head}. Heads are the third of four dimensions; set hook_head_index accordingly."
                )
            return activations[:, :, self.head]
        return activations.flatten(start_dim=2)

    def write(self, activations: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Give the activations with what an SAE of this site sees replaced by `new`, [batch, pos, d_in]."""
        if self.head is None:
            return new.reshape(activations.shape).to(activations.dtype)
        activations = activations.clone()
        activations[:, :, self.head] = new.to(activations.dtype)
        return activations


@torch.no_grad()
def read_activations(model: Any, tokens: torch.Tensor, site: Site, *, autocast: bool = False) -> torch.Tensor:
    """Run the model up to a hook and give the activations there.

    Args:
        model: A HookedTransformer, a TransformerBridge or SAELens' HookedProxyLM.
        tokens: Token ids [batch, pos].
        site: Where to read.
        autocast: Run the model in bfloat16, as SAELens' `autocast_lm` does.

    Returns:
        Activations [batch, pos, d_in], on the model's device.

    Raises:
        ValueError: The model has no such hook.
        RuntimeError: The hook never fired.
    """
    found: list[torch.Tensor] = []

    def keep_and_stop(activations: torch.Tensor) -> None:
        found.append(site.read(activations).clone())
        raise _Reached

    device = next(model.parameters()).device
    with (
        hooked(model, {site.hook_name: keep_and_stop}),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast),
        suppress(_Reached),
    ):
        model(tokens.to(device), return_type="logits")
    return found[0]


class _Reached(Exception):  # noqa: N818  it is no error
    """The hook has fired: the rest of the forward pass is not needed."""
