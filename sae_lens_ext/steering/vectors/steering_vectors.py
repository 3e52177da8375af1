"""One vector per layer, added to the residual stream after the block, at every position (arXiv 2509.06608, section 2; 2505.18706)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.language_model.hook_points import hook_points_of
from sae_lens_ext.steering.add_vector import AddVector
from sae_lens_ext.steering.hook_points import steered_point
from sae_lens_ext.steering.intervention import InterventionSum
from sae_lens_ext.steering.token_selection import PHASES, Positions
from sae_lens_ext.steering.vectors.bias_vectors import biases_of_checkpoint, biases_of_model
from sae_lens_ext.steering.vectors.figure import figure, frame
from sae_lens_ext.steering.vectors.linear_combination import LinearCombination
from sae_lens_ext.steering.vectors.model_biases import model_name_of, model_size, require_fits
from sae_lens_ext.steering.vectors.vector_checks import checked_provenance, checked_vectors, require_layer
from sae_lens_ext.steering.vectors.vectors_file import read_vectors, write_vectors

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_SELF = "SteeringVectors"


@dataclass(frozen=True, eq=False, repr=False)
class SteeringVectors(LinearCombination):
    """Vectors s_l by layer: h_l += s_l after block l, at every position of prompt and generation.

    In a model whose blocks end in `h += down_proj(...)`, such as Llama and Qwen, this is a bias on `mlp.down_proj`. In one with a norm
    after its MLP, such as Gemma 2, it is not, and readers of biases refuse.

        vectors = SteeringVectors({10: v, 11: w})
        with steer(model, vectors.interventions(model)):
            model.generate("The weather today is", max_new_tokens=20)

    `a + b`, `a - b`, `2 * a`, `a / 2`, `-a` and `sum([...])` act layer by layer; a layer that one of two lacks counts as zero. `len`, `in` and iteration
    are over the layers. Two objects are equal only if they are one.

    Raises:
        ValueError: There is no vector; a layer is no whole number from 0 on; a vector is no floating-point tensor [d_model], or has
            NaN or infinity in it; the widths differ; the provenance is nothing that JSON can hold.
    """

    vectors: Mapping[int, torch.Tensor]
    """By layer, ascending, s_l: [d_model], float32, on the CPU; copies of what was given, whatever its precision. In the units of the
    residual stream."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Where they come from; what JSON can hold."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", MappingProxyType(checked_vectors(_SELF, self.vectors)))
        object.__setattr__(self, "provenance", MappingProxyType(checked_provenance(_SELF, self.provenance)))

    def __reduce__(self) -> tuple[Any, ...]:
        # Mapping proxies can be neither copied nor pickled.
        return SteeringVectors, (dict(self.vectors), dict(self.provenance))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, ascending."""
        return tuple(self.vectors)

    @property
    def d_model(self) -> int:
        """Width of the vectors."""
        return len(self.vectors[self.layers[0]])

    @property
    def norms(self) -> dict[int, float]:
        """‖s_l‖ by layer."""
        return {layer: float(vector.double().norm()) for layer, vector in self.vectors.items()}

    def __len__(self) -> int:
        return len(self.vectors)

    def __iter__(self) -> Iterator[int]:
        return iter(self.layers)

    def __contains__(self, layer: object) -> bool:
        return layer in self.vectors

    def __getitem__(self, layer: int) -> torch.Tensor:
        found = require_layer(_SELF, layer)
        if found not in self.vectors:
            raise ValueError(
                f"There is no steering vector of layer {found}. There are of {self._shown()}: give one of these."
            )
        return self.vectors[found].clone()

    def only(self, *layers: int) -> SteeringVectors:
        """Give the vectors of some layers alone: `vectors.only(10, 11)`.

        Raises:
            ValueError: None was named, or one that is not there.
        """
        if not layers:
            raise ValueError(f"only() was given no layer. Name at least one of {self._shown()}.")
        kept = {require_layer("only()", layer): self[layer] for layer in layers}
        return SteeringVectors(kept, {"made_by": "only", "layers": sorted(kept), "of": dict(self.provenance)})

    def interventions(
        self,
        model: Any = None,
        *,
        strength: float = 1.0,
        positions: Positions = None,
        phases: Sequence[str] = PHASES,
    ) -> InterventionSum:
        """Give what `steer` needs: an `AddVector` at `blocks.l.hook_resid_post` for each layer.

        Args:
            model: The model they are for; then it is checked that it has the layers and the width.
            strength: Times s_l.
            positions: Which tokens; by default all, BOS too, as in training. See `steer`.
            phases: Whether in the prompt, in what is generated, or both.

        Returns:
            Their sum. It can be iterated: `steer(model, x)` and `steer(model, *x)` are the same.

        Raises:
            ValueError: The model lacks a layer or has another width, or no hooks; the strength, positions or phases are none.
        """
        hooks = {layer: f"blocks.{layer}.hook_resid_post" for layer in self}
        if model is not None:
            hook_points_of(model)  # raises if it has none
            require_fits(_SELF, self.vectors, model)
            for hook in hooks.values():
                steered_point(model, hook)
        return InterventionSum(
            [
                AddVector(hook, self[layer].clone(), strength, positions, phases)
                for layer, hook in hooks.items()
            ]
        )

    def to_bias_state_dict(self, prefix: str = "model.") -> dict[str, torch.Tensor]:
        """Give the vectors as biases, `model.layers.{l}.mlp.down_proj.bias`: copies [d_model], float32.

        A Hugging Face model with such biases takes them with `load_state_dict(..., strict=False)`, a Llama made with `mlp_bias=True`. They add
        up to the same only where nothing stands between the MLP and the residual stream; `from_model` tells, of the model that took them.

        Args:
            prefix: What comes before `layers`.

        Raises:
            ValueError: The prefix is no text.
        """
        if not isinstance(prefix, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"to_bias_state_dict was given prefix = {prefix!r:.100}. Give a text, such as 'model.', or ''."
            )
        return {f"{prefix}layers.{layer}.mlp.down_proj.bias": self[layer].clone() for layer in self}

    @classmethod
    def zeros(cls, model: Any, layers: Sequence[int] | None = None) -> SteeringVectors:
        """Give vectors of zeros for a model, as training begins with.

        Args:
            model: Gives the width and the layers; a HookedTransformer, a TransformerBridge or a Hugging Face model.
            layers: Some of its layers; None for all.

        Raises:
            ValueError: The model has no such layer, or does not tell its size.
        """
        n_layers, d_model = model_size("SteeringVectors.zeros", model)
        wanted: Any = range(n_layers) if layers is None else layers
        if not isinstance(wanted, Sequence) or isinstance(wanted, str) or not wanted:
            raise ValueError(
                f"SteeringVectors.zeros was given layers = {layers!r}. Give None for all, or some, such as [10, 11] or range(5)."
            )
        made = cls(
            {require_layer("SteeringVectors.zeros", layer): torch.zeros(d_model) for layer in wanted},
            {"made_by": "SteeringVectors.zeros", "model_name": model_name_of(model)},
        )
        require_fits("SteeringVectors.zeros", made.vectors, model)
        return made

    @classmethod
    def from_model(cls, model: Any, base: Any = None) -> SteeringVectors:
        """Read a model's biases on the last projection of its MLPs, as bias-only training leaves them.

        Args:
            model: A HookedTransformer (`blocks.l.mlp.b_out`), a TransformerBridge, or a Hugging Face model (`mlp.down_proj.bias`).
            base: The model before training, of any of these kinds; then the vectors are the differences. A bias that one of them lacks counts as zero.
                Without it the biases count as a whole, which is right where the untrained model has none, as Llama and Qwen. Load both with the same
                processing of weights: centring changes biases.

        Returns:
            A vector for each layer that has a bias.

        Raises:
            ValueError: There are no biases, or all are zero, or equal to the base's; a norm or a factor stands between the MLP and the residual stream, as in
                Gemma 2 and OLMo 2, so that a bias is no addition to it; the base is of another size.
        """
        return cls(*biases_of_model("SteeringVectors.from_model", model, base))

    @classmethod
    def from_bias_checkpoint(cls, path: str | Path, model: Any = None) -> SteeringVectors:
        """Read the biases `model.layers.{l}.mlp.down_proj.bias`, with any prefix, from a checkpoint (arXiv 2505.18706); other weights are ignored.

        Args:
            path: A .safetensors file, a file of `torch.save` with a state dict (.pt, .pth, .bin, .ckpt; read with `weights_only=True`), or a folder
                as Hugging Face and PEFT save it, in one file or several with an index.
            model: The model they are for, of any kind that `from_model` takes; then it is checked that it has the layers and the width, and that
                biases are additions to its residual stream.

        Raises:
            FileNotFoundError: There is no such file, or one that the index names is missing.
            ValueError: A file is truncated or of another kind; there are no biases, or all are zero; they do not fit the model.
        """
        return cls(*biases_of_checkpoint("SteeringVectors.from_bias_checkpoint", path, model))

    def save(self, path: str | Path) -> None:
        """Write the vectors as safetensors, float32, with the provenance in the header; whole or not at all.

        Args:
            path: The file; its folder must exist.

        Raises:
            FileNotFoundError: The folder does not exist.
            IsADirectoryError: The path is a folder.
        """
        write_vectors(path, self.vectors, self.provenance)

    @classmethod
    def load(cls, path: str | Path) -> SteeringVectors:
        """Read vectors that `save` wrote, exactly, with their provenance.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is truncated, of another kind, or of a later version of this package.
        """
        vectors, provenance = read_vectors(path)
        try:
            return cls(vectors, provenance)
        except ValueError as error:
            raise ValueError(f"{path} holds no usable steering vectors. {error}") from error

    def to_frame(self) -> pd.DataFrame:
        """Give a data frame with a row per layer.

        Columns: `layer`; `norm`; `largest_value`, the coordinate farthest from 0, with its sign, and `largest_coordinate`, which it is;
        `cosine_to_previous`, with the vector of the row before (NaN for the first, and where one is zero).
        """
        return frame(self)

    def plot(self) -> go.Figure:
        """Draw the norm of each layer's vector; returns the figure without showing it."""
        return figure(self)

    def __repr__(self) -> str:
        norms = self.norms
        largest = max(norms, key=lambda layer: norms[layer])
        origin = (self.provenance.get("made_by"), self.provenance.get("model_name"))
        return (
            f"SteeringVectors of {self._shown()}, d_model {self.d_model}\n"
            f"  norms {min(norms.values()):.4g} to {max(norms.values()):.4g}, largest in layer {largest}\n"
            f"  from {', '.join(str(part) for part in origin if part) or 'vectors given, without provenance'}"
        )

    def _repr_html_(self) -> str:
        return notebook_view(self, self.to_frame().to_html(index=False, float_format=lambda x: f"{x:.4g}"))

    def _shown(self) -> str:
        first, last = self.layers[0], self.layers[-1]
        if first == last:
            return f"layer {first}"
        if len(self) == last - first + 1:
            return f"layers {first} to {last}"
        return f"layers {', '.join(map(str, self.layers))}"
