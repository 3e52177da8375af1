"""One block whose attention and MLP read the residual stream with or without a vector, pass by pass.

The vector s is added where the block begins, x → x + s, and x is kept. What shall read without s is given x itself, not x + s − s: at tokens whose
residual stream is a hundred times longer than others', subtracting would leave little of float32's digits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.language_model import find_hook_point
from sae_lens_ext.steering.reading.path_patching.modes import Part, PathMode
from sae_lens_ext.steering.reading.path_patching.projections import Projections

_LIKE_OWN = 1e-3
"""Share of the largest value by which a projection that we compute again may differ from the model's own: more than rounding, less than a mistake."""


@dataclass(frozen=True)
class Reads:
    """What of a block reads the vector; the residual stream always carries it."""

    attention: bool
    """Whether q, k and v do."""
    mlp: bool
    """Whether the MLP does."""
    otherwise: Mapping[Part, Sequence[int]] = field(default_factory=dict[Part, Sequence[int]])
    """Heads of q, k or v that read the other way than attention does."""

    @classmethod
    def of(cls, mode: PathMode) -> "Reads":
        """Give what reads the vector in a mode other than base."""
        otherwise: dict[Part, tuple[int]] = {}
        if mode.part is not None and mode.head is not None:
            otherwise[mode.part] = (mode.head,)
        return cls(mode.attention_reads, mode.mlp_reads, otherwise)


@dataclass(eq=False)
class _Pass:
    """What is known of the block in a running pass."""

    vanilla: torch.Tensor
    """x, the block's input, [batch, pos, d_model]."""
    steered: torch.Tensor
    """x + s."""
    attention_output: torch.Tensor | None = None
    """What attention adds to the residual stream, when it has run."""
    reader: Any = None
    """The module that has read the block's input for attention: the norm before it, or itself."""
    mlp_met: bool = False
    """Whether one has read what the MLP reads."""
    heads: dict[Part, torch.Tensor] = field(default_factory=dict[Part, torch.Tensor])
    """q, k or v from the input that attention does not read, [batch, pos, heads, d_head]."""
    own: dict[Part, torch.Tensor] = field(default_factory=dict[Part, torch.Tensor])
    """The same from the input that it does read; in the first pass only, to compare."""


class PatchedBlock:
    """A block's hooks between `enter` and `leave`.

    Args:
        model: A HookedTransformer or TransformerBridge.
        block: The block's number.
        vector: s, [d_model].
        reads: What reads it.

    Raises:
        ValueError: The block has no attention, or the model reads copies of the residual stream by head; or a head shall read otherwise, and
            the model has no projections of its own for it.
    """

    def __init__(self, model: Any, block: int, vector: torch.Tensor, reads: Reads) -> None:
        self.model, self.block, self.vector, self.reads = model, block, vector, reads
        self._modules: Mapping[str, Any] = model.blocks[block]._modules
        if self._modules.get("attn") is None:
            raise ValueError(
                f"Block {block} of this {type(model).__name__} has no attention, so that there are no paths to patch. Give the layer before a block "
                "of attention and MLP."
            )
        for flag in ("use_split_qkv_input", "use_attn_in"):
            if getattr(model.cfg, flag, False):
                raise ValueError(
                    f"The model's {flag} is on, with which attention reads copies of the residual stream that path patching does not reach. Call "
                    f"model.set_{flag}(False) first."
                )
        self._projections = Projections(model, block) if reads.otherwise else None
        self._all_read = reads.attention and reads.mlp and not reads.otherwise
        self.n_passes = 0
        self._pass: _Pass | None = None
        self._points: list[HookPoint] = []
        self._handles: list[Any] = []

    def enter(self) -> None:
        """Add the hooks."""
        at = f"blocks.{self.block}"
        block = self.model.blocks[self.block]
        self._handles.append(block.register_forward_pre_hook(lambda *_: self._require_hooked()))
        self._hook(f"{at}.hook_resid_pre", self._begin)
        self._hook(f"{at}.hook_resid_post", self._end)
        if self._all_read:
            return
        self._hook(f"{at}.hook_attn_out", self._after_attention)
        for part in self.reads.otherwise:
            self._hook(f"{at}.attn.hook_{part}", lambda tensor, part=part: self._at_projection(part, tensor))
        # Where the norm comes first, it reads the block's input, else the layer itself does.
        for names, before in (
            (("ln1", "attn"), self._before_attention),
            (("ln2", "mlp"), self._before_mlp),
        ):
            for name in names:
                module = self._modules.get(name)
                if module is not None:
                    self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))

    def leave(self) -> None:
        """Remove them."""
        self._pass = None
        for point in self._points:
            point.remove_hooks("fwd", level=id(self))
        for handle in self._handles:
            handle.remove()

    def require_ran(self) -> None:
        """Raise RuntimeError if the block has not run."""
        if self.n_passes == 0:
            raise RuntimeError(
                f"Block {self.block} never ran, so no path was patched. Run the model inside the block of patched_paths, past its layer {self.block}."
            )

    def _require_hooked(self) -> None:
        for point in self._points:
            if not any(handle.context_level == id(self) for handle in point.fwd_hooks):
                raise RuntimeError(
                    f"Somebody removed the hooks of patched_paths() at block {self.block} inside its block, such as model.reset_hooks(), so the model would run "
                    "unpatched. End the block instead."
                )

    def _hook(self, name: str, act: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        def run(tensor: torch.Tensor, hook: Any = None) -> torch.Tensor | None:  # noqa: ARG001
            return act(tensor)

        point = find_hook_point(self.model, name)
        self._points.append(point)
        point.add_hook(run, level=id(self))

    def _begin(self, x: torch.Tensor) -> torch.Tensor:
        self._pass = _Pass(x, x + self.vector.to(x))
        return self._pass.steered

    def _before_attention(self, module: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        now = self._pass
        if now is None or now.reader not in (None, module):
            return None
        reads = now.steered if self.reads.attention else now.vanilla
        changed = _exchanged(args, kwargs, now.steered, reads)
        if changed is None:
            return None
        if now.reader is None and self._projections is not None:
            other = now.vanilla if self.reads.attention else now.steered
            for part in self.reads.otherwise:
                now.heads[part] = self._projections.read(part, self._normed(module, other))
                if self.n_passes == 0:
                    now.own[part] = self._projections.read(part, self._normed(module, reads))
        now.reader = module
        return changed

    def _normed(self, reader: Any, x: torch.Tensor) -> torch.Tensor:
        """Apply the norm before attention, if that is what reads the block's input."""
        if reader is self._modules["attn"]:
            return x
        plain = reader.original_component if isinstance(self.model, TransformerBridge) else reader
        return plain.forward(x)  # past the hooks on the module itself, of which one is ours

    def _at_projection(self, part: Part, tensor: torch.Tensor) -> torch.Tensor | None:
        now = self._pass
        if now is None or part not in now.heads:
            return None
        other = now.heads.pop(part).to(tensor.dtype)
        if self.n_passes == 0:
            own = now.own[part].reshape(tensor.shape) if now.own[part].numel() == tensor.numel() else None
            if own is None or (own - tensor).abs().max() > _LIKE_OWN * tensor.abs().max():
                raise NotImplementedError(
                    f"{part} at {f'blocks.{self.block}.attn.hook_{part}'!r} is not what the block's norm and projection give of what attention reads, so "
                    f"that no head of this {type(self.model).__name__} can be patched exactly. Use the modes of the whole block, or remove "
                    "other hooks there."
                )
        changed = tensor.reshape(other.shape).clone()
        heads = list(self.reads.otherwise[part])
        changed[:, :, heads] = other[:, :, heads]
        return changed.reshape(tensor.shape)

    def _after_attention(self, output: torch.Tensor) -> None:
        if self._pass is not None:
            self._pass.attention_output = output

    def _before_mlp(self, module: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:  # noqa: ARG002
        now = self._pass
        if now is None or now.mlp_met:
            return None
        # After attention, or beside it as in GPT-J and GPT-NeoX.
        added = [now.attention_output] if now.attention_output is not None else []
        for output in (*added, None):
            steered, vanilla = (x if output is None else x + output for x in (now.steered, now.vanilla))
            changed = _exchanged(args, kwargs, steered, steered if self.reads.mlp else vanilla)
            if changed is not None:
                now.mlp_met = True
                return changed
        return None

    def _end(self, _: torch.Tensor) -> None:
        now, self._pass = self._pass, None
        if now is None or self._all_read:
            self.n_passes += now is not None
            return
        has_mlp = self._modules.get("mlp") is not None
        missed = [
            what
            for what, met in (
                ("attention reads its input", now.reader is not None),
                ("the MLP reads the residual stream", now.mlp_met or not has_mlp),
                (f"{' and '.join(now.heads)} can be hooked", not now.heads),
            )
            if not met
        ]
        if missed:
            raise NotImplementedError(
                f"In block {self.block} of this {type(self.model).__name__} there is no place where {' nor where '.join(missed)}, so that its paths cannot "
                "be patched exactly. Known are blocks with a norm of its own, before or after, for attention and for the MLP, one after the "
                "other or side by side; and other hooks must not change the block's input."
            )
        self.n_passes += 1


def _exchanged(args: Any, kwargs: Any, old: torch.Tensor, new: torch.Tensor) -> tuple[Any, Any] | None:
    """Put a tensor in the place of another among a call's arguments; None if that is not among them."""
    met = False

    def exchange(value: Any) -> Any:
        nonlocal met
        # Some models run their layers on [batch · pos, d_model].
        like = (
            isinstance(value, torch.Tensor)
            and value.shape[-1:] == old.shape[-1:]
            and value.numel() == old.numel()
        )
        if not like or not (value is old or torch.equal(value.reshape(old.shape), old)):
            return value
        met = True
        return new.reshape(value.shape)

    changed = (
        tuple(exchange(value) for value in args),
        {name: exchange(value) for name, value in kwargs.items()},
    )
    return changed if met else None
