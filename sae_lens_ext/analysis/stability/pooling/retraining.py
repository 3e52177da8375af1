"""Teach an SAE's encoder to use a decoder that stays as it is."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sae_lens import SAE, LoggingConfig, TopKSAE, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from sae_lens.util import dtype_to_str

from sae_lens_ext.architectures.inference import as_inference, assemble, assemble_as
from sae_lens_ext.architectures.sae_checks import require_sae
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.number_checks import require_seed


def retrain_encoder(
    sae: SAE[Any],
    activations: torch.Tensor,
    *,
    n_tokens: int,
    lr: float = 1e-3,
    batch_size_tokens: int = 1024,
    seed: int = 0,
) -> SAE[Any]:
    """Train encoder and encoder bias of a TopK SAE in SAELens' own trainer, its decoder frozen.

    An SAE of half precision is trained in float32 and rounded at the end.

    Args:
        sae: A topk SAE, such as `pool_features` gives. It stays as it is.
        activations: [n, d_in], what to train on, heads flattened; gone through again if there are fewer than `n_tokens`, in a new
            order each time.
        n_tokens: Activations to train on, in whole batches.
        lr: Adam's learning rate, with a linear decay to zero over the last fifth.
        batch_size_tokens: Activations in a step.
        seed: Order of the activations.

    Returns:
        A new SAE with the same decoder rows and decoder bias, to the last bit.

    Raises:
        ValueError: It is not a topk SAE, or normalises activations; these have another width, do not fill one batch, or hold NaN or
            infinity; a setting is out of range.
    """
    seed = require_seed("retrain_encoder", seed)
    sae = as_inference(require_sae("retrain_encoder", "sae", sae))
    if not isinstance(sae, TopKSAE):
        raise ValueError(
            f"retrain_encoder was given an SAE of the architecture {sae.cfg.architecture()!r}. It trains topk SAEs, whose sparsity needs no "
            "coefficient to be chosen."
        )
    if sae.cfg.normalize_activations != "none":
        raise ValueError(
            f"retrain_encoder was given an SAE with normalize_activations = {sae.cfg.normalize_activations!r}. To train it would change the decoder, or "
            "fail at the first dead latent: SAELens' TopK trainer does one or the other. Give an SAE that reads activations as they are."
        )
    for name, value in (("n_tokens", n_tokens), ("batch_size_tokens", batch_size_tokens)):
        require_positive_int("retrain_encoder", name, value)
    if not isinstance(activations, torch.Tensor) or activations.is_complex() or activations.is_meta:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"retrain_encoder was given activations of type {type(activations).__name__} ({getattr(activations, 'dtype', None)}, {getattr(activations, 'device', None)}). "
            f"Give a tensor of real numbers, [n, {sae.cfg.d_in}]."
        )
    if activations.ndim != 2 or activations.shape[1] != sae.cfg.d_in or len(activations) < batch_size_tokens:
        raise ValueError(
            f"retrain_encoder was given activations of the shape {tuple(activations.shape)}. Give [n, {sae.cfg.d_in}] with at least one batch of "
            f"{batch_size_tokens} rows."
        )
    if n_tokens < batch_size_tokens:
        raise ValueError(
            f"retrain_encoder was given n_tokens = {n_tokens}, which is less than one batch of {batch_size_tokens}, so that nothing would be trained. Give more."
        )
    if not torch.isfinite(activations).all():
        raise ValueError(
            "retrain_encoder was given activations that hold NaN or infinity. Look at the precision they were read in: float16 overflows where "
            "bfloat16 does not."
        )
    lr = lr.item() if isinstance(lr, (torch.Tensor, np.generic)) and lr.ndim == 0 else lr  # pyright: ignore[reportUnnecessaryIsInstance]
    if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not 0 < lr < math.inf:
        raise ValueError(
            f"retrain_encoder was given lr = {lr!r}, which is no learning rate. Give a number above 0, such as 1e-3."
        )
    activations = activations.detach()
    dtype = torch.promote_types(sae.dtype, torch.float32)
    training = assemble_as(
        TopKTrainingSAE,
        _training_config(sae, dtype),
        {name: tensor.to(dtype, copy=True) for name, tensor in sae.state_dict().items()},
    )
    training.W_dec.requires_grad_(False)
    training.b_dec.requires_grad_(False)
    steps = n_tokens // batch_size_tokens
    cfg = SAETrainerConfig(
        total_training_samples=steps * batch_size_tokens,
        train_batch_size_samples=batch_size_tokens,
        device=str(sae.device),
        autocast=False,
        lr=lr,
        lr_end=0.0,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        lr_decay_steps=steps // 5,
        n_restart_cycles=1,
        adam_beta1=0.9,
        adam_beta2=0.999,
        dead_feature_window=1000,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
    )
    batches = _batches(activations, batch_size_tokens, seed, dtype)
    SAETrainer(cfg=cfg, sae=training, data_provider=batches).fit()  # pyright: ignore[reportArgumentType]
    new_cfg = copy.deepcopy(sae.cfg)
    new_cfg.metadata = training.cfg.metadata
    # Not as_inference, which divides the decoder rows by their norms if the latents are rescaled by them.
    return assemble(
        new_cfg, {name: tensor.detach().to(sae.dtype) for name, tensor in training.state_dict().items()}
    )


def _training_config(sae: TopKSAE, dtype: torch.dtype) -> TopKTrainingSAEConfig:
    cfg = sae.cfg
    return TopKTrainingSAEConfig(
        d_in=cfg.d_in,
        d_sae=cfg.d_sae,
        k=cfg.k,
        dtype=dtype_to_str(dtype),
        device=cfg.device,
        apply_b_dec_to_input=cfg.apply_b_dec_to_input,
        normalize_activations=cfg.normalize_activations,
        reshape_activations=cfg.reshape_activations,
        rescale_acts_by_decoder_norm=cfg.rescale_acts_by_decoder_norm,
        metadata=copy.deepcopy(cfg.metadata),
    )


def _batches(activations: torch.Tensor, size: int, seed: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(activations), generator=generator).split(size):
            if len(rows) == size:
                yield activations[rows].to(dtype)
