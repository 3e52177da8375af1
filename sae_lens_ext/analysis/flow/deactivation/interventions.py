"""Many edits of one token's activations at one hook, and what each makes of a later hook."""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from sae_lens_ext.language_model import Site, hooked


@dataclass(frozen=True, eq=False)
class Interventions:
    """Runs a model with a vector added to the last token's activations at one site, and reads the same token at another.

    The model is causal: what comes after the token is left out, and nothing before it changes. So the model runs up to the first
    site once, for all edits, and from there to the second with a row for each edit; no further. The first row is left as it is, so
    that what an edit did is told from rounding.
    """

    model: Any
    """The language model."""
    source: Site
    """Where vectors are added."""
    target: Site
    """Where the model is read; it comes after `source`."""
    batch_size: int
    """Edits per forward pass, at most."""
    autocast: bool
    """Run the model in bfloat16."""
    expands: bool = True
    """The hook gives several rows for the one it gets; else the model gets the tokens as often as there are edits. See `expandable`."""

    def run(self, tokens: torch.Tensor, edits: torch.Tensor) -> torch.Tensor:
        """Give the last token's activations at the target, [1 + n, d_in]: those of the model left alone, then those of each edit.

        Args:
            tokens: Token ids [pos].
            edits: What is added to the last token's activations at the source, [n, d_in].

        Raises:
            RuntimeError: A hook never fired.
        """
        parts = [self._run(tokens, part) for part in edits.split(self.batch_size)]
        return torch.cat([parts[0][:1], *(part[1:] for part in parts)])

    def expandable(self, tokens: torch.Tensor, edits: torch.Tensor) -> bool:
        """Tell whether the model goes on with more rows than it was given, and gives what it gives for as many rows of tokens.

        Args:
            tokens: Token ids [pos], to try it with.
            edits: [n, d_in], the same.
        """
        try:
            expanded = self.run(tokens, edits)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # shapes that do not fit
            return False
        repeated = self.with_repeated_tokens().run(tokens, edits)
        size = float(repeated.abs().max())
        tolerance = (3e-2 if self.autocast or torch.finfo(repeated.dtype).bits < 32 else 1e-4) * size
        return expanded.shape == repeated.shape and bool((expanded - repeated).abs().max() <= tolerance)

    def with_repeated_tokens(self) -> "Interventions":
        """Give the same for a model that does not go on with more rows than it was given: slower, the result is the same."""
        return replace(self, expands=False)

    def _run(self, tokens: torch.Tensor, edits: torch.Tensor) -> torch.Tensor:
        n_rows = 1 + len(edits)
        found: list[torch.Tensor] = []

        def edit(activations: torch.Tensor) -> torch.Tensor:
            rows = activations.expand(n_rows, *activations.shape[1:])
            new = self.source.read(rows).clone()
            new[1:, -1] = (new[1:, -1].float() + edits.to(new.device)).to(new.dtype)
            return self.source.write(rows, new)

        def keep_and_stop(activations: torch.Tensor) -> None:
            found.append(self.target.read(activations)[:, -1].clone())
            raise _Reached

        device = next(self.model.parameters()).device
        rows = tokens[None].to(device)
        with (
            hooked(self.model, {self.source.hook_name: edit, self.target.hook_name: keep_and_stop}),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.autocast),
            suppress(_Reached),
        ):
            self.model(rows if self.expands else rows.expand(n_rows, -1), return_type="logits")
        return found[0]


class _Reached(Exception):  # noqa: N818  it is no error
    """The target has been read: the rest of the forward pass is not needed."""
