"""The frozen SAE that residual SAEs stand on: finding it, checking it, running it."""

from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_ext.architectures.head_reshaping import flat_heads
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.architectures.loading import load_sae
from sae_lens_ext.language_model.hook_names import same_hook

STACKABLE_BASES = ("standard", "gated", "jumprelu", "topk")
_WHY_NOT = {
    "kron": "its encoder multiplies the parts of each pair of latents, so it is no one matrix with one activation function",
    "transcoder": "it reads one hook and predicts another, so what it misses is no error of what it reads",
}


class FrozenBase:
    """An SAE that predicts x and is never trained, moved or changed here.

    It is not an `nn.Module`, so that the SAE that holds it neither trains, saves nor renames it.

    Args:
        sae: The base; a training SAE is taken in its inference form.

    Raises:
        ValueError: Its architecture cannot stand under a residual SAE, or its activation
            normalisation was never folded in.
    """

    def __init__(self, sae: SAE[Any]) -> None:
        self.sae = require_stackable_base(as_inference(sae))
        self.fingerprint = weights_fingerprint(self.sae)

    @torch.no_grad()
    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        """Predict activations with the base, in the base's own precision and on its own device.

        Args:
            x: Activations, shape [B, d_in], as the training store gives them (heads flattened).

        Returns:
            x̂ in float32 (float64 for a float64 base) on x's device, shape [B, d_in].
        """
        with flat_heads(self.sae), torch.autocast(x.device.type, enabled=False):
            x_hat = self.sae.decode(self.sae.encode(x.to(self.sae.device, self.sae.dtype)))
        return x_hat.to(x.device, torch.promote_types(x_hat.dtype, torch.float32))

    def describe(self) -> dict[str, Any]:
        """Say which SAE this is, as JSON scalars for the metadata of what is trained on it."""
        return {
            "architecture": self.sae.cfg.architecture(),
            "d_sae": self.sae.cfg.d_sae,
            "hook_name": self.sae.cfg.metadata.hook_name,
            "weights_sha256": self.fingerprint,
        }


def require_stackable_base(base: SAE[Any]) -> SAE[Any]:
    """Return `base` if residual SAEs can be trained on it and stacked with it, else raise ValueError."""
    architecture = base.cfg.architecture()
    if architecture not in STACKABLE_BASES:
        reasons = [reason for part, reason in _WHY_NOT.items() if part in architecture]
        raise ValueError(
            f"The base SAE has the architecture {architecture!r}, which a residual SAE cannot stand on: the "
            f"stack is one flat encoder and decoder{''.join(f', and {reason}' for reason in reasons)}. It can hold "
            f"{', '.join(STACKABLE_BASES)} bases (BatchTopK and HierarchicalTopK SAEs are saved as jumprelu and topk). "
            "Choose such a base."
        )
    if base.cfg.normalize_activations != "none":
        raise ValueError(
            f"The base SAE has normalize_activations = {base.cfg.normalize_activations!r}, so it does not read "
            "raw activations, as a base must. Fold the normalisation into its weights first "
            "(fold_activation_norm_scaling_factor) or choose a base with normalize_activations = 'none'."
        )
    return base


def require_same_site(base: SAE[Any], d_in: int, hook_name: str | None, what: str) -> None:
    """Raise ValueError unless `base` reads the activations that `what` reads.

    Args:
        base: The base SAE.
        d_in: Width of the activations of what is put on it.
        hook_name: Their hook, or None if not known yet.
        what: What is put on the base, for the message.
    """
    if base.cfg.d_in != d_in:
        raise ValueError(
            f"The base SAE reads activations of width {base.cfg.d_in}, but {what} has d_in = {d_in}. Both must "
            "read the same hook of the same model: choose another base or set d_in accordingly."
        )
    base_hook = base.cfg.metadata.hook_name
    if not same_hook(base_hook, hook_name):
        raise ValueError(
            f"The base SAE was trained on the hook {base_hook!r}, but {what} is for {hook_name!r}. A residual SAE "
            "predicts the base's error at the base's own hook: use that hook or another base."
        )


def load_base(
    *, base_path: str | None, base_release: str | None, base_sae_id: str | None, device: str
) -> SAE[Any]:
    """Load the base SAE that a configuration names, from disk or from a SAELens release.

    Raises:
        ValueError: The configuration names no base, or the saved files are damaged.
        FileNotFoundError: There is no saved SAE at `base_path`.
    """
    if base_path is not None:
        if not (Path(base_path) / "cfg.json").is_file():
            raise FileNotFoundError(
                f"base_path = {base_path!r} holds no saved SAE (no cfg.json there). Give the folder that "
                "save_inference_model or a training run's output_path wrote."
            )
        return load_sae(base_path, device=device)
    if base_release is not None and base_sae_id is not None:
        return SAE.from_pretrained(base_release, base_sae_id, device=device)
    raise ValueError(
        "A residual SAE needs a base SAE, but its configuration names none. Set base_path to a saved SAE's folder, or "
        "base_release and base_sae_id together, or pass the SAE itself: ResidualTrainingSAE(cfg, base=sae)."
    )
