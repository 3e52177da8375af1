"""The inference SAE of a training SAE, without the way over the disk."""

import copy
from typing import Any

import torch
from sae_lens import SAE, SAEConfig, TrainingSAE
from sae_lens.registry import get_sae_class


def as_inference(sae: SAE[Any]) -> SAE[Any]:
    """Give what `save_inference_model` and `SAE.load_from_disk` would give.

    Args:
        sae: Any SAE. An inference SAE is returned as it is.

    Returns:
        The inference SAE, with weights of its own if `sae` is a training SAE.
    """
    if not isinstance(sae, TrainingSAE):
        return sae
    state_dict = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(state_dict)
    cfg = SAEConfig.from_dict(copy.deepcopy(sae.cfg.get_inference_sae_cfg_dict()))
    return assemble(cfg, {name: tensor.to(sae.dtype) for name, tensor in state_dict.items()})


def assemble(cfg: SAEConfig, state_dict: dict[str, torch.Tensor]) -> SAE[Any]:
    """Build the SAE of a configuration around given tensors, without initialising it first.

    Args:
        cfg: Configuration of an inference SAE; its architecture must be registered.
        state_dict: Its weights, taken over without copying.

    Returns:
        The SAE, on `cfg.device`.

    Raises:
        RuntimeError: The tensors do not fit the configuration.
    """
    sae_class, _ = get_sae_class(cfg.architecture())
    return assemble_as(sae_class, cfg, state_dict)


def assemble_as(sae_class: type[SAE[Any]], cfg: SAEConfig, state_dict: dict[str, torch.Tensor]) -> SAE[Any]:
    """Do as `assemble` for a class that is known, a training class too."""
    device, cfg.device = cfg.device, "meta"
    sae = sae_class(cfg)
    cfg.device = device
    sae.device = torch.device(device)
    frozen = [t for t in state_dict.values() if isinstance(t, torch.nn.Parameter) and not t.requires_grad]
    sae.load_state_dict(state_dict, assign=True)
    for (
        parameter
    ) in frozen:  # it is taken over as it is, but for this, which PyTorch sets as the class has it
        parameter.requires_grad_(False)
    return sae
