"""Training a small language model, the routers of one, or both (arXiv 2502.09245)."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.lime.training.checkpoint import CHECKPOINT_FILE, TRAINED_FILE, Checkpoint
from sae_lens_ext.lime.training.parameters import trained_parameters
from sae_lens_ext.lime.training.plan import training_plan, weights_hashes, with_own_beginning
from sae_lens_ext.lime.training.result import RESULT_FILE, LanguageModelTraining
from sae_lens_ext.lime.training.settings import (
    CALLER,
    LanguageModelTrainingSettings,
    Trained,
    require_count,
)
from sae_lens_ext.lime.training.token_groups import (
    TokenGroup,
    split_validation,
    token_groups,
)
from sae_lens_ext.lime.training.trainer import LanguageModelTrainer
from sae_lens_ext.number_checks import require_bool
from sae_lens_ext.path_checks import optional_path
from sae_lens_ext.run_folder import RunFolder
from sae_lens_ext.run_log import RunLog

Tokens = torch.Tensor | Sequence[torch.Tensor]
_SECONDS_BETWEEN = 60
"""Between two saved states, about."""


@torch.inference_mode(False)
@torch.enable_grad()
def train_language_model(
    model: Any,
    tokens: Tokens,
    *,
    loss_mask: Tokens | None = None,
    routers: Any = None,
    trained: Trained = "all",
    epochs: float = 1.0,
    max_steps: int | None = None,
    batch_size: int = 16,
    lr: float = 1e-3,
    router_lr: float = 1e-2,
    weight_decay: float = 0.1,
    warmup: float = 0.02,
    final_lr: float = 0.1,
    clip: float | None = 1.0,
    micro_batch_size: int | None = None,
    autocast: bool = False,
    validation: Any = None,
    validate_every: int = 0,
    checkpoint_every: int = 200,
    folder: str | Path | None = None,
    seed: int = 0,
    show_progress: bool = True,
) -> LanguageModelTraining:
    """Train a language model to predict tokens, in place: the model, the routers that are attached to it, or both.

    The loss is the mean cross-entropy over the batch's predictions that count, from logits taken to float32. AdamW with β = (0.9, 0.95); the routers are a
    group of their own with another learning rate and no weight decay (arXiv 2502.09245: 1e-2 beside 1e-3), the model's biases, norms and embeddings have no
    weight decay either. The learning rate rises linearly and then falls along half a cosine; the gradient's norm, over all that is trained, is clipped.

    Every epoch reads the sequences in a new order, in batches of one group each, the groups mixed. Order and dropout follow from the seed and the step alone,
    and the global random numbers are left as they are. With a folder the state is saved now and then, beside `log.jsonl` with a line for each step; called
    again in a new process, with the same arguments and the model and routers as they were at the beginning, it goes on where it was, on the CPU with the very
    numbers of a training that was not interrupted. When all is done the folder holds the trained weights, which a further call loads.

    Args:
        model: A HookedTransformer or TransformerBridge. What of it requires grad is trained; an SAE that is attached with its own parameters counts to it.
        tokens: Token ids [n, t], int64, or groups of such with another t each. A sequence is read as it is, without padding.
        loss_mask: Whether the prediction OF a token counts, bool, of the tokens' shapes; that of the first token never does. None for all others.
        routers: What `attach_lime(model)` returned; None for none, or to leave those that are attached as they are.
        trained: "all" for model and routers; "routers" for these alone, with the model frozen and without dropout; "model" for the model alone. Routers that
            require no grad, such as those that average, are not trained.
        epochs: How often everything is read; may be a fraction.
        max_steps: Updates at most, whatever `epochs` says; the learning rate ends with them.
        batch_size: Sequences of an update; the last ones of a group's epoch may be fewer.
        lr: Largest learning rate of the model.
        router_lr: Largest learning rate of the routers.
        weight_decay: AdamW's, for the model's matrices.
        warmup: Share of the steps in which the learning rate rises.
        final_lr: Share of the learning rate that the last step has.
        clip: Largest norm of the gradient; None for any.
        micro_batch_size: Sequences run at once; it bounds the memory. The gradient is that of the whole batch, but for rounding and dropout.
        autocast: Whether to run the model in bfloat16 where torch.autocast does; the weights keep their dtype.
        validation: Tokens as above, or a pair of tokens and loss mask, on which the loss is measured without dropout after the last step.
        validate_every: Steps between two such measurements before that; 0 for none.
        checkpoint_every: Steps between two saved states, at most; a minute is the most, too.
        folder: Where to save them; None for nowhere.
        seed: Of order and dropout.
        show_progress: Whether to show a bar.

    Returns:
        The losses step by step. The model and the routers have changed.

    Raises:
        ValueError: A setting is out of range; tokens or masks have another shape or dtype, a token is not in the vocabulary, a sequence is longer than the model
            reads, or none of its predictions counts; there is nothing to train, or the routers are not attached to this model; the folder holds something else
            or a state that cannot be read. Nothing has changed.
        RuntimeError: A loss or a gradient is NaN or infinite, or none reaches a router: the weights are as they were before that step. Or the loss on the
            validation is: they are as that step has left them. The folder has the last state that was saved.
        FolderInUseError: Another process trains in the folder. Nothing was written.
    """
    settings = LanguageModelTrainingSettings(
        trained=trained,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        lr=lr,
        router_lr=router_lr,
        weight_decay=weight_decay,
        warmup=warmup,
        final_lr=final_lr,
        clip=clip,
        micro_batch_size=micro_batch_size,
        autocast=autocast,
        seed=seed,
        validate_every=validate_every,
    )
    checkpoint_every = require_count("checkpoint_every", checkpoint_every, 1)
    require_bool(CALLER, "show_progress", show_progress)
    place = optional_path(CALLER, "folder", folder)
    groups = token_groups(CALLER, model, tokens, loss_mask)
    held_out: tuple[TokenGroup, ...] = ()
    if validation is not None:
        held_out = token_groups(CALLER, model, *split_validation(CALLER, validation), what="validation")
    elif settings.validate_every:
        raise ValueError(
            f"{CALLER} was given validate_every = {settings.validate_every} and nothing to validate on. Give validation=tokens."
        )
    parameters = trained_parameters(model, routers, settings.trained)
    trainer = LanguageModelTrainer(model, routers, parameters, groups, held_out, settings)
    plan = training_plan(model, routers, trainer, groups, held_out)
    if place is None:
        _train(trainer, None, checkpoint_every, show_progress=show_progress)
        result = _result(trainer, plan)
        trainer.note(result.provenance)
        return result
    run = RunFolder(place, with_own_beginning(place, plan), CALLER)
    if not (run.path / RESULT_FILE).exists():
        with run.working():
            if not (run.path / RESULT_FILE).exists():  # else another process has just finished
                return _train_in(run, trainer, checkpoint_every, show_progress=show_progress)
    result = LanguageModelTraining.load(run.path / RESULT_FILE)
    Checkpoint.load(run.path / TRAINED_FILE).load_weights(trainer.named)
    trainer.note(result.provenance)
    return result


def _train_in(
    run: RunFolder, trainer: LanguageModelTrainer, checkpoint_every: int, *, show_progress: bool
) -> LanguageModelTraining:
    if (run.path / CHECKPOINT_FILE).exists():
        trainer.restore(Checkpoint.load(run.path / CHECKPOINT_FILE))
    _train(trainer, run.path, checkpoint_every, show_progress=show_progress)
    result = _result(trainer, run.plan)
    trainer.checkpoint(finished=True).save(run.path / TRAINED_FILE)
    result.save(run.path / RESULT_FILE)
    (run.path / CHECKPOINT_FILE).unlink(missing_ok=True)
    trainer.note(result.provenance)
    return result


def _train(
    trainer: LanguageModelTrainer, folder: Path | None, checkpoint_every: int, *, show_progress: bool
) -> None:
    from tqdm.auto import tqdm

    log = None if folder is None else RunLog(folder, trainer.step)
    bar = tqdm(total=trainer.steps, initial=trainer.step, desc="training", disable=not show_progress)
    saved = time.monotonic()
    with bar, trainer.running(), log or nullcontext():
        while trainer.step < trainer.steps:
            line = trainer.train_step()
            if log is not None and folder is not None:
                log.write(line)
                due = time.monotonic() - saved > _SECONDS_BETWEEN
                if due or trainer.step % checkpoint_every == 0 or trainer.step == trainer.steps:
                    trainer.checkpoint().save(folder / CHECKPOINT_FILE)
                    saved = time.monotonic()
            bar.update()
            if show_progress:
                bar.set_postfix_str(f"loss {line['loss']:.3f}", refresh=False)


def _result(trainer: LanguageModelTrainer, plan: dict[str, Any]) -> LanguageModelTraining:
    history = {name: np.array(values, dtype=np.float64) for name, values in trainer.history.items()}
    return LanguageModelTraining(
        losses=history["loss"],
        learning_rates=history["lr"],
        gradient_norms=history["grad_norm"],
        tokens=history["tokens"].astype(np.int64),
        seconds=history["seconds"],
        validation_steps=history["validation_step"].astype(np.int64),
        validation_losses=history["validation_loss"],
        provenance=plan | {"after": weights_hashes(trainer.model, trainer.routers)} | versions(),
    )
