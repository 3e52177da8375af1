"""TopK training steps of other libraries, where these are installed (see competitors.txt)."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / ".competitors"


def competitor_steps(d_in: int, d_sae: int, k: int) -> dict[str, Callable[[torch.Tensor], Any]]:
    """Give a training step on a batch [B, d_in] for each library found; nothing if the folder is missing."""
    if not FOLDER.exists():
        print(
            f"{FOLDER} does not exist, so other libraries are left out; benchmarks/competitors.txt says how."
        )
        return {}
    sys.path.append(str(FOLDER))
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its own fallback where there is no GPU
    return {
        "eai-sparsify": _sparsify(d_in, d_sae, k),
        "dictionary-learning": _dictionary_learning(d_in, d_sae, k),
    }


def _sparsify(d_in: int, d_sae: int, k: int) -> Callable[[torch.Tensor], Any]:
    """Step as its trainer does, with Adam: forward, backward, decoder gradient projected, clip, normalise."""
    from sparsify import SparseCoder, SparseCoderConfig

    sae = SparseCoder(d_in, SparseCoderConfig(num_latents=d_sae, k=k))
    optimizer = torch.optim.Adam(sae.parameters(), lr=3e-4)
    did_fire = torch.zeros(d_sae, dtype=torch.bool)

    def step(x: torch.Tensor) -> None:
        out = sae(x, dead_mask=None)
        out.fvu.backward()
        did_fire[out.latent_indices.flatten()] = True
        sae.remove_gradient_parallel_to_decoder_directions()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        sae.set_decoder_norm_to_unit_norm()

    return step


def _dictionary_learning(d_in: int, d_sae: int, k: int) -> Callable[[torch.Tensor], Any]:
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=10**6, activation_dim=d_in, dict_size=d_sae, k=k, layer=0, lm_name="none", device="cpu", seed=0
    )
    return lambda x: trainer.update(1, x)  # step 0 would compute a geometric median, once
