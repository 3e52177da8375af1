"""One SAE at many sparsity budgets: the same weights with another k, and the curve over k."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from sae_lens import SAE, BatchTopKTrainingSAE, TopKSAE, TopKTrainingSAE

from sae_lens_ext.architectures.head_reshaping import flat_heads
from sae_lens_ext.architectures.inference import assemble_as
from sae_lens_ext.architectures.levels import largest_budget
from sae_lens_ext.architectures.sae_checks import require_sae
from sae_lens_ext.architectures.validation import FOLDABLE_NORMALIZATIONS, require_positive_int
from sae_lens_ext.explained_variance import ExplainedVariance
from sae_lens_ext.ops import prefix_reconstructions

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

T_SAE = TypeVar("T_SAE", bound=SAE[Any])

TRAINED_K_METADATA_KEY = "trained_k"
TOKENS_PER_CHUNK = 256


def with_k(sae: T_SAE, k: int) -> T_SAE:
    """Give the same SAE at another budget.

    Args:
        sae: An SAE that keeps the k largest latents of each token: topk, hierarchical_topk or kron.
            Below its trained budget a HierarchicalTopK, or a Kron with `budgets`, was trained for what
            it then does; the others were not.
        k: The new budget, at most the budget the SAE was trained with.

    Returns:
        A new SAE that shares its weights with `sae` and has a configuration and hooks of its own.

    Raises:
        ValueError: `sae` has no budget per token, or k is not in 1..the trained k.
    """
    _require_topk(sae, "with_k")
    trained_k = _trained_k(sae)
    require_positive_int("with_k", "k", k, trained_k, "the budget the SAE was trained with")
    cfg = copy.deepcopy(sae.cfg)
    cfg.k = k
    if isinstance(getattr(cfg, "budgets", None), tuple):
        cfg.budgets = (*(budget for budget in cfg.budgets if budget < k), k)
    cfg.metadata[TRAINED_K_METADATA_KEY] = trained_k
    other = assemble_as(type(sae), cfg, sae.state_dict(keep_vars=True))
    return other.train(sae.training)  # type: ignore[return-value]


@dataclass(frozen=True)
class BudgetCurve:
    """How well an SAE reconstructs at each budget.

    Attributes:
        ks: The budgets, increasing.
        explained_variance: 1 − Σ‖x − x̂‖² / Σ‖x − mean x‖² at each budget (SAELens'
            `explained_variance`; 1 is perfect, it may be negative).
        mse: ‖x − x̂‖², summed over d_in and averaged over tokens, at each budget.
        n_tokens: Number of activations measured.
        provenance: Versions, model, hook and data set, as far as the SAE's metadata know them.
    """

    ks: tuple[int, ...]
    explained_variance: tuple[float, ...]
    mse: tuple[float, ...]
    n_tokens: int
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        low, high = self.explained_variance[0], self.explained_variance[-1]
        return (
            f"BudgetCurve over {len(self.ks)} budgets, {self.n_tokens} tokens\n"
            f"  explained variance {low:.3f} at k = {self.ks[0]}, {high:.3f} at k = {self.ks[-1]}\n"
            f"  {self.provenance.get('architecture')} at {self.provenance.get('hook_name')}"
        )

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with the columns k, explained_variance and mse."""
        import pandas as pd

        return pd.DataFrame({"k": self.ks, "explained_variance": self.explained_variance, "mse": self.mse})

    def plot(self) -> "go.Figure":
        """Draw explained variance against k; returns the figure without showing it."""
        import plotly.graph_objects as go

        architecture = escape(str(self.provenance.get("architecture")), quote=False)
        figure = go.Figure(
            go.Scatter(
                x=self.ks,
                y=self.explained_variance,
                mode="lines+markers",
                name=architecture,
            )
        )
        figure.update_layout(
            xaxis={"title": "latents per token, k", "type": "log"},
            yaxis={"title": "explained variance"},
            title=f"{architecture} at every budget",
        )
        return figure


@torch.no_grad()
def budget_curve(
    sae: SAE[Any], activations: torch.Tensor | Iterable[torch.Tensor], ks: Sequence[int]
) -> BudgetCurve:
    """Measure reconstruction at many budgets in one pass over the activations.

    Args:
        sae: An SAE that keeps the k largest latents of each token: topk, hierarchical_topk or kron.
        activations: Activations [..., d_in], heads flattened, or an iterable of such batches.
        ks: The budgets, each between 1 and the SAE's trained k; any order, reported increasing.

    Returns:
        The curve.

    Raises:
        ValueError: `sae` has no budget per token or rescales each token by itself, a budget is out of
            range, or there are no activations or of another width.
    """
    _require_topk(sae, "budget_curve")
    if sae.cfg.normalize_activations not in FOLDABLE_NORMALIZATIONS:
        raise ValueError(
            f"budget_curve cannot measure an SAE with normalize_activations = {sae.cfg.normalize_activations!r}: "
            "that mode scales each token by itself. Use run_evals on with_k(sae, k) for each k."
        )
    given = ks
    ks = np.asarray(given).tolist()  # a range, an array and a tensor will do as well
    if not isinstance(ks, list):
        raise ValueError(
            f"budget_curve was given ks = {given!r}. Give a sequence of budgets, such as range(1, sae.cfg.k + 1)."
        )
    for k in ks:
        require_positive_int("budget_curve", "ks", k, _trained_k(sae), "the budget the SAE was trained with")
    if not ks:
        raise ValueError("budget_curve was given no budgets. Pass ks such as range(1, sae.cfg.k + 1).")
    ks = sorted(set(ks))
    largest = with_k(sae, ks[-1])
    decoder = sae.W_dec
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        decoder = decoder / decoder.norm(dim=-1, keepdim=True)

    calculators = [ExplainedVariance() for _ in ks]
    batches = [activations] if isinstance(activations, torch.Tensor) else activations
    if isinstance(batches, str) or not isinstance(batches, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"budget_curve was given activations of type {type(batches).__name__}. Give a tensor [..., {sae.cfg.d_in}] or batches of them."
        )
    for batch in batches:
        if not isinstance(batch, torch.Tensor) or batch.is_complex() or batch.is_meta:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"budget_curve was given activations of type {type(batch).__name__} ({getattr(batch, 'dtype', None)}, {getattr(batch, 'device', None)}). Give real numbers: a tensor [..., {sae.cfg.d_in}] or batches of them."
            )
        if batch.shape[-1:] != (sae.cfg.d_in,):
            raise ValueError(
                f"budget_curve was given activations of shape {tuple(batch.shape)}, but the SAE has d_in = "
                f"{sae.cfg.d_in}. Pass activations [..., {sae.cfg.d_in}] of the SAE's own hook, heads flattened."
            )
        for given_x in batch.reshape(-1, sae.cfg.d_in).split(TOKENS_PER_CHUNK):
            x = given_x.to(sae.device, sae.dtype)
            with flat_heads(largest):
                feature_acts = largest.encode(x).to_dense()
            values, indices = feature_acts.topk(ks[-1], dim=-1, sorted=True)
            levels = prefix_reconstructions(values, indices, decoder, sae.b_dec)
            for k, calculator in zip(ks, calculators, strict=True):
                calculator.add_batch(levels[:, k - 1], given_x.to(sae.device))
    if calculators[0].num_samples == 0:
        raise ValueError("budget_curve was given no activations. Pass a tensor [N, d_in] or batches of them.")
    metadata = sae.cfg.metadata
    return BudgetCurve(
        ks=tuple(ks),
        explained_variance=tuple(c.compute() for c in calculators),
        mse=tuple(c.sum_squared_residual / c.num_samples for c in calculators),
        n_tokens=calculators[0].num_samples,
        provenance={
            "architecture": metadata["training_architecture"] or sae.cfg.architecture(),
            "model_name": metadata["model_name"],
            "hook_name": metadata["hook_name"],
            "dataset_path": metadata["dataset_path"],
            "sae_lens_version": version("sae-lens"),
            "sae_lens_ext_version": version("sae-lens-ext"),
        },
    )


def _trained_k(sae: SAE[Any]) -> int:
    """Give the largest budget that `sae` was trained with, also if it is another view of it by `with_k`."""
    return sae.cfg.metadata[TRAINED_K_METADATA_KEY] or largest_budget(sae.cfg)


def _require_topk(sae: SAE[Any], caller: str) -> None:
    require_sae(caller, "sae", sae)
    per_token = isinstance(sae, TopKSAE | TopKTrainingSAE) and not isinstance(sae, BatchTopKTrainingSAE)
    if not per_token:
        raise ValueError(
            f"{caller} needs an SAE that keeps the k largest latents of each token, but a "
            f"{sae.cfg.architecture()!r} SAE ({type(sae).__name__}) was given. Use a topk, hierarchical_topk or "
            "kron SAE."
        )
