"""The verb itself: read the options, run the stages, print the table."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_lens_ext.cli.quickstart.measure import measure
from sae_lens_ext.cli.quickstart.plan import SAES, Plan
from sae_lens_ext.cli.quickstart.report import page, table
from sae_lens_ext.cli.quickstart.training import train
from sae_lens_ext.cli.quiet import quieten
from sae_lens_ext.cli.sources import (
    default_model_class,
    hook_width,
    load_any_language_model,
    load_documents,
    split_documents,
)
from sae_lens_ext.files import write_whole
from sae_lens_ext.language_model import contexts
from sae_lens_ext.run_folder import RunFolder, write_json

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
        ValueError: `out` holds something else.
        CommandError: The model has no such hook.
        FolderInUseError: Another process works in `out`.
    """
    folder = RunFolder(out, plan, "`sae-lens-ext quickstart`")
    quieten()
    model: Any = load_any_language_model(plan.model, plan.model_class, plan.device)
    d_in = hook_width(model, plan.hook)
    training_contexts = (
        plan.training_tokens // plan.context_size // 10
    )  # a text may be read several times, not forever
    training_documents, held_out_documents = split_documents(load_documents(plan.dataset))
    training = contexts(
        training_documents,
        model.tokenizer,
        context_size=plan.context_size,
        seed=plan.seed,
        at_least=training_contexts,
        what="The text, without the tenth of its documents that is held out,",
    )
    held_out = contexts(
        held_out_documents,
        model.tokenizer,
        context_size=plan.context_size,
        seed=plan.seed,
        at_least=plan.eval_contexts,
        what="The held-out tenth of the text's documents",
    )
    with folder.working():
        train(plan, folder, model, d_in, training)
        measured = measure(plan, folder, model, held_out)
        write_json(
            folder.path / "results.json",
            {"plan": plan.to_dict(), "trained": folder.trained_record(SAES), **measured},
        )
        write_whole(folder.page, page(plan, measured, folder.trained_record(SAES)))
    print(table(measured["rows"]))
    print(
        f"\nEV against k, as a page: {folder.page}    The SAEs: {folder.path / SAES}/NAME    Numbers: {folder.path}/results.json"
    )
