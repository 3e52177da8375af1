"""`sae-lens-ext flow`: where features come from and what they become, from layer to layer."""

import argparse
import re
from pathlib import Path
from typing import Any

from sae_lens_ext.analysis.flow import FlowGraph, FlowSites, flow_map, top_activations, trace_features
from sae_lens_ext.analysis.flow.graph import Feature
from sae_lens_ext.analysis.flow.origins import summarise_origins
from sae_lens_ext.analysis.flow.sites import KINDS, Kind
from sae_lens_ext.cli.answer import give, say
from sae_lens_ext.cli.common_flags import add_device, add_model, add_model_class, add_seed, add_text
from sae_lens_ext.cli.devices import usable_device
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.json_content import records
from sae_lens_ext.cli.quiet import quieten
from sae_lens_ext.cli.sae_folders import saes_in
from sae_lens_ext.cli.sources import (
    CHARACTERS_PER_TOKEN,
    HELD_OUT_ONE_IN,
    load_any_language_model,
    load_documents,
    split_documents,
)
from sae_lens_ext.cli.trained_on import model_class_of, model_of
from sae_lens_ext.cli.verb_parser import add_verb
from sae_lens_ext.files import make_folder
from sae_lens_ext.ranks import current_ranks

RUNS_IN_RANKS = True
"""Under torchrun the ranks divide the pairs of sites of a whole model, and the first one writes."""

DESCRIPTION = """\
Trace features through the layers by the cosines of decoder rows, without data.

FOLDER holds SAEs of one model's residual stream, and of MLP and attention
outputs, at several layers, each in a folder of its own.

Prints each feature's chain, layer by layer, with its scores; with --text also
what the features fire on; with --all, for each layer, how many features come
from where. --out gets graph.json and, of single features, the interactive page
graph.html and, with --text, activations.json.
"""
EXAMPLES = (
    "sae-lens-ext flow my_saes --start blocks.6.hook_out:123 --out my_flow",
    "sae-lens-ext flow my_saes --start 6/res/123 --start 8/res/40 \\\n"
    "    --text embedded:encyclopedia --out my_flow",
    "sae-lens-ext flow my_saes --all --out my_flow",
    "torchrun --nproc-per-node 8 -m sae_lens_ext flow my_saes --all \\\n    --device cuda --out my_flow",
)

_SHORT = re.compile(r"(\d+)/(res|mlp|att)\w*/(\d+)")


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's parser."""
    parser = add_verb(
        verbs,
        "flow",
        run,
        help="features followed through the layers, without data",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="an SAE, or a folder of SAEs")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder for the graph and its page (default: none)"
    )
    traced = parser.add_argument_group("what is traced")
    what = traced.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--start",
        action="append",
        metavar="FEATURE",
        help="a feature to trace, HOOK:INDEX or LAYER/res/INDEX (also mlp, att); again for more",
    )
    what.add_argument("--all", action="store_true", help="every feature of every layer")
    traced.add_argument(
        "--thresholds",
        choices=("null", "paper", "none"),
        default="null",
        help="from which score on a match counts: what 99 of 100 made-up features do not reach, the paper's 0.5 and 0.15, or any "
        "(default: %(default)s)",
    )
    fires = parser.add_argument_group("what the features fire on")
    add_text(fires, ", its held-out tenth (default: no text)")
    fires.add_argument(
        "--tokens",
        type=int,
        default=65_536,
        metavar="N",
        help="tokens of the text to read (default: %(default)s)",
    )
    add_model(fires, of="the SAEs'")
    add_model_class(fires, "the SAEs'")
    running = parser.add_argument_group("how it runs")
    add_device(running)
    add_seed(running, "the made-up features and the text's order")


def run(options: argparse.Namespace) -> None:
    """Trace as the options say."""
    quieten()
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise CommandError(f"--out {options.out} is a file. Give a folder, or one that does not exist yet.")
    if options.all and options.text is not None:
        raise CommandError("--text is for single features. Give --start, or leave --text out.")
    device = usable_device(options.device)
    sites = FlowSites.open(
        "flow", [path for folder in options.folders for path in saes_in(folder)], device=device
    )
    thresholds = None if options.thresholds == "none" else options.thresholds
    if options.all:
        graph = flow_map(sites, thresholds=thresholds, seed=options.seed)
    else:
        starts = [_feature(word, sites) for word in options.start]
        graph = trace_features(sites, starts, thresholds=thresholds, seed=options.seed, show_progress=False)
        if options.text is not None:
            graph = graph.with_activations(_activations(graph, sites, options))
    say(options, _summary(graph))
    files: dict[str, Path] = {}
    if options.out is not None and current_ranks().is_first:
        files = _write(options.out, graph, page=not options.all)
        for name, path in files.items():
            say(options, f"{_FILES[name]}: {path}")
    give(options, {**_content(graph), "files": files})


def _feature(word: str, sites: FlowSites) -> Feature:
    """Read a feature as the command line names it.

    Raises:
        CommandError: It is no such name, or there is no SAE there.
    """
    short = _SHORT.fullmatch(word)
    if short is not None:
        kind: Kind = next(kind for kind in KINDS if kind.startswith(short[2]))
        hook = sites.at(int(short[1]), kind)
        if hook is None:
            raise CommandError(
                f"--start {word}: there is no {kind} SAE of layer {short[1]}. There are SAEs at {', '.join(sites)}."
            )
        return hook, int(short[3])
    hook, colon, index = word.rpartition(":")
    if not colon or not index.isdigit():
        raise CommandError(
            f"--start {word} is no feature. Give HOOK:INDEX, such as {next(iter(sites))}:12, or LAYER/res/INDEX, such as 6/res/12."
        )
    return sites.name_of(hook), int(index)


def _activations(graph: FlowGraph, sites: FlowSites, options: argparse.Namespace) -> Any:
    """Find what the graph's features fire on."""
    first = sites[next(iter(sites))]
    name = model_of(first, options.model)
    model = load_any_language_model(
        name,
        model_class_of(first, name, options.model_class),
        usable_device(options.device),
        first.cfg.metadata.model_from_pretrained_kwargs,
    )
    documents = load_documents(options.text, HELD_OUT_ONE_IN * CHARACTERS_PER_TOKEN * options.tokens)
    features = graph.feature_indices()
    return top_activations(
        model,
        {hook: sites[hook] for hook in features},
        split_documents(documents)[1] or documents,
        features=features,
        context_size=first.cfg.metadata.context_size or 128,
        max_tokens=options.tokens,
        autocast=True,
        seed=options.seed,
    )


def _summary(graph: FlowGraph) -> str:
    def rounded(number: float) -> str:
        return f"{number:.3f}"

    lines = [repr(graph), *graph.missing, ""]
    nodes = graph.node_frame()
    if not graph.starts:
        known: Any = nodes[nodes["origin"] != ""]
        for layer, part in known.groupby("layer"):
            lines += [
                f"Layer {layer}",
                summarise_origins(part).to_string(index=False, float_format=rounded),
                "",
            ]
        return "\n".join(lines)
    for start in graph.starts:
        lines.append(f"{graph.site(start[0]).short}/{start[1]}")
        chain = [graph.position(feature) for feature in graph.chain(start)]
        table = nodes.iloc[chain].drop(columns=["kind"])
        if graph.activations is not None:
            table["fires on"] = [_fires_on(graph, *graph.nodes[i]) for i in chain]
        lines += [table.to_string(index=False, float_format=rounded, na_rep="–"), ""]
    return "\n".join(lines)


def _content(graph: FlowGraph) -> dict[str, Any]:
    """Give the graph as JSON has it: the chain of each feature it was traced from, or the origins by layer of a whole model's."""
    nodes = graph.node_frame()
    content: dict[str, Any] = {
        "n_nodes": len(graph.node_hook),
        "n_edges": len(graph.edge_score),
        "thresholds": graph.thresholds,
        "missing": graph.missing,
    }
    if not graph.starts:
        known: Any = nodes[nodes["origin"] != ""]
        origins = [
            {"layer": layer, **row}
            for layer, part in known.groupby("layer")
            for row in records(summarise_origins(part))
        ]
        return {**content, "origins": origins}
    chains: list[dict[str, Any]] = []
    for hook, index in graph.starts:
        chain = [graph.position(feature) for feature in graph.chain((hook, index))]
        rows = records(nodes.iloc[chain])
        for i, row in zip(chain, rows, strict=True):
            row["origin"] = row["origin"] or None
            if graph.activations is not None:
                row["fires_on"] = _tokens(graph, *graph.nodes[i])
        chains.append({"start": {"hook": hook, "index": index}, "features": rows})
    return {**content, "chains": chains}


def _fires_on(graph: FlowGraph, hook: str, index: int) -> str:
    return " ".join(repr(token)[1:-1].strip() for token in _tokens(graph, hook, index))


def _tokens(graph: FlowGraph, hook: str, index: int) -> list[str]:
    if graph.activations is None:
        return []
    return [token for token, _ in graph.activations.tokens(hook, index, 5)]


_FILES = {"graph": "Graph", "activations": "What its features fire on", "page": "Page"}


def _write(out: Path, graph: FlowGraph, *, page: bool) -> dict[str, Path]:
    """Write what there is, and say where."""
    files = {"graph": out / "graph.json"}
    make_folder(out)
    graph.save(files["graph"])
    if graph.activations is not None:
        files["activations"] = out / "activations.json"
        graph.activations.save(files["activations"])
    if page:
        files["page"] = out / "graph.html"
        graph.write_html(files["page"])
    return files
