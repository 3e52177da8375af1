"""Where a training of a language model stands, in one file that is either whole or not there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sae_lens_ext.tensor_file import UNREADABLE, read_tensor_file, write_tensor_file

_FORMAT = "sae_lens_ext.LanguageModelTraining.state/1"
CHECKPOINT_FILE = "checkpoint.safetensors"
TRAINED_FILE = "trained.safetensors"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training after some steps. All randomness follows from the seed and the step, so this is everything."""

    step: int
    """Steps done."""
    weights: Mapping[str, torch.Tensor]
    """What has been moved, by name; not a second time what is an alias of it, such as a bridge's joint matrix of q, k and v, which gets no gradient."""
    optimizer: Mapping[str, Mapping[str, torch.Tensor]]
    """AdamW's state, by its name ("step", "exp_avg", "exp_avg_sq") and the parameter's; empty of what has had no step, and when all is done."""
    history: Mapping[str, torch.Tensor]
    """What was measured, float64 [steps] each, and of the validations [n_validations]."""

    def save(self, path: Path) -> None:
        """Write the file in place of the one before."""
        tensors = {f"weights/{name}": tensor for name, tensor in self.weights.items()}
        tensors |= {f"history/{name}": tensor for name, tensor in self.history.items()}
        for kind, of_parameters in self.optimizer.items():
            tensors |= {f"optimizer.{kind}/{name}": tensor for name, tensor in of_parameters.items()}
        # Clones: safetensors refuses two names for one memory, and tensors that are not contiguous.
        write_tensor_file(path, _FORMAT, tensors, {"step": str(self.step)})

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read the file.

        Raises:
            ValueError: It is truncated or something else, or not there.
        """
        try:
            tensors, header = read_tensor_file(path, _FORMAT)
            parts: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "history": {}}
            for full_name, tensor in tensors.items():
                part, _, name = full_name.partition("/")
                parts.setdefault(part, {})[name] = tensor
            weights, history = parts.pop("weights"), parts.pop("history")
            optimizer = {part.removeprefix("optimizer."): found for part, found in parts.items()}
            return cls(int(header["step"]), weights, optimizer, history)
        except UNREADABLE as error:
            raise ValueError(
                f"{path} is no state of a training of a language model that this version can read ({type(error).__name__}: {error}). It was left as it is. Delete "
                "its folder to begin anew, or give another folder."
            ) from error

    @torch.no_grad()
    def load_weights(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Set parameters to the weights.

        Raises:
            ValueError: The weights are of other parameters. Nothing was set.
        """
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        for name, tensor in self.weights.items():
            if shapes.get(name) != tuple(tensor.shape):
                raise ValueError(
                    f"The state that was saved has a tensor {name} of shape {tuple(tensor.shape)}; in the model and routers that were given, what is trained of this "
                    f"name has the shape {shapes.get(name)}. Give the model and routers that were trained, built anew."
                )
        for name, tensor in self.weights.items():
            parameters[name].copy_(tensor)

    def load_optimizer(
        self, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
    ) -> None:
        """Set AdamW's state of parameters."""
        for kind, of_parameters in self.optimizer.items():
            for name, tensor in of_parameters.items():
                parameter = parameters[name]
                state: dict[str, Any] = optimizer.state[parameter]
                counts_on_cpu = kind == "step" and not optimizer.param_groups[0]["fused"]
                state[kind] = tensor.clone() if counts_on_cpu else tensor.to(parameter.device, copy=True)


def optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, dict[str, torch.Tensor]]:
    """Give AdamW's state by its name and the parameter's."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in parameters.items():
        for kind, tensor in optimizer.state.get(parameter, {}).items():
            found.setdefault(kind, {})[name] = tensor
    return found
