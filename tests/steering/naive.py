"""Steering by loops over tokens, on whole sequences and without a cache; small SAEs; and what a model has of hooks."""

from collections.abc import Callable
from typing import Any

import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

from sae_lens_ext.language_model import hooked

D_MODEL = 16
EARLY = "blocks.0.hook_resid_post"
NEW = 4

Change = Callable[[torch.Tensor], torch.Tensor]
"""What is added to an activation [d_model]."""


def sae_at(hook_name: str | None, d_in: int = D_MODEL, seed: int = 0, **fields: Any) -> JumpReLUSAE:
    """A random SAE of that hook, whose latents fire on some tokens and not on others."""
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=d_in, d_sae=24, **fields))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if name == "threshold":
                parameter.abs_()
    sae.cfg.metadata.hook_name = hook_name
    return sae


def often_active(sae: Any, x: torch.Tensor) -> int:
    """The latent that is active on the most of activations [..., d_in]."""
    return int((sae.encode(x) > 0).flatten(0, -2).sum(dim=0).argmax())


def is_selected(
    positions: Any, phases: Any, row: int, column: int, prompt: int, real: torch.Tensor | None
) -> bool:
    """Whether one token is to be changed, by definition."""
    generated = column >= prompt
    if ("generation" if generated else "prompt") not in phases:
        return False
    in_row = [True] * prompt if real is None else [bool(value) for value in real[row]]
    if not generated and not in_row[column]:
        return False
    position = sum(in_row[:column]) + max(0, column - prompt)
    length = sum(in_row)
    if positions is None:
        return True
    if isinstance(positions, torch.Tensor):
        return not generated and bool(positions[row, column])
    if isinstance(positions, slice):
        far = range(length + 100)
        start, stop = positions.start, positions.stop
        start = length + start if start is not None and start < 0 else start
        stop = length + stop if stop is not None and stop < 0 else stop
        start, stop = (None if end is None else max(0, end) for end in (start, stop))
        return position in far[slice(start, stop, positions.step)]
    wanted = [positions] if isinstance(positions, int) else list(positions)
    return any(position == (p if p >= 0 else length + p) and (p >= 0 or length + p >= 0) for p in wanted)


def steered_logits(
    model: Any,
    tokens: torch.Tensor,
    change: Change,
    *,
    hook_name: str = EARLY,
    positions: Any = None,
    phases: Any = ("prompt", "generation"),
    prompt: int | None = None,
    real: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits [batch, pos, d_vocab] of whole sequences, each token changed by itself."""
    prompt = tokens.shape[1] if prompt is None else prompt

    def act(x: torch.Tensor) -> torch.Tensor:
        new = x.clone()
        for row in range(x.shape[0]):
            for column in range(x.shape[1]):
                if is_selected(positions, phases, row, column, prompt, real):
                    new[row, column] = x[row, column] + change(x[row, column])
        return new

    told = {}
    if real is not None:
        ones = torch.ones(len(real), tokens.shape[1] - real.shape[1])
        told["attention_mask"] = torch.cat([real, ones], dim=1).long()
    with torch.no_grad(), hooked(model, {hook_name: act}):
        return model(tokens, return_type="logits", **told)


def steered_generation(
    model: Any, tokens: torch.Tensor, change: Change, n_new: int = NEW, **selection: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy tokens [batch, prompt + n_new], and the logits they were chosen from [batch, n_new, d_vocab]."""
    prompt, chosen = tokens.shape[1], []
    for _ in range(n_new):
        logits = steered_logits(model, tokens, change, prompt=prompt, **selection)[:, -1]
        chosen.append(logits)
        tokens = torch.cat([tokens, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return tokens, torch.stack(chosen, dim=1)


def generate(model: Any, tokens: Any, n_new: int = NEW, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with the model's own generate()."""
    out = model.generate(
        tokens,
        max_new_tokens=n_new,
        do_sample=False,
        stop_at_eos=False,
        output_logits=True,
        verbose=False,
        **settings,
    )
    return out.sequences, torch.stack([step.clone() for step in out.logits], dim=1)


def state_of(model: Any) -> dict[str, Any]:
    """Everything that steering could leave behind."""
    owners = [model, getattr(model, "original_model", None) if "original_model" in dir(type(model)) else None]
    return {
        "hooks": {name: len(getattr(point, "_forward_hooks", ())) for name, point in model.hook_dict.items()},
        "handles": {name: len(getattr(point, "fwd_hooks", ())) for name, point in model.hook_dict.items()},
        "methods": [
            {name: vars(owner).get(name) for name in ("forward", "generate", "generate_stream")}
            for owner in owners
            if owner is not None
        ],
    }
