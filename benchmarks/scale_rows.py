"""What of an SAE's gradient is zero: the share of latents that no token of a batch uses, by width and batch, and what is sent for it.

TopK SAEs of several widths are trained on the embedded model's layer 10 for some hundred steps; then the latents are counted that batches
of several sizes use. With N ranks it is the whole batch that counts: a row is sent if any rank uses it. Then some steps are taken
over two ranks, and the bytes are counted that are really given to the collectives.

    python benchmarks/scale_rows.py
"""

from pathlib import Path
from typing import Any

import torch
from offline_training import activations
from result import write_result
from sae_lens import LoggingConfig
from sae_lens.config import SAETrainerConfig
from scale_model import dense_bytes
from two_ranks import of_two_ranks

from sae_lens_ext import HierarchicalTopKTrainingSAE, HierarchicalTopKTrainingSAEConfig
from sae_lens_ext.cli.quickstart.plan import Plan
from sae_lens_ext.ranks import current_ranks
from sae_lens_ext.training.data_parallel import DataParallelTrainer

D_IN, K = 576, 32
WIDTHS = (2_048, 8_192, 16_384)
TRAIN_TOKENS, TRAIN_BATCH = 327_680, 2_048
BATCHES = (256, 512, 1_024, 2_048, 4_096, 8_192, 16_384)
MEASURED_STEPS = 3
CACHE = Path(__file__).parent / ".cache" / "scale_rows.pt"


def rows() -> torch.Tensor:
    """Give activations [tokens, d_in], computed once."""
    if not CACHE.exists():
        CACHE.parent.mkdir(exist_ok=True)
        plan = Plan(training_tokens=TRAIN_TOKENS)
        torch.save(activations(plan)[0], CACHE)
    return torch.load(CACHE)


def trainer_of(sae: Any, data: torch.Tensor, batch: int) -> DataParallelTrainer:
    """Give the trainer of this rank, on its part of each batch."""
    ranks = current_ranks()
    parts = (part.chunk(ranks.size)[ranks.rank] for part in data.split(batch))
    cfg = SAETrainerConfig(
        total_training_samples=len(data) // batch * batch,
        train_batch_size_samples=batch,
        lr=3e-3,
        lr_end=3e-4,
        device="cpu",
        logger=LoggingConfig(log_to_wandb=False),
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        autocast=False,
        lr_scheduler_name="constant",
        lr_warm_up_steps=20,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=0,
        n_restart_cycles=1,
        dead_feature_window=100,
        feature_sampling_window=1_000,
        n_batches_for_norm_estimate=1,
    )
    return DataParallelTrainer(cfg, sae, parts, ranks)


def used(sae: Any, data: torch.Tensor) -> dict[int, float]:
    """Give the share of latents that a batch of each size uses, averaged over the batches that there are."""
    with torch.no_grad():
        indices = torch.cat(
            [torch.where(v > 0, i, -1) for v, i in (sae.encode_sparse(part) for part in data.split(4_096))]
        )
    shares = {}
    for batch in BATCHES:
        counts = [(part.unique() >= 0).sum() for part in indices.split(batch) if len(part) == batch]
        shares[batch] = float(torch.stack(counts).float().mean()) / sae.cfg.d_sae
    return shares


def sent(sae: Any, data: torch.Tensor, batch: int, passes_since_fired: torch.Tensor) -> dict[str, float]:
    """Take some steps over two ranks, and give the bytes a step and the share of rows of the gradients that were in use.

    Args:
        sae: What is trained on.
        data: Activations [tokens, d_in].
        batch: Tokens of the whole batch.
        passes_since_fired: [d_sae]: what decides which latents are dead, and get a gradient from the dead-latent loss.
    """

    def steps() -> dict[str, float]:
        trainer = trainer_of(sae, data[: MEASURED_STEPS * batch], batch)
        trainer.n_forward_passes_since_fired = passes_since_fired.clone()
        for _ in range(MEASURED_STEPS):
            trainer.step(next(trainer.data_provider))
            trainer.n_training_steps += 1
        return {
            "bytes_a_step": trainer.ranks.tell.sent_bytes / MEASURED_STEPS,
            **{f"used rows of {name}": share for name, share in trainer.gradients.used_rows.items()},
        }

    return of_two_ranks(steps)


def main() -> None:
    """Train, count and write the result."""
    data = rows()
    train, rest = data[:-65_536], data[-65_536:]
    result = {}
    for width in WIDTHS:
        torch.manual_seed(0)
        cfg = HierarchicalTopKTrainingSAEConfig(d_in=D_IN, d_sae=width, k=K, budgets=(K,))
        sae = HierarchicalTopKTrainingSAE(cfg)
        trainer = trainer_of(sae, train, TRAIN_BATCH)
        trainer.fit()
        since = trainer.n_forward_passes_since_fired
        result[width] = {
            "used_latents_by_batch": used(sae, rest),
            "dead_latents": int(trainer.dead_neurons.sum()),
            "two_ranks_by_batch": {
                batch: {
                    "without dead latents' loss": sent(sae, rest, batch, torch.zeros_like(since)),
                    "with it": sent(sae, rest, batch, since),
                }
                for batch in (256, 2_048)
            },
            "dense_bytes": dense_bytes(width, D_IN),
        }
        print(width, result[width], flush=True)
    write_result(__file__, {"k": K, "d_in": D_IN, "trained_tokens": len(train), "widths": result})


if __name__ == "__main__":
    main()
