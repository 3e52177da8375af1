"""Which SAEs to train and from what: a user's configuration and seeds, as SAELens' multi-SAE runner wants them."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Literal, get_args

from sae_lens import LanguageModelSAERunnerConfig, LoggingConfig, MultiSAETrainingRunnerConfig

Vary = Literal["initialisation", "data_order", "both"]
Seeds = Sequence[int] | Mapping[str, Sequence[int]]
RunnerConfig = LanguageModelSAERunnerConfig[Any] | MultiSAETrainingRunnerConfig

# Of these SAELens' multi-SAE runner knows nothing; left at their defaults they say nothing either.
_SINGLE_ONLY = ("use_cached_activations", "from_pretrained_path", "compile_sae")
# Where a run writes and what it is called does not decide its numbers.
_VOLATILE = ("output_path", "checkpoint_path", "logger", "resume_from_checkpoint", "saes", "hook_names")


@dataclass(frozen=True)
class SeededSAE:
    """One SAE of the run, and what its two sources of chance draw from."""

    name: str
    """Its name, and the folder it is saved in: "seed_3", or "kron_seed_3" where several SAEs are trained."""
    kind: str
    """Name of its configuration; "" where there is only one."""
    seed: int
    """As the user gave it."""
    initialisation_seed: int
    """What torch's generator is set to when its weights are drawn."""
    data_order_seed: int
    """What the order of the activations is drawn from."""


@dataclass(frozen=True)
class SeedPlan:
    """Everything that decides the numbers of `train_seeds`."""

    cfg: MultiSAETrainingRunnerConfig
    """SAELens' configuration with one entry for each SAE, by `SeededSAE.name`."""
    members: tuple[SeededSAE, ...]
    """The SAEs, in the order they are returned."""
    vary: Vary
    """What differs between seeds."""

    def to_dict(self) -> dict[str, Any]:
        """Give what decides the numbers, as JSON scalars, lists and mappings."""
        cfg = {name: value for name, value in self.cfg.to_dict().items() if name not in _VOLATILE}
        saes = {member.name: self.cfg.saes[member.name].to_dict() for member in self.members}
        hooks = {member.name: self.cfg.hook_names_per_sae[member.name] for member in self.members}
        seeds = {member.name: member.seed for member in self.members}
        return {"vary": self.vary, "seeds": seeds, "hook_names": hooks, **cfg, "saes": saes}


def seed_plan(cfg: RunnerConfig, seeds: Seeds, vary: Vary) -> SeedPlan:
    """Turn a configuration and seeds into one run of SAELens' multi-SAE runner.

    Raises:
        ValueError: See `train_seeds`.
    """
    if vary not in get_args(Vary):
        raise ValueError(
            f"train_seeds was given vary = {vary!r}. Give one of {', '.join(map(repr, get_args(Vary)))}."
        )
    if not isinstance(cfg, (LanguageModelSAERunnerConfig, MultiSAETrainingRunnerConfig)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"train_seeds was given a configuration of type {type(cfg).__name__}. Give SAELens' LanguageModelSAERunnerConfig, or "
            "MultiSAETrainingRunnerConfig for several architectures."
        )
    if cfg.resume_from_checkpoint is not None:
        raise ValueError(
            f"train_seeds was given resume_from_checkpoint = {cfg.resume_from_checkpoint!r}. Leave it out: called again with the same "
            "output_path, train_seeds goes on from its last checkpoint by itself."
        )
    _require_whole(cfg.seed, "cfg.seed")
    shared, saes, hooks, heads = _parts(cfg)
    by_kind = _seeds_by_kind(seeds, tuple(saes))
    members = tuple(_member(kind, seed, vary, cfg.seed) for kind in saes for seed in by_kind[kind])
    multi = MultiSAETrainingRunnerConfig(
        **shared,
        saes={member.name: copy.deepcopy(saes[member.kind]) for member in members},
        hook_names={member.name: hooks[member.kind] for member in members},
        hook_head_indices={member.name: heads[member.kind] for member in members},
        checkpoint_path=None,
        output_path=None,
        logger=_own_logger(cfg),
    )
    for member in members:
        metadata = multi.saes[member.name].metadata
        metadata.initialisation_seed = member.initialisation_seed
        metadata.data_order_seed = member.data_order_seed
    return SeedPlan(multi, members, vary)


def _parts(
    cfg: RunnerConfig,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str], dict[str, int | None]]:
    """Give the settings that all SAEs share, and by kind the SAEs' configurations, hooks and heads."""
    own = {"saes", "hook_names", "hook_head_indices", "checkpoint_path", "output_path", "logger"}
    names = {f.name for f in fields(MultiSAETrainingRunnerConfig) if not f.name.startswith("_")} - own
    given = {name: getattr(cfg, name) for name in sorted(names) if hasattr(cfg, name)}
    shared = {
        name: copy.copy(value) if isinstance(value, (dict, list)) else value for name, value in given.items()
    }
    if isinstance(cfg, MultiSAETrainingRunnerConfig):
        return shared, dict(cfg.saes), cfg.hook_names_per_sae, cfg.hook_head_indices_per_sae
    defaults = {f.name: f.default for f in fields(cfg) if f.default is not MISSING}
    unknown = [name for name in _SINGLE_ONLY if getattr(cfg, name) != defaults[name]]
    if unknown:
        raise ValueError(
            f"train_seeds was given {', '.join(f'{name} = {getattr(cfg, name)!r}' for name in unknown)}, which SAELens' multi-SAE runner "
            "does not do. Leave it at its default."
        )
    return shared, {"": cfg.sae}, {"": cfg.hook_name}, {"": cfg.hook_head_index}


def _own_logger(cfg: RunnerConfig) -> LoggingConfig:
    """Keep the user's logging, in an object of its own, if there is any."""
    return replace(cfg.logger) if cfg.logger.log_to_wandb else LoggingConfig(log_to_wandb=False)


def _seeds_by_kind(seeds: Seeds, kinds: tuple[str, ...]) -> dict[str, list[int]]:
    if not isinstance(seeds, Mapping):
        found = dict.fromkeys(kinds, _require_seeds(seeds, ""))
    elif kinds == ("",):
        raise ValueError(
            f"train_seeds was given seeds by name, for {_quoted(seeds)}, but the configuration is of a single SAE, which has none. "
            "Give a list."
        )
    elif set(seeds) != set(kinds):
        raise ValueError(
            f"train_seeds was given seeds for {_quoted(seeds)}, but the SAEs of the configuration are {_quoted(kinds)}. Give "
            "seeds for each of them, or one list for all."
        )
    else:
        found = {kind: _require_seeds(seeds[kind], f" of {kind!r}") for kind in kinds}
    return found


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "nothing"


def _require_seeds(seeds: Any, whose: str) -> list[int]:
    """Give the seeds as a list, or raise ValueError; `whose` is for the message."""
    if not isinstance(seeds, Iterable):
        raise ValueError(
            f"train_seeds was given the seeds{whose} {seeds!r}. Give them one by one, such as range(8)."
        )
    given = list(seeds)
    for seed in given:
        _require_whole(seed, f"the seed{whose}")
    if len(given) < 2 or len(set(given)) < len(given):
        raise ValueError(
            f"train_seeds was given the seeds{whose} {given}. Give two or more, each once: what a seed decides shows only in what "
            "differs from another."
        )
    return given


def _require_whole(seed: Any, what: str) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(
            f"train_seeds was given {what} = {seed!r}. Seeds are whole numbers from 0 to 2**32 - 1, such as those of range(8)."
        )


def _member(kind: str, seed: int, vary: Vary, shared_seed: int) -> SeededSAE:
    return SeededSAE(
        name=f"{kind}_seed_{seed}" if kind else f"seed_{seed}",
        kind=kind,
        seed=seed,
        initialisation_seed=shared_seed if vary == "data_order" else seed,
        data_order_seed=shared_seed if vary == "initialisation" else seed,
    )
