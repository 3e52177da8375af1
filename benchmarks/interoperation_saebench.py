"""SAEBench on saved SAEs, in an environment of its own: `core`, `sparse_probing` and, for Kron, both ways of loading it.

    python interoperation_saebench.py INPUTS OUT.json [--with-sae-lens-ext]

Started by interoperation.py. Imports nothing of sae_lens_ext but where the option asks for it. What stands in for hub data:
the loader of the model, whose name TransformerLens does not know; the data set of `core`, a folder of tokens, with SAELens'
question to the hub about it left out; and what the name of `fancyzhx/ag_news` gives in `sparse_probing`. All else is SAEBench's own code.
"""

import argparse
import importlib.util
import json
import logging
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch
from interoperation_model import hooked
from plain_kron import PlainKron
from sae_bench.evals.core import main as core
from sae_bench.evals.sparse_probing import main as probing
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.sae_bench_utils import dataset_utils, general_utils
from sae_lens import SAE
from sae_lens.training import activations_store

BATCH = 8
AG_NEWS = "fancyzhx/ag_news"  # four classes, as both of our tasks have
CORE_NUMBERS = {
    "reconstruction_quality": ("explained_variance", "explained_variance_legacy", "cossim"),
    "sparsity": ("l0",),
    "model_performance_preservation": (
        "ce_loss_score",
        "ce_loss_without_sae",
        "ce_loss_with_sae",
        "ce_loss_with_ablation",
    ),
    "model_behavior_preservation": ("kl_div_score",),
}
VERSIONS = (
    "sae-bench", "sae-lens", "transformer-lens", "transformers", "torch", "numpy", "datasets", "pyarrow"
)  # fmt: skip


def main() -> None:
    """Run what is asked for and write its numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--with-sae-lens-ext", action="store_true")
    options = parser.parse_args()
    inputs = json.loads((options.inputs / "inputs.json").read_text())
    model = hooked(inputs["model_folder"], inputs["model_name"])
    for module in (core, probing):  # both imported the class by name
        module.HookedTransformer = Loader(model, inputs["model_name"])
    # SAELens asks the hub which tokenizer made a data set of tokens that is named by a path, and stops without an answer.
    activations_store.validate_pretokenized_dataset_tokenizer = lambda **_: None
    found: dict[str, Any] = {"versions": {name: version(name) for name in VERSIONS}}
    if options.with_sae_lens_ext:
        found |= with_sae_lens_ext(options.inputs, inputs)
    else:
        found["sae_lens_ext_is_importable"] = importlib.util.find_spec("sae_lens_ext") is not None
        saes = {name: load(options.inputs / "saes" / name) for name in inputs["saes"]}
        found["classes"] = {name: type(sae).__name__ for name, sae in saes.items()}
        found["unit_rows"] = {
            name: bool(general_utils.check_decoder_norms(sae.W_dec.data)) for name, sae in saes.items()
        }
        found["core"] = run_core(saes, options.inputs, inputs)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        found["sparse_probing"] = run_probing(saes, options.inputs, inputs)
        found["sae_lens_ext_was_imported"] = "sae_lens_ext" in sys.modules
    options.out.write_text(json.dumps(found, indent=1) + "\n")


class Loader:
    """What SAEBench calls to have a model by name."""

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name

    def from_pretrained_no_processing(self, name: str, **settings: Any) -> Any:
        """Give the model that is there."""
        if name != self.name or str(settings["device"]) != "cpu":
            raise ValueError(
                f"The stand-in has {self.name} on the CPU, and was asked for {name}, {settings}."
            )
        return self.model


class Logged(logging.Handler):
    """Keeps the messages that SAEBench logs where it does not stop."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.messages.append(record.getMessage())


def load(folder: Path) -> Any:
    """Load a SAELens folder; a Kron without its package, in plain torch."""
    if json.loads((folder / "cfg.json").read_text())["architecture"] == "kron":
        return PlainKron(folder)
    return SAE.load_from_disk(folder)


def run_core(saes: dict[str, Any], folder: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """Run the `core` evaluation of every SAE on every text, over all of its contexts once."""
    found: dict[str, Any] = {name: {} for name in saes}
    logged = Logged()
    core.logger.addHandler(logged)
    n_batches = inputs["core_contexts"] // BATCH
    for text in inputs["core_texts"]:
        started = time.monotonic()
        results = core.multiple_evals(
            selected_saes=list(saes.items()),
            n_eval_reconstruction_batches=n_batches,
            n_eval_sparsity_variance_batches=n_batches,
            eval_batch_size_prompts=BATCH,
            compute_featurewise_density_statistics=True,  # without these two SAEBench 0.6 cannot save what it found
            compute_featurewise_weight_based_metrics=True,
            exclude_special_tokens_from_reconstruction=True,
            dataset=str(folder / "core" / text),
            context_size=inputs["context_size"],
            output_folder=str(folder / "saebench_results" / "core" / text),
            dtype="float32",
            device="cpu",
            force_rerun=True,
        )
        for name in saes.keys() - {
            result["sae_set"] for result in results
        }:  # SAEBench logs an error and goes on
            found[name][text] = {"error": logged.messages[-1].rpartition(f"{text}: ")[2]}
        for result in results:
            metrics = result["metrics"]
            found[result["sae_set"]][text] = {
                name: metrics[group][name] for group, names in CORE_NUMBERS.items() for name in names
            }
        print(f"core, {text}: {time.monotonic() - started:.0f} s", flush=True)
    for name, sae in saes.items():
        for text in inputs["core_texts"]:
            found[name][text]["explained_variance_by_its_definition"] = true_ev(sae, folder, text)
    return found


@torch.no_grad()
def true_ev(sae: Any, folder: Path, text: str) -> float:
    """Give 1 − Σ‖x − x̂‖² / Σ‖x − mean x‖² over the tokens that `core` counted."""
    path = folder / "activations" / f"{text}.pt"
    if not path.exists():
        rows = [json.loads(line)["tokens"] for line in (folder / "core" / text / "train.jsonl").open()]
        tokens = torch.tensor(rows)
        model = core.HookedTransformer.model
        name = sae.cfg.metadata.hook_name
        _, cache = model.run_with_cache(
            tokens, prepend_bos=False, names_filter=[name], stop_at_layer=sae.cfg.hook_layer + 1
        )
        tokenizer = model.tokenizer
        special = torch.tensor([tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id])
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(cache[name][~torch.isin(tokens, special)], path)
    x = torch.load(path).double()
    error = x - sae.decode(sae.encode(x.float())).double()
    return 1 - (error.pow(2).sum() / (x - x.mean(dim=0)).pow(2).sum()).item()


def run_probing(saes: dict[str, Any], folder: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """Run `sparse_probing` on our labelled texts in the place of AG News."""
    found: dict[str, Any] = {name: {} for name in saes}
    sizes = inputs["per_class"]
    for task in inputs["classes"]:
        files = {split: str(folder / "probing" / task / f"{split}.jsonl") for split in sizes}

        def local(name: str, files: dict[str, str] = files, **_: Any) -> Any:
            if name != AG_NEWS:
                raise ValueError(f"{name!r} has no stand-in.")
            return datasets.load_dataset("json", data_files=files)

        dataset_utils.load_dataset = local
        started = time.monotonic()
        cfg = SparseProbingEvalConfig(
            dataset_names=[AG_NEWS],
            probe_train_set_size=2 * sizes["train"],  # SAEBench takes half of it of every class
            probe_test_set_size=2 * sizes["test"],
            context_length=inputs["context_size"],
            llm_batch_size=16,
            llm_dtype="float32",
            model_name=inputs["model_name"],
        )
        results = probing.run_eval(
            cfg,
            list(saes.items()),
            "cpu",
            str(folder / "saebench_results" / "sparse_probing" / task),
            force_rerun=True,
            artifacts_path=str(folder / "saebench_artifacts" / task),
        )
        for key, result in results.items():
            metrics = result["eval_result_metrics"]
            found[key.removesuffix("_custom_sae")][task] = {
                name: value
                for whose in ("llm", "sae")
                for name, value in metrics[whose].items()
                if value is not None
            }
        print(f"sparse_probing, {task}: {time.monotonic() - started:.0f} s", flush=True)
    return found


@torch.no_grad()
def with_sae_lens_ext(folder: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """Load what needs the package, compare it with what does not, and run `core` on it."""
    import sae_lens_ext

    kron = SAE.load_from_disk(folder / "saes" / "kron")
    stack = SAE.load_from_disk(folder / "saes" / "residual_stack")
    native = SAE.load_from_disk(folder / "saes" / "residual_stack_native")
    plain = PlainKron(folder / "saes" / "kron")
    x = torch.load(folder / "activations" / f"{inputs['core_texts'][0]}.pt")
    return {
        "sae_lens_ext": sae_lens_ext.__version__,
        "classes": {"kron": type(kron).__name__, "residual_stack": type(stack).__name__},
        "tokens_compared": len(x),
        "largest_activation": x.abs().max().item(),
        "plain_kron_largest_difference": (plain(x) - kron(x)).abs().max().item(),
        "native_stack_largest_difference": (native(x) - stack(x)).abs().max().item(),
        "core": run_core(
            {"kron": kron, "residual_stack": stack},
            folder,
            {**inputs, "core_texts": inputs["core_texts"][:1]},
        ),
    }


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=UserWarning)
    main()
