"""The verb itself: its options, completed by what the base says of itself."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_lens import SAE

from sae_lens_ext.architectures.base_sae import load_base, require_stackable_base
from sae_lens_ext.cli.answer import give, say
from sae_lens_ext.cli.augment.augmented import content_of, text_of
from sae_lens_ext.cli.augment.plan import Plan, general_text_of
from sae_lens_ext.cli.augment.stages import augment
from sae_lens_ext.cli.common_flags import (
    TEXT,
    add_context_size,
    add_device,
    add_hook,
    add_model,
    add_model_class,
    add_seed,
    add_tiny,
)
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.quiet import quieten
from sae_lens_ext.cli.trained_on import hook_of, model_class_of, model_of
from sae_lens_ext.cli.verb_parser import add_verb

DESCRIPTION = """\
Teach a pretrained SAE domains it is blind to, without changing it: train a
residual SAE on the text of each domain, stack them on the base, and export one
ordinary SAELens SAE where that is exact. Interrupted, the same command goes on
where it was.

Prints what was gained in the domains and what it cost elsewhere: explained
variance, cross-entropy and L0 of base and domains on every held-out text, and
their changes against the base. The folder gets stack/ and residuals/NAME/ for
SAE.load_from_disk, native/ (one jumprelu SAE that needs this package no more),
index.html, domains.json and latents_NAME.json.
"""
EXAMPLES = (
    "sae-lens-ext augment my_sae --domain python=embedded:python_source \\\n    --out python_run",
    "sae-lens-ext augment --release gemma-scope-2b-pt-res-canonical \\\n"
    "    --sae-id layer_12/width_16k/canonical --domain chemistry=papers/ \\\n"
    "    --domain law=cases.jsonl --general NeelNanda/pile-10k --out gemma_run",
)
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
    parser = add_verb(
        verbs,
        "augment",
        run,
        help="teach a pretrained SAE the domains of some texts",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("augmented"),
        metavar="FOLDER",
        help="folder to work in (default: augmented)",
    )
    add_tiny(parser)
    base = parser.add_argument_group("the base")
    base.add_argument("base", nargs="?", metavar="SAE_FOLDER", help="folder of the pretrained SAE, the base")
    base.add_argument("--release", help="or a SAELens release, with --sae-id (default: none)")
    base.add_argument("--sae-id", help="which SAE of the release (default: none)")
    add_model(base, of="the base's")
    add_model_class(base, "the base's")
    add_hook(base, "the base reads")
    texts = parser.add_argument_group("texts")
    texts.add_argument(
        "--domain",
        action="append",
        required=True,
        metavar="NAME=TEXT",
        help=f"a domain and its text; may be given several times. TEXT: {TEXT}. A tenth of its documents is held out",
    )
    texts.add_argument(
        "--general",
        metavar="TEXT",
        help='general text, to measure on and to mix in; "none" for none (default: what the base was trained on)',
    )
    texts.add_argument(
        "--general-fraction",
        type=float,
        metavar="SHARE",
        help="share of general text in the training of a domain; 0 is the paper's way (default: 0.1, or 0 without general "
        "text)",
    )
    add_context_size(texts, None, "the base's, or 128")
    training = parser.add_argument_group("training")
    training.add_argument(
        "--training-tokens",
        type=int,
        metavar="N",
        help="tokens per domain (default: its text once; more repeats it)",
    )
    training.add_argument(
        "--d-sae",
        type=int,
        default=Plan.d_sae,
        metavar="N",
        help="latents of a domain (default: %(default)s)",
    )
    training.add_argument(
        "--k", type=float, default=Plan.k, help="mean latents per token of a domain (default: %(default)s)"
    )
    training.add_argument("--lr", type=float, default=Plan.lr, help="learning rate (default: %(default)s)")
    running = parser.add_argument_group("how it runs")
    add_device(running)
    add_seed(running, "initial weights, the text's order and what is measured")


def run(options: argparse.Namespace) -> None:
    """Augment as the options say."""
    quieten()
    if options.tiny and (options.training_tokens is not None or options.d_sae != Plan.d_sae):
        raise CommandError("--tiny sets --training-tokens and --d-sae itself. Leave these out, or --tiny.")
    base = _load_base(options)
    plan = plan_of(options, base)
    plan = replace(plan, **QUICK_PLAN) if options.tiny else plan
    done = augment(plan, base, options.out)
    say(options, text_of(done))
    give(options, content_of(plan, done))


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
        context_size=(base.cfg.metadata.context_size or 128)
        if options.context_size is None
        else options.context_size,
        d_sae=options.d_sae,
        k=options.k,
        training_tokens=options.training_tokens,
        lr=options.lr,
        seed=options.seed,
        device=options.device,
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
