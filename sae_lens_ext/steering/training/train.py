"""Steering vectors by reinforcement learning: REINFORCE with leave-one-out baselines, everything but the vectors frozen (arXiv 2509.06608)."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.language_model.weights_hash import weights_hash
from sae_lens_ext.path_checks import optional_path
from sae_lens_ext.run_folder import RunFolder
from sae_lens_ext.run_log import RunLog
from sae_lens_ext.steering.training.advantages import Control
from sae_lens_ext.steering.training.checkpoint import CHECKPOINT_FILE, Checkpoint
from sae_lens_ext.steering.training.early_stop import EarlyStop
from sae_lens_ext.steering.training.reward_calls import Reward, RewardError, require_reward, reward_name
from sae_lens_ext.steering.training.settings import TrainingSettings, require_layers, require_learning_rates
from sae_lens_ext.steering.training.step import Trainer
from sae_lens_ext.steering.training.texts import prompt_tokens, require_language_model, require_stop_tokens
from sae_lens_ext.steering.vectors import SteeringVectors

_CALLER = "train_steering_vectors"
VECTORS_FILE = "vectors.safetensors"


@torch.inference_mode(False)
@torch.enable_grad()
def train_steering_vectors(
    model: Any,
    prompts: Sequence[str],
    reward: Reward,
    *,
    layers: Sequence[int] | None = None,
    group_size: int = 16,
    prompts_per_step: int = 8,
    max_new_tokens: int = 32,
    steps: int = 100,
    lr: float | Mapping[int, float] = 1e-3,
    temperature: float = 1.0,
    control: Control | None = None,
    weight_decay: float = 0.0,
    warmup: float = 0.03,
    clip: float = 2.0,
    micro_batch_size: int = 64,
    kl_every: int = 10,
    stop_tokens: Sequence[int] | None = None,
    prepend_bos: bool = True,
    early_stop: EarlyStop | None = None,
    start: SteeringVectors | None = None,
    folder: str | Path | None = None,
    seed: int = 0,
    show_progress: bool = True,
) -> SteeringVectors:
    """Train one vector per layer, added to the residual stream after the block at every token, so that completions get more reward.

    Each step samples `group_size` completions of each of `prompts_per_step` prompts with the vectors as they are, at top_p 1, and moves the vectors
    once along the policy gradient of RLOO: the loss is the mean over samples of −A_j Σ_t log π(y_t), with A_j = r_j − mean_{k≠j} r_k over the samples of
    one prompt. The token that ends a completion counts; there is no importance ratio, no clipping of it and no KL term. AdamW, gradient norm clipped,
    learning rate constant after a linear warm-up (arXiv 2509.06608; the bias-only form, arXiv 2505.18706).

    Completions of a prompt share the pass over it, groups whose samples all have one reward give no gradient and are not run again. Every random number
    follows from the seed, the step, the prompt's place in it and the sample, so that neither `micro_batch_size` nor an interruption changes what is
    computed, but for rounding.

    With a folder the state is saved after each step, beside `log.jsonl` (see `TrainingLog`); called again with the same arguments it goes on
    where it was, and when all is done gives what was trained.

    Args:
        model: A HookedTransformer or TransformerBridge with a tokenizer. Its weights are frozen meanwhile and not changed.
        prompts: Texts. Each epoch goes through them in a new order.
        reward: Called as reward(prompt, completion), the completion without the token that ended it; gives one finite number. A folder knows it by its
            representation or name (`reward_name`), not by what it closes over.
        layers: Which layers get a vector; None for all.
        group_size: Samples of a prompt, at least 2. The paper has 16.
        prompts_per_step: Prompts of a step. The paper has 128.
        max_new_tokens: Tokens of a completion, at most.
        steps: Updates. The paper has 314.
        lr: Learning rate, or one for each layer; `learning_rates_by_depth` gives the paper's for single layers. With AdamW a vector's every entry moves by up
            to this in a step, so it must fit the size of the residual stream.
        temperature: Of sampling and of the log-probabilities.
        control: "random" trains on rewards of 0 or 1 drawn at random, "shuffled" on those of a prompt's samples in random order. What these
            gain is not due to the reward.
        weight_decay: AdamW's.
        warmup: Share of the steps in which the learning rate rises.
        clip: Largest norm of the gradient over all vectors.
        micro_batch_size: Completions run at once, each with its prompt; it bounds the memory.
        kl_every: KL(steered ‖ base) of the samples is computed in every so-many-th step; 0 for never. It costs two more passes.
        stop_tokens: Ids of tokens that end a completion; None for the model's own.
        prepend_bos: Whether BOS comes before each prompt. Chat templates often have none.
        early_stop: When to stop before the last step.
        start: Vectors to begin with, of the same layers; None for zeros.
        folder: Where to save state, log and vectors; None for nowhere.
        seed: Of the prompts' order, the samples and the control.
        show_progress: Whether to show a bar, with reward, KL to the base, entropy and length.

    Returns:
        The vectors after the last step; their provenance says how they were made.

    Raises:
        ValueError: A setting is out of range, a prompt with the new tokens is longer than the model's context, the model has no tokenizer or no
            unembedding, the vectors to start with have another width or other layers, or the folder holds something else. Nothing has run. While it
            trains: the logits are NaN or infinite.
        RewardError: The reward raised, or gave no finite number; it says for which sample, and `error.vectors` has what was trained so far.
        RuntimeError: The log-probabilities of a step differ from those the samples were drawn with, so the model is not one whose passes can be trusted.
    """
    require_language_model(_CALLER, model)
    require_reward(_CALLER, reward)
    if start is not None and not isinstance(start, SteeringVectors):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"{_CALLER} was given {type(start).__name__} as start. Give SteeringVectors of the layers that are trained, or None for zeros."
        )
    place = optional_path(_CALLER, "folder", folder)
    trained = require_layers(_CALLER, model.cfg.n_layers, layers)
    settings = TrainingSettings(
        layers=trained,
        lr=require_learning_rates(_CALLER, trained, lr),
        group_size=group_size,
        prompts_per_step=prompts_per_step,
        max_new_tokens=max_new_tokens,
        steps=steps,
        temperature=temperature,
        seed=seed,
        control=control,
        weight_decay=weight_decay,
        warmup=warmup,
        clip=clip,
        micro_batch_size=micro_batch_size,
        kl_every=kl_every,
        stop_tokens=require_stop_tokens(_CALLER, model, stop_tokens),
        prepend_bos=prepend_bos,
        early_stop=early_stop,
    )
    ids = prompt_tokens(_CALLER, model, prompts, prepend_bos=prepend_bos, max_new_tokens=max_new_tokens)
    about = _about(model, prompts, reward, start, settings)
    trainer = Trainer(model, list(prompts), ids, reward, settings, start)
    run = None if place is None else RunFolder(place, about, _CALLER)
    if run is None:
        return _vectors(trainer, None, about, show_progress=show_progress)
    if not (run.path / VECTORS_FILE).exists():
        with run.working():
            if not (run.path / VECTORS_FILE).exists():  # else another process has just finished
                if (run.path / CHECKPOINT_FILE).exists():
                    trainer.restore(Checkpoint.load(run.path / CHECKPOINT_FILE))
                vectors = _vectors(trainer, run, about, show_progress=show_progress)
                vectors.save(run.path / VECTORS_FILE)
                return vectors
    return SteeringVectors.load(run.path / VECTORS_FILE)


def _vectors(
    trainer: Trainer, run: RunFolder | None, about: dict[str, Any], *, show_progress: bool
) -> SteeringVectors:
    _train(trainer, run, show_progress=show_progress)
    return trainer.vectors(
        about | {"steps_done": trainer.step, "reward_of_steps": trainer.rewards[-10:]} | versions()
    )


def _train(trainer: Trainer, run: RunFolder | None, *, show_progress: bool) -> None:
    from tqdm.auto import tqdm

    log = None if run is None else RunLog(run.path, trainer.step)
    bar = tqdm(total=trainer.settings.steps, initial=trainer.step, desc="RLOO", disable=not show_progress)
    kl = "-"  # of the last step in which it was computed
    with bar, trainer.frozen(), log or nullcontext():
        while not trainer.finished:
            started = time.monotonic()
            try:
                line = trainer.train_step()
            except RewardError as error:
                error.vectors = trainer.vectors({"steps_done": trainer.step} | versions())
                raise
            if log is not None and run is not None:
                log.write(line | {"seconds": time.monotonic() - started})
                trainer.checkpoint().save(run.path / CHECKPOINT_FILE)
            bar.update()
            if line["kl_to_base"] is not None:
                kl = f"{line['kl_to_base']:.3f}"
            bar.set_postfix(
                reward=f"{line['reward']:.3f}",
                kl=kl,
                entropy=f"{line['entropy']:.2f}",
                length=f"{line['length']:.1f}",
            )


def _about(
    model: Any,
    prompts: Sequence[str],
    reward: Reward,
    start: SteeringVectors | None,
    settings: TrainingSettings,
) -> dict[str, Any]:
    """Give what decides the numbers, as JSON knows it."""
    begun = hashlib.sha256()
    for layer in () if start is None else start.layers:
        begun.update(start[layer].numpy().tobytes())  # pyright: ignore[reportOptionalSubscript]
    return {
        "made_by": _CALLER,
        "model_name": getattr(model.cfg, "model_name", None),
        "model_weights": weights_hash(model),
        "prompts": len(prompts),
        "prompts_sha256": hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest(),
        "reward_name": reward_name(reward),
        "start_sha256": None if start is None else begun.hexdigest(),
        **settings.to_dict(),
    }
