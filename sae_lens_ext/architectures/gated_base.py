"""A gated SAE in the form that a stack can hold: a JumpReLU."""

import copy
from dataclasses import fields
from typing import Any

from sae_lens import SAE, GatedSAE, JumpReLUSAEConfig, SAEConfig

from sae_lens_ext.architectures.inference import assemble


def without_gates(base: SAE[Any]) -> SAE[Any]:
    """Give a gated SAE as the JumpReLU SAE that it is; any other as it is.

    With π = x W + b_gate a gated latent is relu(m) where π > 0, of magnitude m = x W e^r + b_mag. Both
    are linear in x W, so that π > 0 says m > b_mag − b_gate e^r: a threshold on m. Exact up to rounding.

    Args:
        base: Any SAE.

    Returns:
        A JumpReLUSAE with weights of its own if `base` is gated.
    """
    if not isinstance(base, GatedSAE):
        return base
    shared: dict[str, Any] = {f.name: copy.deepcopy(getattr(base.cfg, f.name)) for f in fields(SAEConfig)}
    scale = base.r_mag.detach().double().exp()
    b_mag = base.b_mag.detach().double()
    weights = {
        "W_enc": base.W_enc.detach().double() * scale,
        "b_enc": b_mag,
        "threshold": b_mag - base.b_gate.detach().double() * scale,
        "W_dec": base.W_dec.detach(),
        "b_dec": base.b_dec.detach(),
    }
    shared["device"] = str(base.device)
    cfg = JumpReLUSAEConfig(**shared)
    return assemble(cfg, {name: tensor.to(base.dtype, copy=True) for name, tensor in weights.items()})
