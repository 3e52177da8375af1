"""Which parameters a training moves, and how: those of the model, with and without weight decay, and those of the routers."""

import re
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import nn

from sae_lens_ext.language_model import evaluating
from sae_lens_ext.language_model.evaluating import modules_of
from sae_lens_ext.lime.routing_hooks import attached_weights
from sae_lens_ext.lime.training.settings import CALLER, LanguageModelTrainingSettings, Trained

_BETAS = (0.9, 0.95)
"""AdamW's, as language models are trained with."""
_BIAS = re.compile(r"(^|\.)b_\w+$")
"""TransformerLens' biases, some of which have two dimensions, such as b_Q [n_heads, d_head]."""
_EMBEDDING = re.compile(r"(^|\.)(W_E|W_pos|W_token_type)$")


@dataclass(frozen=True, eq=False)
class TrainedParameters:
    """The parameters that a training may move, each once, under one name; those that no gradient reaches, it does not."""

    matrices: Mapping[str, nn.Parameter]
    """Of the model, with weight decay."""
    others: Mapping[str, nn.Parameter]
    """Of the model, without: biases, norms and embeddings."""
    routers: Mapping[str, nn.Parameter]
    """Of the routers."""

    @property
    def named(self) -> dict[str, nn.Parameter]:
        """All, by names that tell model and routers apart."""
        model = {f"model.{name}": p for name, p in chain(self.matrices.items(), self.others.items())}
        return model | {f"routers.{name}": p for name, p in self.routers.items()}

    def optimizer(self, settings: LanguageModelTrainingSettings) -> tuple[torch.optim.AdamW, list[float]]:
        """Give AdamW over them, and the full learning rate of each of its groups."""
        found = [
            (self.matrices, settings.lr, settings.weight_decay),
            (self.others, settings.lr, 0.0),
            (self.routers, settings.router_lr, 0.0),
        ]
        groups: list[dict[str, Any]] = [
            {"params": list(parameters.values()), "lr": lr, "weight_decay": decay}
            for parameters, lr, decay in found
            if parameters
        ]
        # Fused AdamW takes the memory of a parameter for contiguous, and writes elsewhere where a bridge's q, k and v are columns of one matrix.
        fused = all(
            p.device.type in ("cpu", "cuda") and p.is_floating_point() and p.is_contiguous()
            for p in self.named.values()
        )
        return torch.optim.AdamW(groups, betas=_BETAS, fused=fused or None), [group["lr"] for group in groups]


def trained_parameters(model: Any, routers: Any, trained: Trained) -> TrainedParameters:
    """Find what is to be trained.

    Raises:
        ValueError: There is nothing of it, or the routers are not attached to this model.
    """
    if routers is not None and getattr(routers, "model", None) is not model:
        raise ValueError(
            f"{CALLER} was given routers that are not attached to this model, so that they would do nothing. Give what attach_lime(model) returned."
        )
    if trained == "routers" and routers is None:
        raise ValueError(
            f'{CALLER} was given trained = "routers" and no routers. Give routers=attach_lime(model).'
        )
    of_routers: dict[str, nn.Parameter] = {}
    if trained != "model" and routers is not None:
        of_routers = {name: p for name, p in routers.named_parameters() if p.requires_grad}
    if trained == "routers" and not of_routers:
        raise ValueError(
            f'{CALLER} was given trained = "routers" and routers without a parameter that requires grad, such as those that average, so that there is '
            'nothing to train. Give other routers, or trained = "model".'
        )
    of_model: dict[str, nn.Parameter] = {}
    if trained != "routers":
        theirs = set() if routers is None else {id(p) for p in routers.parameters()}
        of_model = {
            name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in theirs
        }
        if not of_model:
            raise ValueError(
                f"{CALLER} was given a model none of whose parameters requires grad, so that there is nothing to train. Call model.requires_grad_(True), or give "
                'trained = "routers".'
            )
    embeddings = {
        id(p)
        for module in modules_of(model)
        if isinstance(module, nn.Embedding)
        for p in module.parameters(recurse=False)
    }
    others = {
        name
        for name, p in of_model.items()
        if p.ndim < 2 or id(p) in embeddings or _BIAS.search(name) or _EMBEDDING.search(name)
    }
    return TrainedParameters(
        matrices={name: p for name, p in of_model.items() if name not in others},
        others={name: p for name, p in of_model.items() if name in others},
        routers=of_routers,
    )


@contextmanager
def only_trained(model: Any, routers: Any, trained: Trained) -> Generator[None, None, None]:
    """Let gradients into what is trained alone, and run the model as it is trained: with dropout, unless it stays as it is."""
    attached = list(attached_weights(model))
    moved = set() if routers is None or trained == "model" else {id(p) for p in routers.parameters()}
    frozen = [*(model.parameters() if trained == "routers" else []), *attached]
    wanted = [parameter for parameter in frozen if parameter.requires_grad and id(parameter) not in moved]
    with ExitStack() as stack:
        for parameter in wanted:
            stack.callback(parameter.requires_grad_, True)
            parameter.requires_grad_(False)
        stack.enter_context(evaluating(model) if trained == "routers" else training_mode(model))
        yield


@contextmanager
def training_mode(model: Any) -> Generator[None, None, None]:
    """Switch dropout on while the block lasts."""
    resting = [module for module in modules_of(model) if not module.training]
    model.train()
    try:
        yield
    finally:
        for module in resting:
            module.training = False
