"""Where a training of steering vectors stands, in one file that is either whole or not there."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from sae_lens_ext.json_file import parse_json
from sae_lens_ext.tensor_file import UNREADABLE, read_tensor_file, write_tensor_file

_FORMAT = "sae_lens_ext.SteeringTraining/1"
CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training after some steps. All randomness follows from the seed and the step, so this is everything."""

    step: int
    """Steps done."""
    rewards: list[float]
    """Mean reward of each."""
    vectors: dict[int, torch.Tensor]
    """By layer, [d_model]."""
    optimizer: dict[str, dict[int, torch.Tensor]]
    """AdamW's state, by name ("step", "exp_avg", "exp_avg_sq") and layer; no layers before its first step."""

    def save(self, path: Path) -> None:
        """Write the file in place of the one before."""
        tensors = {f"vectors.{layer}": vector for layer, vector in self.vectors.items()}
        for name, of_layers in self.optimizer.items():
            tensors |= {f"{name}.{layer}": value for layer, value in of_layers.items()}
        header = {"step": str(self.step), "rewards": json.dumps(self.rewards)}
        write_tensor_file(path, _FORMAT, tensors, header)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read the file.

        Raises:
            ValueError: It is truncated or something else.
        """
        try:
            tensors, header = read_tensor_file(path, _FORMAT)
            groups: dict[str, dict[int, torch.Tensor]] = {}
            for name, tensor in tensors.items():
                group, _, layer = name.rpartition(".")
                groups.setdefault(group, {})[int(layer)] = tensor
            return cls(int(header["step"]), parse_json(header["rewards"]), groups.pop("vectors"), groups)
        except UNREADABLE as error:
            raise ValueError(
                f"{path} is no checkpoint of a training of steering vectors that this version can read ({type(error).__name__}: {error}). It was left as it "
                "is. Delete it to begin anew in this folder, or give another folder."
            ) from error
