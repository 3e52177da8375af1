"""Running a language model as it is, and with what an SAE makes of its activations in their place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from sae_lens import SAE
from transformer_lens.utilities.lm_utils import lm_cross_entropy_loss

from sae_lens_ext.architectures.head_reshaping import flat_heads
from sae_lens_ext.architectures.residual import BASE_METADATA_KEY
from sae_lens_ext.architectures.validation import ESTIMATED_NORMALIZATIONS
from sae_lens_ext.language_model import Site, hooked


@dataclass(frozen=True)
class ForwardPasses:
    """Forward passes of a model over one batch of tokens."""

    model: Any
    """A HookedTransformer, a TransformerBridge or SAELens' HookedProxyLM."""
    tokens: torch.Tensor
    """Token ids [batch, pos], on the model's device."""
    counted: torch.Tensor
    """Which tokens count, [batch, pos], bool, on the same device."""
    autocast: bool
    """Run the model in bfloat16."""

    def clean(self, sites: set[Site]) -> tuple[dict[Site, torch.Tensor], torch.Tensor]:
        """Run the model as it is; gives the activations [batch, pos, d_in] at the sites, and its losses [n]."""
        found: dict[Site, torch.Tensor] = {}

        def keep(site: Site, activations: torch.Tensor) -> None:
            found[site] = site.read(activations).clone()

        by_hook: dict[str, list[Site]] = {}
        for site in sites:
            by_hook.setdefault(site.hook_name, []).append(site)

        def keep_all(at_hook: list[Site], activations: torch.Tensor) -> None:
            for site in at_hook:
                keep(site, activations)

        return found, self._losses(
            {name: lambda x, at_hook=at_hook: keep_all(at_hook, x) for name, at_hook in by_hook.items()}
        )

    def spliced(self, site: Site, new: torch.Tensor) -> torch.Tensor:
        """Run the model with `new` [batch, pos, d_in] in place of the activations at a site; gives its losses [n]."""
        return self._losses({site.hook_name: lambda x: site.write(x, new)})

    def _losses(self, functions: Mapping[str, Any]) -> torch.Tensor:
        """Cross-entropy of every next token that is predicted from one that counts, [n]."""
        with (
            hooked(self.model, functions),
            torch.autocast(self.tokens.device.type, dtype=torch.bfloat16, enabled=self.autocast),
        ):
            logits = self.model(self.tokens, return_type="logits")
        losses = lm_cross_entropy_loss(logits.float(), self.tokens.to(logits.device), per_token=True)
        return losses[self.counted[:, :-1].to(losses.device)]


@dataclass(frozen=True)
class Reconstruction:
    """What an SAE makes of activations [batch, pos, d_in]."""

    acts: torch.Tensor
    """Its latents [batch, pos, d_sae], dense, in the SAE's precision, on its device."""
    x_hat: torch.Tensor
    """What they decode to, [batch, pos, d_in], float32, on the activations' device."""
    token_scale: torch.Tensor | None
    """What the decoder's sum was multiplied by, [batch, pos, 1]; None unless the SAE normalises each token by itself."""


def reconstruct(sae: SAE[Any], x: torch.Tensor) -> Reconstruction:
    """Encode and decode activations [batch, pos, d_in], heads flattened, of any precision."""
    with flat_heads(sae):
        acts = sae.encode(x.to(sae.device, sae.dtype))
        token_scale = _token_scale(sae)  # decoding forgets it
        x_hat = sae.decode(acts).to(x.device, torch.float32)
    return Reconstruction(acts.to_dense() if acts.is_sparse else acts, x_hat, token_scale)


def _token_scale(sae: SAE[Any]) -> torch.Tensor | None:
    """Give the scale that SAELens keeps on the SAE between encoding and decoding."""
    if sae.cfg.normalize_activations == "constant_norm_rescale":
        return 1 / cast("torch.Tensor", sae.x_norm_coeff)
    return cast("torch.Tensor", sae.ln_std) if sae.cfg.normalize_activations == "layer_norm" else None


def site_of(caller: str, name: str, sae: SAE[Any]) -> Site:
    """Give the site that an SAE reads and writes.

    Args:
        caller: Function the SAE was given to, for messages.
        name: The SAE's name, for messages.
        sae: An inference SAE.

    Raises:
        ValueError: It names no hook, is a transcoder, has a normalisation that was not folded, or is a residual SAE by itself.
    """
    metadata = sae.cfg.metadata
    if metadata.hook_name is None:
        raise ValueError(
            f"The SAE {name!r} names no hook in its metadata. Set sae.cfg.metadata.hook_name to where it reads."
        )
    architecture = sae.cfg.architecture()
    if metadata.hook_name_out not in (None, metadata.hook_name) or "transcoder" in architecture:
        raise ValueError(
            f"The SAE {name!r} ({architecture}) reads {metadata.hook_name!r} and writes {metadata.hook_name_out!r}: it is a "
            f"transcoder, whose explained variance is not of what it reads. {caller} measures SAEs: leave it out."
        )
    if sae.cfg.normalize_activations in ESTIMATED_NORMALIZATIONS:
        raise ValueError(
            f"The SAE {name!r} has normalize_activations = {sae.cfg.normalize_activations!r}, which was never folded into its "
            "weights, so it does not read the model's activations as they are. Fold it first, as SAELens' runner does at the "
            "end of training."
        )
    if metadata[BASE_METADATA_KEY] is not None:
        raise ValueError(
            f"The SAE {name!r} is a residual SAE by itself: it predicts its base's error and not the activations, so it has "
            'no explained variance of its own. Stack it: ResidualStackSAE.from_saes(base, {"domain": residual}).'
        )
    return Site(metadata.hook_name, metadata.hook_head_index)


def require_width(name: str, sae: SAE[Any], site: Site, x: torch.Tensor) -> None:
    """Raise ValueError unless activations [..., d_in] at a site have the width that an SAE reads."""
    if x.shape[-1] != sae.cfg.d_in:
        raise ValueError(
            f"The activations at {site.hook_name!r} have width {x.shape[-1]}, but the SAE {name!r} has d_in = "
            f"{sae.cfg.d_in}. It belongs to another model or hook: give those it was trained on."
        )


def require_finite(name: str, text: str, x: torch.Tensor, x_hat: torch.Tensor) -> None:
    """Raise ValueError if activations of a text, or what an SAE makes of them, are NaN or infinite."""
    for what, tensor in (("the model's activations", x), (f"the output of the SAE {name!r}", x_hat)):
        if not torch.isfinite(tensor).all():
            raise ValueError(
                f"On the text {text!r} there is NaN or infinity in {what}, so that nothing can be measured. Look at the precision: "
                "float16 overflows where bfloat16 does not."
            )
