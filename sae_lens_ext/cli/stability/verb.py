"""The verb itself: find the SAEs, count how often their latents fire, measure, print, write."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from sae_lens_ext.cli.devices import usable_device
from sae_lens_ext.cli.errors import CommandError
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
from sae_lens_ext.files import make_folder, write_whole
from sae_lens_ext.ranks import current_ranks

RUNS_IN_RANKS = True
"""Under torchrun the ranks divide the comparisons and the text, and the first one writes."""
NO_TEXT = "none"

DESCRIPTION = """\
Measure which latents come back when an SAE is trained from other seeds: p̂ with every SAE as the anchor, a null, error bars.

  sae-lens-ext train --architecture topk --seeds 0,1,2,3,4,5,6,7 --output_path my_seeds ...
  sae-lens-ext stability my_seeds --out my_stability

SAEs of several architectures in one folder (topk_seed_0, …, kron_seed_0, …) are measured architecture by architecture.

Many SAEs are divided over processes, each with a GPU of its own, by

  torchrun --nproc-per-node 8 -m sae_lens_ext stability my_seeds --device cuda --out my_stability
"""


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's parser."""
    parser = verbs.add_parser(
        "stability",
        help="which latents come back in SAEs trained from other seeds",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="an SAE, or a folder of SAEs such as `train --seeds` writes",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.7, help="cosine that counts as the same (default: %(default)s)"
    )
    parser.add_argument(
        "--text",
        help="what to count firings on: embedded:NAME, a file, a folder or a data set of the hub's, its held-out tenth; "
        '"none" to let dead latents count (default: what the SAEs were trained on, as far as they say)',
    )
    parser.add_argument(
        "--tokens", type=int, default=65_536, help="tokens to count firings on (default: %(default)s)"
    )
    parser.add_argument(
        "--min-firing-rate",
        type=float,
        help="least share of tokens for a latent to count (default: 100 firings)",
    )
    parser.add_argument("--model", help="embedded, or a model of the hub's (default: the SAEs')")
    parser.add_argument(
        "--model-class",
        help="TransformerBridge, HookedTransformer, AutoModelForCausalLM (default: the SAEs')",
    )
    parser.add_argument(
        "--out", type=Path, help="folder to write the report (JSON, tensors) and its picture (HTML) into"
    )
    parser.add_argument("--device", default="cpu", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the null and the text (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure as the options say."""
    quieten()
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise CommandError(f"--out {options.out} is a file. Give a folder.")
    device = usable_device(options.device)
    groups = {
        group: {name: load_sae(path, device=device) for name, path in members.items()}
        for group, members in groups_of(options.folders).items()
    }
    texts: dict[tuple[Any, ...], _Text | None] = {}
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
        print(_summary(group, report))
        if options.out is not None and current_ranks().is_first:
            _write(options.out, group, report)


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


def _write(out: Path, group: str, report: StabilityReport) -> None:
    make_folder(out)
    report.save(out / f"{group}.json")
    page = report.plot().update_layout(title=f"{group}: feature stability").to_html(include_plotlyjs=True)
    write_whole(out / f"{group}.html", page)
    print(f"\nReport: {out / group}.json    Picture: {out / group}.html")
