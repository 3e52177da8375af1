"""A base SAE and the residual SAEs of several domains, as one flat SAE.

"Teach Old SAEs New Domain Tricks with Boosting", arXiv 2507.12990, inference: x̂ + Σ_domains ê.

Every residual's encoder reads x itself, so base and residuals are one SAE with concatenated
dictionaries: one W_enc, b_enc, threshold and W_dec, the base's latents first, then the domains' in
order, and one set of hooks. The parts are slices. Each keeps its own activation function: the base
ReLU, JumpReLU or TopK, the residuals JumpReLU.

    from_saes(base, {"code": residual})         stack.active = ("code",)         stack.to_native()
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, cast

import torch
from sae_lens import SAE, JumpReLUSAEConfig, SAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.topk_sae import TopK
from torch import nn
from typing_extensions import Self, override

from sae_lens_ext.architectures.base_sae import require_stackable_base
from sae_lens_ext.architectures.gated_base import without_gates
from sae_lens_ext.architectures.identity import weights_fingerprint
from sae_lens_ext.architectures.inference import as_inference, assemble, assemble_as
from sae_lens_ext.architectures.sae_checks import ChecksInput, require_sae
from sae_lens_ext.architectures.saving import SavedWhole
from sae_lens_ext.architectures.stack_parts import joined_weights, residual_part
from sae_lens_ext.architectures.validation import require_normalization, require_positive_int

BASE_ARCHITECTURES = ("standard", "jumprelu", "topk")  # a gated base is held as a jumprelu
BASE = "base"  # what `flat_index` and `locate` call the base's own latents


@dataclass
class ResidualStackSAEConfig(SAEConfig):
    """Configuration of a ResidualStackSAE; written by `ResidualStackSAE.from_saes`.

    Args:
        domains: Names of the domains, in the order of their latents.
        part_sizes: Number of latents of the base, then of each domain; they add up to d_sae.
        active: The domains that are switched on; None for all.
        base_architecture: "standard", "jumprelu" or "topk".
        base_k: The base's k, if it is a TopK.
        base_rescale_acts_by_decoder_norm: The TopK base's field of that name.

    Raises:
        ValueError: Names and sizes do not fit each other, or the base is of another kind.
    """

    domains: list[str] = field(default_factory=list)
    part_sizes: list[int] = field(default_factory=list)
    active: list[str] | None = None
    base_architecture: str = "standard"
    base_k: int | None = None
    base_rescale_acts_by_decoder_norm: bool = False

    @override
    def __post_init__(self) -> None:
        owner = type(self).__name__
        self.domains, self.part_sizes = list(self.domains), list(self.part_sizes)
        if len({*self.domains, BASE}) != len(self.domains) + 1 or not all(self.domains):
            raise ValueError(
                f"{owner}.domains = {self.domains} must be names, each once, none empty and none {BASE!r}, which "
                "names the base's own latents. Rename the domain."
            )
        if len(self.part_sizes) != len(self.domains) + 1 or sum(self.part_sizes) != self.d_sae:
            raise ValueError(
                f"{owner}.part_sizes = {self.part_sizes} must hold the base's number of latents and one for each "
                f"of the {len(self.domains)} domains, and add up to d_sae = {self.d_sae}."
            )
        if self.base_architecture not in BASE_ARCHITECTURES:
            raise ValueError(
                f"{owner}.base_architecture = {self.base_architecture!r} cannot stand under a stack. It must be one "
                f"of {', '.join(map(repr, BASE_ARCHITECTURES))}."
            )
        if self.base_architecture == "topk":
            require_positive_int(owner, "base_k", self.base_k, self.part_sizes[0], "the base's d_sae")
        if self.active is not None:
            self.active = list(require_domains(self.active, self.domains))
        require_normalization(self, ("none",), "All parts read raw activations.")
        super().__post_init__()

    @override
    @classmethod
    def architecture(cls) -> str:
        return "residual_stack"


class ResidualStackSAE(SavedWhole, ChecksInput, SAE[ResidualStackSAEConfig]):
    """Base and residual SAEs as one SAE for inference (see the module).

    Latents are addressed by their flat index, the base's first, or by (domain, index): see
    `flat_index` and `locate`. A domain that is switched off has latents that are 0; `decode` is linear
    in all of them, so that an intervention on a latent acts whether or not its domain is active.
    """

    b_enc: nn.Parameter
    threshold: nn.Parameter

    @classmethod
    def from_saes(cls, base: SAE[Any], residuals: Mapping[str, SAE[Any]]) -> Self:
        """Join a base SAE and the residual SAEs trained on it.

        Args:
            base: The base: standard, gated (held as the JumpReLU that it is), jumprelu or topk. A training SAE is
                taken in its inference form.
            residuals: Residual SAEs by domain, in the order their latents shall have; as trained, or
                as loaded from disk (`jumprelu`).

        Returns:
            The stack, with weights of its own, in the base's precision; all domains active.

        Raises:
            ValueError: The base is of a kind that cannot be stacked; a residual is not one, reads
                another width or hook, or was trained on another base. A residual that names no base in
                its metadata is taken as it is, with a note in the log.
        """
        if not isinstance(residuals, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"ResidualStackSAE.from_saes was given residuals of type {type(residuals).__name__}. Give a mapping from "
                'the name of each domain to its residual SAE, such as {"code": sae}.'
            )
        base = require_stackable_base(as_inference(require_sae("ResidualStackSAE.from_saes", "base", base)))
        fingerprint = weights_fingerprint(base)
        parts = {domain: residual_part(domain, sae, base, fingerprint) for domain, sae in residuals.items()}
        base = without_gates(base)
        cfg = ResidualStackSAEConfig(
            d_in=base.cfg.d_in,
            d_sae=base.cfg.d_sae + sum(part.cfg.d_sae for part in parts.values()),
            dtype=base.cfg.dtype,
            device=str(base.device),
            apply_b_dec_to_input=base.cfg.apply_b_dec_to_input,
            reshape_activations=base.cfg.reshape_activations,
            metadata=SAEMetadata(**copy.deepcopy(base.cfg.metadata.to_dict())),
            domains=list(parts),
            part_sizes=[base.cfg.d_sae, *(part.cfg.d_sae for part in parts.values())],
            base_architecture=base.cfg.architecture(),
            base_k=getattr(base.cfg, "k", None),
            base_rescale_acts_by_decoder_norm=getattr(base.cfg, "rescale_acts_by_decoder_norm", False),
        )
        cfg.metadata.residual_base_sha256 = fingerprint
        return cast("Self", assemble(cfg, joined_weights(base, list(parts.values()))))

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in the order of their latents."""
        return tuple(self.cfg.domains)

    @property
    def active(self) -> tuple[str, ...]:
        """The domains that are switched on, in the order of their latents; settable."""
        return self.domains if self.cfg.active is None else tuple(self.cfg.active)

    @active.setter
    def active(self, domains: Sequence[str]) -> None:
        self.cfg.active = list(require_domains(domains, self.domains))

    def with_active(self, domains: Sequence[str]) -> Self:
        """Give the same stack with other domains switched on.

        Args:
            domains: The domains that shall be on; `()` for the base alone.

        Returns:
            A new SAE that shares its weights with this one and has switches and hooks of its own. Cast, move or
            fold the stack first and take its views after: what is done to the weights of one is done to all.

        Raises:
            ValueError: There is no such domain.
        """
        cfg = copy.deepcopy(self.cfg)
        cfg.active = list(require_domains(domains, self.domains))
        other = assemble_as(type(self), cfg, self.state_dict(keep_vars=True))
        return cast("Self", other.train(self.training))

    def flat_index(self, domain: str, index: int) -> int:
        """Give the flat index of a domain's latent, or of the base's with domain "base".

        Raises:
            ValueError: There is no such domain, or it has no such latent.
        """
        part = self._slices().get(domain)
        if part is None:
            raise ValueError(
                f"There is no domain {domain!r} in this stack. It has {', '.join(self._slices())}. Give one of these."
            )
        size = part.stop - part.start
        if not 0 <= index < size:
            raise ValueError(
                f"Domain {domain!r} has the latents 0 to {size - 1}, and index {index} is not among them. Give one of these."
            )
        return part.start + index

    def locate(self, flat_index: int) -> tuple[str, int]:
        """Give the domain ("base" for the base) and the index in it of a flat latent index.

        Raises:
            ValueError: The index is outside 0..d_sae − 1.
        """
        for domain, part in self._slices().items():
            if part.start <= flat_index < part.stop:
                return domain, flat_index - part.start
        raise ValueError(
            f"Latent {flat_index} is outside this stack's 0 to {self.cfg.d_sae - 1}. Give a flat index, such as flat_index(domain, index) gives."
        )

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        zeros = torch.zeros(self.cfg.d_sae, dtype=self.dtype, device=self.device)
        self.b_enc = nn.Parameter(zeros)
        self.threshold = nn.Parameter(zeros.clone())

    @override
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Encode activations [..., d_in] to latents [..., d_sae], those of inactive domains 0."""
        sae_in = self.process_sae_in(x)
        parts = self._slices()
        running = {domain: part for domain, part in parts.items() if domain in (BASE, *self.active)}
        hidden_pre = sae_in.new_zeros(*sae_in.shape[:-1], self.cfg.d_sae)
        for part in running.values():
            hidden_pre[..., part] = sae_in @ self.W_enc[:, part] + self.b_enc[part]
        hidden_pre = self.hook_sae_acts_pre(hidden_pre)
        feature_acts = torch.zeros_like(hidden_pre)
        for domain, part in running.items():
            activate = self._activate_base if domain == BASE else self._activate_residual
            feature_acts[..., part] = activate(hidden_pre[..., part], part)
        return self.hook_sae_acts_post(feature_acts)

    @override
    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Decode latents [..., d_sae] to x̂ + Σ ê, [..., d_in]."""
        base, *domains = self._slices().values()
        base_acts = feature_acts[..., base]
        if self.cfg.base_rescale_acts_by_decoder_norm:
            base_acts = base_acts * (1 / self.W_dec[base].norm(dim=-1))
        sae_out = base_acts @ self.W_dec[base] + self.b_dec
        for part in domains:
            sae_out = sae_out + feature_acts[..., part] @ self.W_dec[part]
        sae_out = self.run_time_activation_norm_fn_out(self.hook_sae_recons(sae_out))
        return self.reshape_fn_out(sae_out, self.d_head)

    def to_native(self) -> SAE[Any]:
        """Give one ordinary SAELens JumpReLU SAE that computes what this stack computes now.

        It holds the base and the active domains, exactly (to rounding), and needs this package no
        more once saved.

        Returns:
            A JumpReLUSAE with weights of its own.

        Raises:
            ValueError: The base is a TopK, whose budget binds the base's latents alone.
        """
        if self.cfg.base_architecture == "topk":
            raise ValueError(
                f"This stack's base is a TopK SAE: its budget k = {self.cfg.base_k} binds the base's latents and not "
                "the residuals', which no single SAELens architecture can say, so there is no exact native form. "
                "Save the stack itself (save_model), or stack on a BatchTopK, JumpReLU or standard base."
            )
        kept = [self._slices()[domain] for domain in (BASE, *self.active)]
        cfg = JumpReLUSAEConfig(
            d_in=self.cfg.d_in,
            d_sae=sum(part.stop - part.start for part in kept),
            dtype=self.cfg.dtype,
            device=str(self.device),
            apply_b_dec_to_input=self.cfg.apply_b_dec_to_input,
            reshape_activations=self.cfg.reshape_activations,
            metadata=SAEMetadata(**copy.deepcopy(self.cfg.metadata.to_dict())),
        )
        cfg.metadata.residual_stack_domains = list(self.active)
        threshold = self.threshold.detach().clone()
        weights = {
            "W_enc": torch.cat([self.W_enc.detach()[:, part] for part in kept], dim=1),
            "b_enc": torch.cat([self.b_enc.detach()[part] for part in kept]),
            "threshold": torch.cat([threshold[part] for part in kept]),
            "W_dec": torch.cat([self.W_dec.detach()[part] for part in kept]),
            "b_dec": self.b_dec.detach().clone(),
        }
        return assemble(cfg, weights)

    @override
    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:
        """Fold decoder norms into encoder, biases and thresholds.

        Raises:
            NotImplementedError: The base is a TopK that ranks by activations not scaled by the norms,
                whose choice would change. Nothing was changed.
        """
        if self.cfg.base_architecture == "topk" and not self.cfg.base_rescale_acts_by_decoder_norm:
            raise NotImplementedError(
                "fold_W_dec_norm: this stack's TopK base ranks its latents without their decoder norms, so folding "
                "the norms in would change which it keeps. Use the stack unfolded."
            )
        self.threshold.data.mul_(self.fold_and_get_W_dec_norm())

    @override
    @torch.no_grad()
    def fold_activation_whitening(
        self, mean: torch.Tensor, whitening_matrix: torch.Tensor, unwhitening_matrix: torch.Tensor
    ) -> None:
        """Make the stack read and write raw activations instead of whitened ones, exactly."""
        if self.cfg.base_rescale_acts_by_decoder_norm:
            # Unwhitening changes the row norms by which the base ranks: take them out of its choice first.
            self.fold_W_dec_norm()
            self.cfg.base_rescale_acts_by_decoder_norm = False
        super().fold_activation_whitening(mean, whitening_matrix, unwhitening_matrix)

    def _slices(self) -> dict[str, slice]:
        """Where each part's latents lie in the flat dictionary, the base's first."""
        sizes = self.cfg.part_sizes
        names = (BASE, *self.cfg.domains)
        stops = accumulate(sizes)
        return {name: slice(stop - size, stop) for name, size, stop in zip(names, sizes, stops, strict=True)}

    def _activate_base(self, hidden_pre: torch.Tensor, part: slice) -> torch.Tensor:
        if self.cfg.base_architecture == "topk":
            assert self.cfg.base_k is not None
            if self.cfg.base_rescale_acts_by_decoder_norm:
                hidden_pre = hidden_pre * self.W_dec[part].norm(dim=-1)
            return TopK(self.cfg.base_k)(hidden_pre)
        if self.cfg.base_architecture == "standard":
            return hidden_pre.relu()
        return self._activate_residual(hidden_pre, part)

    def _activate_residual(self, hidden_pre: torch.Tensor, part: slice) -> torch.Tensor:
        return hidden_pre.relu() * (hidden_pre > self.threshold[part]).to(hidden_pre.dtype)


def require_domains(wanted: Sequence[str], domains: Sequence[str]) -> tuple[str, ...]:
    """Return the wanted domains in the stack's order, or raise ValueError naming those it lacks."""
    if isinstance(wanted, str):
        raise ValueError(
            f"active = {wanted!r} is one string. Give a tuple of domains, such as ({wanted!r},)."
        )
    unknown = [name for name in wanted if name not in domains]
    if unknown:
        raise ValueError(
            f"This stack has no domain {', '.join(map(repr, unknown))}. It has {', '.join(map(repr, domains)) or 'none'}. Give domains that it has."
        )
    return tuple(name for name in domains if name in wanted)
