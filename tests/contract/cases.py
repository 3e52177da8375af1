"""The architectures under test, each described by what its promises differ in.

The battery also runs over architectures of others: SAE_LENS_EXT_CASES names modules, separated by commas, with `CASES`.
"""

import atexit
import copy
import dataclasses
import functools
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainingSAEConfig

import sae_lens_ext as ext

from .synthetic import D_IN, D_SAE, K, train

NORMALIZATIONS = (
    "none",
    "expected_average_only_in",
    "covariance_whitening",
    "layer_norm",
    "constant_norm_rescale",
)
ANY_ORDER = frozenset({"none", "expected_average_only_in", "covariance_whitening"})


@dataclass(frozen=True)
class ArchitectureCase:
    """One architecture and the promises in which it differs from the others.

    Fields:
        name: the registered name.
        settings: gives the configuration fields beside d_in and d_sae.
        saved_as: the registered name of the inference SAE.
        per_token: encoding a row in training does not depend on the other rows.
        normalizations: the `normalize_activations` modes it accepts; the others are refused.
        frozen: parameters that the loss does not reach.
        list_settings: configuration fields given as lists that the user may keep using.
        unit_norm: rows of the saved decoder have norm one.
        encodes_sparsely: the training SAE, and maybe the saved one, has `encode_sparse`.
        predicts_error: decode(encode(x)) is meant for a base SAE's error and not for x.
        build: another way to an inference SAE than training one.
        variant: tells apart two cases of one name.
    """

    name: str
    settings: Callable[[], Mapping[str, Any]]
    saved_as: str
    per_token: bool = True
    normalizations: frozenset[str] = frozenset(NORMALIZATIONS)
    frozen: frozenset[str] = frozenset()
    list_settings: Mapping[str, Any] = field(default_factory=dict)
    unit_norm: bool = True
    encodes_sparsely: bool = False
    predicts_error: bool = False
    build: Callable[..., SAE[Any]] | None = None
    variant: str = ""

    def config(self, **overrides: Any) -> TrainingSAEConfig:
        """A tiny training configuration."""
        fields = {"d_in": D_IN, "d_sae": D_SAE, **self.settings(), **overrides}
        return get_sae_training_class(self.name)[1](**fields)

    def make_training(self, **overrides: Any) -> TrainingSAE[Any]:
        """An untrained training SAE, made as the runners make it."""
        return TrainingSAE.from_dict(self.config(**overrides).to_dict())

    def make_trained(self, steps: int = 8, **overrides: Any) -> TrainingSAE[Any]:
        """A training SAE after a few steps: no parameter is at its initial value any more."""
        sae = self.make_training(**overrides)
        train(sae, steps=steps)
        return sae

    def make_inference(self, **overrides: Any) -> SAE[Any]:
        """An inference SAE, saved and loaded as a user would."""
        if self.build is not None:
            return self.build(**overrides)
        with tempfile.TemporaryDirectory() as folder:
            self.make_trained(**overrides).save_inference_model(folder)
            return SAE.load_from_disk(folder)

    def inference_acts(self, sae: TrainingSAE[Any], x: torch.Tensor) -> torch.Tensor:
        """What a training SAE's features are once its batch-wide rule has become a threshold."""
        if self.per_token:
            return sae.encode(x)
        _, hidden_pre = sae.encode_with_hidden_pre(x)
        return hidden_pre * (hidden_pre > sae.topk_threshold)

    def __str__(self) -> str:
        return f"{self.name} {self.variant}".strip()


TOPK = ArchitectureCase("topk", lambda: {"k": K}, saved_as="topk")
BATCHTOPK = ArchitectureCase(
    "batchtopk", lambda: {"k": K, "topk_threshold_lr": 0.3}, saved_as="jumprelu", per_token=False
)


@functools.cache
def residual_base() -> Path:
    """A folder with a trained JumpReLU SAE that stands for a user's base SAE."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng():  # whichever test comes first, it goes on with its own randomness
        torch.manual_seed(0)
        BATCHTOPK.make_trained(steps=60, d_sae=32).save_inference_model(folder)
    return Path(folder)


def residual_stack(base_case: "ArchitectureCase") -> Callable[..., SAE[Any]]:
    """A recipe for a base SAE with two residual SAEs on it, the base given as an object."""

    def build(**overrides: Any) -> SAE[Any]:
        base = base_case.make_inference(d_sae=32, **copy.deepcopy(overrides))
        residuals = {}
        for domain, d_sae in (("code", 24), ("law", 8)):
            cfg = ext.ResidualTrainingSAEConfig(
                d_in=D_IN, d_sae=d_sae, k=2, topk_threshold_lr=0.3, **copy.deepcopy(overrides)
            )
            residuals[domain] = ext.ResidualTrainingSAE(cfg, base=base)
            train(residuals[domain], steps=8)
        return ext.ResidualStackSAE.from_saes(base, residuals)

    return build


HIERARCHICAL_TOPK = ArchitectureCase(
    "hierarchical_topk",
    lambda: {"k": K},
    saved_as="topk",
    normalizations=ANY_ORDER,
    list_settings={"budgets": [1, 2, K]},
    encodes_sparsely=True,
)
KRON = ArchitectureCase(
    "kron",
    lambda: {"k": K, "base_dim": 2, "extension_dim": 4},
    saved_as="kron",
    normalizations=ANY_ORDER,
    encodes_sparsely=True,
)
KRON_WITH_BUDGETS = dataclasses.replace(
    KRON,
    settings=lambda: {"k": K, "base_dim": 2, "extension_dim": 4, "budgets": "all"},
    list_settings={"budgets": [1, 2, K]},
    variant="with budgets",
)
RESIDUAL = ArchitectureCase(
    "residual",
    lambda: {"k": K, "base_path": str(residual_base()), "topk_threshold_lr": 0.3},
    saved_as="jumprelu",
    per_token=False,
    normalizations=frozenset({"none"}),
    frozen=frozenset({"b_dec"}),
    unit_norm=False,
    predicts_error=True,
)
RESIDUAL_STACK = ArchitectureCase(
    "residual_stack",
    dict,
    saved_as="residual_stack",
    normalizations=frozenset({"none"}),
    unit_norm=False,
    build=residual_stack(BATCHTOPK),
)
RESIDUAL_STACK_ON_TOPK = dataclasses.replace(
    RESIDUAL_STACK, build=residual_stack(TOPK), variant="on a TopK base"
)
GATED = ArchitectureCase("gated", dict, saved_as="gated")
RESIDUAL_STACK_ON_GATED = dataclasses.replace(
    RESIDUAL_STACK, build=residual_stack(GATED), variant="on a gated base"
)


def cases_of_others() -> tuple[ArchitectureCase, ...]:
    """The cases of the modules that SAE_LENS_EXT_CASES names; importing one registers its architecture."""
    modules = filter(None, os.environ.get("SAE_LENS_EXT_CASES", "").split(","))
    return tuple(case for module in modules for case in importlib.import_module(module).CASES)


CASES = (
    TOPK,
    BATCHTOPK,
    HIERARCHICAL_TOPK,
    KRON,
    KRON_WITH_BUDGETS,
    RESIDUAL,
    RESIDUAL_STACK,
    RESIDUAL_STACK_ON_TOPK,
    RESIDUAL_STACK_ON_GATED,
    *cases_of_others(),
)
TRAINED = tuple(case for case in CASES if case.build is None)
OURS = tuple(case for case in CASES if case not in (TOPK, BATCHTOPK))
