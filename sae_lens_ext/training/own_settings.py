"""A configuration as one rank has it."""

import copy
from typing import Any, TypeVar

from sae_lens import LanguageModelSAERunnerConfig, MultiSAETrainingRunnerConfig

from sae_lens_ext.ranks import Ranks, own_device

Cfg = TypeVar("Cfg", LanguageModelSAERunnerConfig[Any], MultiSAETrainingRunnerConfig)


def own_settings(cfg: Cfg, ranks: Ranks) -> Cfg:
    """Copy a runner's configuration with this rank's devices, and its log switched off on all ranks but the first."""
    own = copy.copy(cfg)
    for name in ("device", "llm_device", "act_store_device"):
        setattr(own, name, own_device(getattr(cfg, name)))
    own.logger = copy.copy(cfg.logger)
    own.logger.log_to_wandb = cfg.logger.log_to_wandb and ranks.is_first
    return own


def own_sae(cfg: Any) -> Any:
    """Copy an SAE's configuration with this rank's device."""
    own = copy.copy(cfg)
    own.device = own_device(cfg.device)
    return own
