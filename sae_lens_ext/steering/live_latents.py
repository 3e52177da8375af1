"""Changes of many latents of one SAE, which encodes the activations once for all of them."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from sae_lens import SAE
from sae_lens.saes.sae import _disable_hooks

from sae_lens_ext.architectures.head_reshaping import flat_heads
from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.architectures.residual_stack import ResidualStackSAE
from sae_lens_ext.steering.effects import LatentChange
from sae_lens_ext.steering.feature_checks import sae_name
from sae_lens_ext.steering.latent_encoding import EncoderColumns, full_encode

_known_linear: "WeakSet[SAE[Any]]" = WeakSet()


class LiveLatents:
    """Σ (gain_i · a_i + offset_i) · d_i over some latents of one SAE.

    Args:
        changes: Of one SAE; at least one. A latent may be among them more than once.

    Raises:
        ValueError: The SAE's output is no sum of decoder rows, or one of the rows is NaN or infinite.
    """

    def __init__(self, changes: Sequence[LatentChange]) -> None:
        self.sae = as_inference(changes[0].sae)
        """In its inference form."""
        device = self.sae.W_dec.device
        self.indices = torch.tensor([change.index for change in changes], device=device)
        self.gains = torch.tensor([change.gain for change in changes], device=device)
        self.offsets = torch.tensor([change.offset for change in changes], device=device)
        if not torch.isfinite(self.gains).all() or not torch.isfinite(self.offsets).all():
            raise ValueError(
                f"A feature of the SAE {sae_name(self.sae)!r} is multiplied by or set to more than float32 can hold, so that the activations would be infinite. Give "
                "a smaller factor or value."
            )
        with torch.inference_mode(False), torch.no_grad():
            self.rows = decoder_rows_at(self.sae, self.indices)
            self._columns = EncoderColumns.of(self.sae, self.indices)

    def delta(self, x: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
        """Give what is added to activations.

        Args:
            x: Activations [n, d_in], heads flattened, of any precision.
            chosen: At which tokens each change is made, [n, n_changes], bool; None for all at all.

        Returns:
            [n, d_in], in the SAE's precision, on the device of x.
        """
        with torch.autocast(self.rows.device.type, enabled=False):  # it would encode in bfloat16
            acts, token_scale = self.acts(x)
            coefficients = acts * self.gains.to(acts) + self.offsets.to(acts)
            if chosen is not None:
                coefficients = torch.where(chosen.to(acts.device), coefficients, 0)
            added = coefficients @ self.rows.to(acts)
            if token_scale is not None:
                added = added * token_scale
        return added.to(x.device)

    def acts(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Give the latents' activations [n, n_changes], and what the decoder's sum is multiplied by, [n, 1], or None.

        Nobody's hooks see this encoding, nor does an attached SAE's cache. Gradients reach x, and not the SAE's parameters.
        """
        if self._columns is not None:
            return self._columns.encode(x), None
        acts, token_scale = full_encode(self.sae, x)
        return acts[:, self.indices], token_scale


def decoder_rows_at(sae: SAE[Any], indices: torch.Tensor) -> torch.Tensor:
    """Give what latents add to the reconstruction at an activation of 1, before any scale of the token.

    Args:
        sae: An inference SAE that writes where it reads.
        indices: Latents [k].

    Returns:
        [k, d_in], in the SAE's precision.

    Raises:
        ValueError: The SAE's output is no sum of decoder rows, or one of them is NaN or infinite.
    """
    if sae.W_dec.shape != (sae.cfg.d_sae, sae.cfg.d_in):
        raise _no_sum(sae)
    rows = sae.W_dec[indices]
    if not torch.isfinite(rows).all():
        raise ValueError(
            f"The SAE {sae_name(sae)!r} has decoder rows with NaN or infinity in them. Load it from a save that is whole."
        )
    normed = sae.cfg.d_sae if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else 0
    if isinstance(sae, ResidualStackSAE) and sae.cfg.base_rescale_acts_by_decoder_norm:
        normed = sae.cfg.part_sizes[0]
    norms = torch.where(indices < normed, rows.norm(dim=-1), 1.0).to(rows.dtype)
    rows = rows / norms[:, None]
    if sae not in _known_linear:
        _require_sum(sae, indices, rows)
        _known_linear.add(sae)
    return rows


def _require_sum(sae: SAE[Any], indices: torch.Tensor, rows: torch.Tensor) -> None:
    """Raise ValueError unless decoding some latents, each with another activation, gives the sum of their rows."""
    weights = torch.linspace(1, 2, len(indices)).to(rows)
    acts = torch.zeros(2, sae.cfg.d_sae, dtype=rows.dtype, device=rows.device)
    acts[0].index_add_(0, indices, weights)
    with (
        _disable_hooks(sae),
        flat_heads(sae),
        _unscaled(sae),
        torch.autocast(rows.device.type, enabled=False),
    ):
        decoded, nothing = sae.decode(acts).float()
        expected = (weights @ rows).float()
    tolerance = 1e-3 if torch.finfo(sae.dtype).bits >= 32 else 3e-2
    size = rows.float().norm(dim=-1).sum() + nothing.norm()
    if not (decoded - nothing - expected).norm() <= tolerance * size:
        raise _no_sum(sae)


@contextmanager
def _unscaled(sae: SAE[Any]) -> Generator[None, None, None]:
    """Decode without the token's scale, which is known only after encoding."""
    scaled = sae.run_time_activation_norm_fn_out
    sae.run_time_activation_norm_fn_out = lambda x: x
    try:
        yield
    finally:
        sae.run_time_activation_norm_fn_out = scaled


def _no_sum(sae: SAE[Any]) -> ValueError:
    return ValueError(
        f"The SAE {sae_name(sae)!r} ({sae.cfg.architecture()}) does not decode to a sum of its latents' decoder rows, so that changing a latent "
        "is not adding its row. Use AddVector or AddFeature, or an SAE with a linear decoder."
    )
