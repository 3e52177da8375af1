"""The verb itself: read the options, run the stages, print the table."""

import argparse
import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_lens_ext.cli.quickstart.folder import RunFolder, write_json
from sae_lens_ext.cli.quickstart.measure import measure
from sae_lens_ext.cli.quickstart.plan import Plan
from sae_lens_ext.cli.quickstart.report import page, table
from sae_lens_ext.cli.quickstart.tokens import contexts, split_documents
from sae_lens_ext.cli.quickstart.training import train
from sae_lens_ext.cli.sources import (
    default_model_class,
    hook_width,
    load_any_language_model,
    load_documents,
)

DESCRIPTION = """\
Train six SAEs in one pass over a text, load each back by name, measure them on held-out documents, print one table
and write one HTML page. Interrupted, the same command goes on where it was.

By default everything is offline: the embedded model, the embedded encyclopedia. With a hub:

  sae-lens-ext quickstart --out gpt2_run --model gpt2 --hook blocks.6.hook_resid_pre --dataset NeelNanda/pile-10k
"""
QUICK_PLAN: dict[str, Any] = {
    "training_tokens": 8_192,
    "d_sae": 256,
    "train_batch_size_tokens": 512,
    "eval_batches_ev": 1,
    "eval_batches_ce": 1,
    "eval_batch_prompts": 4,
    "n_checkpoints": 1,
}


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's parser."""
    default = Plan()
    parser = verbs.add_parser(
        "quickstart",
        help="train, measure and compare six SAEs on the embedded model, in minutes",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("quickstart"), help="folder to work in (default: quickstart)"
    )
    parser.add_argument("--model", default=default.model, help="embedded, or a model of the hub")
    parser.add_argument(
        "--model-class",
        choices=["TransformerBridge", "HookedTransformer", "AutoModelForCausalLM"],
        help="(default: TransformerBridge for the embedded model, HookedTransformer for the hub's)",
    )
    parser.add_argument("--hook", default=default.hook, help="where the SAEs read (default: %(default)s)")
    parser.add_argument(
        "--dataset",
        default=default.dataset,
        help="embedded:NAME, a .jsonl, .txt, .csv or .parquet file, or a data set of the hub (default: %(default)s)",
    )
    parser.add_argument(
        "--training-tokens", type=int, default=default.training_tokens, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--d-sae", type=int, default=default.d_sae, help="latents of each SAE (default: %(default)s)"
    )
    parser.add_argument("--lr", type=float, default=default.lr, help="learning rate (default: %(default)s)")
    parser.add_argument("--device", default=default.device, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="(default: %(default)s)")
    parser.add_argument(
        "--tiny", action="store_true", help="a run of a minute that shows the way, not the numbers"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the quickstart as the options say."""
    plan = Plan(
        model=options.model,
        model_class=options.model_class or default_model_class(options.model),
        hook=options.hook,
        dataset=options.dataset,
        training_tokens=options.training_tokens,
        d_sae=options.d_sae,
        lr=options.lr,
        device=options.device,
        seed=options.seed,
    )
    quickstart(replace(plan, **QUICK_PLAN) if options.tiny else plan, options.out)


def quickstart(plan: Plan, out: Path) -> None:
    """Train, measure and report, each stage only if it is not finished in `out` yet.

    Raises:
        CommandError: `out` holds something else, or the model has no such hook.
    """
    folder = RunFolder(out, plan)
    _quieten()
    model: Any = load_any_language_model(plan.model, plan.model_class, plan.device)
    d_in = hook_width(model, plan.hook)
    training_contexts = (
        plan.training_tokens // plan.context_size // 10
    )  # a text may be read several times, not forever
    training, held_out = (
        contexts(documents, model.tokenizer, plan.context_size, plan.seed, at_least)
        for documents, at_least in zip(
            split_documents(load_documents(plan.dataset)),
            (training_contexts, plan.eval_contexts),
            strict=True,
        )
    )
    folder.claim()
    train(plan, folder, model, d_in, training)
    measured = measure(plan, folder, model, held_out)
    write_json(
        folder.path / "results.json", {"plan": plan.to_dict(), "trained": folder.trained_record(), **measured}
    )
    folder.page.write_text(page(plan, measured, folder.trained_record()), encoding="utf-8")
    print(table(measured["rows"]))
    print(
        f"\nEV against k, as a page: {folder.page}    The SAEs: {folder.saes}/NAME    Numbers: {folder.path}/results.json"
    )


def _quieten() -> None:
    """Leave progress bars and results on the screen, not what SAELens says of settings chosen on purpose."""
    logging.getLogger("sae_lens").setLevel(logging.ERROR)
    for message in (
        "The training dataset contains fewer samples",  # it counts contexts, and compares them with tokens
        "All samples in the training dataset have been exhausted",
        "To copy construct from a tensor",  # how it reads pre-tokenised rows
    ):
        warnings.filterwarnings("ignore", message=message)
