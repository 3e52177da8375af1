"""When the Triton kernels take the place of the PyTorch forms."""

import importlib.util
import os

import torch

SWITCH = "SAE_LENS_EXT_TRITON"  # the environment variable that switches the kernels off, set to 0

IS_INSTALLED = importlib.util.find_spec("triton") is not None  # found, not imported
LEAST_CAPABILITY = (8, 0)  # Triton supports NVIDIA's Ampere and later; older GPUs keep to PyTorch


def use_triton(*tensors: torch.Tensor) -> bool:
    """Tell whether to compute with the Triton kernels.

    Args:
        tensors: What the computation reads; its device and precision are looked at.

    Returns:
        True if triton is installed and every tensor is on a GPU that it supports, unless one is float64 (the
        kernels sum in float32), deterministic algorithms are asked for (the kernels add atomically) or the
        environment says SAE_LENS_EXT_TRITON=0.
    """
    return all(t.is_cuda for t in tensors) and (
        IS_INSTALLED
        and os.environ.get(SWITCH) != "0"
        and not torch.are_deterministic_algorithms_enabled()
        and all(t.dtype != torch.float64 for t in tensors)
        and torch.cuda.get_device_capability(tensors[0].device) >= LEAST_CAPABILITY
    )
