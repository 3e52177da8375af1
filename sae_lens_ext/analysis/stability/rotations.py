"""Random rotations, for nulls and made-up geometry."""

import torch


def random_rotation(dimensions: int, generator: torch.Generator) -> torch.Tensor:
    """Draw an orthogonal matrix [dimensions, dimensions], uniformly (Haar), reflections included."""
    q, r = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=generator))
    return q * r.diagonal().sign()
