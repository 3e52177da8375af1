"""Tables of what a steering changes: token by token, by offset, first token against the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_lens_ext.bootstrap import Estimate
from sae_lens_ext.steering.reading.token_shift.shifts import NO_TOKEN, Shifts
from sae_lens_ext.steering.reading.token_shift.summary import PromptResamples

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Concentration:
    """How much of what a steering changes falls on the first generated token."""

    kl: Estimate
    """Share of the sum of KL(steered‖base) over all generated tokens, 0 to 1; NaN if nothing is changed."""
    boosted_delta: Estimate
    """Share of the sum of the largest Δp, 0 to 1; NaN if nothing is changed."""
    even: float
    """The share if all generated tokens were changed alike, 1 / mean length of the completions."""


def concentration(shifts: Shifts, prompt_of: Sequence[int], n_resamples: int, seed: int) -> Concentration:
    """See `TokenShift.concentration`."""
    means = _Means(shifts, prompt_of, n_resamples, seed)
    first = shifts.offset.numpy() == 0
    return Concentration(
        kl=means.share("kl", first),
        boosted_delta=means.share("boosted_delta", first),
        even=float(first.mean()),
    )


def summary(shifts: Shifts, prompt_of: Sequence[int], n_resamples: int, seed: int) -> "pd.DataFrame":
    """See `TokenShift.summary`."""
    import pandas as pd

    means, offset = _Means(shifts, prompt_of, n_resamples, seed), shifts.offset.numpy()
    groups = {"first": offset == 0, "rest": offset > 0, "all": offset >= 0}
    rows = [means.of(chosen) for chosen in groups.values()]
    return pd.DataFrame(rows, index=pd.Index(list(groups), name="tokens"))


def by_offset(shifts: Shifts, prompt_of: Sequence[int], n_resamples: int, seed: int) -> "pd.DataFrame":
    """See `TokenShift.by_offset`."""
    import pandas as pd

    means, offset = _Means(shifts, prompt_of, n_resamples, seed), shifts.offset.numpy()
    return pd.DataFrame([{"offset": n, **means.of(offset == n)} for n in range(int(offset.max()) + 1)])


def boosted_tokens(
    shifts: Shifts, vocabulary: Mapping[int, str], first: bool | None, n: int
) -> "pd.DataFrame":
    """See `TokenShift.boosted_tokens`."""
    import pandas as pd

    chosen = (
        torch.ones_like(shifts.offset, dtype=torch.bool) if first is None else (shifts.offset == 0) == first
    )
    ids, deltas = shifts.boosted[chosen, 0], shifts.boosted_delta[chosen, 0].double()
    rows = [
        {
            "token": vocabulary[token],
            "token_id": token,
            "count": int((ids == token).sum()),
            "share": float((ids == token).double().mean()),
            "mean_delta": float(deltas[ids == token].mean()),
        }
        for token in ids.unique().tolist()
        if token != NO_TOKEN
    ]
    frame = pd.DataFrame(rows, columns=["token", "token_id", "count", "share", "mean_delta"])
    return frame.sort_values(["count", "mean_delta"], ascending=False, ignore_index=True).head(n)


def every_token(shifts: Shifts, vocabulary: Mapping[int, str]) -> "pd.DataFrame":
    """See `TokenShift.to_frame`."""
    import pandas as pd

    boosted, delta, p_base = (x[:, 0] for x in (shifts.boosted, shifts.boosted_delta, shifts.boosted_p_base))

    def named(ids: torch.Tensor) -> list[str | None]:
        return [vocabulary.get(token) for token in ids.tolist()]

    columns: dict[str, Any] = {
        "row": shifts.row,
        "offset": shifts.offset,
        "token": named(shifts.token),
        "token_id": shifts.token,
        "token_delta": shifts.token_delta,
        "token_p_base": shifts.token_p_base,
        "token_p_steered": shifts.token_p_base + shifts.token_delta,
        "boosted": named(boosted),
        "boosted_id": boosted,
        "boosted_delta": delta,
        "boosted_p_base": p_base,
        "boosted_p_steered": p_base + delta,
        "base_top": named(shifts.base_top),
        "base_top_id": shifts.base_top,
        "same": pd.array((boosted == shifts.base_top).numpy(), dtype="boolean"),
        "kl": shifts.kl,
        "total_variation": shifts.total_variation,
    }
    frame = pd.DataFrame(columns)
    frame.loc[(boosted == NO_TOKEN).numpy(), "same"] = pd.NA
    return frame


class _Means:
    """Means over some of the generated tokens, with intervals from one set of bootstrap samples of the prompts."""

    def __init__(self, shifts: Shifts, prompt_of: Sequence[int], n_resamples: int, seed: int) -> None:
        self._row = shifts.row.numpy()
        prompts, self._prompt = np.unique(np.array(prompt_of)[self._row], return_inverse=True)
        self._resamples = PromptResamples.draw(len(prompts), n_resamples, seed)
        boosted = shifts.boosted[:, 0]
        self._boosted = (boosted != NO_TOKEN).numpy()
        self._same = (boosted == shifts.base_top).numpy()
        self._values = {
            "boosted_delta": shifts.boosted_delta[:, 0].double().numpy(),
            "token_delta": shifts.token_delta.double().numpy(),
            "kl": shifts.kl.double().numpy(),
            "total_variation": shifts.total_variation.double().numpy(),
        }

    def of(self, chosen: NDArray[np.bool_]) -> dict[str, float | int | None]:
        """Give the means over the tokens chosen, [n], and how many they are."""
        prompt, n_texts = self._prompt[chosen], len(np.unique(self._row[chosen]))
        found: dict[str, float | int | None] = {"n_texts": n_texts, "n_tokens": len(prompt)}
        for name, values in self._values.items():
            found |= _flat(name, self._resamples.mean(values[chosen], prompt))
        counted = chosen & self._boosted
        same = self._resamples.mean(self._same[counted].astype(float), self._prompt[counted])
        return found | _flat("frac_same", same)

    def share(self, name: str, chosen: NDArray[np.bool_]) -> Estimate:
        """Estimate the share of a measure's sum that falls on the tokens chosen, [n]."""
        values = self._values[name]
        return self._resamples.ratio(values * chosen, values, self._prompt)


def _flat(name: str, found: Estimate) -> dict[str, float | None]:
    return {
        name: found.value,
        f"{name}_low": float("nan") if found.low is None else found.low,
        f"{name}_high": float("nan") if found.high is None else found.high,
    }
