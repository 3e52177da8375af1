"""Everything that decides the numbers of a training of a language model, beside model and tokens."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sae_lens_ext.number_checks import require_bool, require_number, whole_number

CALLER = "train_language_model"
Trained = Literal["all", "routers", "model"]
TRAINED: tuple[Trained, ...] = get_args(Trained)
_COUNTS = {"batch_size": 1, "seed": 0, "validate_every": 0}
_OPTIONAL_COUNTS = ("max_steps", "micro_batch_size")
_NUMBERS = {"epochs": False, "lr": False, "router_lr": False, "weight_decay": True, "warmup": True}


@dataclass(frozen=True)
class LanguageModelTrainingSettings:
    """Settings of `train_language_model`, which says what each means; checked at construction.

    Raises:
        ValueError: A setting is out of range.
    """

    trained: Trained
    epochs: float
    max_steps: int | None
    batch_size: int
    lr: float
    router_lr: float
    weight_decay: float
    warmup: float
    final_lr: float
    clip: float | None
    micro_batch_size: int | None
    autocast: bool
    seed: int
    validate_every: int

    def __post_init__(self) -> None:
        if self.trained not in TRAINED:
            raise _refusal("trained", self.trained, '"all", "routers" or "model"')
        for name, least in _COUNTS.items():
            object.__setattr__(self, name, require_count(name, getattr(self, name), least))
        for name in _OPTIONAL_COUNTS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, require_count(name, getattr(self, name), 1))
        for name, zero in _NUMBERS.items():
            value = require_number(CALLER, name, getattr(self, name))
            if value < 0 or (value == 0 and not zero):
                raise _refusal(name, value, f"a finite number {'of at least' if zero else 'above'} 0")
            object.__setattr__(self, name, value)
        if self.warmup >= 1:
            raise _refusal(
                "warmup", self.warmup, "the share of the steps in which the learning rate rises, such as 0.02"
            )
        object.__setattr__(self, "final_lr", require_number(CALLER, "final_lr", self.final_lr))
        if not 0 <= self.final_lr <= 1:
            raise _refusal("final_lr", self.final_lr, "the share of lr at the last step, from 0 to 1")
        if self.clip is not None:
            object.__setattr__(self, "clip", require_number(CALLER, "clip", self.clip))
            if self.clip <= 0:
                raise _refusal("clip", self.clip, "the largest norm of the gradient, above 0, or None")
        require_bool(CALLER, "autocast", self.autocast)

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as JSON knows them."""
        return asdict(self)

    def steps(self, batches_per_epoch: int) -> int:
        """Give how many steps the training has, at least 1."""
        steps = max(1, round(self.epochs * batches_per_epoch))
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def share(self, step: int, steps: int) -> float:
        """Give the share of the learning rate at a step, counted from 1: a linear rise, then half a cosine down to `final_lr`."""
        rising = math.ceil(self.warmup * steps)
        if step <= rising:
            return step / rising
        done = (step - rising) / (steps - rising)
        return self.final_lr + (1 - self.final_lr) * (1 + math.cos(math.pi * done)) / 2


def require_count(name: str, value: Any, least: int, caller: str = CALLER) -> int:
    """Give `value` as an int; raise ValueError unless it is a whole number of at least `least`."""
    number = whole_number(value)
    if number is None or number < least:
        raise _refusal(name, value, f"a whole number of at least {least}", caller)
    return number


def _refusal(name: str, value: Any, wanted: str, caller: str = CALLER) -> ValueError:
    return ValueError(f"{caller} was given {name} = {value!r}. Give {wanted}.")
