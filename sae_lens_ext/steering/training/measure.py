"""The reward of a model's completions, steered or not, with an interval over the prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.language_model.continuation import left_padded
from sae_lens_ext.number_checks import require_bool, require_number, whole_number
from sae_lens_ext.renamed import renamed_arguments
from sae_lens_ext.steering.intervention import Intervention
from sae_lens_ext.steering.steer import steer
from sae_lens_ext.steering.steered_tokens import depends_on_prompt, require_no_masks
from sae_lens_ext.steering.training.reward_calls import Reward, call_reward, require_reward, reward_name
from sae_lens_ext.steering.training.reward_measurement import RewardMeasurement
from sae_lens_ext.steering.training.rollout import Rollout, Sampling, sample
from sae_lens_ext.steering.training.texts import (
    chunks,
    completion_text,
    prompt_tokens,
    require_language_model,
    require_stop_tokens,
)

_CALLER = "measure_reward"


@renamed_arguments(samples="samples_per_prompt")
def measure_reward(
    model: Any,
    prompts: Sequence[str],
    reward: Reward,
    *,
    samples_per_prompt: int = 16,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
    intervention: Intervention | None = None,
    prefix: str | int | Sequence[int] | None = None,
    stop_tokens: Sequence[int] | None = None,
    prepend_bos: bool = True,
    batch_size: int = 64,
    seed: int = 0,
    show_progress: bool = True,
) -> RewardMeasurement:
    """Sample completions and give their rewards.

    The random numbers of a sample follow from the seed, its prompt's place and its number alone: two measurements with one seed draw with the same
    numbers, steered or not, and neither depends on `batch_size`, but for rounding.

    Args:
        model: A HookedTransformer or TransformerBridge with a tokenizer.
        prompts: Texts.
        reward: Called as reward(prompt, completion); gives one finite number.
        samples_per_prompt: Completions of each prompt.
        max_new_tokens: Tokens of a completion, at most; a prefix does not count.
        temperature: The logits are divided by it.
        intervention: How the model is steered; None for not, or for a `steer` block or `patched_paths` block around the call.
        prefix: Text or token ids that every completion begins with, given and not sampled.
        stop_tokens: Ids of tokens that end a completion; None for the model's own.
        prepend_bos: Whether BOS comes before each prompt.
        batch_size: Completions run at once.
        seed: Of the samples.
        show_progress: Whether to show a bar.

    Returns:
        The rewards and completions.

    Raises:
        ValueError: An argument is out of range, a prompt is longer than the model's context, or the logits are NaN or infinite.
        RewardError: The reward raised, or gave no finite number; it says for which sample.
    """
    require_language_model(_CALLER, model)
    require_reward(_CALLER, reward)
    samples_per_prompt = _count("samples_per_prompt", samples_per_prompt, 1)
    max_new_tokens = _count("max_new_tokens", max_new_tokens, 1)
    batch_size, seed = _count("batch_size", batch_size, 1), _count("seed", seed, 0)
    require_bool(_CALLER, "prepend_bos", prepend_bos)
    temperature = require_number(_CALLER, "temperature", temperature)
    if temperature <= 0:
        raise ValueError(
            f"{_CALLER} was given temperature = {temperature!r}. Give a number above 0, such as 1.0."
        )
    if intervention is not None:
        if not isinstance(intervention, Intervention):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"{_CALLER} was given {type(intervention).__name__} as the intervention. Give AddVector, AddFeature, vectors.interventions(model), or None."
            )
        require_no_masks(_CALLER, intervention)
    ids = prompt_tokens(
        _CALLER, model, prompts, prepend_bos=prepend_bos, max_new_tokens=max_new_tokens, prefix=prefix
    )
    bare = prompt_tokens(_CALLER, model, prompts, prepend_bos=prepend_bos, max_new_tokens=0)
    sampling = Sampling(max_new_tokens, temperature, require_stop_tokens(_CALLER, model, stop_tokens))
    rollouts = _sampled(
        model,
        ids,
        samples_per_prompt,
        sampling,
        intervention,
        seed,
        batch_size,
        show_progress=show_progress,
    )
    before = model.tokenizer.decode(ids[0][len(bare[0]) :].tolist()) if prefix is not None else ""
    texts = [tuple(completion_text(model, rollout, before) for rollout in group) for group in rollouts]
    provenance = {
        **versions(),
        "model_name": getattr(model.cfg, "model_name", None),
        "prompts_sha256": hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest(),
        "reward_name": reward_name(reward),
        "intervention": None if intervention is None else repr(intervention)[:500],
        "prefix": before or None,
        "samples_per_prompt": samples_per_prompt,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "stop_tokens": list(sampling.stop_tokens),
        "prepend_bos": prepend_bos,
        "seed": seed,
    }
    return RewardMeasurement(
        prompts=tuple(prompts),
        rewards=call_reward(reward, prompts, texts),
        completions=tuple(texts),
        tokens=tuple(tuple(tuple(rollout.tokens.tolist()) for rollout in group) for group in rollouts),
        prompt_tokens=tuple(tuple(one.tolist()) for one in ids),
        ended=np.array([[rollout.ended for rollout in group] for group in rollouts]),
        log_probs=np.array([[float(rollout.log_probs.mean()) for rollout in group] for group in rollouts]),
        provenance=provenance,
    )


def _count(name: str, value: Any, least: int) -> int:
    number = whole_number(value)
    if number is None or number < least:
        raise ValueError(f"{_CALLER} was given {name} = {value!r}. Give a whole number of at least {least}.")
    return number


def _sampled(
    model: Any,
    ids: Sequence[torch.Tensor],
    samples: int,
    sampling: Sampling,
    intervention: Intervention | None,
    seed: int,
    batch_size: int,
    *,
    show_progress: bool,
) -> list[list[Rollout]]:
    """Give the completions of each prompt."""
    from tqdm.auto import tqdm

    # Then steer() is told which columns are prompt, row by row, and all rows stay.
    told = intervention is not None and any(map(depends_on_prompt, intervention.parts))
    rows = [(place, number) for place in range(len(ids)) for number in range(samples)]
    found: list[list[Rollout]] = [[] for _ in ids]
    for part in tqdm(list(chunks(rows, batch_size)), desc="measuring", disable=not show_progress):
        prompts = [ids[place] for place, _ in part]
        mask = left_padded(prompts)[1] if told else None
        with nullcontext() if intervention is None else steer(model, intervention, attention_mask=mask):
            seeds = [(seed, place, number) for place, number in part]
            rollouts = sample(model, prompts, seeds, sampling, keep_rows=told)
        for (place, _), rollout in zip(part, rollouts, strict=True):
            found[place].append(rollout)
    return found
