"""The SAEs whose stability the benchmarks measure: twelve seeds of TopK, four of HierarchicalTopK and of Kron.

All are trained in one run, on one forward pass of the embedded model, and differ in their initial weights only. They are kept in
benchmarks/.cache, which git ignores, with checkpoints on the way; an interrupted run goes on where it was. An hour on two cores.

    python benchmarks/stability_saes.py
"""

from pathlib import Path

from domain_saes import CACHE, GENERAL
from sae_lens import SAE, LoggingConfig, MultiSAETrainingRunnerConfig, TopKTrainingSAEConfig, TrainingSAE

from sae_lens_ext import HierarchicalTopKTrainingSAEConfig, KronTrainingSAEConfig, load_sae, train_seeds
from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.cli.quiet import quieten
from sae_lens_ext.embedded import embedded_texts, load_embedded_model
from sae_lens_ext.embedded.model import MODEL_NAME

FOLDER = CACHE / "stability"
HOOK = "blocks.10.hook_out"
D_IN, D_SAE, K = 576, 1024, 32
TOKENS = 1_800_000
"""Twice through the encyclopedia's training documents."""
BATCH = 1024
LR = 3.2e-3
"""The best of benchmarks/learning_rate.py by explained variance; stability was not looked at."""
SEEDS = {"topk": range(12), "hierarchical_topk": range(4), "kron": range(4)}


def config() -> MultiSAETrainingRunnerConfig:
    """Configure the run; the three architectures share everything but themselves."""
    steps = TOKENS // BATCH
    size = {"d_in": D_IN, "d_sae": D_SAE, "k": K}
    return MultiSAETrainingRunnerConfig(
        saes={
            "topk": TopKTrainingSAEConfig(**size),
            "hierarchical_topk": HierarchicalTopKTrainingSAEConfig(**size),
            "kron": KronTrainingSAEConfig(base_dim=2, extension_dim=4, **size),
        },
        hook_names=HOOK,
        model_name=MODEL_NAME,
        model_class_name="TransformerBridge",
        dataset_path=f"embedded:{GENERAL}",
        context_size=128,
        training_tokens=TOKENS,
        train_batch_size_tokens=BATCH,
        store_batch_size_prompts=16,
        n_batches_in_buffer=64,
        autocast_lm=True,
        exclude_special_tokens=True,
        lr=LR,
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 5,
        dead_feature_window=100,
        n_checkpoints=5,
        output_path=str(FOLDER),
        seed=0,
        logger=LoggingConfig(log_to_wandb=False),
    )


def stability_saes() -> dict[str, list[SAE]]:
    """Give the SAEs by architecture, in the order of their seeds; trained when first asked for."""
    quieten()
    trained = train_seeds(
        config(),
        SEEDS,
        override_model=load_embedded_model("bridge"),
        override_dataset=embedded_texts(GENERAL, split="train").to_dataset(),
        keep_checkpoints=True,
    )
    found: dict[str, list[SAE]] = {}
    for sae, name in zip(trained, [name for name, seeds in SEEDS.items() for _ in seeds], strict=True):
        found.setdefault(name, []).append(sae)
    return found


def on_the_way() -> dict[int, dict[str, list[SAE]]]:
    """Give the SAEs as they were after so many tokens, by tokens and architecture."""
    found: dict[int, dict[str, list[SAE]]] = {}
    checkpoints: list[Path] = [p for p in (FOLDER / "checkpoints/saes/run").iterdir() if p.name.isdigit()]
    for folder in sorted(checkpoints, key=lambda path: int(path.name)):
        found[int(folder.name)] = {
            name: [as_inference(TrainingSAE.load_from_disk(folder / f"{name}_seed_{seed}")) for seed in seeds]
            for name, seeds in SEEDS.items()
        }
    return found


if __name__ == "__main__":
    for architecture, saes in stability_saes().items():
        print(architecture, len(saes), load_sae(FOLDER / f"{architecture}_seed_0").cfg.metadata.l0)
