"""The verb itself: read the options, run the stages, print the table."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_lens_ext.cli.answer import give, say
from sae_lens_ext.cli.common_flags import (
    add_device,
    add_hook,
    add_model,
    add_model_class,
    add_seed,
    add_text,
    add_tiny,
)
from sae_lens_ext.cli.json_content import plain
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
from sae_lens_ext.cli.verb_parser import add_verb
from sae_lens_ext.files import write_whole
from sae_lens_ext.language_model import contexts
from sae_lens_ext.run_folder import RunFolder, write_json

RESULTS_FILE = "results.json"

DESCRIPTION = """\
Train six SAEs in one pass over a text, load each back by name and measure them
on held-out documents: SAELens' TopK at four budgets, one HierarchicalTopK for
all of them, one Kron. Interrupted, the same command goes on where it was.

Prints one table, a row for each SAE and budget. The folder gets the SAEs
(saes/NAME, for SAE.load_from_disk), index.html with the curve of explained
variance against k, results.json with all numbers, and plan.json, the settings.

By default everything is offline: the embedded model and encyclopedia.
"""
EXAMPLES = (
    "sae-lens-ext quickstart --out my_run",
    "sae-lens-ext quickstart --out gpt2_run --model gpt2 \\\n"
    "    --hook blocks.6.hook_resid_pre --text NeelNanda/pile-10k",
)
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
    parser = add_verb(
        verbs,
        "quickstart",
        run,
        help="train six SAEs in one pass, measure them, draw the curve",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("quickstart"),
        metavar="FOLDER",
        help="folder to work in (default: quickstart)",
    )
    add_tiny(parser)
    text = parser.add_argument_group("model and text")
    add_model(text, default=default.model)
    add_model_class(text, "TransformerBridge for the embedded model, HookedTransformer for the hub's")
    add_hook(text, "the SAEs read", default.hook)
    add_text(text, f" (default: {default.dataset})", old="--dataset", default=default.dataset)
    training = parser.add_argument_group("training")
    training.add_argument(
        "--training-tokens",
        type=int,
        default=default.training_tokens,
        metavar="N",
        help="tokens to train on (default: %(default)s)",
    )
    training.add_argument(
        "--d-sae",
        type=int,
        default=default.d_sae,
        metavar="N",
        help="latents of each SAE (default: %(default)s)",
    )
    training.add_argument("--lr", type=float, default=default.lr, help="learning rate (default: %(default)s)")
    running = parser.add_argument_group("how it runs")
    add_device(running)
    add_seed(running, "initial weights and the text's order")


def run(options: argparse.Namespace) -> None:
    """Run the quickstart as the options say."""
    plan = Plan(
        model=options.model,
        model_class=options.model_class or default_model_class(options.model),
        hook=options.hook,
        dataset=options.text,
        training_tokens=options.training_tokens,
        d_sae=options.d_sae,
        lr=options.lr,
        device=options.device,
        seed=options.seed,
    )
    results = quickstart(replace(plan, **QUICK_PLAN) if options.tiny else plan, options.out)
    files = {"page": options.out / "index.html", "results": options.out / RESULTS_FILE}
    say(options, table(results["rows"]))
    say(
        options,
        f"\nEV against k, as a page: {files['page']}    The SAEs: {options.out / SAES}/NAME    Numbers: {files['results']}",
    )
    saes = {name: options.out / SAES / name for name in dict.fromkeys(row["sae"] for row in results["rows"])}
    give(options, {**results, "files": {**files, "saes": saes}})


def quickstart(plan: Plan, out: Path) -> dict[str, Any]:
    """Train, measure and report, each stage only if it is not finished in `out` yet.

    Returns:
        What `results.json` holds: the plan, the record of the training, a row for each SAE and budget, curves over k.

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
        results = {"plan": plan.to_dict(), "trained": folder.trained_record(SAES), **measured}
        write_json(folder.path / RESULTS_FILE, plain(results))
        write_whole(folder.page, page(plan, measured, folder.trained_record(SAES)))
    return results
