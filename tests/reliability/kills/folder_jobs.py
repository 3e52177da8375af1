"""Work that keeps a folder of its own and goes on by itself when it is called again."""

from pathlib import Path
from typing import Any

import torch

from sae_lens_ext import attach_lime, load_sae, train_language_model, train_steering_vectors
from sae_lens_ext.analysis.stability import feature_stability
from sae_lens_ext.analysis.stability.pooling import pool_features, retrain_encoder
from sae_lens_ext.architectures.saving import save_sae
from sae_lens_ext.cli.augment import stages, texts
from sae_lens_ext.cli.augment.plan import Plan as AugmentPlan
from sae_lens_ext.cli.quickstart import verb
from sae_lens_ext.cli.quickstart.plan import Plan as QuickstartPlan
from tests.analysis.stability.pooling.pools import D_IN, two_pools
from tests.conftest import CONTEXT
from tests.reliability.kills import world
from tests.reliability.kills.job import Job

PROMPTS = ["w3 w4 w5", "w6", "w7 w8", "w9 w10 w11 w12"]
TRAINING: dict[str, Any] = {"context_size": CONTEXT, "train_batch_size_tokens": 256, "n_checkpoints": 3}


def _quickstart(folder: Path) -> None:
    verb.load_any_language_model = lambda *_: world.hooked()
    verb.load_documents = lambda _: world.documents()
    budget = {"training_tokens": 2048, "d_sae": 64, "eval_batches_ev": 1, "eval_batches_ce": 1}
    verb.quickstart(QuickstartPlan(hook=world.HOOK, **TRAINING, **budget), folder)


def _augment(folder: Path) -> None:
    stages.load_any_language_model = lambda *_: world.hooked()
    texts.load_documents = lambda *_: world.documents()
    plan = AugmentPlan(
        base_path=str(world.base()),
        base_release=None,
        base_sae_id=None,
        domains={"python": "python"},
        general=None,
        general_fraction=0.0,
        model="tiny",
        model_class="HookedTransformer",
        hook=world.HOOK,
        d_sae=32,
        training_tokens=2048,
        eval_tokens=256,
        latent_tokens=256,
        n_latents=2,
        **TRAINING,
    )
    stages.augment(plan, load_sae(world.base()), folder)


def high_words(prompt: str, completion: str) -> float:
    """Give the share of words from w20 up."""
    words = completion.split()
    return sum(int(word[1:]) >= 20 for word in words if word[1:].isdigit()) / max(1, len(words))


def _steering(folder: Path) -> None:
    train_steering_vectors(
        world.hooked(),
        PROMPTS,
        high_words,
        group_size=6,
        prompts_per_step=3,
        max_new_tokens=3,
        steps=4,
        lr=0.1,
        kl_every=2,
        folder=folder,
        show_progress=False,
    )


def _lime(folder: Path) -> None:
    model = world.bridge()
    tokens = torch.randint(2, 32, (8, CONTEXT), generator=torch.Generator().manual_seed(1))
    train_language_model(
        model,
        tokens,
        routers=attach_lime(model, initial="random", seed=5),
        validation=tokens[:2],
        validate_every=2,
        batch_size=2,
        epochs=2,
        checkpoint_every=2,
        folder=folder,
        show_progress=False,
    )


def _pooled(folder: Path) -> None:
    """Pool SAEs and teach the new one's encoder, saving the SAE in between."""
    saes, references = two_pools("topk")
    folder.mkdir(parents=True, exist_ok=True)
    _once(folder / "pooled", lambda: pool_features(saes, 12, references=references))
    activations = torch.randn(256, D_IN, generator=torch.Generator().manual_seed(4))
    _once(
        folder / "retrained",
        lambda: retrain_encoder(load_sae(folder / "pooled"), activations, n_tokens=512, batch_size_tokens=64),
    )


def _once(path: Path, make: Any) -> None:
    if not path.exists():
        save_sae(make(), path)


def _reports(folder: Path) -> None:
    """Save a report over an earlier one, again and again."""
    folder.mkdir(parents=True, exist_ok=True)
    saes, _ = two_pools("topk")
    for threshold in (0.9, 0.6, 0.7):
        feature_stability(saes, threshold=threshold).save(folder / "report.json")


FOLDER_JOBS = (
    Job("quickstart", _quickstart),
    Job("augment", _augment),
    Job("steering vectors", _steering, steps="RL update"),
    Job("language model with LIMe", _lime),
    Job("pooling", _pooled, steps="pooling"),
    Job("a report over an earlier one", _reports),
)
