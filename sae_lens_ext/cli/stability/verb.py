"""The verb itself: find the SAEs, count how often their latents fire, measure, print, write."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sae_lens import SAE

from sae_lens_ext.analysis.stability import (
    FiringRates,
    StabilityReport,
    feature_stability,
    measure_firing_rates,
)
from sae_lens_ext.architectures.loading import load_sae
from sae_lens_ext.cli.answer import give, say
from sae_lens_ext.cli.common_flags import add_device, add_model, add_model_class, add_seed, add_text
from sae_lens_ext.cli.devices import usable_device
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.json_content import records
from sae_lens_ext.cli.quiet import quieten
from sae_lens_ext.cli.sources import (
    CHARACTERS_PER_TOKEN,
    HELD_OUT_ONE_IN,
    load_any_language_model,
    load_documents,
    split_documents,
)
from sae_lens_ext.cli.stability.folders import groups_of
from sae_lens_ext.cli.trained_on import model_class_of, model_of
from sae_lens_ext.cli.verb_parser import add_verb
from sae_lens_ext.files import make_folder, write_whole
from sae_lens_ext.ranks import current_ranks

RUNS_IN_RANKS = True
"""Under torchrun the ranks divide the comparisons and the text, and the first one writes."""
NO_TEXT = "none"

DESCRIPTION = """\
Measure which latents come back when an SAE is trained from other seeds: p̂, the
share of the other SAEs that have the latent, with every SAE as the anchor, and
what chance alone gives.

Prints, for each group of SAEs, a table with a row for each SAE: shares of
stable and unstable latents, mean p̂. SAEs of several architectures in one
folder (topk_seed_0, …, kron_seed_0, …) are measured architecture by
architecture. --out gets GROUP.json (its tensors beside it) and its picture,
GROUP.html.
"""
EXAMPLES = (
    "sae-lens-ext stability my_seeds --out my_stability",
    "sae-lens-ext stability my_seeds --text none --json",
    "torchrun --nproc-per-node 8 -m sae_lens_ext stability my_seeds \\\n    --device cuda --out my_stability",
)


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's parser."""
    parser = add_verb(
        verbs,
        "stability",
        run,
        help="which latents come back in SAEs of other seeds",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="an SAE, or a folder of SAEs such as `train --seeds` writes",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder for reports and pictures (default: none)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.7,
        metavar="COSINE",
        help="cosine that counts as the same (default: %(default)s)",
    )
    firings = parser.add_argument_group("which latents count")
    add_text(
        firings,
        ', its held-out tenth, to count firings on; "none" to let dead latents count (default: what the SAEs were trained on, as '
        "far as they say)",
    )
    firings.add_argument(
        "--tokens",
        type=int,
        default=65_536,
        metavar="N",
        help="tokens to count firings on (default: %(default)s)",
    )
    firings.add_argument(
        "--min-firing-rate",
        type=float,
        metavar="SHARE",
        help="least share of tokens for a latent to count (default: 100 firings)",
    )
    add_model(firings, of="the SAEs'")
    add_model_class(firings, "the SAEs'")
    running = parser.add_argument_group("how it runs")
    add_device(running)
    add_seed(running, "the null and the text's order")


def run(options: argparse.Namespace) -> None:
    """Measure as the options say."""
    quieten()
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise CommandError(f"--out {options.out} is a file. Give a folder, or one that does not exist yet.")
    device = usable_device(options.device)
    groups = {
        group: {name: load_sae(path, device=device) for name, path in members.items()}
        for group, members in groups_of(options.folders).items()
    }
    texts: dict[tuple[Any, ...], _Text | None] = {}
    found: list[dict[str, Any]] = []
    for group, saes in groups.items():
        metadata = next(iter(saes.values())).cfg.metadata
        trained_on = (metadata.model_name, metadata.dataset_path)
        if trained_on not in texts:  # groups of one model and text share them
            texts[trained_on] = _Text.of(next(iter(saes.values())), options)
        text = texts[trained_on]
        report = feature_stability(
            saes,
            threshold=options.threshold,
            min_firing_rate=options.min_firing_rate,
            firing_rates=None if text is None else text.firing_rates(saes),
            seed=options.seed,
        )
        say(options, _summary(group, report))
        files: dict[str, Path] = {}
        if options.out is not None and current_ranks().is_first:
            files = _write(options.out, group, report)
            say(options, f"\nReport: {files['report']}    Picture: {files['figure']}")
        found.append({"group": group, **_content(report), "files": files})
    give(options, {"groups": found})


@dataclass(frozen=True)
class _Text:
    """A language model, and documents to count firings on."""

    model: Any
    documents: Sequence[str]
    options: argparse.Namespace

    @classmethod
    def of(cls, sae: SAE[Any], options: argparse.Namespace) -> "_Text | None":
        """Load what the options name, or what the SAE was trained on; None if that is nothing."""
        text = options.text if options.text is not None else sae.cfg.metadata.dataset_path or NO_TEXT
        if text == NO_TEXT:
            return None
        name = model_of(sae, options.model)
        documents = load_documents(text, HELD_OUT_ONE_IN * CHARACTERS_PER_TOKEN * options.tokens)
        model_class = model_class_of(sae, name, options.model_class)
        model = load_any_language_model(
            name, model_class, usable_device(options.device), sae.cfg.metadata.model_from_pretrained_kwargs
        )
        return cls(model, split_documents(documents)[1] or documents, options)

    def firing_rates(self, saes: Mapping[str, SAE[Any]]) -> FiringRates:
        """Count on how many tokens each latent fires."""
        return measure_firing_rates(
            self.model,
            saes,
            self.documents,
            context_size=next(iter(saes.values())).cfg.metadata.context_size or 128,
            max_tokens=self.options.tokens,
            autocast=True,
            seed=self.options.seed,
        )


def _summary(group: str, report: StabilityReport) -> str:
    table = report.summary().to_string(index=False, float_format=lambda x: f"{x:.3f}")
    return f"\n{group}: {report!r}\n\n{table}"


def _content(report: StabilityReport) -> dict[str, Any]:
    """Give the report as JSON has it, without what it says of each latent."""
    measures = (
        "threshold",
        "min_firing_rate",
        "match_rate",
        "null_match_rate",
        "chance_maximum",
        "pw_mcc",
        "mmcs",
        "shared_fraction",
        "agreement",
        "notes",
    )
    return {
        **{name: getattr(report, name) for name in measures},
        "saes": records(report.summary()),
        "pairs": [asdict(pair) for pair in report.pairs],
    }


def _write(out: Path, group: str, report: StabilityReport) -> dict[str, Path]:
    """Write the report and its picture, and say where."""
    files = {"report": out / f"{group}.json", "figure": out / f"{group}.html"}
    make_folder(out)
    report.save(files["report"])
    page = report.plot().update_layout(title=f"{group}: feature stability").to_html(include_plotlyjs=True)
    write_whole(files["figure"], page)
    return files
