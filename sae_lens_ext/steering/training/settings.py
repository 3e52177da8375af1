"""Everything that decides the numbers of a training of steering vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sae_lens_ext.number_checks import require_bool, require_number, whole_number
from sae_lens_ext.steering.training.advantages import CONTROLS, Control
from sae_lens_ext.steering.training.early_stop import EarlyStop

_CALLER = "train_steering_vectors"
_COUNTS = {
    "group_size": 2,
    "prompts_per_step": 1,
    "max_new_tokens": 1,
    "steps": 1,
    "micro_batch_size": 1,
    "kl_every": 0,
    "seed": 0,
}
_LARGEST = 3e38
"""About where float32 ends."""
_NUMBERS = {"temperature": False, "clip": False, "weight_decay": True, "warmup": True}


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of `train_steering_vectors`, which says what each means; checked at construction.

    Raises:
        ValueError: A setting is out of range.
    """

    layers: tuple[int, ...]
    lr: Mapping[int, float]
    group_size: int
    prompts_per_step: int
    max_new_tokens: int
    steps: int
    temperature: float
    seed: int
    control: Control | None
    weight_decay: float
    warmup: float
    clip: float
    micro_batch_size: int
    kl_every: int
    stop_tokens: tuple[int, ...]
    prepend_bos: bool
    early_stop: EarlyStop | None

    def __post_init__(self) -> None:
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            number = whole_number(value)
            if number is None or number < least:
                raise _refusal(name, value, f"a whole number of at least {least}")
            object.__setattr__(self, name, number)
        for name, zero in _NUMBERS.items():
            value = require_number(_CALLER, name, getattr(self, name))
            if value < 0 or (value == 0 and not zero):
                raise _refusal(name, value, f"a finite number {'of at least' if zero else 'above'} 0")
            object.__setattr__(self, name, value)
        require_bool(_CALLER, "prepend_bos", self.prepend_bos)
        if self.warmup >= 1:
            raise _refusal(
                "warmup", self.warmup, "the share of the steps in which the learning rate rises, such as 0.03"
            )
        if self.control is not None and self.control not in CONTROLS:
            raise _refusal("control", self.control, 'None, "random" or "shuffled"')
        if self.early_stop is not None and not isinstance(self.early_stop, EarlyStop):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _refusal("early_stop", self.early_stop, "an EarlyStop, such as EarlyStop(reward=0.9)")

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as JSON knows them."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return found | {
            "layers": list(self.layers),
            "lr": {str(layer): rate for layer, rate in self.lr.items()},
            "stop_tokens": list(self.stop_tokens),
            "early_stop": None if self.early_stop is None else asdict(self.early_stop),
        }


def require_layers(caller: str, n_layers: int, layers: Any) -> tuple[int, ...]:
    """Give the layers to train, ascending: those given, or all.

    Raises:
        ValueError: A layer is none of the model's, or there is none.
    """
    if layers is None:
        return tuple(range(n_layers))
    if not isinstance(layers, (Sequence, set, range)) or isinstance(layers, str) or not layers:
        raise ValueError(f"{caller} was given layers = {layers!r}. Give a list of layers, or None for all.")
    found: list[int] = []
    for layer in layers:
        number = whole_number(layer)
        if number is None or not 0 <= number < n_layers:
            raise ValueError(
                f"{caller} was given the layer {layer!r}. This model has the layers 0 to {n_layers - 1}; give whole numbers among them."
            )
        found.append(number)
    return tuple(sorted(set(found)))


def require_learning_rates(caller: str, layers: tuple[int, ...], lr: Any) -> dict[int, float]:
    """Give the learning rate of every layer.

    Raises:
        ValueError: A layer has none, or one is no positive number.
    """
    rates = dict(lr) if isinstance(lr, Mapping) else dict.fromkeys(layers, lr)
    missing = [layer for layer in layers if layer not in rates]
    if missing:
        raise ValueError(
            f"{caller} was given learning rates for the layers {sorted(rates)}, but trains the layers {list(layers)}. Give one for every layer, or one number."
        )
    for layer in layers:
        if not 0 < require_number(caller, f"the learning rate of layer {layer}", rates[layer]) < _LARGEST:
            raise ValueError(
                f"{caller} was given the learning rate {rates[layer]!r} for layer {layer}. Give a finite number above 0 that float32 holds, such as 1e-3."
            )
    return {
        layer: require_number(caller, f"the learning rate of layer {layer}", rates[layer]) for layer in layers
    }


def learning_rates_by_depth(n_layers: int, first: float = 3e-3, last: float = 1e-1) -> dict[int, float]:
    """Give learning rates that grow with depth by a constant factor from layer to layer, for vectors trained one layer at a time.

    The ends are those that arXiv 2509.06608 uses on a model of 28 layers.

    Args:
        n_layers: Layers of the model.
        first: Of layer 0.
        last: Of the last layer.

    Raises:
        ValueError: The layers are no whole number above 0, or a rate is no finite number above 0.
    """
    caller = "learning_rates_by_depth"
    n = whole_number(n_layers)
    if n is None or n < 1:
        raise ValueError(
            f"{caller} was given n_layers = {n_layers!r}. Give the model's number of layers, at least 1."
        )
    n_layers, first, last = n, require_number(caller, "first", first), require_number(caller, "last", last)
    for name, rate in (("first", first), ("last", last)):
        if rate <= 0:
            raise ValueError(
                f"{caller} was given {name} = {rate!r}. Give a finite number above 0, such as 1e-3."
            )
    return {layer: first * (last / first) ** (layer / max(1, n_layers - 1)) for layer in range(n_layers)}


def _refusal(name: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"{_CALLER} was given {name} = {value!r}. Give {wanted}.")
