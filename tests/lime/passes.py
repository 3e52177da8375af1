"""One pass of a model."""

from typing import Any

import torch


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Give the logits, without gradient."""
    return model(tokens, return_type="logits").detach()
