"""Residual SAE ("SAE Boost"): a small SAE trained on what a frozen base SAE misses.

"Teach Old SAEs New Domain Tricks with Boosting", arXiv 2507.12990 (COLM 2025).

    e = x − base(x)            ê = W_dec σ(W_enc x + b_enc)            L = ‖e − ê‖²        (Sec. 3.1)

The encoder reads x, the target is the base's error e, and there is no decoder bias, so that nothing is
added where no feature of the domain fires. At inference the model sees x̂ + Σ_domains ê
(`ResidualStackSAE`). Training is BatchTopK, saved with its threshold as a `jumprelu` that predicts e;
its metadata name the base and hold a hash of its weights. Errors are taken in float32, whatever the
model runs in.

Our reading, where the paper's detail is unknown: SAELens' BatchTopK throughout, with its auxiliary loss
on e − ê.
"""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.constants import SAE_CFG_FILENAME
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from typing_extensions import override

from sae_lens_ext.architectures.base_sae import FrozenBase, load_base, require_same_site
from sae_lens_ext.architectures.sae_checks import ChecksInput
from sae_lens_ext.architectures.saving import SavedWhole
from sae_lens_ext.architectures.training_step import require_finite_activations, train_step_output
from sae_lens_ext.architectures.validation import (
    RefusesUnknownFields,
    require_normalization,
    require_positive_int,
)
from sae_lens_ext.explained_variance import ExplainedVariance
from sae_lens_ext.json_file import read_json

BASE_METADATA_KEY = "residual_base"


@dataclass
class ResidualTrainingSAEConfig(RefusesUnknownFields, BatchTopKTrainingSAEConfig):
    """Configuration of a ResidualTrainingSAE.

    The base is named by `base_path`, or by `base_release` and `base_sae_id`, or given as an object to
    the SAE itself.

    Args:
        d_sae: Latents for the domain; the paper's 1024.
        k: Latents per token on average over a batch; the paper's 5 (of 5, 10, 20, 50).
        base_path: Folder of a saved base SAE.
        base_release: SAELens release of a pretrained base SAE.
        base_sae_id: Its id in that release.

    Raises:
        ValueError: k is not above 0 and at most d_sae, the base is named twice or by half, or
            `normalize_activations` is set (the base must see raw activations, and no scale learned on x
            may be put on e).
    """

    d_sae: int = 1024
    apply_b_dec_to_input: bool = False
    k: float = 5
    base_path: str | None = None
    base_release: str | None = None
    base_sae_id: str | None = None

    @override
    def __post_init__(self) -> None:
        owner = type(self).__name__
        require_positive_int(owner, "d_in", self.d_in)
        require_positive_int(owner, "d_sae", self.d_sae)
        k: Any = self.k  # whatever the user gave
        if isinstance(k, bool) or not isinstance(k, int | float) or not 0 < k <= self.d_sae:
            raise ValueError(
                f"{owner}.k = {self.k!r} is out of range. Give the mean number of latents per token, above 0 and "
                f"at most d_sae = {self.d_sae}."
            )
        if self.base_path is not None and (self.base_release is not None or self.base_sae_id is not None):
            raise ValueError(
                f"{owner} names the base twice: base_path = {self.base_path!r} and base_release = "
                f"{self.base_release!r}, base_sae_id = {self.base_sae_id!r}. Give either."
            )
        if (self.base_release is None) != (self.base_sae_id is None):
            raise ValueError(
                f"{owner} names half a base: base_release = {self.base_release!r} and base_sae_id = "
                f"{self.base_sae_id!r}. A pretrained base is named by both: give the other, too."
            )
        require_normalization(
            self, ("none",), "The base SAE must see raw activations, and its error must not be rescaled."
        )
        super().__post_init__()

    @override
    @classmethod
    def architecture(cls) -> str:
        return "residual"


class ResidualTrainingSAE(SavedWhole, ChecksInput, BatchTopKTrainingSAE):
    """Trains ê against the error of a frozen base SAE (see the module).

    `encode` and `decode` are of ê alone. In a training step `sae_out` is x̂ + ê and `sae_in` is x, so
    that the explained variance which the trainer logs is that of base and residual together, and the
    squared error between them is ‖e − ê‖².

    Args:
        cfg: The configuration; the SAE keeps a copy.
        use_error_term: As in SAELens.
        base: The base SAE, if the configuration does not name it. It is read, never changed.

    Raises:
        ValueError: There is no base, it has another d_in or another hook, or it cannot be a base.
        FileNotFoundError: There is no saved SAE at `base_path`.
    """

    cfg: ResidualTrainingSAEConfig  # type: ignore[assignment]

    def __init__(
        self,
        cfg: ResidualTrainingSAEConfig,
        use_error_term: bool = False,
        *,
        base: SAE[Any] | None = None,
    ) -> None:
        # The base is noted in the metadata: in a configuration of this SAE's own, so that the user's serves again.
        super().__init__(replace(cfg, metadata=copy.deepcopy(cfg.metadata)), use_error_term)
        self._base: FrozenBase | None = None
        if base is not None:
            self._adopt(base)
        elif self.device.type != "meta":  # SAELens loads onto meta first; the base then comes when needed
            self._adopt(self._load_base())

    @property
    def base(self) -> SAE[Any]:
        """The frozen base SAE, in inference form."""
        return self._frozen_base().sae

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        self.b_dec.requires_grad_(False)  # Sec. 3.1: no decoder bias; SAELens needs the name

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Take a BatchTopK step against the base's error.

        Args:
            step_input: Batch of activations x [B, d_in] and what the trainer knows of the step.

        Returns:
            The step's output: `losses["mse_loss"]` is ‖e − ê‖², summed over d_in, averaged over
            tokens; `sae_out` is x̂ + ê; metrics `explained_variance_base` and
            `explained_variance_gain` are of x.

        Raises:
            NonFiniteTrainingError: The activations or the loss hold NaN or infinity.
            ValueError: The base was trained on another hook.
        """
        require_finite_activations(step_input)
        base = self._frozen_base()
        require_same_site(base.sae, self.cfg.d_in, self.cfg.metadata.hook_name, "this residual SAE")
        base_out = base.reconstruct(step_input.sae_in)
        feature_acts, hidden_pre = self.encode_with_hidden_pre(step_input.sae_in)
        sae_out = base_out + self.decode(feature_acts).to(base_out.dtype)
        x = step_input.sae_in.to(base_out.dtype)
        output = train_step_output(
            step_input,
            sae_out=sae_out,
            feature_acts=feature_acts,
            hidden_pre=hidden_pre,
            mse_loss=self.mse_loss_fn(sae_out, x).sum(dim=-1).mean(),
            aux_losses=self.calculate_aux_loss(step_input, feature_acts, hidden_pre, sae_out),
            metrics={
                "explained_variance_base": lambda: _explained_variance(x, base_out),
                "explained_variance_gain": lambda: (
                    _explained_variance(x, sae_out) - _explained_variance(x, base_out)
                ),
                "topk_threshold": self.topk_threshold,
            },
        )
        self.update_topk_threshold(feature_acts)
        return output

    @override
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        """Refuse: the base reads raw activations, so there is no scale to fold."""
        raise _no_fold("fold_activation_norm_scaling_factor")

    @override
    def fold_activation_whitening(
        self, mean: torch.Tensor, whitening_matrix: torch.Tensor, unwhitening_matrix: torch.Tensor
    ) -> None:
        """Refuse: the base reads raw activations, so there is no whitening to fold."""
        raise _no_fold("fold_activation_whitening")

    @override
    def load_weights_from_checkpoint(self, checkpoint_path: Path | str) -> None:
        """Load a checkpoint's weights, if they were trained on this base.

        Raises:
            ValueError: The checkpoint names a base with other weights.
        """
        saved = read_json(Path(checkpoint_path) / SAE_CFG_FILENAME)
        require_base_identity(
            saved.get("metadata", {}), self._frozen_base().fingerprint, str(checkpoint_path)
        )
        super().load_weights_from_checkpoint(checkpoint_path)

    def _frozen_base(self) -> FrozenBase:
        if self._base is None:
            self._adopt(self._load_base())
        assert self._base is not None
        return self._base

    def _load_base(self) -> SAE[Any]:
        return load_base(
            base_path=self.cfg.base_path,
            base_release=self.cfg.base_release,
            base_sae_id=self.cfg.base_sae_id,
            device=self.cfg.device,
        )

    def _adopt(self, base: SAE[Any]) -> None:
        frozen = FrozenBase(base)
        require_same_site(frozen.sae, self.cfg.d_in, self.cfg.metadata.hook_name, "this residual SAE")
        require_base_identity(self.cfg.metadata.to_dict(), frozen.fingerprint, "this configuration")
        self._base = frozen
        self.cfg.metadata[BASE_METADATA_KEY] = frozen.describe()


def require_base_identity(metadata: dict[str, Any], fingerprint: str, what: str) -> None:
    """Raise ValueError if `metadata` names a base SAE with other weights than `fingerprint`'s.

    Args:
        metadata: Metadata of a residual SAE; without a record of its base nothing can be told.
        fingerprint: `weights_fingerprint` of the base at hand.
        what: What the metadata belong to, for the message.
    """
    recorded = metadata.get(BASE_METADATA_KEY)
    if recorded and recorded["weights_sha256"] != fingerprint:
        raise ValueError(
            f"The residual SAE of {what} was trained on a base with weights {recorded['weights_sha256'][:12]}… "
            f"({recorded['architecture']}, d_sae {recorded['d_sae']}, hook {recorded['hook_name']}), but the base "
            f"at hand has weights {fingerprint[:12]}…. It predicts the error of that base only: give the base it "
            "was trained on, with its own k, in float32 or bfloat16, and not fine-tuned or folded since."
        )


def _no_fold(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"{name}: a residual SAE predicts the error of a base that reads raw activations, so no normalisation of "
        "the activations can be folded into it. Train with normalize_activations = 'none'."
    )


def _explained_variance(x: torch.Tensor, x_hat: torch.Tensor) -> float:
    """SAELens' `explained_variance` of one batch: 1 − Σ‖x − x̂‖² / Σ‖x − mean x‖²."""
    variance = ExplainedVariance()
    variance.add_batch(x_hat.detach(), x.detach())
    return variance.compute()
