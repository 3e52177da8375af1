"""How far an SAE in a coarser precision is from itself in float64."""

import copy
import tempfile
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.saes.sae import TrainStepInput

import sae_lens_ext as ext
from tests.contract import cases
from tests.contract.cases import ArchitectureCase

PRECISIONS = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "autocast": None,
    "float32": torch.float32,
}
"""By name, what weights and activations are cast to; None for float32 weights in autocast to bfloat16."""


@dataclass(frozen=True)
class Size:
    """How large the SAEs are, and how many rows they read."""

    d_in: int
    d_sae: int
    k: int
    n_rows: int


SMALL = Size(d_in=64, d_sae=512, k=8, n_rows=512)
"""What is measured in a second."""


@dataclass(frozen=True)
class Subject:
    """One architecture, with weights in float32."""

    training: TrainingSAE[Any] | None
    inference: SAE[Any]


@dataclass(frozen=True)
class Agreement:
    """How one precision compares with float64; relative errors are the norm of the difference over the norm."""

    encoding: float
    """Relative error of the latents."""
    reconstruction: float
    """Relative error of the inference SAE's output."""
    same_sets: float
    """Share of rows with exactly the same active latents."""
    overlap: float
    """Mean over rows of the latents active in both, as a share of those active in the one that has more."""
    losses: dict[str, float]
    """Relative error of the training loss and of its parts; empty for an architecture without training."""


def directions(size: Size) -> torch.Tensor:
    """Unit directions that the rows are sums of, [2 · d_in, d_in]."""
    drawn = torch.randn(2 * size.d_in, size.d_in, generator=torch.Generator().manual_seed(3))
    return drawn / drawn.norm(dim=-1, keepdim=True)


def activations(size: Size) -> torch.Tensor:
    """Rows that are sums of about k directions about a common offset, with a little noise, [n_rows, d_in]."""
    generator = torch.Generator().manual_seed(5)
    strengths = 0.5 + torch.rand(size.n_rows, 2 * size.d_in, generator=generator)
    strengths *= torch.rand(strengths.shape, generator=generator) < size.k / (2 * size.d_in)
    noise = 0.02 * torch.randn(size.n_rows, size.d_in, generator=generator)
    return strengths @ directions(size) + noise + 0.3 * torch.randn(size.d_in, generator=generator)


def _built(case: ArchitectureCase, size: Size, x: torch.Tensor, **settings: Any) -> Any:
    """A training SAE that knows the directions and the mean of the rows, with thresholds that have settled."""
    torch.manual_seed(7)
    known = {"k": size.k} if "k" in case.settings() else {}
    sae = case.make_training(d_in=size.d_in, d_sae=size.d_sae, **known, **settings)
    rows = torch.cat([directions(size), torch.randn(size.d_sae - 2 * size.d_in, size.d_in)])
    with torch.no_grad():
        if sae.W_enc.shape == rows.T.shape:  # a Kron's encoder has no column of its own for a latent
            sae.W_dec.copy_(rows / rows.norm(dim=-1, keepdim=True))
            sae.W_enc.copy_(sae.W_dec.T)
        if sae.b_dec.requires_grad:  # not that of a residual SAE
            sae.b_dec.copy_(x.mean(dim=0))
            if not getattr(sae.cfg, "apply_b_dec_to_input", False):
                sae.b_enc.copy_(-sae.b_dec @ sae.W_enc)
        _settle(sae, x)
    return sae


def _settle(sae: TrainingSAE[Any], x: torch.Tensor) -> None:
    """Let the threshold of a BatchTopK follow the batches."""
    if hasattr(sae, "topk_threshold"):
        for _ in range(12):
            sae.training_forward_pass(step_input(sae, x[: len(x) // 4]))


def step_input(sae: TrainingSAE[Any], x: torch.Tensor) -> TrainStepInput:
    """What the trainer hands over, with every tenth latent dead."""
    dead = torch.arange(sae.cfg.d_sae) % 10 == 0
    coefficients = {name: float(getattr(c, "value", c)) for name, c in sae.get_coefficients().items()}
    return TrainStepInput(
        sae_in=x,
        coefficients=coefficients,
        dead_neuron_mask=dead,
        n_training_steps=0,
        is_logging_step=False,
    )


def _saved(sae: TrainingSAE[Any]) -> SAE[Any]:
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return SAE.load_from_disk(folder)


def _plain(case: ArchitectureCase, **settings: Any) -> Callable[[Size, torch.Tensor], Subject]:
    def made(size: Size, x: torch.Tensor) -> Subject:
        sae = _built(case, size, x, **settings)
        return Subject(sae, _saved(sae))

    return made


def _residual(size: Size, x: torch.Tensor) -> Subject:
    base = _built(cases.BATCHTOPK, size, x)
    with tempfile.TemporaryDirectory() as folder:
        base.save_inference_model(folder)
        sae = _built(cases.RESIDUAL, size, x, base_path=str(Path(folder)))
        sae.training_forward_pass(step_input(sae, x[:8]))  # reads the base while it is there
        return Subject(sae, _saved(sae))


def _stack(base_case: ArchitectureCase) -> Callable[[Size, torch.Tensor], Subject]:
    def made(size: Size, x: torch.Tensor) -> Subject:
        base = _saved(_built(base_case, size, x))
        residuals = {}
        for domain, k in (("code", size.k), ("law", max(1, size.k // 2))):
            cfg = ext.ResidualTrainingSAEConfig(
                d_in=size.d_in, d_sae=size.d_sae // 4, k=k, topk_threshold_lr=0.3
            )
            residuals[domain] = ext.ResidualTrainingSAE(cfg, base=base)
            with torch.no_grad():
                _settle(residuals[domain], x)
        return Subject(None, ext.ResidualStackSAE.from_saes(base, residuals))

    return made


_JUMPRELU = ArchitectureCase("jumprelu", dict, saved_as="jumprelu")

SAELENS: dict[str, Callable[[Size, torch.Tensor], Subject]] = {
    "topk": _plain(cases.TOPK),
    "batchtopk": _plain(cases.BATCHTOPK),
    "jumprelu": _plain(_JUMPRELU, jumprelu_init_threshold=0.5, jumprelu_bandwidth=0.05),
}
OURS: dict[str, Callable[[Size, torch.Tensor], Subject]] = {
    "hierarchical_topk": _plain(cases.HIERARCHICAL_TOPK),
    "kron": _plain(cases.KRON),
    "kron with budgets": _plain(cases.KRON_WITH_BUDGETS),
    "residual": _residual,
    "residual_stack": _stack(cases.BATCHTOPK),
    "residual_stack on a TopK base": _stack(cases.TOPK),
}
RELATIVES = {
    "hierarchical_topk": "topk",
    "kron": "topk",
    "kron with budgets": "topk",
    "residual_stack": "batchtopk",
    "residual_stack on a TopK base": "topk",
}
"""SAELens' architecture that each of ours selects its latents like. A residual SAE is saved as SAELens' own JumpReLU; what it gives is a
base's error, without the rows' mean, and so a larger share of it changes with a latent."""


def relative_error(found: torch.Tensor, reference: torch.Tensor) -> float:
    """The norm of the difference over the norm of the reference, in float64."""
    found, reference = found.detach().double(), reference.detach().double()
    return float((found - reference).norm() / reference.norm())


def _dense(acts: torch.Tensor) -> torch.Tensor:
    return acts.to_dense() if acts.is_sparse else acts


def cast(sae: Any, precision: str) -> Any:
    """A copy of an SAE with its weights in a precision; autocast's are float32."""
    dtype = PRECISIONS.get(precision, torch.float64) or torch.float32
    return copy.deepcopy(sae).to(dtype=dtype)


def _losses(sae: TrainingSAE[Any], precision: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    sae = cast(sae, precision)
    with _context(precision):
        out = sae.training_forward_pass(step_input(sae, x.to(sae.dtype)))
    return {"loss": out.loss.detach()} | {name: loss.detach() for name, loss in out.losses.items()}


def _encoded(sae: SAE[Any], precision: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sae = cast(sae, precision)
    with torch.no_grad(), _context(precision):
        x = x.to(sae.dtype)
        return _dense(sae.encode(x)), sae(x)


def _context(precision: str) -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "autocast" else nullcontext()


def agreements(
    subject: Subject, x: torch.Tensor, precisions: Iterable[str] = PRECISIONS
) -> dict[str, Agreement]:
    """Compare precisions with float64, on rows x [n, d_in] in float32."""
    acts_64, out_64 = _encoded(subject.inference, "float64", x)
    losses_64 = {} if subject.training is None else _losses(subject.training, "float64", x)
    active = acts_64 != 0
    found = {}
    for precision in precisions:
        acts, out = _encoded(subject.inference, precision, x)
        losses = {} if subject.training is None else _losses(subject.training, precision, x)
        own = acts != 0
        both = (own & active).sum(dim=1).double()
        larger = torch.maximum(own.sum(dim=1), active.sum(dim=1))
        found[precision] = Agreement(
            encoding=relative_error(acts, acts_64),
            reconstruction=relative_error(out, out_64),
            same_sets=float((own == active).all(dim=1).double().mean()),
            overlap=float((both / larger)[larger > 0].mean()),
            losses={
                name: relative_error(loss, losses_64[name])
                for name, loss in losses.items()
                if losses_64[name] != 0
            },
        )
    return found
