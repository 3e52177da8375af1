"""What the calls of steering are made of."""

from collections.abc import Mapping
from typing import Any

import torch

import sae_lens_ext as s
from tests.reliability.calls import wrong_values as w
from tests.reliability.calls.material import FIRST, drawn, tokens
from tests.reliability.calls.model_calls import ModelCall

PLACE = {"positions": w.POSITIONS, "phases": w.NOTHING}
FEATURE = {
    "sae": w.NOTHING,
    "index": w.kind("0", "2", "numpy 2", "tensor 2"),
    "hook_name": w.NAME | w.NONE,
} | PLACE
WRITING = {
    "max_new_tokens": w.COUNT,
    "temperature": w.POSITIVE,
    "stop_tokens": w.TOKEN_IDS,
    "prepend_bos": w.FLAG,
    "seed": w.SEED,
}
LOOPS = frozenset(
    {
        "steps",
        "samples_per_prompt",
        "max_new_tokens",
        "n_resamples",
        "group_size",
        "prompts_per_step",
        "n_layers",
    }
)
BOOTSTRAP = {"n_resamples": w.COUNT, "seed": w.SEED}


def vectors() -> s.SteeringVectors:
    return s.SteeringVectors({0: drawn(16), 1: drawn(16, seed=1)})


def sequences() -> s.Sequences:
    return s.Sequences(tuple(tokens()), (3, 4, 2, 5))


def reward(prompt: str, completion: str) -> float:
    return float(len(completion) % 2)


def added() -> s.AddVector:
    return s.AddVector(FIRST, drawn(16))


def steered(model: Any, intervention: Any, attention_mask: Any) -> torch.Tensor:
    with s.steer(model, intervention, attention_mask=attention_mask), torch.no_grad():
        return model(tokens(), return_type="logits")


def patched(model: Any, vector: Any, mode: Any, layer: Any) -> torch.Tensor:
    with s.patched_paths(model, vector, mode, layer=layer), torch.no_grad():
        return model(tokens(), return_type="logits")


def call(name: str, function: Any, given: Any, kinds: Mapping[str, w.Kind]) -> ModelCall:
    return ModelCall(name, function, given, kinds, LOOPS & set(kinds))


def of_numbers(name: str, function: Any, kinds: Mapping[str, w.Kind], **given: Any) -> ModelCall:
    return call(name, function, lambda: dict(given), kinds)
