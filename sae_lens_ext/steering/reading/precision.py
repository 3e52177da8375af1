"""Saying that a model's precision is coarse for differences."""

import logging
from typing import Any

import torch

_logger = logging.getLogger(__name__)


def warn_of_half_precision(caller: str, model: Any) -> None:
    """Warn if a model computes in half precision, whose rounding is as large as what a weak vector changes."""
    precision = next(model.parameters()).dtype
    if precision in (torch.float16, torch.bfloat16):
        _logger.warning(
            "%s compares passes of a model in %s, whose rounding is as large as what a weak vector changes. Load the model in float32 to be sure.",
            caller,
            precision,
        )
