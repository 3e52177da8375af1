"""KronSAE: latents that are pairs, encoded head by head as a Kronecker product.

"Train Sparse Autoencoders Efficiently by Utilizing Features Correlation", arXiv 2505.22255 (v3).

    u^k = P^k x + b,   v^k = Q^k x + b        P^k [m, d], Q^k [n, d], heads k = 1..h,  F = h·m·n
    z^k_ij = mAND(u_i, v_j)                   (Eq. 3; exactly 0 where a parent is off)
    f = TopK over all F latents of a token;   x̂ = f W_dec + b_dec

W_enc is the one fused matrix [d, h(m+n)]: head-major, in each head first the m columns of P, then the n
of Q. W_dec is an ordinary dense [F, d]; latent ((head·m) + i)·n + j is the pair (i, j) of a head.

Our reading, where the paper is silent or does otherwise: decoder rows count as normalised throughout
(x̂ = Σ z_f W_dec[f] / ‖W_dec[f]‖), because norms could not be folded into columns that many latents
share; they are saved with unit norm. Left out: Matryoshka prefixes, Switch, JumpReLU on the scores.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from sae_lens import SAE, SAEConfig, TopKSAE, TopKSAEConfig, TopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput
from torch import nn
from typing_extensions import override

from sae_lens_ext.architectures.levels import BUDGETS_ARGUMENT, Budgets, HasLevels
from sae_lens_ext.architectures.ranked_latents import (
    LowestIndexTopK,
    RankedLatents,
    encode_ranked,
    input_bias,
)
from sae_lens_ext.architectures.ranked_training import DeadLatents, RankedTrainingSAE
from sae_lens_ext.architectures.sae_checks import ChecksInput
from sae_lens_ext.architectures.saving import SavedWhole
from sae_lens_ext.architectures.validation import (
    FOLDABLE_NORMALIZATIONS,
    RefusesUnknownFields,
    require_normalization,
    require_positive_int,
)
from sae_lens_ext.ops import kron_encode, mand, parent_columns, split_pre_latents

UNIT_NORM_TOLERANCE = 1e-2  # bfloat16 rounds the norm of a unit row by up to this


class _KronShape:
    """The sizes of a Kronecker dictionary, checked; shared by both configurations."""

    d_in: int
    d_sae: int
    k: int
    base_dim: int
    extension_dim: int

    @property
    def n_heads(self) -> int:
        """Number of heads h = d_sae / (base_dim · extension_dim)."""
        return self.d_sae // (self.base_dim * self.extension_dim)

    def _check(self) -> None:
        owner = type(self).__name__
        require_positive_int(owner, "d_in", self.d_in)
        require_positive_int(owner, "d_sae", self.d_sae)
        require_positive_int(owner, "k", self.k, self.d_sae, "d_sae")
        require_positive_int(owner, "base_dim", self.base_dim, self.d_sae, "d_sae")
        require_positive_int(owner, "extension_dim", self.extension_dim, self.d_sae, "d_sae")
        latents_per_head = self.base_dim * self.extension_dim
        remainder = self.d_sae % latents_per_head
        if remainder:
            below = self.d_sae - remainder
            nearest = f"{below} or {below + latents_per_head}" if below else str(latents_per_head)
            raise ValueError(
                f"{owner}.d_sae = {self.d_sae} does not divide into heads of base_dim · extension_dim = "
                f"{self.base_dim} · {self.extension_dim} = {latents_per_head} latents. Use d_sae = {nearest}, "
                "or other head sizes."
            )
        require_normalization(
            self,  # type: ignore[arg-type]
            FOLDABLE_NORMALIZATIONS,
            "SAELens keeps that mode's scale on the SAE between encode and decode, where it goes stale.",
        )


@dataclass
class KronSAEConfig(_KronShape, TopKSAEConfig):
    """Configuration of a KronSAE for inference.

    Args:
        k: Latents kept per token.
        base_dim: m, base elements per head.
        extension_dim: n, extension elements per head.
        rescale_acts_by_decoder_norm: Treat the decoder as if it was already normalised. Saved SAEs have
            unit rows; checkpoints of training have not.
        apply_b_dec_to_input: Whether the encoder reads x − b_dec; the paper's reads x.

    Raises:
        ValueError: A size is out of range or d_sae is not a multiple of base_dim · extension_dim.
    """

    apply_b_dec_to_input: bool = False
    k: int = 50
    base_dim: int = 2
    extension_dim: int = 4

    @override
    def __post_init__(self) -> None:
        self._check()
        super().__post_init__()

    @override
    @classmethod
    def architecture(cls) -> str:
        return "kron"


@dataclass
class KronTrainingSAEConfig(RefusesUnknownFields, HasLevels, _KronShape, TopKTrainingSAEConfig):
    """Configuration of a KronTrainingSAE.

    The paper's advice: small base_dim and many heads reconstruct best; encoder parameters are
    1/base_dim + 1/extension_dim of TopK's, so savings begin at base_dim = 2, extension_dim = 4. It
    trains with AdamW at lr 8e-4, 10 % warm-up, cosine to 1e-6.

    Args:
        k: Latents kept per token; the paper sweeps 16..128.
        base_dim: m, base elements per head.
        extension_dim: n, extension elements per head, by convention n ≥ m.
        budgets: None trains for k alone, as the paper does. "all" or increasing whole numbers up to k
            train for several budgets at once, as HierarchicalTopK does; no more latents than the largest
            of them are kept.
        aux_loss_coefficient: Weight of the dead-latent loss, summed over d_in as in SAELens.
        decoder_init_norm: Norm of the decoder rows at the start. It sets only how fast they turn: the
            decoder counts as normalised. None keeps P_i + Q_j as they fall.
        rescale_acts_by_decoder_norm: Treat the decoder as if it was already normalised. Switched off
            by folding a whitening, which gives the rows norms that matter.
        apply_b_dec_to_input: Whether the encoder reads x − b_dec; the paper's reads x.

    Raises:
        ValueError: A size is out of range, d_sae is not a multiple of base_dim · extension_dim, or an
            option of TopK that does not apply is switched on.
    """

    apply_b_dec_to_input: bool = False
    k: int = 50
    aux_loss_coefficient: float = 1 / 32
    base_dim: int = 2
    extension_dim: int = 4
    decoder_init_norm: float | None = 1.0
    budgets: Budgets | None = field(default=None, metadata=BUDGETS_ARGUMENT)

    @override
    def __post_init__(self) -> None:
        self._check()
        self._check_budgets()
        if self.use_sparse_activations:
            raise ValueError(
                f"{type(self).__name__}.use_sparse_activations = True is not supported by the architecture "
                "'kron'. Leave it False."
            )
        super().__post_init__()

    @override
    @classmethod
    def architecture(cls) -> str:
        return "kron"

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        return KronSAEConfig

    @override
    def get_inference_sae_cfg_dict(self) -> dict[str, Any]:
        """Save with the largest budget that was trained as k."""
        return {**super().get_inference_sae_cfg_dict(), "k": self.levels[-1]}


class _KronEncoder(ChecksInput, SAE[Any]):
    """What KronSAE and KronTrainingSAE have in common: everything up to the latents."""

    b_enc: nn.Parameter

    @property
    def n_heads(self) -> int:
        """Number of heads h."""
        return self.cfg.n_heads

    @override
    def initialize_weights(self) -> None:
        cfg, dtype, device = self.cfg, self.dtype, self.device
        width = cfg.n_heads * (cfg.base_dim + cfg.extension_dim)
        W_enc = torch.randn(cfg.d_in, width, dtype=dtype, device=device) / (2 * cfg.d_sae) ** 0.5
        P, Q = split_pre_latents(W_enc, cfg.base_dim, cfg.extension_dim)  # [d, h, m], [d, h, n]
        W_dec = (P.unsqueeze(-1) + Q.unsqueeze(-2)).flatten(1).T.contiguous()
        norm = getattr(cfg, "decoder_init_norm", 1.0)
        if norm is not None:
            W_dec = norm * W_dec / W_dec.norm(dim=-1, keepdim=True)
        self.W_enc = nn.Parameter(W_enc)
        self.b_enc = nn.Parameter(torch.zeros(width, dtype=dtype, device=device))
        self.W_dec = nn.Parameter(W_dec)
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_in, dtype=dtype, device=device))

    def pre_latents(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the base and extension activations whose pairs are the latents.

        Args:
            x: Activations, shape [..., d_in].

        Returns:
            u [..., h, m] and v [..., h, n], before any rectification: an element is on where it is
            positive, and latent (head, i, j) scores sqrt(u_i v_j) where both of its parents are on.
        """
        return split_pre_latents(self._fused_pre_latents(x), self.cfg.base_dim, self.cfg.extension_dim)

    def encode_sparse(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode to the k latents that are kept, largest first.

        Args:
            x: Activations, shape [..., d_in].

        Returns:
            Values and their flat latent indices, each [..., k], sorted by value, descending; between
            equals the lower index comes first. With fewer than k latents whose parents are both on, the
            unused slots have value 0, as have those beyond the largest of the budgets trained.
        """
        return encode_ranked(self, x, self._rank)

    def _rank(self, x: torch.Tensor, k: int) -> RankedLatents:
        cfg = self.cfg
        acts, indices = kron_encode(
            x,
            self.W_enc,
            self.b_enc,
            k,
            base_dim=cfg.base_dim,
            extension_dim=cfg.extension_dim,
            b_in=input_bias(self),
        )
        return self._ranked_from_dense(acts, indices)

    def _ranked_from_dense(self, acts: torch.Tensor, indices: torch.Tensor) -> RankedLatents:
        return RankedLatents(acts, acts, indices)

    def _fused_pre_latents(self, x: torch.Tensor) -> torch.Tensor:
        return self.hook_sae_acts_pre(self.process_sae_in(x) @ self.W_enc + self.b_enc)

    def _scores(self, fused_pre_latents: torch.Tensor) -> torch.Tensor:
        return mand(*split_pre_latents(fused_pre_latents, self.cfg.base_dim, self.cfg.extension_dim))

    @override
    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        """Make an SAE trained on s·x read x, exactly, leaving W_enc and W_dec as they are.

        mAND is homogeneous of degree 1, so with both biases divided by s every latent is divided by s
        and with it the reconstruction; unlike SAELens' fold, which would divide the decoder rows, this
        keeps their norms.

        Args:
            scaling_factor: s, positive.
        """
        self.b_enc.data /= scaling_factor
        self.b_dec.data /= scaling_factor
        self.cfg.normalize_activations = "none"

    @override
    @torch.no_grad()
    def fold_W_dec_norm(self) -> None:
        """Scale the decoder rows to unit norm where they count as normalised, which changes no output.

        Raises:
            NotImplementedError: The rows have other norms and these are part of the function: they
                cannot move into encoder columns that many latents share. Nothing was changed.
        """
        norms = self.W_dec.float().norm(dim=-1)
        if self.cfg.rescale_acts_by_decoder_norm:
            self.W_dec.data /= self.get_W_dec_norm().unsqueeze(1)
        elif (norms - 1).abs().max() > UNIT_NORM_TOLERANCE:
            raise NotImplementedError(
                f"fold_W_dec_norm: the decoder rows of this {type(self).__name__} have norms between "
                f"{norms.min().item():.3g} and {norms.max().item():.3g}, which are part of its function, and its "
                "encoder columns are shared by many latents, so the norms cannot be folded into them. Use the SAE "
                "unfolded."
            )


class KronSAE(SavedWhole, _KronEncoder, TopKSAE):
    """KronSAE for inference (see the module); what `SAE.load_from_disk` gives for `kron`."""

    cfg: KronSAEConfig  # type: ignore[assignment]

    @override
    def get_activation_fn(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return LowestIndexTopK(self.cfg.k)

    @override
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Encode activations [..., d_in] to latents [..., d_sae], at most k of a token's not zero."""
        return self.hook_sae_acts_post(self.activation_fn(self._scores(self._fused_pre_latents(x))))


class KronTrainingSAE(_KronEncoder, RankedTrainingSAE):
    """KronSAE for training (see the module): TopK's objective on mAND scores.

    Example:
        >>> sae = KronTrainingSAE(KronTrainingSAEConfig(d_in=8, d_sae=64, k=4, base_dim=2, extension_dim=4))
        >>> sae.n_heads, tuple(sae.W_enc.shape), tuple(sae.W_dec.shape)
        (8, (8, 48), (64, 8))
    """

    cfg: KronTrainingSAEConfig  # type: ignore[assignment]

    @property
    def unit_rows(self) -> bool:  # type: ignore[override]
        """Whether the decoder rows count as normalised."""
        return self.cfg.rescale_acts_by_decoder_norm

    @override
    def get_activation_fn(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return LowestIndexTopK(self.cfg.levels[-1])

    @override
    def encode_with_hidden_pre(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode activations, shape [..., d_in].

        Returns:
            Latents [..., d_sae] and the fused pre-latents W_enc x + b_enc, [..., h(m+n)].
        """
        fused = self._fused_pre_latents(x)
        return self.hook_sae_acts_post(self.activation_fn(self._scores(fused))), fused

    @override
    def calculate_aux_loss(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        sae_out: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Let the best dead latents rebuild the error, as TopK does, ranked by their mAND scores.

        A latent with a parent off scores 0 with zero gradient, so this revives only dead latents whose
        parents both fire: those that lose the selection, not those that are never on.
        """
        if not hidden_pre.is_sparse:
            hidden_pre = self._scores(hidden_pre)
        return super().calculate_aux_loss(step_input, feature_acts, hidden_pre, sae_out)

    @override
    def _dead_latents(self, latents: torch.Tensor) -> DeadLatents:
        parents = torch.cat(parent_columns(latents, self.cfg.base_dim, self.cfg.extension_dim))
        columns, place = parents.unique(return_inverse=True)
        of_base, of_extension = place.chunk(2)

        def scores(x: torch.Tensor, W: torch.Tensor, b: torch.Tensor, *b_in: torch.Tensor) -> torch.Tensor:
            fused = (x - b_in[0] if b_in else x) @ W + b
            return mand(fused[:, of_base].unsqueeze(-1), fused[:, of_extension].unsqueeze(-1))

        b_in, rows = input_bias(self), self.W_dec.index_select(0, latents)
        if self.cfg.rescale_acts_by_decoder_norm:
            rows = rows / rows.norm(dim=-1, keepdim=True)
        # By rows, as the encoder's other gradient comes.
        weights = (self.W_enc.T.index_select(0, columns).T, self.b_enc[columns])
        return DeadLatents(scores, weights if b_in is None else (*weights, b_in), rows, rank_scale=None)

    @override
    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        """Save unit-norm decoder rows: KronSAE decodes with W_dec as it stands."""
        self.process_state_dict_for_saving(state_dict)
        if self.cfg.rescale_acts_by_decoder_norm:
            state_dict["W_dec"] = state_dict["W_dec"] / self.get_W_dec_norm().unsqueeze(1)
