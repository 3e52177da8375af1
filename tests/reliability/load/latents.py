"""What the package does with SAEs, each as a function of how many latents they have. Their decoders are random rows of unit length."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, LoggingConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata, TrainingSAE

from sae_lens_ext import (
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
    KronTrainingSAE,
    KronTrainingSAEConfig,
    ResidualStackSAE,
    ResidualTrainingSAE,
    ResidualTrainingSAEConfig,
    feature_origins,
    feature_stability,
    firing_rates_on,
    flow_map,
    load_sae,
    match_features,
    pool_features,
    subspace_report,
    trace_feature,
)
from sae_lens_ext.architectures.saving import save_sae
from sae_lens_ext.ranks import current_ranks
from sae_lens_ext.training.data_parallel import DataParallelTrainer
from tests.reliability.load.stream_model import random_topk

K, BATCH, STEPS = 32, 1024, 10
SITES = {
    "residual": "blocks.{}.hook_resid_post",
    "mlp": "blocks.{}.hook_mlp_out",
    "attention": "blocks.{}.hook_attn_out",
}

Task = Callable[[int, int, Path], object]
"""Called with d_sae, d_in and a folder to write in."""


def _stability(d_sae: int, d_in: int, _: Path) -> object:
    saes = _seeds(d_sae, d_in, 2)
    report = feature_stability(saes, show_progress=False)
    return subspace_report(saes, report, n_draws=2, show_progress=False)


def _firing_rates(d_sae: int, d_in: int, _: Path) -> object:
    return firing_rates_on(_seeds(d_sae, d_in, 2), torch.randn(4096, d_in))


def _match(d_sae: int, d_in: int, _: Path) -> object:
    return match_features(_sae(d_sae, d_in, 0), _sae(d_sae, d_in, 1), top_k=5)


def _match_one_to_one(d_sae: int, d_in: int, _: Path) -> object:
    return match_features(_sae(d_sae, d_in, 0), _sae(d_sae, d_in, 1), one_to_one=True)


def _origins(d_sae: int, d_in: int, _: Path) -> object:
    before = _sae(d_sae, d_in, 1, SITES["residual"].format(0))
    target = _sae(d_sae, d_in, 0, SITES["residual"].format(1))
    modules = {
        kind: _sae(d_sae, d_in, 2 + i, SITES[kind].format(1)) for i, kind in enumerate(("mlp", "attention"))
    }
    return feature_origins(target, residual=before, **modules)


def _flow_map(d_sae: int, d_in: int, folder: Path) -> object:
    return flow_map(_folders(d_sae, d_in, folder), show_progress=False)


def _trace(d_sae: int, d_in: int, folder: Path) -> object:
    return trace_feature(_folders(d_sae, d_in, folder), (SITES["residual"].format(1), 0))


def _pool(d_sae: int, d_in: int, _: Path) -> object:
    pooled, references = _seeds(d_sae, d_in, 2), _seeds(d_sae, d_in, 2, first=2)
    return pool_features(pooled, d_sae, references=references)


def _stack(d_sae: int, d_in: int, _: Path) -> object:
    base = _sae(d_sae, d_in, 0)
    residual = ResidualTrainingSAE(ResidualTrainingSAEConfig(d_in=d_in, d_sae=d_sae // 8), base=base)
    stack = ResidualStackSAE.from_saes(base, {"words": residual})
    with torch.no_grad():
        return stack(torch.randn(BATCH, d_in))


def _save_and_load(d_sae: int, d_in: int, folder: Path) -> object:
    save_sae(_sae(d_sae, d_in, 0), folder / "saved")
    return load_sae(folder / "saved")


def _train_topk(d_sae: int, d_in: int, _: Path) -> object:
    return _trained(TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=K)))


def _train_hierarchical(d_sae: int, d_in: int, _: Path) -> object:
    return _trained(
        HierarchicalTopKTrainingSAE(HierarchicalTopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=K))
    )


def _train_kron(d_sae: int, d_in: int, _: Path) -> object:
    cfg = KronTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=K, base_dim=4, extension_dim=4)
    return _trained(KronTrainingSAE(cfg))


def _train_residual(d_sae: int, d_in: int, _: Path) -> object:
    cfg = ResidualTrainingSAEConfig(d_in=d_in, d_sae=1024)
    return _trained(ResidualTrainingSAE(cfg, base=_sae(d_sae, d_in, 0)))


TASKS: dict[str, Task] = {
    "feature_stability and subspace_report of 2 SAEs": _stability,
    "firing_rates_on of 2 SAEs": _firing_rates,
    "match_features": _match,
    "match_features, one to one": _match_one_to_one,
    "feature_origins of 4 SAEs": _origins,
    "flow_map of 4 folders": _flow_map,
    "trace_feature of 4 folders": _trace,
    "pool_features of 2 SAEs, 2 references": _pool,
    "ResidualStackSAE": _stack,
    "save_sae and load_sae": _save_and_load,
    "training topk (SAELens' step)": _train_topk,
    "training hierarchical_topk": _train_hierarchical,
    "training kron": _train_kron,
    "training residual on a topk": _train_residual,
}


def _sae(d_sae: int, d_in: int, seed: int, hook_name: str | None = None) -> SAE[Any]:
    sae = random_topk(d_sae, seed, d_in=d_in, k=K)
    sae.cfg.metadata = SAEMetadata(hook_name=hook_name or SITES["residual"].format(0), model_name="random")
    return sae


def _seeds(d_sae: int, d_in: int, n: int, first: int = 0) -> dict[str, SAE[Any]]:
    """SAEs of which a quarter of the rows come back in all, so that there are stable and unstable latents."""
    saes = {f"seed_{seed}": _sae(d_sae, d_in, seed) for seed in range(first, first + n)}
    common = torch.nn.functional.normalize(
        torch.randn(d_sae // 4, d_in, generator=torch.Generator().manual_seed(1000)), dim=1
    )
    for sae in saes.values():
        sae.W_dec.data[: len(common)] = common
    return saes


def _folders(d_sae: int, d_in: int, folder: Path) -> dict[str, str]:
    """Two layers of the stream and the second one's modules, saved."""
    hooks = [SITES["residual"].format(0), *(hook.format(1) for hook in SITES.values())]
    for seed, hook in enumerate(hooks):
        save_sae(_sae(d_sae, d_in, seed, hook), folder / hook)
    return {hook: str(folder / hook) for hook in hooks}


def _trained(sae: TrainingSAE[Any]) -> object:
    """Take ten steps of a batch of 1,024 in the trainer of the package, with Adam."""
    cfg = SAETrainerConfig(
        total_training_samples=STEPS * BATCH,
        train_batch_size_samples=BATCH,
        device="cpu",
        autocast=False,
        lr=3e-4,
        lr_end=3e-5,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        lr_decay_steps=0,
        n_restart_cycles=1,
        adam_beta1=0.9,
        adam_beta2=0.999,
        dead_feature_window=5,  # so that the dead-latent loss has work
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
    )
    return DataParallelTrainer(cfg, sae, _batches(sae.cfg.d_in), current_ranks()).fit()


def _batches(d_in: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.randn(BATCH, d_in, generator=generator)
