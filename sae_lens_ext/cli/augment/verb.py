"""The verb itself: read the options, run the stages, print the tables."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from sae_lens import SAE

from sae_lens_ext.analysis.domains import DomainReport, evaluate_domains
from sae_lens_ext.analysis.new_latents import NewLatents, compare_new_latents
from sae_lens_ext.architectures.base_sae import load_base, require_stackable_base
from sae_lens_ext.architectures.residual_stack import ResidualStackSAE
from sae_lens_ext.cli.augment.page import page
from sae_lens_ext.cli.augment.plan import (
    ALONE,
    EVERYTHING,
    GENERAL,
    Plan,
    general_text_of,
    hook_of,
    model_class_of,
    model_of,
)
from sae_lens_ext.cli.augment.training import train
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.quiet import quieten
from sae_lens_ext.cli.run_folder import RunFolder
from sae_lens_ext.cli.sources import (
    load_any_language_model,
    load_documents,
    require_width,
    split_documents,
)
from sae_lens_ext.language_model import contexts, find_hook_point, mix_datasets

DESCRIPTION = """\
Teach a pretrained SAE domains it is blind to, without changing it: train a residual SAE on the text of each domain,
stack them on the base, export one ordinary SAELens SAE where that is exact, and report what was gained in the
domains and what it cost elsewhere. Interrupted, the same command goes on where it was.

  sae-lens-ext augment my_sae --domain python=embedded:python_source --out python_run
  sae-lens-ext augment --release gemma-scope-2b-pt-res-canonical --sae-id layer_12/width_16k/canonical \\
      --domain chemistry=papers/ --domain law=cases.jsonl --general NeelNanda/pile-10k --out gemma_run

In the folder: stack/ and residuals/NAME/ for SAE.load_from_disk, native/ (one jumprelu SAE that needs this package no
more), index.html, domains.json and latents_NAME.json.
"""
DEFAULT_GENERAL_FRACTION = 0.1
QUICK_PLAN: dict[str, Any] = {
    "training_tokens": 8_192,
    "d_sae": 64,
    "train_batch_size_tokens": 512,
    "eval_tokens": 1_024,
    "latent_tokens": 2_048,
    "n_checkpoints": 1,
}


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's parser."""
    parser = verbs.add_parser(
        "augment",
        help="teach a pretrained SAE new domains: residual SAEs, stack, native export, report",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("base", nargs="?", help="folder of the pretrained SAE, the base")
    parser.add_argument("--release", help="or a SAELens release, with --sae-id")
    parser.add_argument("--sae-id", help="which SAE of the release")
    parser.add_argument(
        "--domain",
        action="append",
        required=True,
        metavar="NAME=TEXT",
        help="a domain and its text; may be given several times. TEXT: a folder of text files, a .jsonl, .csv, .parquet or "
        ".txt file, a data set of the hub's or a local one, or embedded:NAME. A tenth of its documents is held out",
    )
    parser.add_argument(
        "--general",
        metavar="TEXT",
        help='general text, to measure on and to mix in; "none" for none (default: what the base was trained on)',
    )
    parser.add_argument(
        "--general-fraction",
        type=float,
        help="share of general text in the training of a domain; 0 is the paper's way (default: 0.1, or 0 without general "
        "text)",
    )
    parser.add_argument("--out", type=Path, default=Path("augmented"), help="folder (default: augmented)")
    parser.add_argument("--model", help="embedded, or a model of the hub's (default: the base's)")
    parser.add_argument(
        "--model-class",
        help="TransformerBridge, HookedTransformer, AutoModelForCausalLM (default: the base's)",
    )
    parser.add_argument("--hook", help="where the base reads (default: what it says)")
    parser.add_argument("--context-size", type=int, help="tokens per context (default: the base's, or 128)")
    parser.add_argument(
        "--d-sae", type=int, default=Plan.d_sae, help="latents of a domain (default: %(default)s)"
    )
    parser.add_argument(
        "--k", type=float, default=Plan.k, help="mean latents per token of a domain (default: %(default)s)"
    )
    parser.add_argument(
        "--training-tokens", type=int, help="tokens per domain (default: its text once; more repeats it)"
    )
    parser.add_argument("--lr", type=float, default=Plan.lr, help="learning rate (default: %(default)s)")
    parser.add_argument("--device", default=Plan.device, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=Plan.seed, help="(default: %(default)s)")
    parser.add_argument(
        "--tiny", action="store_true", help="a run of a minute that shows the way, not the numbers"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Augment as the options say."""
    quieten()
    base = _load_base(options)
    plan = plan_of(options, base)
    augment(replace(plan, **QUICK_PLAN) if options.tiny else plan, base, options.out)


def plan_of(options: argparse.Namespace, base: SAE[Any]) -> Plan:
    """Complete the options with what the base's metadata say.

    Raises:
        CommandError: Something is wrong with the options, or missing in both.
    """
    model = model_of(base, options.model)
    general = general_text_of(base, model, options.general)
    fraction = options.general_fraction
    return Plan(
        base_path=options.base,
        base_release=options.release,
        base_sae_id=options.sae_id,
        domains=_domains(options.domain),
        general=general,
        general_fraction=(DEFAULT_GENERAL_FRACTION if general else 0.0) if fraction is None else fraction,
        model=model,
        model_class=model_class_of(base, model, options.model_class),
        hook=hook_of(base, options.hook),
        context_size=options.context_size or base.cfg.metadata.context_size or 128,
        d_sae=options.d_sae,
        k=options.k,
        training_tokens=options.training_tokens,
        lr=options.lr,
        seed=options.seed,
        device=options.device,
    )


def augment(plan: Plan, base: SAE[Any], out: Path) -> None:
    """Train, stack, export, measure and report, each stage only if it is not finished in `out` yet.

    Raises:
        CommandError: `out` holds something else, or the base does not fit the model's hook.
        ValueError: A text is too short.
    """
    folder = RunFolder(out, plan, "augment")
    base.cfg.metadata.hook_name = base.cfg.metadata.hook_name or plan.hook
    model: Any = load_any_language_model(
        plan.model, plan.model_class, plan.device, base.cfg.metadata.model_from_pretrained_kwargs
    )
    hook = find_hook_point(
        model, plan.hook
    ).name  # the base may call it by HookedTransformer's name, the model not
    assert hook is not None
    require_width(model, hook, base.cfg.metadata.hook_head_index, base.cfg.d_in)
    texts = {
        name: split_documents(load_documents(text))
        for name, text in {**plan.domains, **({GENERAL: plan.general} if plan.general else {})}.items()
    }
    held_out = {name: documents for name, (_, documents) in texts.items()}
    general = _contexts(plan, model, GENERAL, texts[GENERAL][0]) if plan.general_fraction > 0 else None
    data = {}
    for domain in plan.domains:
        own = _contexts(plan, model, domain, texts[domain][0])
        data[domain] = (
            own.shuffle(seed=plan.seed)
            if general is None
            else mix_datasets(own, general, general_fraction=plan.general_fraction, seed=plan.seed)
        )
    folder.claim()
    residuals = {
        domain: train(replace(plan, hook=hook), folder, model, base, domain, dataset)
        for domain, dataset in data.items()
    }
    stack = ResidualStackSAE.from_saes(base, residuals)
    stack.save_model(folder.path / "stack")
    native = _save_native(stack, folder.path / "native")

    report = _remembered(
        folder.path / "domains.json",
        DomainReport,
        lambda: evaluate_domains(
            model,
            _variants(stack),
            held_out,
            context_size=plan.context_size,
            max_tokens=plan.eval_tokens,
            batch_size_prompts=plan.eval_batch_prompts,
            autocast=True,
            seed=plan.seed,
        ),
    )
    latents = {
        domain: _remembered(
            folder.path / f"latents_{domain}.json",
            NewLatents,
            lambda domain=domain: compare_new_latents(
                model,
                stack,
                {name: held_out[name] for name in (domain, GENERAL) if name in held_out},
                domain=domain,
                n_latents=min(plan.n_latents, plan.d_sae),
                context_size=plan.context_size,
                max_tokens=plan.latent_tokens,
                batch_size_prompts=plan.eval_batch_prompts,
                autocast=True,
                seed=plan.seed,
            ),
        )
        for domain in plan.domains
    }
    trained = {domain: folder.trained_record(domain) for domain in plan.domains}
    folder.page.write_text(page(plan, trained, report, latents, native), encoding="utf-8")
    print(report.to_frame().to_string(index=False, float_format=lambda x: f"{x:.3f}"))
    print()
    print(report.changes(ALONE).to_string(index=False, float_format=lambda x: f"{x:+.1%}"))
    print(
        f"\nReport: {folder.page}    The stack: {folder.path}/stack    "
        + (f"As one SAELens SAE: {folder.path}/native" if native is None else native)
    )


def _load_base(options: argparse.Namespace) -> SAE[Any]:
    if (options.base is None) == (options.release is None):
        raise CommandError(
            "Name the base SAE once: by its folder (sae-lens-ext augment FOLDER ...), or by --release and --sae-id."
        )
    if (options.release is None) != (options.sae_id is None):
        raise CommandError(
            "A pretrained base is named by both --release and --sae-id. Give the other one, too."
        )
    return require_stackable_base(
        load_base(
            base_path=options.base,
            base_release=options.release,
            base_sae_id=options.sae_id,
            device=options.device,
        )
    )


def _domains(words: list[str]) -> dict[str, str]:
    domains: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals and text):
            raise CommandError(f"--domain {word} is not NAME=TEXT, such as python=embedded:python_source.")
        if name in domains:
            raise CommandError(f"--domain {name} is given twice. Give each domain one name and one text.")
        domains[name] = text
    return domains


def _contexts(plan: Plan, model: Any, name: str, documents: list[str]) -> Dataset:
    at_least = (plan.training_tokens or plan.train_batch_size_tokens) // plan.context_size // 10
    return contexts(
        documents,
        model.tokenizer,
        context_size=plan.context_size,
        seed=plan.seed,
        at_least=max(1, at_least),
        what=f"The text {name!r}, without the tenth of its documents that is held out,",
    )


def _variants(stack: ResidualStackSAE) -> dict[str, SAE[Any]]:
    """The base, each domain alone on it and, if there are several, all together."""
    variants = {ALONE: stack.with_active(())}
    variants |= {domain: stack.with_active((domain,)) for domain in stack.domains}
    if len(stack.domains) > 1:
        variants[EVERYTHING] = stack.with_active(stack.domains)
    return dict(variants)


def _save_native(stack: ResidualStackSAE, path: Path) -> str | None:
    """Save the native form if there is one; returns why there is none, or None."""
    try:
        native = stack.to_native()
    except ValueError as error:
        return str(error)
    native.save_model(path)
    return None


def _remembered(path: Path, kind: Any, compute: Any) -> Any:
    """Load a result that a run before this one has finished, or compute and save it."""
    if path.is_file():
        return kind.load(path)
    result = compute()
    result.save(path)
    return result
