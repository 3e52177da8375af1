"""Telling two models' weights apart."""

import hashlib
from typing import Any


def weights_hash(model: Any) -> str:
    """Give a hash of a model's weights, to the last bit of each; on which device they are does not matter.

    Args:
        model: Any module.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(f"{list(parameter.shape)} {parameter.dtype}".encode())
        # float32 holds every bfloat16 and float16 exactly; NumPy has no bfloat16.
        weights = parameter.detach().cpu()
        weights = weights.float() if weights.element_size() < 4 else weights
        digest.update(weights.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
