"""The baselines that the residual SAE's paper names, as we read its short descriptions of them.

    extended     the base's dictionary and new latents beside it in one BatchTopK; the base's part is frozen
    fine-tuned   the base trained on, all of it
    stitched     the latents that fine-tuning changed most, put beside the base's own

All start from the same base. The first two minimise ‖x − x̂‖² on the domain's tokens in SAELens' BatchTopK with the k that
the caller gives: to be fair, what base and residual spend together in the domain, where the base's threshold lets more
latents through than on its own text. The third spends what base and grafted latents come to.
"""

from dataclasses import replace

import torch
from domain_saes import D_NEW, HOOK, THRESHOLD_LR
from offline_training import D_IN
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from torch import nn

NOISE = 0.02


def fine_tuned(base: JumpReLUSAE, k: float) -> BatchTopKTrainingSAE:
    """Give the base as a training SAE, every weight free, with k latents a token on average."""
    sae = BatchTopKTrainingSAE(_config(base.cfg.d_sae, k))
    _copy_base(sae, base)
    return sae


def extended(base: JumpReLUSAE, domain: torch.Tensor, init: str, k: float) -> BatchTopKTrainingSAE:
    """Give the base with `D_NEW` new latents beside it, which alone are trained.

    Args:
        base: The base.
        domain: Activations of the domain [N, d_in].
        init: "random" (SAELens' initialisation, at the norm of the base's decoder rows) or "active": the base's latents that are most active on the domain, each
            row of encoder and decoder with Gaussian noise of 2% of its norm.
        k: Latents a token on average, old and new together.
    """
    sae = ExtendedSAE(_config(base.cfg.d_sae + D_NEW, k))
    sae.n_frozen = base.cfg.d_sae
    old, new = slice(None, base.cfg.d_sae), slice(base.cfg.d_sae, None)
    if init == "active":
        chosen = _mean_activation(base, domain[: 2**16]).topk(D_NEW).indices
        sae.W_dec.data[new] = _noisy(base.W_dec.data[chosen])
        sae.W_enc.data[:, new] = _noisy(base.W_enc.data[:, chosen].T).T
        sae.b_enc.data[new] = base.b_enc.data[chosen]
    _copy_base(sae, base)

    def freeze(parameter: nn.Parameter, dim: int) -> None:
        def only_new(gradient: torch.Tensor) -> torch.Tensor:
            gradient = gradient.clone()
            gradient[(slice(None),) * dim + (old,)] = 0
            return gradient

        parameter.register_hook(only_new)  # Adam leaves alone what never has a gradient

    freeze(sae.W_dec, 0), freeze(sae.W_enc, 1), freeze(sae.b_enc, 0)
    sae.b_dec.requires_grad_(False)
    return sae


def stitched(base: JumpReLUSAE, tuned: JumpReLUSAE) -> SAE:
    """Put the `D_NEW` latents whose decoder rows fine-tuning turned most beside the base's own, with their thresholds."""
    cosine = nn.functional.cosine_similarity(base.W_dec, tuned.W_dec, dim=-1)
    chosen = cosine.topk(D_NEW, largest=False).indices
    # Both read x − b_dec, each its own; the result subtracts the base's.
    bias = tuned.b_enc[chosen] + (base.b_dec - tuned.b_dec) @ tuned.W_enc[:, chosen]
    sae = JumpReLUSAE(
        JumpReLUSAEConfig(
            d_in=D_IN, d_sae=base.cfg.d_sae + D_NEW, apply_b_dec_to_input=base.cfg.apply_b_dec_to_input
        )
    )
    sae.load_state_dict(
        {
            "W_enc": torch.cat([base.W_enc, tuned.W_enc[:, chosen]], dim=1),
            "b_enc": torch.cat([base.b_enc, bias]),
            "threshold": torch.cat([base.threshold, tuned.threshold[chosen]]),
            "W_dec": torch.cat([base.W_dec, tuned.W_dec[chosen]]),
            "b_dec": base.b_dec,
        }
    )
    sae.cfg.metadata.hook_name = HOOK
    return sae


class ExtendedSAE(BatchTopKTrainingSAE):
    """A BatchTopK whose first latents are frozen, so that its auxiliary loss is for the dead among the others."""

    n_frozen: int

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Take a step with no frozen latent counted as dead."""
        dead = step_input.dead_neuron_mask
        if dead is not None:
            dead = dead.clone()
            dead[: self.n_frozen] = False
        return super().training_forward_pass(replace(step_input, dead_neuron_mask=dead))


def _config(d_sae: int, k: float) -> BatchTopKTrainingSAEConfig:
    cfg = BatchTopKTrainingSAEConfig(
        d_in=D_IN, d_sae=d_sae, k=k, topk_threshold_lr=THRESHOLD_LR, decoder_init_norm=1.0
    )
    cfg.metadata.hook_name = HOOK
    return cfg


@torch.no_grad()
def _copy_base(sae: BatchTopKTrainingSAE, base: JumpReLUSAE) -> None:
    n = base.cfg.d_sae
    assert sae.cfg.apply_b_dec_to_input == base.cfg.apply_b_dec_to_input
    sae.W_enc.data[:, :n], sae.b_enc.data[:n] = base.W_enc, base.b_enc
    sae.W_dec.data[:n], sae.b_dec.data[:] = base.W_dec, base.b_dec
    sae.topk_threshold.fill_(base.threshold.mean().item())


@torch.no_grad()
def _mean_activation(base: SAE, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([base.encode(part).mean(dim=0) for part in x.split(1024)]).mean(dim=0)


def _noisy(rows: torch.Tensor) -> torch.Tensor:
    noise = torch.randn_like(rows)
    return rows + NOISE * rows.norm(dim=-1, keepdim=True) * noise / noise.norm(dim=-1, keepdim=True)
