"""The SAEs that the benchmarks of feature flow read: every residual, MLP and attention output of the layers 0 to 10.

All 33 are trained in one run of SAELens' MultiSAETrainingRunner, on one forward pass of the embedded model over four texts. They
are BatchTopK SAEs, saved as JumpReLU SAEs as SAELens does, and kept in benchmarks/.cache, which git ignores. An hour on two cores.

    python benchmarks/flow_saes.py
"""

import time

import torch
from datasets import Dataset, concatenate_datasets
from domain_saes import CACHE, THRESHOLD_LR
from result import write_result
from sae_lens import (
    SAE,
    BatchTopKTrainingSAEConfig,
    LoggingConfig,
    MultiSAETrainingRunner,
    MultiSAETrainingRunnerConfig,
)
from sae_lens.evals import ExplainedVarianceCalculator
from sae_lens.util import temporary_seed

from sae_lens_ext import load_sae
from sae_lens_ext.analysis.site_reading import read_sites
from sae_lens_ext.cli.quiet import quieten
from sae_lens_ext.embedded import embedded_texts, load_embedded_model
from sae_lens_ext.embedded.model import MODEL_NAME
from sae_lens_ext.language_model import contexts, packed_contexts

FOLDER = CACHE / "flow"
LAYERS = range(11)
"""From layer 11 on some tokens' activations are a hundred times as long as the others'."""
SITES = {"residual": "hook_out", "mlp": "mlp.hook_out", "attention": "attn.hook_out"}
TEXTS = {"encyclopedia": 0.5, "recipes": 1 / 6, "python_source": 1 / 6, "kjv": 1 / 6}
"""Share of each text in what the SAEs read."""
D_IN, D_SAE, K = 576, 1024, 32
TOKENS = 1_200_000
BATCH = 1024
CONTEXT = 128
LR = 4e-3
HELD_OUT_TOKENS = 65_536
SECONDS = "training_seconds.txt"


def hook(layer: int, kind: str) -> str:
    """Name a site as TransformerBridge does."""
    return f"blocks.{layer}.{SITES[kind]}"


HOOKS = [hook(layer, kind) for layer in LAYERS for kind in SITES]


def training_text(tokenizer) -> Dataset:
    """Mix the texts' training documents, context by context."""
    parts = []
    for name, share in TEXTS.items():
        packed = contexts(
            embedded_texts(name, split="train"), tokenizer, context_size=CONTEXT, seed=0, what=name
        )
        parts.append(packed.select(range(min(len(packed), round(1.1 * share * TOKENS / CONTEXT)))))
    return concatenate_datasets(parts).shuffle(seed=0)


def config() -> MultiSAETrainingRunnerConfig:
    """Configure the run; activations are scaled, as they differ in length between sites by a factor of fifty."""
    steps = TOKENS // BATCH
    return MultiSAETrainingRunnerConfig(
        saes={
            name: BatchTopKTrainingSAEConfig(
                d_in=D_IN,
                d_sae=D_SAE,
                k=K,
                topk_threshold_lr=THRESHOLD_LR,
                normalize_activations="expected_average_only_in",
            )
            for name in HOOKS
        },
        hook_names={name: name for name in HOOKS},
        model_name=MODEL_NAME,
        model_class_name="TransformerBridge",
        dataset_path="+".join(f"embedded:{name}" for name in TEXTS),
        context_size=CONTEXT,
        training_tokens=TOKENS,
        train_batch_size_tokens=BATCH,
        store_batch_size_prompts=16,
        n_batches_in_buffer=64,
        n_batches_for_norm_estimate=10,
        autocast_lm=True,
        exclude_special_tokens=True,
        lr=LR,
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 5,
        dead_feature_window=100,
        n_eval_batches=0,
        output_path=str(FOLDER.with_name("flow.part")),
        checkpoint_path=None,
        seed=0,
        logger=LoggingConfig(log_to_wandb=False),
    )


def flow_saes() -> dict[str, SAE]:
    """Give the SAEs by hook; trained when first asked for."""
    if not FOLDER.is_dir():
        quieten()
        model = load_embedded_model("bridge")
        cfg = config()
        start = time.perf_counter()
        with temporary_seed(0):
            MultiSAETrainingRunner(
                cfg, override_model=model, override_dataset=training_text(model.tokenizer)
            ).run()
        part = FOLDER.with_name("flow.part")
        (part / SECONDS).write_text(f"{time.perf_counter() - start:.0f}\n")
        part.rename(FOLDER)
    return {name: load_sae(FOLDER / name) for name in HOOKS}


@torch.no_grad()
def measured(saes: dict[str, SAE]) -> list[dict]:
    """Give explained variance, L0 and silent latents of each SAE on held-out documents, an equal number of tokens of each text."""
    model = load_embedded_model("bridge")
    rows = torch.cat(
        [
            packed_contexts(
                embedded_texts(name, split="test"),
                model.tokenizer,
                context_size=CONTEXT,
                max_tokens=HELD_OUT_TOKENS // len(TEXTS),
                seed=0,
                what=name,
            )
            for name in TEXTS
        ]
    )
    calculators = {name: ExplainedVarianceCalculator() for name in saes}
    fired = {name: torch.zeros(D_SAE) for name in saes}
    n_tokens = 0
    for batch in read_sites(model, HOOKS, rows, autocast=True):
        n_tokens += int(batch.counted.sum())
        for name, sae in saes.items():
            x = batch.activations[name][batch.counted].float()
            acts = sae.encode(x)
            fired[name] += (acts != 0).sum(dim=0)
            calculators[name].add_batch(sae.decode(acts), x)
    return [
        {
            "hook": name,
            "explained_variance": round(calculators[name].compute(), 4),
            "l0": round(float(fired[name].sum()) / n_tokens, 1),
            "silent_latents": int((fired[name] == 0).sum()),
        }
        for name in saes
    ]


def main() -> None:
    """Train if need be, measure and write the result."""
    saes = flow_saes()
    settings = {
        "texts": TEXTS,
        "tokens": TOKENS,
        "d_sae": D_SAE,
        "k": K,
        "lr": LR,
        "batch": BATCH,
        "held_out_tokens": HELD_OUT_TOKENS,
    }
    found = measured(saes)
    for row in found:
        print(row)
    seconds = int((FOLDER / SECONDS).read_text())
    write_result(__file__, {"settings": settings, "training_seconds": seconds, "saes": found})


if __name__ == "__main__":
    main()
