"""Time a training step at your own size: SAELens' TopK, HierarchicalTopK for all budgets, and Kron.

    python examples/time_a_step.py --d-in 768 --d-sae 24576 --k 32 --batch 4096

Random activations will do: what a step costs depends on the sizes, hardly on the numbers.
"""

import argparse
import os
import statistics
import time

import torch
from sae_lens import LoggingConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from sae_lens_ext import (
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
    KronTrainingSAE,
    KronTrainingSAEConfig,
)

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--d-in", type=int, default=64 if SMALL else 576)
parser.add_argument("--d-sae", type=int, default=512 if SMALL else 16384)
parser.add_argument("--k", type=int, default=8 if SMALL else 64)
parser.add_argument("--batch", type=int, default=128 if SMALL else 2048)
parser.add_argument("--rounds", type=int, default=2 if SMALL else 10)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
args = parser.parse_args()

size = {"d_in": args.d_in, "d_sae": args.d_sae, "k": args.k, "device": args.device}
saes = {
    "SAELens topk": TopKTrainingSAE(TopKTrainingSAEConfig(**size)),
    "hierarchical_topk, all budgets": HierarchicalTopKTrainingSAE(HierarchicalTopKTrainingSAEConfig(**size)),
    "kron, m = n = 4": KronTrainingSAE(KronTrainingSAEConfig(**size, base_dim=4, extension_dim=4)),
    "kron, m = n = 4, all budgets": KronTrainingSAE(
        KronTrainingSAEConfig(**size, base_dim=4, extension_dim=4, budgets="all")
    ),
}
settings = SAETrainerConfig(
    total_training_samples=10**9,
    train_batch_size_samples=args.batch,
    device=args.device,
    autocast=False,
    lr=3e-4,
    lr_end=3e-5,
    lr_scheduler_name="constant",
    lr_warm_up_steps=0,
    lr_decay_steps=0,
    n_restart_cycles=1,
    adam_beta1=0.9,
    adam_beta2=0.999,
    dead_feature_window=10**6,
    feature_sampling_window=10**6,
    logger=LoggingConfig(log_to_wandb=False),
    n_checkpoints=0,
    checkpoint_path=None,
    save_final_checkpoint=False,
)
trainers = {
    name: SAETrainer(cfg=settings, sae=sae.to(args.device), data_provider=iter(()))
    for name, sae in saes.items()
}
activations = torch.randn(args.batch, args.d_in, device=args.device)


def seconds(trainer: SAETrainer) -> float:
    """Take one step and say how long it took."""
    start = time.perf_counter()
    trainer.step(activations)
    if args.device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


# In turns, so that whatever else the machine does falls on all of them; the first round does not count.
rounds = [{name: seconds(trainer) for name, trainer in trainers.items()} for _ in range(args.rounds + 1)][1:]

print(f"{args.batch} tokens, {args.d_in} → {args.d_sae} latents, k = {args.k}, on {args.device}")
for name in trainers:
    median = statistics.median(r[name] for r in rounds)
    ratio = statistics.median(r["SAELens topk"] / r[name] for r in rounds)
    print(f"{name:32s} {1e3 * median:8.1f} ms   {ratio:5.2f} times as fast as SAELens topk")
