"""Activations of the embedded texts, and SAEs trained on them: what the benchmarks of residual SAEs share.

Both are kept in benchmarks/.cache, which git ignores, so that an interrupted benchmark goes on where it was.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from offline_training import D_IN, activations
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, LoggingConfig, TrainingSAE
from sae_lens.config import SAETrainerConfig
from sae_lens.evals import ExplainedVarianceCalculator
from sae_lens.training.sae_trainer import SAETrainer
from sae_lens.util import temporary_seed
from safetensors import safe_open
from safetensors.torch import save_file

from sae_lens_ext import ResidualTrainingSAE, ResidualTrainingSAEConfig, load_sae
from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.cli.quickstart.plan import Plan
from sae_lens_ext.embedded.model import MODEL_NAME

CACHE = Path(__file__).parent / ".cache"
BATCH = 1024
HOOK = "blocks.10.hook_out"
GENERAL = "encyclopedia"
TOKENS = {GENERAL: 900_000, "python_source": 2_200_000, "encyclopedia_fr": 1_050_000}
"""Tokens of each text's training documents, about all there are."""
D_BASE, K_BASE, BASE_TOKENS, BASE_LR = 2048, 32, 2_700_000, 2e-3
D_NEW, K_NEW = 1024, 5
THRESHOLD_LR = 0.05
"""How fast the thresholds that are saved follow; SAELens' 0.01 is for runs of more than some hundred steps."""


def cached_activations(text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the activations of an embedded text's training documents [N, d_in] and of held-out ones [M, d_in]."""
    path = CACHE / "activations" / f"{text}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        plan = replace(Plan(hook=HOOK), dataset=f"embedded:{text}", training_tokens=TOKENS[text])
        training, held_out = activations(plan)
        save_file({"training": training.contiguous(), "held_out": held_out.contiguous()}, path)
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("training"), file.get_tensor("held_out")


def batches(parts: list[tuple[torch.Tensor, int]], seed: int) -> Iterator[torch.Tensor]:
    """Draw batches for ever, so many rows of each part in every batch, each part in a new order every epoch."""
    generator = torch.Generator().manual_seed(seed)

    def rows_of(part: torch.Tensor, n: int) -> Iterator[torch.Tensor]:
        while True:
            for rows in torch.randperm(len(part), generator=generator).split(n):
                if len(rows) == n:
                    yield part[rows]

    streams = [rows_of(part, n) for part, n in parts if n > 0]
    while True:
        yield torch.cat([next(stream) for stream in streams])


def mixture(domain: torch.Tensor, general: torch.Tensor, fraction: float) -> list[tuple[torch.Tensor, int]]:
    """Say how many rows of the domain and of the general text make up a batch."""
    n_general = round(BATCH * fraction)
    return [(domain, BATCH - n_general), (general, n_general)]


def trainer_config(steps: int, lr: float) -> SAETrainerConfig:
    """Configure SAELens' trainer for so many steps of `BATCH` activations: Adam with warm-up and decay."""
    return SAETrainerConfig(
        total_training_samples=steps * BATCH,
        train_batch_size_samples=BATCH,
        device="cpu",
        autocast=False,
        lr=lr,
        lr_end=lr / 10,
        lr_scheduler_name="constant",
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 5,
        n_restart_cycles=1,
        adam_beta1=0.9,
        adam_beta2=0.999,
        dead_feature_window=100,
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
    )


def fit(
    sae: TrainingSAE, parts: list[tuple[torch.Tensor, int]], tokens: int, *, lr: float, seed: int = 0
) -> float:
    """Train in SAELens' own trainer, Adam with warm-up and decay; gives the seconds it took."""
    cfg = trainer_config(tokens // BATCH, lr)
    start = time.perf_counter()
    SAETrainer(cfg=cfg, sae=sae, data_provider=batches(parts, seed)).fit()
    return time.perf_counter() - start


def residual_sae(base: SAE, k: float = K_NEW) -> ResidualTrainingSAE:
    """Give a fresh residual SAE on the base."""
    cfg = ResidualTrainingSAEConfig(d_in=D_IN, d_sae=D_NEW, k=k, topk_threshold_lr=THRESHOLD_LR)
    cfg.metadata.hook_name = HOOK
    return ResidualTrainingSAE(cfg, base=base)


def base_sae() -> SAE:
    """Give the base: a BatchTopK of the general text, saved as a jumprelu; trained when first asked for."""
    path = CACHE / "base"
    if not path.is_dir():
        training, _ = cached_activations(GENERAL)
        with temporary_seed(0):
            sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_BASE, k=K_BASE))
            sae.b_dec.data = training.mean(dim=0)
            fit(sae, [(training, BATCH)], BASE_TOKENS, lr=BASE_LR)
        base = as_inference(sae)
        base.cfg.metadata.model_name = MODEL_NAME
        base.cfg.metadata.hook_name = HOOK
        base.cfg.metadata.context_size = 128
        base.cfg.metadata.dataset_path = f"embedded:{GENERAL}"
        keep(base, path)
    return load_sae(path)


def keep(sae: SAE, path: Path) -> None:
    """Save an SAE so that the folder is whole or not there."""
    aside = path.with_name(path.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    sae.save_model(aside)
    aside.rename(path)


@torch.no_grad()
def explained_variance(sae: SAE, held_out: torch.Tensor) -> tuple[float, float]:
    """Give explained variance and L0 on activations [M, d_in]."""
    calculator, fired = ExplainedVarianceCalculator(), 0
    for x in held_out.split(BATCH):
        acts = sae.encode(x)
        fired += int((acts != 0).sum())
        calculator.add_batch(sae.decode(acts), x)
    return calculator.compute(), fired / len(held_out)
