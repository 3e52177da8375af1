"""Everything of the package that reads text as a stream, each as a function of model and number of tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sae_lens import LanguageModelSAERunnerConfig, LoggingConfig

from sae_lens_ext import (
    DataParallelRunner,
    HierarchicalTopKTrainingSAEConfig,
    collapse_report,
    evaluate_domains,
    measure_firing_rates,
    top_activations,
    train_seeds,
)
from sae_lens_ext.lime.training import language_model_loss, train_language_model
from tests.reliability.load.stream_model import (
    CONTEXT,
    D_MODEL,
    HOOK,
    VOCABULARY,
    documents,
    load_dataset,
    random_topk,
    save_dataset,
)

D_SAE = 1024
K = 32
BATCH = 4096
CONTEXTS_AT_ONCE = 32

Reader = Callable[[Any, int, Path], object]
"""Called with a model, a number of tokens and a folder to write in, reads so many tokens."""


def _train(model: Any, n_tokens: int, folder: Path) -> object:
    return DataParallelRunner(_config(n_tokens), _dataset(n_tokens, folder), model).run()


def _train_seeds(model: Any, n_tokens: int, folder: Path) -> object:
    return train_seeds(
        _config(n_tokens),
        range(2),
        vary="data_order",
        override_model=model,
        override_dataset=_dataset(n_tokens, folder),
    )


def _firing_rates(model: Any, n_tokens: int, _: Path) -> object:
    saes = {f"seed_{seed}": random_topk(D_SAE, seed, k=K) for seed in range(2)}
    return measure_firing_rates(model, saes, documents(n_tokens), max_tokens=n_tokens, **_READING)


def _top_activations(model: Any, n_tokens: int, _: Path) -> object:
    saes = {HOOK: random_topk(D_SAE, 0, k=K)}
    return top_activations(
        model,
        saes,
        documents(n_tokens),
        max_tokens=n_tokens,
        context_size=CONTEXT,
        batch_size=CONTEXTS_AT_ONCE,
        show_progress=False,
    )


def _evaluate_domains(model: Any, n_tokens: int, _: Path) -> object:
    passes = 3  # of the model over each token: as it is, with zeros, with the reconstruction
    texts = {"words": documents(n_tokens // passes)}
    return evaluate_domains(
        model, {"topk": random_topk(D_SAE, 0, k=K)}, texts, max_tokens=n_tokens // passes, **_READING
    )


def _collapse_report(model: Any, n_tokens: int, _: Path) -> object:
    passes = 2
    return collapse_report(
        model,
        _tokens(n_tokens // passes),
        sites=("residual",),
        words=None,
        max_tokens=n_tokens // passes,
        batch_size=CONTEXTS_AT_ONCE,
        show_progress=False,
    )


def _language_model_loss(model: Any, n_tokens: int, _: Path) -> object:
    return language_model_loss(model, _tokens(n_tokens), batch_size=CONTEXTS_AT_ONCE)


def _train_language_model(model: Any, n_tokens: int, folder: Path) -> object:
    return train_language_model(
        model,
        _tokens(n_tokens),
        batch_size=CONTEXTS_AT_ONCE,
        checkpoint_every=100,
        folder=folder / "language_model",
        show_progress=False,
    )


READERS: dict[str, Reader] = {
    "DataParallelRunner": _train,
    "train_seeds": _train_seeds,
    "measure_firing_rates": _firing_rates,
    "top_activations": _top_activations,
    "evaluate_domains": _evaluate_domains,
    "collapse_report": _collapse_report,
    "language_model_loss": _language_model_loss,
    "train_language_model": _train_language_model,
}
_READING: dict[str, Any] = {
    "context_size": CONTEXT,
    "batch_size": CONTEXTS_AT_ONCE,
    "show_progress": False,
}


def _config(n_tokens: int) -> LanguageModelSAERunnerConfig[Any]:
    return LanguageModelSAERunnerConfig(
        sae=HierarchicalTopKTrainingSAEConfig(d_in=D_MODEL, d_sae=D_SAE, k=K, budgets=(K,)),
        model_name="random",
        hook_name=HOOK,
        dataset_path="random words",
        is_dataset_tokenized=True,
        streaming=False,
        context_size=CONTEXT,
        training_tokens=n_tokens // BATCH * BATCH,
        train_batch_size_tokens=BATCH,
        store_batch_size_prompts=CONTEXTS_AT_ONCE,
        n_batches_in_buffer=256,
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=None,
        device="cpu",
        verbose=False,
    )


def _dataset(n_tokens: int, folder: Path) -> Any:
    where = folder / "dataset"
    return load_dataset(where if where.exists() else save_dataset(folder, n_tokens + 10 * BATCH))


def _tokens(n_tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, len(VOCABULARY), (n_tokens // CONTEXT, CONTEXT), generator=generator)
    tokens[:, 0] = 0
    return tokens
