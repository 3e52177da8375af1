"""The same job over the GPUs of a machine, or of many: `torchrun --nproc-per-node 2 over_ranks.py`.

First one SAE is trained in data parallel: each rank runs the language model on its share of the text, and trains on its
part of each batch. Then seeds of a smaller SAE are divided over the ranks, and so is the comparison of them. Run by plain
`python over_ranks.py`, one process does all of it, and ends with the same SAEs.

The ranks work together: each must make the same calls in the same order, so that nothing here stands under
`if first:` but what is printed and written. What is saved and shown by the calls themselves comes from the first rank alone.

Takes some minutes on two cores. SAE_LENS_EXT_SMALL=1 makes it a run of seconds whose numbers mean nothing.
"""

import os

import torch
from sae_lens import (
    SAE,
    LanguageModelSAERunnerConfig,
    LoggingConfig,
    TopKTrainingSAEConfig,
    TrainingSAEConfig,
)

from sae_lens_ext import (
    DataParallelRunner,
    KronTrainingSAEConfig,
    embedded_texts,
    feature_stability,
    load_embedded_model,
    measure_firing_rates,
    train_seeds,
)

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
TRAINING_TOKENS = 4_096 if SMALL else 200_000
D_SAE, K = (256, 32) if SMALL else (2048, 32)
D_SEED, K_SEED = (64, 8) if SMALL else (1024, 32)
EVAL_TOKENS = 1_024 if SMALL else 65_536
THRESHOLD = 0.2 if SMALL else 0.7  # after a few steps no two latents are as similar as that
SEEDS = range(4)  # at least as many as ranks
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # to a runner, "cuda" is each rank's own GPU

# torchrun tells each process its rank, and its place on its machine; python alone tells neither.
first = os.environ.get("RANK", "0") == "0"
own_gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
model = load_embedded_model("bridge", device=own_gpu if DEVICE == "cuda" else "cpu")
training, held_out = (embedded_texts("encyclopedia", split=split) for split in ("train", "test"))


def settings(sae: TrainingSAEConfig, output_path: str) -> LanguageModelSAERunnerConfig:
    """What both jobs have in common."""
    return LanguageModelSAERunnerConfig(
        sae=sae,
        model_name=model.cfg.model_name,
        model_class_name="TransformerBridge",
        hook_name="blocks.10.hook_out",  # the residual stream after layer 10
        dataset_path="embedded:encyclopedia",
        context_size=128,
        training_tokens=TRAINING_TOKENS,
        train_batch_size_tokens=1024,  # of all ranks together: a batch is the same whatever their number
        store_batch_size_prompts=8,
        n_batches_in_buffer=16 if SMALL else 64,
        lr=3e-3,
        lr_warm_up_steps=10,
        lr_decay_steps=TRAINING_TOKENS // 1024 // 5,
        dead_feature_window=50,
        device=DEVICE,
        autocast_lm=True,
        exclude_special_tokens=[0],
        seed=0,  # decides initial weights and the order of the text
        n_checkpoints=2,  # with `torchrun --max-restarts 3`, a job that loses a rank goes on from the last one
        checkpoint_path=f"{output_path}/checkpoints",
        output_path=output_path,
        logger=LoggingConfig(log_to_wandb=False),
    )


# One SAE, each batch divided over the ranks. For one that does not fit a GPU: TensorParallelRunner, TopK only.
kron = KronTrainingSAEConfig(d_in=576, d_sae=D_SAE, k=K, base_dim=2, extension_dim=4, device=DEVICE)
DataParallelRunner(
    settings(kron, "output/kron"), override_model=model, override_dataset=training.to_dataset()
).run()
sae = SAE.load_from_disk("output/kron")  # an ordinary SAE, saved by the first rank
if first:
    print(f"\ndata parallel: {type(sae).__name__} with {sae.cfg.d_sae} latents in output/kron")

# Many SAEs, divided over the ranks: every rank is given all of them in the end. Interrupted, the same call goes on.
topk = TopKTrainingSAEConfig(d_in=576, d_sae=D_SEED, k=K_SEED, device=DEVICE)
saes = train_seeds(
    settings(topk, "output/seeds"), SEEDS, override_model=model, override_dataset=training.to_dataset()
)
if first:
    print(f"divided: {len(saes)} seeds of TopK with {D_SEED} latents in output/seeds")

# The analyses divide their work too, and give each rank the whole result.
rates = measure_firing_rates(model, saes, held_out, max_tokens=EVAL_TOKENS, autocast=True)
report = feature_stability(
    saes, firing_rates=rates, threshold=THRESHOLD, min_firing_rate=0.0 if SMALL else None
)
if first:
    print(f"\n{report}\n{report.summary().round(3).to_string(index=False)}")
    report.save("output/stability.json")
