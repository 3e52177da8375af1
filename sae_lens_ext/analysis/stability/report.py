"""What `feature_stability` found, as numbers, a table, a figure and a file."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.StabilityReport/1"
STABLE, MIDDLE, UNSTABLE, EXCLUDED = "stable", "middle", "unstable", "excluded"
STABLE_FROM, UNSTABLE_UP_TO = 0.95, 0.05
"""The paper's limits of p̂ (arXiv 2606.12138): stable from the first, unstable up to the second, the middle is neither."""


@dataclass(frozen=True)
class PairMeasures:
    """How far two SAEs agree, over the latents of each that count (see `StabilityReport.included`)."""

    first: int
    """Position of one SAE."""
    second: int
    """Position of the other, larger than `first`."""
    pw_mcc: float
    """Mean cosine of decoder rows matched one to one (arXiv 2505.20254, PW-MCC), −1 to 1; over the smaller SAE's latents."""
    mmcs_first: float
    """Mean over the first SAE's latents of the largest decoder cosine with any row of the second, also one that does not count
    (Sharkey's MMCS)."""
    mmcs_second: float
    """The same from the second SAE to the first."""
    matched: float
    """Share of the smaller SAE's latents whose one-to-one partner has a cosine of at least the threshold."""
    agreement: float
    """Of the first SAE's latents, those that match the second many to one, any of its rows, and those that do one to one, where only
    latents that count are partners: intersection over union (1 if there are none of either)."""
    shared: float | None
    """Share of the smaller SAE's latents that decoders and encoders, each matched one to one, give the same partner, with both
    cosines at least the threshold (arXiv 2501.16615). None where a latent has no encoder vector of its own, as in Kron."""


@dataclass(frozen=True, repr=False, eq=False)
class StabilityReport:
    """Which latents of each SAE come back in the others. See `feature_stability`.

    S SAEs, each in turn the anchor that is compared with the S − 1 others; lengths d_sae may differ between SAEs.
    """

    names: tuple[str, ...]
    """Names of the S SAEs."""
    threshold: float
    """θ: a cosine from which two decoder rows count as the same feature."""
    max_cosines: tuple[torch.Tensor, ...]
    """By anchor, [S − 1, d_sae], float32: the largest cosine of each of its decoder rows with any row of each other SAE, −1 to 1,
    the others in the order of `names`."""
    null_cosines: tuple[torch.Tensor, ...]
    """By anchor, [S − 1, n]: the same for n of its latents that count, with each other SAE's decoder turned by a random rotation."""
    included: tuple[torch.Tensor, ...]
    """By anchor, [d_sae], bool: latents that count. The others fire too rarely (`min_firing_rate`) or have a decoder row of zeros."""
    pairs: tuple[PairMeasures, ...]
    """Two SAEs at a time: one-to-one matching and other measures."""
    firing_rates: tuple[torch.Tensor, ...] | None = None
    """By SAE, [d_sae], 0 to 1: share of tokens on which a latent is not 0; None if they were not given."""
    min_firing_rate: float = 0.0
    """A latent below it, or that never fires, does not count. Of no effect without `firing_rates`."""
    links: tuple[str | None, ...] = ()
    """By SAE: its id on Neuronpedia, where its metadata name one."""
    notes: tuple[str, ...] = ()
    """What a reader must know of these numbers, a sentence each."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, hook, data set, and a hash of each SAE."""

    @property
    def reappearance(self) -> tuple[torch.Tensor, ...]:
        """p̂ by anchor, [d_sae], 0 to 1: the share of the other SAEs that have the feature (arXiv 2606.12138, Eq. 3-4)."""
        return tuple(self._p_hat(anchor) for anchor in range(len(self.names)))

    def _p_hat(self, anchor: int) -> torch.Tensor:
        return (self.max_cosines[anchor] >= self.threshold).float().mean(dim=0)

    def labels(self, anchor: int = 0) -> "np.ndarray[Any, np.dtype[np.str_]]":
        """Give the class of each latent of an anchor.

        Args:
            anchor: Position of the SAE.

        Returns:
            [d_sae] of "stable" (p̂ ≥ 0.95), "unstable" (p̂ ≤ 0.05), "middle" or "excluded" (does not count).

        Raises:
            ValueError: There is no such SAE.
        """
        self.require_anchor(anchor)
        p_hat = self._p_hat(anchor).numpy()
        named = np.full(len(p_hat), MIDDLE, dtype="<U8")
        named[p_hat >= STABLE_FROM] = STABLE
        named[p_hat <= UNSTABLE_UP_TO] = UNSTABLE
        named[~self.included[anchor].numpy()] = EXCLUDED
        return named

    def members(self, label: str, anchor: int = 0) -> torch.Tensor:
        """Give the indices [n] of an anchor's latents of one class, ascending.

        Raises:
            ValueError: There is no such SAE or class.
        """
        _require_class(label)
        return torch.from_numpy(np.flatnonzero(self.labels(anchor) == label))

    def require_anchor(self, anchor: int) -> None:
        """Raise ValueError unless there is an SAE at this position."""
        if isinstance(anchor, bool) or not isinstance(anchor, int) or not 0 <= anchor < len(self.names):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"anchor = {anchor!r} is no position of an SAE. This report has {len(self.names)}: give 0 to {len(self.names) - 1}."
            )

    def shares(self, label: str) -> list[float]:
        """Give, by anchor, the share of the latents that count which are of a class, or of all that are "excluded".

        With fewer than 20 other SAEs a stable latent is one that all of them have, and an unstable one that none has, so that
        both shares fall as SAEs are added: compare shares at equal numbers of SAEs only. The mean of p̂ does not have this.

        Raises:
            ValueError: There is no such class.
        """
        _require_class(label)
        found: list[float] = []
        for anchor in range(len(self.names)):
            labels = self.labels(anchor)
            if label == EXCLUDED:
                found.append(float((labels == EXCLUDED).mean()))
            else:
                found.append(_mean((labels[labels != EXCLUDED] == label).tolist()))
        return found

    @property
    def match_rate(self) -> float:
        """Mean p̂ of the latents that count, over all anchors."""
        return _mean(
            [float(p[kept].mean()) for p, kept in zip(self.reappearance, self.included, strict=True)]
        )

    @property
    def null_match_rate(self) -> float:
        """Mean p̂ of the same latents against rotated decoders: what chance alone gives, about 0."""
        return _mean([float((cosines >= self.threshold).float().mean()) for cosines in self.null_cosines])

    @property
    def chance_maximum(self) -> float:
        """Median largest cosine with a rotated decoder's rows: a cosine that means nothing, far below the threshold."""
        return float(torch.cat([cosines.flatten() for cosines in self.null_cosines]).median())

    @property
    def pw_mcc(self) -> float:
        """Mean of `PairMeasures.pw_mcc` over the pairs that were matched."""
        return _mean([pair.pw_mcc for pair in self.pairs])

    @property
    def mmcs(self) -> float:
        """Mean largest cosine of the latents that count, over all anchors and other SAEs (Sharkey's MMCS, in both directions)."""
        return _mean(
            [
                float(own[kept].mean())
                for cosines, kept in zip(self.max_cosines, self.included, strict=True)
                for own in cosines
            ]
        )

    @property
    def shared_fraction(self) -> float | None:
        """Mean of `PairMeasures.shared` over the pairs that have it; None if none has."""
        found = [pair.shared for pair in self.pairs if pair.shared is not None]
        return _mean(found) if found else None

    @property
    def agreement(self) -> float:
        """Mean over the pairs that were matched of how far many-to-one and one-to-one matching agree, intersection over union."""
        return _mean([pair.agreement for pair in self.pairs])

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row for every latent of every anchor.

        Returns:
            The columns sae, latent (its index), reappearance (p̂), label, max_cosine (mean over the other SAEs), firing_rate (NaN if
            not given) and url (its page on Neuronpedia, None where its SAE has none).
        """
        import pandas as pd

        frames = []
        for anchor, name in enumerate(self.names):
            n = len(self.included[anchor])
            link = self.links[anchor] if self.links else None
            frames.append(
                pd.DataFrame(
                    {
                        "sae": name,
                        "latent": np.arange(n),
                        "reappearance": self._p_hat(anchor).numpy(),
                        "label": self.labels(anchor),
                        "max_cosine": self.max_cosines[anchor].mean(dim=0).numpy(),
                        "firing_rate": math.nan
                        if self.firing_rates is None
                        else self.firing_rates[anchor].numpy(),
                        "url": None
                        if link is None
                        else [f"https://neuronpedia.org/{link}/{i}" for i in range(n)],
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)

    def summary(self) -> "pd.DataFrame":
        """Give a data frame with a row for each anchor: latents, how many do not count, shares of the classes, mean p̂."""
        import pandas as pd

        return pd.DataFrame(
            {
                "sae": self.names,
                "latents": [len(kept) for kept in self.included],
                "excluded": [int((~kept).sum()) for kept in self.included],
                STABLE: self.shares(STABLE),
                MIDDLE: self.shares(MIDDLE),
                UNSTABLE: self.shares(UNSTABLE),
                "mean_reappearance": [
                    float(p[kept].mean()) if kept.any() else math.nan
                    for p, kept in zip(self.reappearance, self.included, strict=True)
                ],
            }
        )

    def plot(self) -> "go.Figure":
        """Draw how p̂ is distributed, beside the null, and p̂ against the firing rate; returns the figure without showing it."""
        from sae_lens_ext.analysis.stability.figure import figure

        return figure(self)

    def save(self, path: str | Path) -> None:
        """Write the report as JSON with its tensors as safetensors beside it, whole or not at all.

        Args:
            path: The JSON file; its folder must exist.
        """
        content = {
            "names": self.names,
            "threshold": self.threshold,
            "min_firing_rate": self.min_firing_rate,
            "links": self.links,
            "notes": self.notes,
            "pairs": [asdict(pair) for pair in self.pairs],
            "provenance": dict(self.provenance),
        }
        by_name = {
            "max_cosines": self.max_cosines,
            "null_cosines": self.null_cosines,
            "included": self.included,
        }
        if self.firing_rates is not None:
            by_name["firing_rates"] = self.firing_rates
        tensors = {f"{name}.{i}": tensor for name, parts in by_name.items() for i, tensor in enumerate(parts)}
        save_result_with_tensors(path, FORMAT, content, tensors)

    @classmethod
    def load(cls, path: str | Path) -> "StabilityReport":
        """Read a report that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole report, or its tensors are missing or others.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> StabilityReport:
            n = len(content["names"])

            def parts(name: str) -> tuple[torch.Tensor, ...]:
                return tuple(tensors[f"{name}.{i}"] for i in range(n))

            return cls(
                names=tuple(content["names"]),
                threshold=float(content["threshold"]),
                max_cosines=parts("max_cosines"),
                null_cosines=parts("null_cosines"),
                included=parts("included"),
                pairs=tuple(PairMeasures(**pair) for pair in content["pairs"]),
                firing_rates=parts("firing_rates") if "firing_rates.0" in tensors else None,
                min_firing_rate=float(content["min_firing_rate"]),
                links=tuple(content["links"]),
                notes=tuple(content["notes"]),
                provenance=content["provenance"],
            )

        return load_result_with_tensors(path, FORMAT, build, "measure again with feature_stability")

    def __repr__(self) -> str:
        sizes = _span([len(kept) for kept in self.included], "{:,}")
        counted = _span([int(kept.sum()) for kept in self.included], "{:,}")
        shared = "" if self.shared_fraction is None else f" · shared {self.shared_fraction:.3f}"
        return (
            f"StabilityReport of {len(self.names)} SAEs ({self.names[0]}, …) with {sizes} latents, of which {counted} count; cosine ≥ {self.threshold}\n"
            f"  stable {_with_error(self.shares(STABLE))} · unstable {_with_error(self.shares(UNSTABLE))} · mean p̂ {self.match_rate:.3f}, "
            f"null {self.null_match_rate:.3f} · PW-MCC {self.pw_mcc:.3f} · MMCS {self.mmcs:.3f}{shared}\n"
            f"  {self.provenance.get('model_name')} at {self.provenance.get('hook_name')}"
            + "".join(f" · {note}" for note in self.notes)
        )

    def _repr_html_(self) -> str:
        formats: dict[str, Callable[[float], str]] = dict.fromkeys(
            (STABLE, MIDDLE, UNSTABLE), "{:.1%}".format
        )
        table = self.summary().to_html(
            index=False, formatters={**formats, "mean_reappearance": "{:.3f}".format}
        )
        return notebook_view(self, table)


def _require_class(label: str) -> None:
    if label not in (STABLE, MIDDLE, UNSTABLE, EXCLUDED):
        raise ValueError(
            f"There is no class {label!r}. Give {STABLE!r}, {MIDDLE!r}, {UNSTABLE!r} or {EXCLUDED!r}."
        )


def _mean(numbers: Sequence[float]) -> float:
    return fmean(numbers) if len(numbers) else math.nan


def _span(numbers: Sequence[int], form: str) -> str:
    return " to ".join(form.format(n) for n in dict.fromkeys((min(numbers), max(numbers))))


def _with_error(shares: Sequence[float]) -> str:
    error = f" ± {stdev(shares):.1%}" if len(shares) > 1 else ""
    return f"{_mean(shares):.1%}{error}"
