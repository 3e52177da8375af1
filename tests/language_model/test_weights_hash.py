"""Other weights have another hash, even if they are the same numbers elsewhere."""

import copy
from typing import Any

import pytest
import torch

from sae_lens_ext.language_model.weights_hash import weights_hash


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float64])
def test_copies_have_one_hash_and_what_was_moved_or_flipped_has_another(precision: torch.dtype):
    layer: Any = torch.nn.Linear(3, 2).to(precision)
    moved, flipped, nudged = (copy.deepcopy(layer) for _ in range(3))
    with torch.no_grad():
        moved.weight.copy_(layer.weight.flip(0))
        flipped.weight.neg_()
        nudged.weight[0, 0] = (
            torch.nextafter(nudged.weight[0, 0].float(), torch.tensor(9.0)).to(precision) * 2
        )

    assert weights_hash(copy.deepcopy(layer)) == weights_hash(layer)
    assert len({weights_hash(one) for one in (layer, moved, flipped, nudged)}) == 4
