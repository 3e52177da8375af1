"""One `with steer(...)` block: its hooks, from the first pass to the last, and what it knows of prompts and padding."""

from collections.abc import Sequence
from typing import Any

import torch

from sae_lens_ext.steering.hook_changes import HookChanges, token_shape
from sae_lens_ext.steering.hook_points import SteeredPoint, require_residual_width, steered_point
from sae_lens_ext.steering.intervention import SingleIntervention
from sae_lens_ext.steering.pass_tracker import PassTracker, follow_passes
from sae_lens_ext.steering.running_pass import RunningPass
from sae_lens_ext.steering.token_pass import TokenPass


class Block:
    """Interventions on a model between `enter` and `leave`.

    Args:
        model: The model.
        parts: The interventions, none of them a sum.
        real: Which columns of the prompts are tokens and which padding, [batch, prompt], bool, on the CPU; None if not given.

    Raises:
        ValueError: The model has no such hook, an intervention cannot be computed, or it has another width than the residual stream it
            acts at.
    """

    def __init__(self, model: Any, parts: Sequence[SingleIntervention], real: torch.Tensor | None) -> None:
        self.model, self.real = model, real
        by_point: dict[int, tuple[str, SteeredPoint, list[SingleIntervention]]] = {}
        for part in parts:
            name = part.site.hook_name
            found = steered_point(model, name)
            require_residual_width(model, part)
            by_point.setdefault(id(found.point), (name, found, []))[2].append(part)
        self.hooks = [
            _SteeredHook(self, name, found, HookChanges(name, of_hook))
            for name, found, of_hook in by_point.values()
        ]
        self.tracker: PassTracker | None = None

    def enter(self) -> None:
        """Follow the model, and add the hooks."""
        self.tracker = follow_passes(self.model, self)
        for hook in self.hooks:
            hook.attach()

    def leave(self) -> None:
        """Remove the hooks, and follow the model no longer, whatever has happened."""
        for hook in self.hooks:
            hook.detach()
        if self.tracker is not None:
            self.tracker.leave(self)

    def before_pass(self) -> None:
        """See that the hooks are still where they act."""
        for hook in self.hooks:
            hook.keep_attached()

    def counts(self) -> list[int]:
        """Tell how often each hook has fired."""
        return [hook.n_fired for hook in self.hooks]

    def after_generation(self, before: list[int]) -> None:
        """Raise RuntimeError if a hook has not fired since `counts` were these."""
        for hook, count in zip(self.hooks, before, strict=True):
            if hook.n_fired == count:
                raise RuntimeError(
                    f"The hook {hook.name!r} does not fire while this {type(self.model).__name__} generates, so nothing happened there. Act at the residual "
                    "stream instead, such as 'blocks.0.hook_resid_pre'."
                )

    def require_acted(self) -> None:
        """Raise RuntimeError if an intervention has acted on no token."""
        for hook in self.hooks:
            if hook.n_fired == 0:
                raise RuntimeError(
                    f"The hook {hook.name!r} never fired, so {_listed(hook.changes.parts)} did nothing. Run the model inside the block, past this hook."
                )
        idle = [
            part
            for hook in self.hooks
            for part, n_tokens in zip(hook.changes.parts, hook.changes.n_tokens, strict=True)
            if n_tokens == 0
        ]
        if idle:
            where = "; ".join(
                f"positions={part.tokens.positions!r}, phases={tuple(part.tokens.phases)}"
                for part in idle[:3]
            )
            raise RuntimeError(
                f"{_listed(idle)} acted on no token: the positions or phases ({where}) were never reached. Give others: positions count from 0 in the whole "
                "sequence; plain forward passes are all prompt, unless steer() is given the attention_mask of the prompt."
            )

    def tokens_of(self, running: RunningPass, batch: int, n_tokens: int) -> TokenPass:
        """Say which tokens a pass sees, with what this block knows of padding and of the prompt."""
        total = running.first + n_tokens
        generation = running.generation
        if self.real is not None:
            width = self.real.shape[1]
            if (generation is not None and generation.prompt != width) or (
                total < width and not running.caches
            ):
                raise ValueError(
                    f"steer() was given an attention mask for prompts of {width} tokens, but the prompt that runs has "
                    f"{total if generation is None else generation.prompt}. Give the mask [batch, prompt] of the prompts that run in the block."
                )
            return TokenPass(running.first, n_tokens, prompt=width, real=self.real)
        if generation is not None:
            return TokenPass(running.first, n_tokens, prompt=generation.prompt, real=generation.real)
        if running.padded_texts and batch > 1:
            self._require_no_positions()
        return TokenPass(running.first, n_tokens, prompt=None if running.first else total, real=running.real)

    def _require_no_positions(self) -> None:
        for hook in self.hooks:
            for part in hook.changes.parts:
                if part.tokens.positions is not None:
                    raise ValueError(
                        f"{part} has positions, but the model runs a list of texts, which it pads without saying where. Tokenise them first, and give "
                        "steer() the attention_mask [batch, prompt]."
                    )


class _SteeredHook:
    """One hook of a block."""

    def __init__(self, block: Block, name: str, found: SteeredPoint, changes: HookChanges) -> None:
        self.block, self.name, self.found, self.changes = block, name, found, changes
        self.n_fired = 0
        self._level = id(self)  # of this hook alone, so that nobody else's are removed with it

    def attach(self) -> None:
        self.found.point.add_hook(self._act, level=self._level)

    def detach(self) -> None:
        self.found.point.remove_hooks("fwd", level=self._level)

    def keep_attached(self) -> None:
        """Go along when an SAE was attached at the hook or removed since the last pass.

        Raises:
            RuntimeError: Somebody has removed the hook.
        """
        if not self.found.holds_in(self.block.model):
            self.detach()
            self.found = steered_point(self.block.model, self.name)
            self.attach()
        elif not any(handle.context_level == self._level for handle in self.found.point.fwd_hooks):
            raise RuntimeError(
                f"Somebody removed the hook of steer() at {self.name!r} inside its block, such as model.reset_hooks(), so the model would run unsteered. "
                "End the block instead."
            )

    def _act(self, tensor: Any, *, hook: Any) -> torch.Tensor | None:  # noqa: ARG002
        running = self.block.tracker.current if self.block.tracker else None
        if running is None:
            raise RuntimeError(
                f"The hook {self.name!r} fired outside a forward pass of the model, where it is not known which tokens these are (HookedTransformer's "
                "generate() embeds positions so). Act at 'blocks.0.hook_resid_pre', or run the whole model."
            )
        self.n_fired += 1
        batch, n_tokens = token_shape(self.name, tensor, running.shape)
        return self.changes(tensor, self.block.tokens_of(running, batch, n_tokens))


def _listed(parts: Sequence[SingleIntervention]) -> str:
    shown = ", ".join(map(repr, parts[:3]))
    return shown if len(parts) <= 3 else f"{shown} and {len(parts) - 3} more"
