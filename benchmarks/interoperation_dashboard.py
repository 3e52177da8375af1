"""SAE-Dashboard on saved SAEs, in an environment of its own: a page and a JSON of some features of each.

    python interoperation_dashboard.py INPUTS OUT.json PAGES [--with-sae-lens-ext]

Started by interoperation.py. Imports nothing of sae_lens_ext but where the option asks for it: it then reads what only that loads. The features shown are those that fire most, among those that fire on
at most one token in a hundred; of the native stack as many of the residual's latents as of the base's.
"""

import argparse
import importlib.util
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from interoperation_model import hooked
from plain_kron import PlainKron
from sae_dashboard.data_writing_fns import save_feature_centric_vis
from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner
from sae_lens import SAE, HookedSAETransformer

N_FEATURES, DENSEST = 6, 0.01
VERSIONS = (
    "sae-dashboard", "sae-lens", "transformer-lens", "transformers", "torch", "numpy", "datasets", "pyarrow"
)  # fmt: skip


def main() -> None:
    """Make the pages and write their numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("pages", type=Path)
    parser.add_argument("--with-sae-lens-ext", action="store_true")
    options = parser.parse_args()
    inputs = json.loads((options.inputs / "inputs.json").read_text())
    model = hooked(inputs["model_folder"], inputs["model_name"], kind=HookedSAETransformer)
    by_text = {text: contexts(options.inputs / "core" / text) for text in inputs["core_texts"]}
    tokens = torch.cat(list(by_text.values()))
    special = torch.tensor([model.tokenizer.bos_token_id])
    found: dict[str, Any] = {
        "versions": {name: version(name) for name in VERSIONS},
        "sae_lens_ext_is_importable": importlib.util.find_spec("sae_lens_ext") is not None,
        "contexts": len(tokens),
        "ce_loss": {text: cross_entropy(model, rows, special) for text, rows in by_text.items()},
        "saes": {},
    }
    options.pages.mkdir(parents=True, exist_ok=True)
    if options.with_sae_lens_ext:
        import sae_lens_ext

        found["sae_lens_ext"] = sae_lens_ext.__version__
    for name in ("kron", "residual_stack") if options.with_sae_lens_ext else inputs["saes"]:
        folder = options.inputs / "saes" / name
        plain = name == "kron" and not options.with_sae_lens_ext
        sae = PlainKron(folder) if plain else SAE.load_from_disk(folder)
        try:
            found["saes"][name] = dashboard(sae, name, model, tokens, special, options.pages)
        except Exception as error:  # what does not work is a result as well
            found["saes"][name] = {"error": f"{type(error).__name__}: {error}"}
        print(name, found["saes"][name], flush=True)
    found["sae_lens_ext_was_imported"] = "sae_lens_ext" in sys.modules
    options.out.write_text(json.dumps(found, indent=1) + "\n")


def contexts(folder: Path) -> torch.Tensor:
    """Read contexts of tokens [N, context]."""
    return torch.tensor([json.loads(line)["tokens"] for line in (folder / "train.jsonl").open()])


@torch.no_grad()
def cross_entropy(model: Any, tokens: torch.Tensor, special: torch.Tensor) -> float:
    """Give the model's mean loss on predictions made at tokens that are not special, in nats."""
    losses = torch.cat([model(rows, return_type="loss", loss_per_token=True) for rows in tokens.split(8)])
    return losses[~torch.isin(tokens[:, :-1], special)].mean().item()


@torch.no_grad()
def latents(
    sae: Any, model: Any, tokens: torch.Tensor, special: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give how often each latent fires and its largest value, special tokens left out."""
    hook = sae.cfg.metadata.hook_name
    fired, largest, n_tokens = 0, torch.zeros(sae.cfg.d_sae), 0
    for rows in tokens.split(8):
        _, cache = model.run_with_cache(rows, names_filter=[hook], prepend_bos=False)
        acts = sae.encode(cache[hook])[~torch.isin(rows, special)]
        fired = fired + (acts > 0).sum(dim=0)
        largest = torch.maximum(largest, acts.max(dim=0).values)
        n_tokens += len(acts)
    return fired / n_tokens, largest


def chosen(name: str, rates: torch.Tensor) -> list[int]:
    """Give the latents to show."""
    parts = [(0, len(rates))]
    if name == "residual_stack_native":
        parts = [(0, 2048), (2048, len(rates))]
    features = []
    for start, stop in parts:
        part = rates[start:stop].clone()
        part[part > DENSEST] = 0
        features += (part.topk(N_FEATURES // len(parts)).indices + start).tolist()
    return features


def dashboard(
    sae: Any, name: str, model: Any, tokens: torch.Tensor, special: torch.Tensor, pages: Path
) -> dict[str, Any]:
    """Make one SAE's page and JSON, and compare what they show with the SAE itself."""
    rates, largest = latents(sae, model, tokens, special)
    features = chosen(name, rates)
    cfg = SaeVisConfig(
        hook_point=sae.cfg.metadata.hook_name,
        features=features,
        minibatch_size_tokens=16,
        ignore_tokens=set(special.tolist()),
    )
    started = time.monotonic()
    data = SaeVisRunner(cfg).run(encoder=sae, model=model, tokens=tokens)
    page, raw = pages / f"{name}.html", pages / f"{name}.json"
    save_feature_centric_vis(data, page)
    data.save_json(raw)
    seconds = time.monotonic() - started
    shown = {}
    for feature, its in data.feature_data_dict.items():
        groups = its.sequence_data.seq_group_data
        best = max(groups[0].seq_data, key=lambda sequence: max(sequence.feat_acts))
        peak = best.feat_acts.index(max(best.feat_acts))
        shown[str(feature)] = {
            "rate": rates[feature].item(),
            "largest_activation": largest[feature].item(),
            "largest_activation_on_the_page": float(groups[0].title.rpartition("=")[2]),
            "largest_activation_in_its_contexts": max(best.feat_acts),
            "peak": model.tokenizer.decode([best.token_ids[peak]]),
            "context": model.tokenizer.decode(best.token_ids),
            "promotes": [
                model.tokenizer.decode([token]) for token in its.logits_table_data.top_token_ids[:4]
            ],
        }
    return {
        "class": type(sae).__name__,
        "features": len(features),
        "html_bytes": page.stat().st_size,
        "json_bytes": raw.stat().st_size,
        "seconds": round(seconds, 1),
        "shown": shown,
    }


if __name__ == "__main__":
    main()
