"""What cannot be divided exactly by its latents, and is refused."""

from typing import Any

from sae_lens import TopKTrainingSAEConfig

from sae_lens_ext.architectures.hierarchical_topk import HierarchicalTopKTrainingSAEConfig
from sae_lens_ext.architectures.ranked_latents import goes_dense
from sae_lens_ext.architectures.validation import (
    FOLDABLE_NORMALIZATIONS,
    require_normalization,
    require_positive_int,
)

DIVISIBLE = (TopKTrainingSAEConfig, HierarchicalTopKTrainingSAEConfig)


def require_divisible(cfg: Any) -> None:
    """Raise ValueError unless SAEs with this configuration can have their latents divided over ranks.

    Args:
        cfg: The undivided SAE's.
    """
    if type(cfg) not in DIVISIBLE:
        raise ValueError(
            f"{type(cfg).__name__} describes an SAE whose latents cannot be divided over ranks. Give a TopKTrainingSAEConfig, or a "
            "HierarchicalTopKTrainingSAEConfig with budgets=(k,), or divide the batch instead of the latents."
        )
    require_positive_int(type(cfg).__name__, "k", cfg.k, cfg.d_sae, "d_sae")
    levels = getattr(cfg, "levels", (cfg.k,))
    if levels != (cfg.k,):
        raise ValueError(
            f"{type(cfg).__name__}.budgets = {cfg.budgets!r} names several budgets, or one below k = {cfg.k}. Latents divided over ranks are trained "
            f"for the one budget k: give budgets=({cfg.k},), or divide the batch instead of the latents."
        )
    require_normalization(
        cfg,
        FOLDABLE_NORMALIZATIONS,
        "A scale per token would be kept on the SAE between encoding and decoding.",
    )


def require_unwatched(sae: Any) -> None:
    """Raise ValueError if a hook wants the dense input or latents of a divided SAE, or its device has no sparse operations."""
    if goes_dense(sae):
        raise ValueError(
            "An SAE whose latents are divided over ranks has no dense latents for a hook to see, and works on a CPU or a CUDA device. Remove the hooks from "
            f"hook_sae_input, hook_sae_acts_pre and hook_sae_acts_post (the device is {sae.W_enc.device}), or put them on the joined SAE."
        )
