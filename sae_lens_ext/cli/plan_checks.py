"""Checks that the plans of all commands that train make, each a full sentence."""

from sae_lens_ext.cli.errors import CommandError


def require_learning_rate(lr: float, example: float) -> None:
    """Raise CommandError unless `lr` is above 0; `example` is one that would do."""
    if not lr > 0:
        raise CommandError(f"--lr {lr} is not a learning rate. Give a number above 0, such as {example}.")


def require_one_step(training_tokens: int, train_batch_size_tokens: int) -> None:
    """Raise CommandError unless the tokens make one step of training."""
    if training_tokens < train_batch_size_tokens:
        raise CommandError(
            f"--training-tokens {training_tokens} is less than one step of {train_batch_size_tokens} tokens. Give more."
        )
