"""What `deactivation_test` found, as tables, a comparison, a figure and a file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from sae_lens_ext.analysis.flow.deactivation.summary import PairedDifference, draw_texts, mean_of
from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FORMAT = "sae_lens_ext.DeactivationResult/1"
Which = Literal["own", "common"]


@dataclass(frozen=True)
class DeactivationRow:
    """One method at one kind of predecessor site."""

    layer: int | None
    """Layer of the targets; None for all layers together."""
    predecessor: str
    """Kind of the predecessor's site: "residual", "mlp" or "attention"."""
    method: str
    """What named the predecessors; "random_active" is the control."""
    set: str
    """Over which targets: "own", where this method's predecessor is active at the token; "common", where every method's is."""
    mean_activation_change: float | None
    """Mean of 1 − z_new/z_old: 1 is gone, 0 unchanged, negative grown. None if no pair was tested, as the others."""
    mean_activation_change_low: float | None
    """Lower end of its 95 % interval, by bootstrap over texts."""
    mean_activation_change_high: float | None
    """Upper end."""
    median_activation_change: float | None
    """Median over the pairs, which a few that grew much do not move."""
    success: float | None
    """Share of the pairs after which the target is no longer active, 0 to 1."""
    success_low: float | None
    """Lower end of its 95 % interval."""
    success_high: float | None
    """Upper end."""
    n_pairs: int
    """Pairs of a target and its predecessor, at a token, that were tested in this set."""
    n_targets: int
    """Targets in all: active features at the sampled tokens, predecessor or not."""
    share_with_active_predecessor: float | None
    """n_pairs / n_targets, 0 to 1: in "own", how often the method names a feature that is active when its target is."""
    share_low: float | None
    """Lower end of its 95 % interval."""
    share_high: float | None
    """Upper end."""


@dataclass(frozen=True)
class TestedSite:
    """A residual site whose features were targets."""

    __test__ = False  # it is no test of pytest's

    layer: int
    """Its layer."""
    hook_name: str
    """Its hook."""
    predecessors: dict[str, str]
    """Hooks of its predecessors, by kind."""


@dataclass(frozen=True, repr=False, eq=False)
class DeactivationResult:
    """What became of features whose predecessor was taken away. See `deactivation_test`.

    n targets (an active feature at a token), k kinds of predecessor sites, m methods.
    """

    rows: tuple[DeactivationRow, ...]
    """By layer (all together last), kind, method and set."""
    sites: tuple[TestedSite, ...]
    """The sites, by layer."""
    kinds: tuple[str, ...]
    """Kinds of predecessor sites."""
    methods: tuple[str, ...]
    """Methods, the control "random_active" last."""
    n_texts: int
    """Texts (packed contexts) that tokens were drawn from."""
    text: torch.Tensor
    """Which text the target's token is of, [n], int64."""
    position: torch.Tensor
    """Position of the token in it, [n], int64."""
    token_id: torch.Tensor
    """The token, [n], int64."""
    layer: torch.Tensor
    """The target's layer, [n], int64."""
    feature: torch.Tensor
    """The target's index in its SAE, [n], int64."""
    activation: torch.Tensor
    """Its activation with nothing changed, [n], float32."""
    predecessor: torch.Tensor
    """The predecessor's index in its SAE, [n, k, m], int64; −1 where the method names none."""
    predecessor_activation: torch.Tensor
    """Its activation at the token, [n, k, m], float32; 0 where it is not active, so that there is nothing to take away."""
    new_activation: torch.Tensor
    """The target's activation after it, [n, k, m], float32; NaN where nothing was taken away."""
    activation_change: torch.Tensor
    """1 − z_new/z_old, [n, k, m], float32; NaN as above."""
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Versions, seed, model, hooks, the tokens read, the settings."""

    def difference(
        self,
        first: str,
        second: str,
        *,
        predecessor: str = "residual",
        layer: int | None = None,
        of: Literal["activation_change", "success"] = "activation_change",
    ) -> PairedDifference:
        """Compare two methods on the targets at which the predecessors of both are active, pair by pair.

        Args:
            first: A method.
            second: Another.
            predecessor: Kind of the predecessor's site.
            layer: A layer; all by default.
            of: What is compared.

        Raises:
            ValueError: There is no such method, kind or layer here, or nothing of that name to compare.
        """
        layers = (None, *(site.layer for site in self.sites))
        for what, value, known in (
            ("method", first, self.methods),
            ("method", second, self.methods),
            ("kind of predecessor", predecessor, self.kinds),
            ("layer", layer, layers),
            ("measure", of, ("activation_change", "success")),
        ):
            if value not in known:
                raise ValueError(
                    f"This result has no {what} {value!r}. It has {', '.join(map(repr, known))}. Give one of these."
                )
        k = self.kinds.index(predecessor)
        change, new = (t[:, k].double().numpy() for t in (self.activation_change, self.new_activation))
        values = change if of == "activation_change" else new == 0
        one, two = self.methods.index(first), self.methods.index(second)
        both = (change[:, one] == change[:, one]) & (change[:, two] == change[:, two])
        if layer is not None:
            both &= self.layer.numpy() == layer
        gaps = values[both, one].astype(float) - values[both, two].astype(float)
        weights = draw_texts(self.n_texts, int(self.provenance.get("seed", 0)))
        return PairedDifference(
            first, second, *mean_of(gaps, self.text.numpy()[both], weights), int(both.sum())
        )

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with the fields of `DeactivationRow` as columns (NA for None)."""
        import pandas as pd

        names = [f.name for f in fields(DeactivationRow)]
        frame = pd.DataFrame([asdict(row) for row in self.rows], columns=names)
        texts = ("predecessor", "method", "set")
        return frame.astype(
            {
                name: "Int64" if name == "layer" else float
                for name in names
                if name not in texts and not name.startswith("n_")
            }
        )

    def pairs_frame(self) -> "pd.DataFrame":
        """Give a row for each target, kind and method, tested or not.

        Columns: text, position, token_id, layer, feature, activation, predecessor_kind, method, predecessor (−1: none named),
        predecessor_activation (0: not active), tested, new_activation and activation_change (NaN if not tested).
        """
        import pandas as pd

        present = torch.zeros(len(self.feature), len(self.kinds), len(self.methods), dtype=torch.bool)
        for site in self.sites:
            for k, kind in enumerate(self.kinds):
                present[self.layer == site.layer, k] = kind in site.predecessors
        target, kind, method = torch.nonzero(present, as_tuple=True)
        of_target = ("text", "position", "token_id", "layer", "feature", "activation")
        of_pair = ("predecessor", "predecessor_activation", "new_activation", "activation_change")
        frame = pd.DataFrame({name: getattr(self, name)[target].numpy() for name in of_target})
        frame["predecessor_kind"] = [self.kinds[i] for i in kind.tolist()]
        frame["method"] = [self.methods[i] for i in method.tolist()]
        for name in of_pair:
            frame[name] = getattr(self, name)[target, kind, method].numpy()
        frame.insert(len(frame.columns) - 2, "tested", frame["new_activation"].notna())
        return frame

    def plot(self, which: Which = "common") -> "go.Figure":
        """Draw activation change and success by method, layers together; returns the figure without showing it.

        Args:
            which: Over which targets, "own" or "common".
        """
        from sae_lens_ext.analysis.flow.deactivation.figure import figure

        return figure(self, which)

    def save(self, path: str | Path) -> None:
        """Write the result as JSON and, beside it, its tensors.

        Args:
            path: The JSON file; its folder must exist.
        """
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.type is torch.Tensor}
        content = {
            "rows": [asdict(row) for row in self.rows],
            "sites": [asdict(site) for site in self.sites],
            "kinds": list(self.kinds),
            "methods": list(self.methods),
            "n_texts": self.n_texts,
            "provenance": dict(self.provenance),
        }
        save_result_with_tensors(path, FORMAT, content, tensors)

    @classmethod
    def load(cls, path: str | Path) -> "DeactivationResult":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any, tensors: dict[str, torch.Tensor]) -> DeactivationResult:
            return cls(
                rows=tuple(DeactivationRow(**row) for row in content["rows"]),
                sites=tuple(TestedSite(**site) for site in content["sites"]),
                kinds=tuple(content["kinds"]),
                methods=tuple(content["methods"]),
                n_texts=content["n_texts"],
                provenance=content["provenance"],
                **{f.name: tensors[f.name] for f in fields(cls) if f.type is torch.Tensor},
            )

        return load_result_with_tensors(path, FORMAT, build, "measure again with deactivation_test")

    def __repr__(self) -> str:
        pooled = [r for r in self.rows if r.layer is None and r.set == "own" and r.success is not None]
        found = "; ".join(
            f"{r.method} ({r.predecessor}) {r.mean_activation_change:.2f}, {r.success:.0%}" for r in pooled
        )
        layers = ", ".join(str(site.layer) for site in self.sites)
        return (
            f"DeactivationResult of {len(self.feature):,} active features at {self.n_texts} texts, layer{'s' * (len(self.sites) > 1)} {layers}\n"
            f"  activation change and success: {found or 'no predecessor was active'}\n"
            f"  {self.provenance.get('model_name')} at {', '.join(site.hook_name for site in self.sites)}"
        )

    def _repr_html_(self) -> str:
        frame = self.to_frame()
        pooled = frame[frame["layer"].isna()].drop(columns="layer")
        table = pooled.to_html(index=False, float_format=lambda x: f"{x:.3f}", na_rep="")
        return notebook_view(self, table)
