"""A divided SAE on disk: SAELens' files of the undivided one, of which each rank reads no more than its share."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from safetensors import safe_open
from safetensors.torch import save_file

from sae_lens_ext.files import make_folder
from sae_lens_ext.ranks import Ranks
from sae_lens_ext.training.tensor_parallel.shares import DIVIDED_AXIS, joined_state


def save_weights(
    path: str | Path, share: Mapping[str, torch.Tensor], cfg: Mapping[str, Any], ranks: Ranks
) -> tuple[Path, Path]:
    """Write the joined weights and their configuration from the first rank, which holds the whole on its CPU while it does.

    Args:
        path: The folder.
        share: This rank's parameters.
        cfg: The undivided SAE's configuration.
        ranks: Who holds the others. All must ask.

    Returns:
        The paths of the two files; they are written when the first rank returns.

    Raises:
        RankError: A rank does not answer.
    """
    weights_path, cfg_path = Path(path) / SAE_WEIGHTS_FILENAME, Path(path) / SAE_CFG_FILENAME
    whole = joined_state(share, ranks)
    if whole is not None:
        make_folder(weights_path.parent)
        save_file(whole, weights_path)
        cfg_path.write_text(json.dumps(dict(cfg)), encoding="utf-8")
    return weights_path, cfg_path


def read_weights_share(
    folder: str | Path, share: Mapping[str, torch.Tensor], own: slice, ranks: Ranks
) -> dict[str, torch.Tensor]:
    """Read this rank's latents from an undivided SAE's weights, and no others.

    Args:
        folder: One that SAELens or `save_weights` wrote.
        share: What the rank has, by name; for its shapes.
        own: The latents that are this rank's.
        ranks: Who have the others, as many each.

    Returns:
        The parameters' shares, on the CPU.

    Raises:
        ValueError: The folder holds an SAE of another kind or size.
    """
    path, state = Path(folder) / SAE_WEIGHTS_FILENAME, {}
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        if names != set(share):
            raise ValueError(
                f"{path} holds {', '.join(sorted(names))}, not {', '.join(sorted(share))}. Give a TopK SAE's folder."
            )
        for name, tensor in share.items():
            axis, found = DIVIDED_AXIS.get(name), file.get_slice(name)
            shape = list(tensor.shape)
            if axis is not None:
                shape[axis] *= ranks.size
            if found.get_shape() != shape:
                raise ValueError(
                    f"{path} holds {name} of shape {found.get_shape()}, but the SAE whose latents are divided over {ranks.size} ranks has {shape}. "
                    "Give the folder of an SAE with the same d_in and d_sae."
                )
            state[name] = found[:] if axis is None else found[own] if axis == 0 else found[:, own]
    return state
