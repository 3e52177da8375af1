"""What `subspace_report` found, as numbers, tables, a figure and a file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors
from sae_lens_ext.analysis.stability.report import STABLE, UNSTABLE

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.SubspaceReport/1"
CLASSES = (UNSTABLE, STABLE)
NO_COPY = f"{UNSTABLE}, no copy"
TARGETS = (*CLASSES, NO_COPY)
"""What is projected: the two classes, and those unstable rows that have no near copy in the anchor."""
GROUPS = (UNSTABLE, STABLE, "any", "random")
"""What rows are drawn from: the two classes, any latents that count, and random unit rows that belong to no SAE."""


@dataclass(frozen=True, repr=False, eq=False)
class SubspaceReport:
    """How many dimensions each class of latents fills, and how far those of one SAE hold another's. See `subspace_report`.

    S SAEs, each in turn the anchor; D draws of n rows; R ranks r. Groups are "unstable", "stable", "any" (latents that count) and
    "random". Targets are the classes and "unstable, no copy": those unstable rows whose largest cosine with the anchor's decoder rows is
    below `max_partner_cosine`. A row is unstable even if it has a partner just below the threshold; that partner's direction holds much
    of it, and energy in "unstable" is above r/d without a shared subspace. From "unstable, no copy" such rows are left out, which
    lowers the energy where a subspace is shared, too. Deviations are over anchors, each compared with all others: they share SAEs,
    and so are not independent.
    """

    names: tuple[str, ...]
    """Names of the S SAEs."""
    d_in: int
    """d: width of a decoder row."""
    n_rows: int
    """n: rows of each group that are drawn at a time, the smallest class of any SAE."""
    ranks: tuple[int, ...]
    """The R ranks r, ascending."""
    sizes: Mapping[str, tuple[int, ...]]
    """By class: its latents, by anchor."""
    effective_ranks: Mapping[str, torch.Tensor]
    """By group, [S, D], 1 to min(n, d): effective rank of n rows, exp of the entropy of the normalised singular values (nats)."""
    energies: Mapping[tuple[str, str], torch.Tensor]
    """By group and target, [S, D, R], 0 to 1: how much of the target's rows of the other SAEs (mean over rows, then over the S − 1
    SAEs) lies in the top-r subspace of n of the anchor's rows of the group. A group "random" gives r/d on average. "unstable, no copy"
    is the mean over SAEs that have such rows, and NaN for an anchor without any."""
    energies_all: Mapping[tuple[str, str], torch.Tensor]
    """By class and target, [S, R]: the same with the subspace of all of the anchor's rows of the first class, however many."""
    ceilings: Mapping[str, torch.Tensor]
    """By class, [S, R]: how much of the anchor's own rows of the class lies in their own top-r subspace. No subspace of r
    dimensions holds more of them; what transfers to these rows cannot exceed it."""
    max_partner_cosine: float
    """0 to 1: rows of "unstable, no copy" have a largest cosine with the anchor's decoder rows, of any class, below it."""
    no_copy_rows: tuple[tuple[int, ...], ...]
    """By anchor, of each of the S − 1 other SAEs in order: how many unstable rows have no near copy in the anchor."""
    notes: tuple[str, ...] = ()
    """What a reader must know of these numbers, a sentence each."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, hook, a hash of each SAE, and what decided the classes."""

    @property
    def chance(self) -> torch.Tensor:
        """r/d, [R]: the energy in a random subspace."""
        return torch.tensor(self.ranks, dtype=torch.float64) / self.d_in

    @property
    def no_copy_share(self) -> torch.Tensor:
        """Share of the other SAEs' unstable rows that have no near copy in the anchor, mean over them, [S], 0 to 1."""
        sizes = torch.tensor(self.sizes[UNSTABLE], dtype=torch.float64)
        others = torch.stack([sizes[torch.arange(len(sizes)) != anchor] for anchor in range(len(sizes))])
        return (torch.tensor(self.no_copy_rows) / others).mean(dim=1)

    def effective_rank(self, group: str) -> tuple[float, float]:
        """Give ER/d of n rows of a group: mean over draws and anchors, and deviation over anchors.

        Raises:
            ValueError: There is no such group.
        """
        _require(group, GROUPS, "group")
        by_anchor = self.effective_ranks[group].mean(dim=1) / self.d_in
        return float(by_anchor.mean()), float(by_anchor.std())

    def energy(self, source: str, target: str, *, matched: bool = True) -> torch.Tensor:
        """Give how much of a target of the other SAEs lies in the top-r subspace of an anchor's group.

        Args:
            source: What the subspace is built of: a group, or a class if not matched.
            target: Class whose rows of the other SAEs are projected, or "unstable, no copy".
            matched: Build it of n rows, which makes classes comparable (mean over draws); else of all.

        Returns:
            [S, R] by anchor and rank; NaN for an anchor of which all unstable rows have near copies, if that is the target.

        Raises:
            ValueError: There is no such group, class or target.
        """
        _require(source, GROUPS if matched else CLASSES, "group" if matched else "class")
        _require(target, TARGETS, "target")
        return self.energies[source, target].mean(dim=1) if matched else self.energies_all[source, target]

    def excess_energy(self, source: str, target: str, *, matched: bool = True) -> tuple[float, float]:
        """Sum a curve up: energy − r/d, as mean over `ranks` (with ranks that double, the area over log r); 0 is chance.

        Args:
            source: As for `energy`.
            target: As for `energy`.
            matched: As for `energy`.

        Returns:
            Mean over anchors, and deviation over them; NaN if an anchor's energy is.

        Raises:
            ValueError: There is no such group, class or target.
        """
        by_anchor = (self.energy(source, target, matched=matched) - self.chance).mean(dim=1)
        return float(by_anchor.mean()), float(by_anchor.std())

    def attained(self, label: str) -> tuple[float, float]:
        """Give what part of a class's concentration seeds share: transfer's excess energy over that of the ceiling.

        With all rows of the class. 1 means that each SAE's rows have the same main directions, 0 that they are as good as random to
        each other, however concentrated the rows of each are. Near copies of single rows count as shared directions.

        Returns:
            Mean over anchors, and deviation over them; NaN if the ceiling is chance itself, as with r = d alone.

        Raises:
            ValueError: There is no such class.
        """
        transfer = (self.energy(label, label, matched=False) - self.chance).sum(dim=1)
        room = (self.ceilings[label] - self.chance).sum(dim=1)
        by_anchor = torch.where(room > 1e-9, transfer / room, math.nan)  # below it there is rounding alone
        return float(by_anchor.mean()), float(by_anchor.std())

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row for every curve, anchor and rank.

        Returns:
            The columns sae (the anchor), source, target, rows ("n" of each group, "all" of the class, or "own": the ceiling), rank,
            energy, chance (r/d).
        """
        import pandas as pd

        curves = {
            **{(*pair, "n"): self.energy(*pair) for pair in self.energies},
            **{(*pair, "all"): found for pair, found in self.energies_all.items()},
            **{(label, label, "own"): found for label, found in self.ceilings.items()},
        }
        rows = [
            {
                "sae": name,
                "source": source,
                "target": target,
                "rows": kind,
                "rank": rank,
                "energy": float(found[anchor, i]),
                "chance": rank / self.d_in,
            }
            for (source, target, kind), found in curves.items()
            for anchor, name in enumerate(self.names)
            for i, rank in enumerate(self.ranks)
        ]
        return pd.DataFrame(rows)

    def summary(self) -> "pd.DataFrame":
        """Give a data frame with a row for every group.

        Returns:
            The columns group; er_over_d, its sd_over_anchors and sd_over_draws (mean over anchors, NaN with one draw); excess energy
            into the other SAEs' rows, into_unstable, into_stable and into_unstable_no_copy.
        """
        import pandas as pd

        rows = []
        for group in GROUPS:
            mean, sd = self.effective_rank(group)
            draws = self.effective_ranks[group] / self.d_in
            rows.append(
                {
                    "group": group,
                    "er_over_d": mean,
                    "sd_over_anchors": sd,
                    "sd_over_draws": float(draws.std(dim=1).mean()) if draws.shape[1] > 1 else math.nan,
                    **{
                        f"into_{target.replace(', ', '_').replace(' ', '_')}": self.excess_energy(
                            group, target
                        )[0]
                        for target in TARGETS
                    },
                }
            )
        return pd.DataFrame(rows)

    def plot(self) -> "go.Figure":
        """Draw energy against r for both classes with null and controls, and effective ranks; returns the figure without showing it."""
        from sae_lens_ext.analysis.stability.geometry.subspaces_figure import figure

        return figure(self)

    def save(self, path: str | Path) -> None:
        """Write the report as JSON with its tensors as safetensors beside it, whole or not at all.

        Args:
            path: The JSON file; its folder must exist.
        """
        content = {
            "names": self.names,
            "d_in": self.d_in,
            "n_rows": self.n_rows,
            "ranks": self.ranks,
            "sizes": dict(self.sizes),
            "max_partner_cosine": self.max_partner_cosine,
            "no_copy_rows": self.no_copy_rows,
            "notes": self.notes,
            "provenance": dict(self.provenance),
        }
        tensors = {
            **{f"effective_ranks.{group}": found for group, found in self.effective_ranks.items()},
            **{f"energies.{source}.{target}": found for (source, target), found in self.energies.items()},
            **{f"energies_all.{source}.{target}": t for (source, target), t in self.energies_all.items()},
            **{f"ceilings.{label}": found for label, found in self.ceilings.items()},
        }
        save_result_with_tensors(path, FORMAT, content, tensors)

    @classmethod
    def load(cls, path: str | Path) -> "SubspaceReport":
        """Read a report that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole report, or its tensors are missing or others.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> SubspaceReport:
            def pairs(name: str, sources: tuple[str, ...]) -> dict[tuple[str, str], torch.Tensor]:
                return {(a, b): tensors[f"{name}.{a}.{b}"] for a in sources for b in TARGETS}

            return cls(
                names=tuple(content["names"]),
                d_in=int(content["d_in"]),
                n_rows=int(content["n_rows"]),
                ranks=tuple(content["ranks"]),
                sizes={label: tuple(sizes) for label, sizes in content["sizes"].items()},
                effective_ranks={group: tensors[f"effective_ranks.{group}"] for group in GROUPS},
                energies=pairs("energies", GROUPS),
                energies_all=pairs("energies_all", CLASSES),
                ceilings={label: tensors[f"ceilings.{label}"] for label in CLASSES},
                max_partner_cosine=float(content["max_partner_cosine"]),
                no_copy_rows=tuple(map(tuple, content["no_copy_rows"])),
                notes=tuple(content["notes"]),
                provenance=content["provenance"],
            )

        return load_result_with_tensors(path, FORMAT, build, "measure again with subspace_report")

    def __repr__(self) -> str:
        ranks = " · ".join(
            f"{group} {mean:.3f} ± {sd:.3f}" for group in GROUPS for mean, sd in [self.effective_rank(group)]
        )
        energies = " · ".join(
            f"{source} → {target} {mean:+.3f} ± {sd:.3f}"
            for source, target in (
                (UNSTABLE, UNSTABLE),
                (UNSTABLE, NO_COPY),
                (STABLE, STABLE),
                (UNSTABLE, STABLE),
            )
            for mean, sd in [self.excess_energy(source, target)]
        )
        return (
            f"SubspaceReport of {len(self.names)} SAEs ({self.names[0]}, …), {self.n_rows:,} rows of each group; ER/d: {ranks}\n"
            f"  energy above r/d, mean of r = {self.ranks[0]} to {self.ranks[-1]} of {self.d_in}: {energies}; "
            f"no copy: largest cosine below {self.max_partner_cosine:g}, {float(self.no_copy_share.mean()):.0%} of unstable rows\n"
            f"  {self.provenance.get('model_name')} at {self.provenance.get('hook_name')}"
            + "".join(f" · {note}" for note in self.notes)
        )

    def _repr_html_(self) -> str:
        table = self.summary().to_html(index=False, float_format=lambda x: f"{x:.3f}")
        return notebook_view(self, table)


def _require(name: str, known: tuple[str, ...], what: str) -> None:
    if name not in known:
        raise ValueError(f"There is no {what} {name!r} here. Give one of {', '.join(map(repr, known))}.")
