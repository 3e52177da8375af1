"""The routers of LIMe: for each layer, how much each head of each layer so far gives to its keys and values (arXiv 2502.09245)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sae_lens_ext.lime.initial_weights import Initial, initial_weights
from sae_lens_ext.lime.routers_file import read_routers, write_routers
from sae_lens_ext.lime.routing_hooks import Attachment, RecordedMemory

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from sae_lens_ext.lime.training import LanguageModelTraining


class LimeRouters(nn.Module):
    """Weights R of layer ℓ: K̃_h = Σ_ℓ'≤ℓ Σ_h' R[h, ℓ', h'] · K_ℓ',h', and the same R for the values.

    K and V are those that each layer computes, un-routed and before rotary embedding. Weights are signed, the same for all tokens, and there is no softmax
    over them; layer 0 has no router. `attach_lime` makes routers for a model and attaches them; `LimeRouters.load` gives some that can be attached.

        with attach_lime(model) as routers:
            routers.train_on(tokens)
            routers.save("routers.safetensors")

    At the end of the block they are detached, as `routers.detach()` does. The routers' parameters are not among the model's. A deep copy is attached to
    nothing; a deep copy of the model shares the routers.

    Args:
        n_layers: Layers of the model.
        n_kv_heads: Heads of its keys and values, in every layer.
        initial: "identity": each layer reads its own keys and values, as without routers. "random": own layer as for identity, the weights of earlier
            layers uniform within ±sqrt(3 / ((ℓ + 1) · n_kv_heads)), as the paper starts a training from scratch. "average": 1 / (ℓ + 1) for the same head
            of each layer, frozen: a control.
        seed: Of "random".

    Raises:
        ValueError: A size is no whole number above 0, or `initial` is none of these.
    """

    def __init__(
        self, n_layers: int, n_kv_heads: int, *, initial: Initial = "identity", seed: int = 0
    ) -> None:
        super().__init__()
        weights = initial_weights(n_layers, n_kv_heads, initial, seed)
        self.n_layers, self.n_kv_heads = len(weights), weights[0].shape[0]
        self.provenance: dict[str, Any] = {"initial": initial, "seed": seed}
        self.register_buffer("own", weights[0], persistent=False)
        self.by_layer = nn.ParameterDict(
            {str(layer): nn.Parameter(weights[layer], initial != "average") for layer in range(1, n_layers)}
        )
        self._attachment: Attachment | None = None

    @property
    def weights(self) -> Mapping[int, torch.Tensor]:
        """R by layer: [n_kv_heads (target head), layer + 1 (source layer), n_kv_heads (source head)]; that of layer 0 is the identity, and no parameter."""
        found: dict[int, torch.Tensor] = {0: self.get_buffer("own")}
        return MappingProxyType(
            found | {layer: self.by_layer[str(layer)] for layer in range(1, self.n_layers)}
        )

    @property
    def model(self) -> Any:
        """The model they are attached to, or None."""
        return self._attachment.model if self._attachment is not None and self._attachment.holds else None

    def attach(self, model: Any) -> None:
        """Attach them to a model, as `attach_lime(model, routers)` does, which says what can go wrong."""
        from sae_lens_ext.lime.attach import attach_lime

        attach_lime(model, self)

    def detach(self) -> None:
        """Take them off the model, which then runs as if they had never been there; does nothing if they are attached to none."""
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment = None

    def __enter__(self) -> LimeRouters:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    @contextmanager
    def paused(self) -> Generator[None, None, None]:
        """Run the model without them while the block lasts.

        Raises:
            RuntimeError: They are attached to no model.
        """
        attachment = self._require_attachment("pause")
        before, attachment.paused = attachment.paused, True
        try:
            yield
        finally:
            attachment.paused = before

    @contextmanager
    def recording(self) -> Generator[RecordedMemory, None, None]:
        """Keep keys and values of the last forward pass while the block lasts, before and after routing.

            with routers.recording() as memory:
                model(tokens)
            memory.values[3], memory.routed_values[3]

        Raises:
            RuntimeError: They are attached to no model, or paused.
        """
        attachment = self._require_attachment("record")
        if attachment.paused:
            raise RuntimeError(
                "LIMe's routers are paused, so that nothing is routed that could be recorded. Record outside of `paused()`."
            )
        before, attachment.recorded = attachment.recorded, RecordedMemory()
        try:
            yield attachment.recorded
        finally:
            attachment.recorded = before

    def train_on(self, tokens: Any, **settings: Any) -> LanguageModelTraining:
        """Train them on tokens, the model frozen: `train_language_model(model, tokens, routers=self, trained="routers", ...)`.

        Args:
            tokens: Token ids [n, context], or groups of them.
            settings: As for `train_language_model`; `trained="all"` trains the model, too.

        Raises:
            RuntimeError: They are attached to no model.
        """
        from sae_lens_ext.lime.training import train_language_model

        model = self._require_attachment("train").model
        arguments: dict[str, Any] = {"trained": "routers"} | settings
        return train_language_model(model, tokens, routers=self, **arguments)

    def to_frame(self) -> pd.DataFrame:
        """Give a row for each weight: layer, head, source_layer, source_head, weight."""
        from sae_lens_ext.lime.reading import router_map

        return router_map(self).to_frame()

    def plot(self, *, per_head: bool = False, off_diagonal: bool = False) -> go.Figure:
        """Draw who reads whom, as a heat map.

        Args:
            per_head: The signed weights of each head, instead of the mean |R| over heads as shares of each layer's.
            off_diagonal: Leave each layer's own out of its shares, as is clearer where routers began at the identity.
        """
        from sae_lens_ext.lime.reading import router_map

        return router_map(self, off_diagonal=off_diagonal).plot(per_head=per_head)

    def save(self, path: str | Path) -> None:
        """Write the weights as safetensors, with sizes and provenance in the header; whole or not at all.

        Args:
            path: The file; its folder must exist.
        """
        write_routers(
            path, self.weights, self.provenance, frozen=not any(p.requires_grad for p in self.parameters())
        )

    @classmethod
    def load(cls, path: str | Path) -> LimeRouters:
        """Read routers that `save` wrote, attached to no model.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is truncated, of another kind, or its weights do not fit together.
        """
        weights, provenance, frozen = read_routers(path)
        routers = cls(len(weights), weights[0].shape[0], initial="average" if frozen else "identity")
        routers.set_weights(weights)
        routers.provenance = provenance
        return routers

    @torch.no_grad()
    def set_weights(self, weights: Mapping[int, torch.Tensor]) -> None:
        """Copy weights, by layer as in `weights`; layer 0 has none to set.

        Raises:
            ValueError: Some have another shape. None was copied then.
        """
        given: Any = weights
        if not isinstance(given, Mapping) or not all(isinstance(one, torch.Tensor) for one in given.values()):
            raise ValueError(
                f"These routers were given {type(given).__name__} as weights, which is no mapping from layers to tensors. Give one, such as "
                "dict(other.weights)."
            )
        for layer, value in weights.items():
            if layer not in self.weights or value.shape != self.weights[layer].shape:
                raise ValueError(
                    f"These routers were given weights of shape {tuple(value.shape)} for layer {layer}. Layers are 0 to {self.n_layers - 1}, and layer "
                    f"ℓ has weights of shape [{self.n_kv_heads}, ℓ + 1, {self.n_kv_heads}]: give such."
                )
        for layer, value in weights.items():
            if layer > 0:
                self.weights[layer].copy_(value)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_attachment": None}  # copies are attached to nothing

    def __repr__(self) -> str:
        model = self.model
        where = "attached to no model" if model is None else f"attached to a {type(model).__name__}"
        return (
            f"LimeRouters({self.n_layers} layers, {self.n_kv_heads} key-value heads, {where})\n"
            f"  {sum(p.numel() for p in self.parameters())} weights, {'trainable' if any(p.requires_grad for p in self.parameters()) else 'frozen'}\n"
            f"  mean |weight| on the own layer {self._mean_size(own=True):.3f}, on earlier ones {self._mean_size(own=False):.3f}"
        )

    def _mean_size(self, *, own: bool) -> float:
        parts = [R[:, -1:] if own else R[:, :-1] for layer, R in self.weights.items() if layer > 0]
        sizes = [part.detach().abs().flatten() for part in parts]
        return float(torch.cat(sizes).mean()) if sizes else 0.0

    def _require_attachment(self, verb: str) -> Attachment:
        if self._attachment is None or not self._attachment.holds:
            raise RuntimeError(
                f"LIMe's routers cannot {verb}: they are attached to no model. Attach them by attach_lime(model, routers)."
            )
        return self._attachment
