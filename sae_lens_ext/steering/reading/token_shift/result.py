"""What `token_shift` found, as tables, figures and a file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors
from sae_lens_ext.number_checks import whole_number
from sae_lens_ext.steering.reading.token_shift import tables
from sae_lens_ext.steering.reading.token_shift.shifts import Shifts
from sae_lens_ext.steering.reading.token_shift.tables import Concentration
from sae_lens_ext.steering.sequences import Sequences

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.TokenShift/1"
_ROWS_DRAWN = 20
_SHOWN = ("boosted_delta", "token_delta", "kl", "total_variation", "frac_same")


@dataclass(frozen=True, repr=False, eq=False)
class TokenShift:
    """How a steering changes the prediction of every generated token. See `token_shift`."""

    shifts: Shifts
    """A line for each generated token, by sequence and then by offset; every number measured."""
    sequences: Sequences
    """What was read, also the sequences without a generated token."""
    vocabulary: Mapping[int, str]
    """Text of every token that is named, decoded by itself; bytes that are no whole character read as U+FFFD."""
    n_resamples: int = 1_000
    """Bootstrap samples of the prompts for the intervals; completions of one prompt go together (`Sequences.prompt_of`)."""
    seed: int = 0
    """Of the intervals."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, model, hooks, intervention, SHA-256 of the tokens read, seed, batch size."""

    @property
    def n_empty(self) -> int:
        """How many sequences have no generated token, and so no line."""
        return sum(n == 0 for n in self.sequences.generated)

    @property
    def concentration(self) -> Concentration:
        """Say how much of the change falls on the first generated token, with the share if it were even; intervals over prompts."""
        return tables.concentration(self.shifts, self.sequences.prompt_of, self.n_resamples, self.seed)

    def summary(self) -> "pd.DataFrame":
        """Give means over the first generated tokens, over the rest, and over all, with 95 % bootstrap intervals over prompts.

        Returns:
            The index "first", "rest", "all"; the columns n_texts, n_tokens; boosted_delta (Δp of the most boosted token, 0 to 1), token_delta (Δp of the
            generated token, −1 to 1), kl (nats), total_variation (0 to 1), each a mean over tokens; frac_same (of the tokens at which
            any was boosted, the share at which the base chose the same). Beside each, the ends of its interval as *_low and *_high. NaN where there
            is no such token, or no interval, as of one prompt.
        """
        return tables.summary(self.shifts, self.sequences.prompt_of, self.n_resamples, self.seed)

    def by_offset(self) -> "pd.DataFrame":
        """Give means over the texts at each offset, 0 the first generated token; the columns are offset and those of `summary`."""
        return tables.by_offset(self.shifts, self.sequences.prompt_of, self.n_resamples, self.seed)

    def boosted_tokens(self, first: bool | None = True, n: int = 10) -> "pd.DataFrame":
        """Give the tokens that are most often the most boosted one.

        Args:
            first: At the first generated token (True), at the rest (False), or at all (None).
            n: How many tokens, at most.

        Returns:
            The columns token (text), token_id, count, share (of these generated tokens, 0 to 1), mean_delta (mean Δp where it is the most boosted).
        """
        return tables.boosted_tokens(self.shifts, self.vocabulary, first, n)

    def to_frame(self) -> "pd.DataFrame":
        """Give a row for each generated token.

        Returns:
            The columns row (of `sequences`), offset, token (text), token_id, token_delta, token_p_base, token_p_steered; boosted, boosted_id, boosted_delta,
            boosted_p_base, boosted_p_steered of the most boosted token; base_top, base_top_id; same, kl (nats), total_variation. Where
            nothing is boosted, boosted and same are missing, and boosted_id is −1.
        """
        return tables.every_token(self.shifts, self.vocabulary)

    def plot(self) -> "go.Figure":
        """Draw Δp of the most boosted token and KL by offset, means over texts with intervals, the first token set apart."""
        from sae_lens_ext.steering.reading.token_shift.figure import offsets_figure

        return offsets_figure(self)

    def plot_tokens(self, rows: Any = None) -> "go.Figure":
        """Draw texts below each other, a cell for each generated token, coloured by its Δp; point at one for the tokens that are boosted.

        Args:
            rows: Which sequences; by default the first 20 with a generated token.

        Raises:
            ValueError: There is no such sequence, or it has no generated token.
        """
        from sae_lens_ext.steering.reading.token_shift.figure import tokens_figure

        return tokens_figure(self, self._known(rows))

    def plot_strip(self, row: int) -> "go.Figure":
        """Draw one completion, its tokens in lines, coloured by the Δp of each.

        Raises:
            ValueError: There is no such sequence, or it has no generated token.
        """
        from sae_lens_ext.steering.reading.token_shift.figure import strip_figure

        return strip_figure(self, *self._known([row]))

    def strip_html(self, row: int) -> str:
        """Give a page without links to others that shows one completion as text, every token on a ground coloured by its Δp.

        Args:
            row: Which sequence. Its prompt is shown in grey, the end of it if it is long.

        Raises:
            ValueError: There is no such sequence, or it has no generated token.
        """
        from sae_lens_ext.steering.reading.token_shift.strip import strip_page

        return strip_page(self, *self._known([row]))

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, its tensors as safetensors beside it, whole or not at all.

        Args:
            path: The JSON file; its folder must exist.
        """
        tensors = {f.name: getattr(self.shifts, f.name) for f in fields(Shifts)}
        tensors["sequences"] = torch.cat(self.sequences.tokens)
        content = {
            "lengths": [len(one) for one in self.sequences.tokens],
            "prompt_lengths": list(self.sequences.prompt_lengths),
            "vocabulary": {str(token): text for token, text in self.vocabulary.items()},
            "n_resamples": self.n_resamples,
            "seed": self.seed,
            "provenance": dict(self.provenance),
        }
        save_result_with_tensors(path, FORMAT, content, tensors)

    @classmethod
    def load(cls, path: str | Path) -> "TokenShift":
        """Read a result that `save` wrote; no tokenizer is needed.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> TokenShift:
            return cls(
                shifts=Shifts(**{f.name: tensors[f.name] for f in fields(Shifts)}),
                sequences=Sequences(
                    tensors["sequences"].split(content["lengths"]), tuple(content["prompt_lengths"])
                ),
                vocabulary={int(token): text for token, text in content["vocabulary"].items()},
                n_resamples=content["n_resamples"],
                seed=content["seed"],
                provenance=content["provenance"],
            )

        return load_result_with_tensors(path, FORMAT, build, "measure again with token_shift")

    def _known(self, rows: Any) -> list[int]:
        """Give the rows asked for, all of which have a generated token.

        Raises:
            ValueError: One is none of them.
        """
        filled = [row for row, n in enumerate(self.sequences.generated) if n > 0]
        if rows is None:
            return filled[:_ROWS_DRAWN]
        several = rows if isinstance(rows, Iterable) and not isinstance(rows, str) else [rows]
        known: list[int] = []
        for row in several:
            number = whole_number(row)
            if number is None or number not in filled:
                empty = number is not None and 0 <= number < len(self.sequences)
                why = "has no generated token" if empty else "is none of the sequences"
                raise ValueError(
                    f"Row {row!r} {why}. There are {len(self.sequences)}, counted from 0; {len(filled)} of them have generated tokens, such as row {filled[0]}: give these."
                )
            known.append(number)
        if not known:
            raise ValueError("No row was named. Give at least one, or None for the first.")
        return known

    def __repr__(self) -> str:
        means, share = self.summary(), self.concentration
        if not means.kl["all"]:
            return (
                f"TokenShift of {int(means.n_tokens['all']):,} generated tokens in {int(means.n_texts['all'])} texts\n"
                f"  nothing is changed\n  {self.provenance.get('model_name')} at {self._hooks()}"
            )
        shown = "; ".join(
            f"{name} token: Δp {means.boosted_delta[group]:.3f}, KL {means.kl[group]:.3g}, boosted was the base's choice at {means.frac_same[group]:.0%}"
            for name, group in (("first", "first"), ("a later", "rest"))
            if means.n_tokens[group]
        )
        left_out = f" ({self.n_empty} without any left out)" if self.n_empty else ""
        return (
            f"TokenShift of {int(means.n_tokens['all']):,} generated tokens in {int(means.n_texts['all'])} texts{left_out}; the first tokens have "
            f"{share.kl} of KL, {share.even:.3f} if it were even\n"
            f"  {shown}\n"
            f"  {self.provenance.get('model_name')} at {self._hooks()}"
        )

    def _hooks(self) -> str:
        names = list(self.provenance.get("hook_names", ()))
        return ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}, {len(names)} hooks"

    def _repr_html_(self) -> str:
        table = self.summary()[["n_texts", "n_tokens", *_SHOWN]]
        return notebook_view(self, table.to_html(float_format=lambda x: f"{x:.3f}", na_rep=""))
