"""`collapse`: layer by layer, how many directions a model's representations spread over, and whether a probe still tells words apart."""

import argparse
import math
from pathlib import Path
from typing import Any

from sae_lens_ext.analysis.collapse import CollapseReport, collapse_report
from sae_lens_ext.analysis.collapse.entropy import require_alphas
from sae_lens_ext.analysis.collapse.sites import SITES
from sae_lens_ext.cli.answer import give, say
from sae_lens_ext.cli.common_flags import (
    add_autocast,
    add_context_size,
    add_device,
    add_model,
    add_seed,
    add_text,
)
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.json_content import records
from sae_lens_ext.cli.named_models import load_named_model
from sae_lens_ext.cli.quiet import quieten
from sae_lens_ext.cli.sources import CHARACTERS_PER_TOKEN, load_documents
from sae_lens_ext.cli.verb_parser import add_verb
from sae_lens_ext.files import write_whole
from sae_lens_ext.lime.attach import attach_lime
from sae_lens_ext.lime.routers import LimeRouters
from sae_lens_ext.number_checks import require_seed

WORDS = (" is", " are", " was", " were")
SEARCHED = 1_000_000
"""Tokens of a data set of the hub's in which words are sought."""

DESCRIPTION = """\
Measure representation collapse (arXiv 2502.09245): the matrix entropy of each
layer's representations, and how well a linear probe tells a few words apart by
what the layer has at them.

Prints a table by layer. FILE.json gets the report (its numbers beside it, as
safetensors), FILE.html its figure.

Entropy is in nats: 0 if all is along one line. Layer -1 is the embedding. With
--routers keys and values are measured before and after routing. Most of the
time goes into reading the words' contexts: --per-word 200, or --no-words, is
much faster.
"""
EXAMPLES = (
    "sae-lens-ext collapse --text embedded:encyclopedia --out plain.json --autocast",
    "sae-lens-ext collapse --text embedded:encyclopedia --out lime.json \\\n"
    "    --routers my_routers/routers.safetensors",
    "sae-lens-ext collapse --text notes/ --out french.json --model my_model/ \\\n    --words ' est' ' sont'",
)


FOLDS = 5
"""Of the probe."""


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's parser."""
    parser = add_verb(
        verbs,
        "collapse",
        run,
        help="by layer: how far a model's representations collapse",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.json", help="the report; its figure goes beside it"
    )
    read = parser.add_argument_group("what is read")
    add_text(read, required=True)
    add_model(read, default="embedded", folder=True)
    read.add_argument(
        "--routers", type=Path, metavar="FILE", help="LIMe's, as train-lime writes them (default: none)"
    )
    read.add_argument(
        "--sites",
        default="residual,values",
        metavar="SITES",
        help=f"some of {', '.join(SITES)}, with commas between (default: %(default)s)",
    )
    entropy = parser.add_argument_group("entropy")
    entropy.add_argument(
        "--alpha",
        type=float,
        nargs="+",
        default=[0.5],
        help="order of the entropy, or several of which the first is printed (default: 0.5)",
    )
    entropy.add_argument(
        "--tokens",
        type=int,
        default=32_768,
        metavar="N",
        help="tokens it is measured on (default: %(default)s)",
    )
    add_context_size(entropy)
    entropy.add_argument(
        "--skip-positions",
        type=int,
        default=0,
        metavar="N",
        help="first tokens of a sequence that it leaves out; 1 for BOS (default: %(default)s)",
    )
    probe = parser.add_argument_group("telling words apart")
    probe.add_argument(
        "--words",
        nargs="+",
        metavar="WORD",
        help=f"two or more, each one token with its space (default: {', '.join(map(repr, WORDS))})",
    )
    probe.add_argument(
        "--per-word",
        type=int,
        default=1668,
        metavar="N",
        help="occurrences of each, at most (default: %(default)s)",
    )
    probe.add_argument("--no-words", action="store_true", help="tell no words apart")
    running = parser.add_argument_group("how it runs")
    running.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="sequences run at once (default: %(default)s)"
    )
    add_autocast(running)
    add_device(running)
    add_seed(running, "the text's order and the probe's folds")


def run(options: argparse.Namespace) -> None:
    """Measure, print and write as the options say."""
    quieten()
    _require_options(options)
    routers = None if options.routers is None else _load_routers(options.routers)
    read = options.tokens if options.no_words else max(options.tokens, SEARCHED)
    documents = load_documents(options.text, CHARACTERS_PER_TOKEN * read)
    model = load_named_model(options.model, options.device)
    if routers is not None:
        attach_lime(model, routers)
    report = collapse_report(
        model,
        documents,
        routers=routers,
        sites=options.sites.split(","),
        alpha=options.alpha,
        skip_positions=options.skip_positions,
        context_size=options.context_size,
        max_tokens=options.tokens,
        words=None if options.no_words else options.words or WORDS,
        per_word=options.per_word,
        batch_size=options.batch_size,
        autocast=options.autocast,
        n_folds=FOLDS,
        seed=options.seed,
    )
    report.save(options.out)
    page = options.out.with_suffix(".html")
    write_whole(page, report.plot().to_html(include_plotlyjs=True))
    say(options, _table(report))
    say(options, f"Report: {options.out}; figure: {page}")
    give(options, {**_content(report), "files": {"report": options.out, "figure": page}})


def _require_options(options: argparse.Namespace) -> None:
    out: Path = options.out
    if out.suffix != ".json" or out.is_dir() or not out.parent.is_dir():
        raise CommandError(
            f"--out {out} cannot be written: give a file whose name ends in .json, in a folder that exists."
        )
    sites = options.sites.split(",")
    if not set(sites) <= set(SITES) or len(set(sites)) < len(sites):
        raise CommandError(
            f"--sites {options.sites!r} is not what can be measured. Give some of {', '.join(SITES)}, each once, with commas between."
        )
    if options.no_words and options.words:
        raise CommandError("--words and --no-words were both given. Give one of them.")
    if options.words and len(options.words) < 2:
        raise CommandError(
            f"--words {options.words[0]!r} is one word, of which nothing can be told apart. Give at least two."
        )
    require_alphas("--alpha", options.alpha)
    for flag in ("tokens", "context_size", "per_word", "batch_size"):
        value = getattr(options, flag)
        if value < 1:
            raise CommandError(f"--{flag.replace('_', '-')} {value} reads nothing. Give at least 1.")
    require_seed("--seed", options.seed)
    if not options.no_words and options.per_word < FOLDS:
        raise CommandError(
            f"--per-word {options.per_word} is too few to tell words apart. Give at least {FOLDS}, or --no-words."
        )
    if not 0 <= options.skip_positions < options.context_size:
        raise CommandError(
            f"--skip-positions {options.skip_positions} leaves nothing of {options.context_size} tokens. Give 0 or more, and fewer than these."
        )


def _load_routers(path: Path) -> LimeRouters:
    """Load routers, of a file or of a folder that train-lime wrote."""
    from sae_lens_ext.cli.train_lime import ROUTERS_FILE

    if not path.exists():
        raise CommandError(
            f"There is no file or folder {str(path)!r}. Give routers, such as train-lime writes."
        )
    routers = LimeRouters.load(path / ROUTERS_FILE if path.is_dir() else path)
    if routers.provenance.get("training", {}).get("trained") == "all":
        raise CommandError(
            f"The routers of {str(path)!r} were trained together with their model, and --model would be that model as it was before. Give routers that were trained "
            "alone; in Python, collapse_report measures the model that train_language_model has trained."
        )
    return routers


def _content(report: CollapseReport) -> dict[str, Any]:
    """Give the report as JSON has it, a row for each site, layer and order; an infinite order is "inf"."""
    rows = report.to_frame()
    rows["alpha"] = [alpha if math.isfinite(alpha) else str(alpha) for alpha in rows["alpha"]]
    return {
        "unit": "entropy in nats, with 95 % intervals over sequences; separability as a share",
        "n_sequences": report.n_sequences,
        "n_positions": report.n_positions,
        "words": report.words,
        "per_word": report.per_word,
        "rows": records(rows),
    }


def _table(report: CollapseReport) -> str:
    """Give both measures by layer, a column for each site."""
    import pandas as pd

    highest = ", ".join(f"{site} {highest:.2f}" for site, highest in report.max_entropy.items())
    lines = [
        f"Entropy of {report.n_sequences} sequences of {report.n_positions} positions, α = {report.alphas[0]:g}, in nats, at most: {highest}"
    ]
    columns = {
        ("entropy", site): pd.Series({layer: e.value for layer, e in zip(layers, of, strict=True)})
        for (site, layers), of in zip(report.layers.items(), report.entropy.values(), strict=True)
    }
    if report.words:
        lines.append(
            f"Separability of {', '.join(map(repr, report.words))}, {report.per_word} occurrences each, chance {report.chance:.2f}"
        )
        columns |= {
            ("separability", site): pd.Series(dict(zip(report.layers[site], of, strict=True)))
            for site, of in report.separability.items()
        }
    table = pd.DataFrame(columns).sort_index().rename_axis(index="layer")
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return "\n".join([*lines, "", table.to_string(float_format=lambda x: f"{x:.3f}", na_rep="–"), ""])
