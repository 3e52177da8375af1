"""Train SAEs of three architectures on one hook, from one forward pass of the model.

SAELens' MultiSAETrainingRunner trains any mixture of SAEs; its own and ours alike are named in one dictionary. The
language model, usually the dear part, runs once for all of them. Here they read Python source code: a HierarchicalTopK,
a Kron, and a residual SAE that repairs a base SAE trained on an encyclopedia before.

Takes about six minutes on two cores. SAE_LENS_EXT_SMALL=1 makes it a run of seconds whose numbers mean nothing.
"""

import os
from typing import Any

import torch
from sae_lens import (
    SAE,
    ActivationsStore,
    BatchTopKTrainingSAEConfig,
    LoggingConfig,
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
    TrainingSAEConfig,
)
from sae_lens.evals import ExplainedVarianceCalculator

from sae_lens_ext import (
    HierarchicalTopKTrainingSAEConfig,
    KronTrainingSAEConfig,
    ResidualStackSAE,
    ResidualTrainingSAE,
    ResidualTrainingSAEConfig,
    embedded_texts,
    load_embedded_model,
)

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
TRAINING_TOKENS = 4_096 if SMALL else 200_000
D_SAE = 256 if SMALL else 2048
HOOK = "blocks.10.hook_out"  # the residual stream after layer 10

model = load_embedded_model("bridge")


def train(saes: dict[str, TrainingSAEConfig], text: str) -> None:
    """Train the SAEs together and save each in output/NAME."""
    cfg = MultiSAETrainingRunnerConfig(
        saes=saes,
        hook_names=HOOK,  # or a dictionary: another hook for each name
        model_name=model.cfg.model_name,
        model_class_name="TransformerBridge",
        dataset_path=f"embedded:{text}",
        context_size=128,
        training_tokens=TRAINING_TOKENS,
        train_batch_size_tokens=1024,
        store_batch_size_prompts=8,
        n_batches_in_buffer=16 if SMALL else 64,
        lr=3e-3,
        lr_warm_up_steps=10,
        lr_decay_steps=TRAINING_TOKENS // 1024 // 5,
        dead_feature_window=50,
        autocast_lm=True,
        exclude_special_tokens=[0],
        n_batches_for_norm_estimate=10,
        checkpoint_path=None,
        output_path="output",
        logger=LoggingConfig(log_to_wandb=False),
    )
    torch.manual_seed(0)  # SAELens' runners do not read cfg.seed
    dataset = embedded_texts(text, split="train").to_dataset().shuffle(seed=0)
    runner = MultiSAETrainingRunner(cfg, override_model=model, override_dataset=dataset)
    # SAELens starts b_dec at 0. These activations have a large mean, and a short run that starts there learns far more.
    mean = next(runner.activations_store.get_multi_hook_data_loader())[HOOK].mean(dim=0)
    for sae in runner.saes.values():
        if not isinstance(sae, ResidualTrainingSAE):  # which has no b_dec
            sae.b_dec.data = mean.clone()
    runner.run()


@torch.no_grad()
def explained_variance(sae: SAE[Any], activations: torch.Tensor) -> float:
    """SAELens' explained variance of an SAE on activations [N, d_in]."""
    calculator = ExplainedVarianceCalculator()
    for x in activations.split(512):
        calculator.add_batch(sae(x), x)
    return calculator.compute()


# topk_threshold_lr: SAELens' 0.01 is too slow for a run of 200 steps (see augment_with_residual.py).
train(
    {"base": BatchTopKTrainingSAEConfig(d_in=576, d_sae=D_SAE, k=32, topk_threshold_lr=0.1)}, "encyclopedia"
)
train(
    {
        "budgets": HierarchicalTopKTrainingSAEConfig(d_in=576, d_sae=D_SAE, k=32),
        "pairs": KronTrainingSAEConfig(d_in=576, d_sae=D_SAE, k=32, base_dim=2, extension_dim=4),
        "repair": ResidualTrainingSAEConfig(
            d_in=576, d_sae=D_SAE // 2, k=5, topk_threshold_lr=0.1, base_path="output/base"
        ),
    },
    "python_source",
)

saes = {name: SAE.load_from_disk(f"output/{name}") for name in ("base", "budgets", "pairs", "repair")}
saes["base + repair"] = ResidualStackSAE.from_saes(saes["base"], {"python": saes.pop("repair")})

dataset = embedded_texts("python_source", split="test").to_dataset().shuffle(seed=0)
store = ActivationsStore.from_sae(model, saes["base"], dataset)
activations = torch.cat([store.get_filtered_llm_batch() for _ in range(1 if SMALL else 8)])  # [N, 576]
print(f"\n{'on held-out Python':<20}{'class':<20}{'latents':>8}{'EV':>8}")
for name, sae in saes.items():
    print(f"{name:<20}{type(sae).__name__:<20}{sae.cfg.d_sae:>8}{explained_variance(sae, activations):>8.3f}")
