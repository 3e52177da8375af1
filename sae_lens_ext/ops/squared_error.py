"""The squared error of a batch, in float32 or better whatever the precision of its parts."""

import torch


def squared_error(found: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Give ‖found − target‖², summed over the last dimension and averaged over the rest.

    In half precision a sum keeps two or three digits, and float16 ends at 65,504: the squares of a few large activations are beyond.

    Args:
        found: Shape [..., d].
        target: Shape [..., d].

    Returns:
        A scalar, in float32 or better.
    """
    dtype = torch.promote_types(torch.float32, torch.promote_types(found.dtype, target.dtype))
    return (found.to(dtype) - target.to(dtype)).pow(2).sum(dim=-1).mean()
