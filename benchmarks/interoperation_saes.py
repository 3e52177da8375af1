"""What the other packages are given: saved SAEs, texts as local files, and our own numbers for the same tokens.

Everything goes below benchmarks/.cache/interoperation, where the drivers find it by name:

    saes/NAME             SAELens folders
    core/TEXT             a data set of contexts of tokens, the very ones that `evaluate_domains` reads here
    probing/TASK          train.jsonl and test.jsonl with "text" and "label"
    inputs.json           where the model's Hugging Face folder is, and the names of all these
"""

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from domain_saes import BATCH, K_BASE, K_NEW, fit, keep
from offline_training import D_IN, activations
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, TrainingSAE
from sae_lens.util import temporary_seed
from safetensors.torch import load_file, save_file

from sae_lens_ext import (
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
    KronTrainingSAE,
    KronTrainingSAEConfig,
    ResidualStackSAE,
    ResidualTrainingSAE,
    ResidualTrainingSAEConfig,
    embedded_texts,
    evaluate_domains,
    load_embedded_model,
    load_sae,
    with_k,
)
from sae_lens_ext.architectures.inference import as_inference
from sae_lens_ext.cli.quickstart.plan import Plan
from sae_lens_ext.embedded.model import MODEL_NAME, embedded_model_folder
from sae_lens_ext.language_model import packed_contexts

CACHE = Path(__file__).parent / ".cache" / "interoperation"
BRIDGE_HOOK, HOOK = "blocks.10.hook_out", "blocks.10.hook_resid_post"
"""One site, as TransformerBridge and as HookedTransformer call it; the other packages use HookedTransformer."""
GENERAL, DOMAIN = "encyclopedia", "python_source"
TOKENS = {GENERAL: 300_000, DOMAIN: 150_000}
LR, D_SAE, D_NEW, CONTEXT = 3.2e-3, 2048, 1024, 128
THRESHOLD_LR = 0.1  # 300 steps are few for SAELens' 0.01
CORE_TEXTS, CORE_CONTEXTS = (GENERAL, DOMAIN), 16
TOPICS = ("People", "Biology and health sciences", "Geography", "Physical sciences")
KINDS = ("encyclopedia", "encyclopedia_fr", "encyclopedia_es", "recipes")
PER_CLASS = {"train": 120, "test": 40}
HIERARCHICAL, SMALL, KRON = "hierarchical_topk_k64", "hierarchical_topk_k16", "kron"
BASE, NATIVE, STACK = "base", "residual_stack_native", "residual_stack"


def train() -> None:
    """Train the SAEs and save each as a SAELens folder, but for those that are there."""
    (CACHE / "saes").mkdir(parents=True, exist_ok=True)
    size = {"d_in": D_IN, "d_sae": D_SAE}
    if not saved(HIERARCHICAL):
        hierarchical = HierarchicalTopKTrainingSAEConfig(**size, k=64)
        save(trained(lambda: HierarchicalTopKTrainingSAE(hierarchical), GENERAL), HIERARCHICAL)
    if not saved(SMALL):
        save(with_k(load_sae(CACHE / "saes" / HIERARCHICAL), 16), SMALL)
    if not saved(KRON):
        kron = KronTrainingSAEConfig(**size, k=32, base_dim=2, extension_dim=4)
        save(trained(lambda: KronTrainingSAE(kron), GENERAL), KRON)
    if not saved(BASE):
        batch_topk = BatchTopKTrainingSAEConfig(**size, k=K_BASE, topk_threshold_lr=THRESHOLD_LR)
        save(trained(lambda: BatchTopKTrainingSAE(batch_topk), GENERAL), BASE)
    if not saved(STACK):
        base = load_sae(CACHE / "saes" / BASE)
        cfg = ResidualTrainingSAEConfig(d_in=D_IN, d_sae=D_NEW, k=K_NEW, topk_threshold_lr=THRESHOLD_LR)
        cfg.metadata.hook_name = HOOK
        residual = trained(lambda: ResidualTrainingSAE(cfg, base=base), DOMAIN)
        stack = ResidualStackSAE.from_saes(base, {"python": residual})
        stack.fold_W_dec_norm()  # SAEBench takes an SAE as it is and wants unit rows
        save(stack.to_native(), NATIVE)
        save(stack, STACK)


def training_activations(text: str) -> torch.Tensor:
    """Give activations [N, d_in] of a text's training documents, computed when first asked for."""
    path = CACHE / "activations" / f"training_{text}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        plan = replace(Plan(hook=BRIDGE_HOOK), dataset=f"embedded:{text}", training_tokens=TOKENS[text])
        save_file({"x": activations(plan)[0].contiguous()}, path)
    return load_file(path)["x"]


def trained(make: Callable[[], TrainingSAE], text: str) -> SAE[Any]:
    """Train an SAE on a text and give its form for inference."""
    x = training_activations(text)
    with temporary_seed(0):
        sae = make()
        if not isinstance(sae, ResidualTrainingSAE):
            sae.b_dec.data = x.mean(dim=0)
        fit(sae, [(x, BATCH)], TOKENS[text], lr=LR)
    inference = as_inference(sae)
    metadata = inference.cfg.metadata
    metadata.model_name, metadata.hook_name = MODEL_NAME, HOOK
    metadata.context_size, metadata.prepend_bos = CONTEXT, True
    return inference


def save(sae: SAE[Any], name: str) -> None:
    """Save an SAE under the name that the drivers know it by."""
    keep(sae, CACHE / "saes" / name)


def saved(name: str) -> bool:
    """Say whether an SAE is there."""
    return (CACHE / "saes" / name).is_dir()


def write_texts() -> None:
    """Write the texts as local files, and where everything is."""
    tokenizer = load_embedded_model("bridge").tokenizer
    for text in CORE_TEXTS:
        rows = packed_contexts(
            embedded_texts(text, split="test"),
            tokenizer,
            context_size=CONTEXT,
            max_tokens=CORE_CONTEXTS * CONTEXT,
            seed=0,
            what=text,
        )
        write_lines(CACHE / "core" / text / "train.jsonl", ({"tokens": row} for row in rows.tolist()))
    for split in PER_CLASS:
        encyclopedia = embedded_texts("encyclopedia", split=split)
        by_topic = {
            topic: [text for text, its in zip(encyclopedia, encyclopedia.topics, strict=True) if its == topic]
            for topic in TOPICS
        }
        write_labelled("topics", split, by_topic)
        write_labelled("kinds", split, {kind: list(embedded_texts(kind, split=split)) for kind in KINDS})
    inputs = {
        "model_name": MODEL_NAME,
        "model_folder": str(embedded_model_folder()),
        "context_size": CONTEXT,
        "core_texts": CORE_TEXTS,
        "core_contexts": CORE_CONTEXTS,
        "per_class": PER_CLASS,
        "classes": {"topics": TOPICS, "kinds": KINDS},
        "saes": [HIERARCHICAL, SMALL, NATIVE, KRON],
    }
    (CACHE / "inputs.json").write_text(json.dumps(inputs, indent=1) + "\n")


def write_labelled(task: str, split: str, texts: dict[str, list[str]]) -> None:
    """Write as many texts of each class as there are of the rarest, in a seeded order."""
    rows = []
    for label, name in enumerate(texts):
        chosen = random.Random(0).sample(texts[name], PER_CLASS[split])
        rows += [{"text": text, "label": label} for text in chosen]
    write_lines(CACHE / "probing" / task / f"{split}.jsonl", rows)


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON, a row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def our_numbers() -> dict[str, Any]:
    """Measure the same SAEs on the same tokens with `evaluate_domains`, on a HookedTransformer too."""
    saes = {name: load_sae(CACHE / "saes" / name) for name in (HIERARCHICAL, SMALL, NATIVE, KRON)}
    report = evaluate_domains(
        load_embedded_model("hooked"),
        saes,
        {text: embedded_texts(text, split="test") for text in CORE_TEXTS},
        context_size=CONTEXT,
        max_tokens=CORE_CONTEXTS * CONTEXT,
    )
    found: dict[str, Any] = {name: {} for name in saes}
    for row in report.measurements:
        found[row.sae][row.domain] = {
            "explained_variance": row.ev,
            "l0": row.l0,
            "ce_loss_score": row.ce_score,
            "ce_loss_without_sae": row.ce,
            "ce_loss_with_sae": row.ce_with,
            "ce_loss_with_ablation": row.ce_ablated,
        }
    return found


def settings() -> dict[str, Any]:
    """Give the sizes that the numbers depend on."""
    return {
        "model": MODEL_NAME,
        "hook": HOOK,
        "training_tokens": TOKENS,
        "d_sae": D_SAE,
        "d_sae_of_the_residual": D_NEW,
        "context_size": CONTEXT,
        "tokens_of_each_core_text": CORE_CONTEXTS * CONTEXT,
        "probing_texts_of_a_class": PER_CLASS,
        "probing_classes": {"topics": TOPICS, "kinds": KINDS},
    }


def architectures() -> dict[str, dict[str, Any]]:
    """Say how each SAE is saved."""
    cfgs = {
        name: json.loads((CACHE / "saes" / name / "cfg.json").read_text())
        for name in (HIERARCHICAL, SMALL, NATIVE, KRON)
    }
    return {name: {"saved_as": cfg["architecture"], "d_sae": cfg["d_sae"]} for name, cfg in cfgs.items()}
