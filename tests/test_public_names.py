"""The public functions speak one language: the same word for the same thing, in the same order, with the same default.

A new function that breaks a rule is mended; if it is right as it is, it joins the exceptions below, with the reason.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sae_lens_ext as ext
from sae_lens_ext.lazy_names import MODULE_OF, NEW_NAME_OF
from sae_lens_ext.renamed import renamed_arguments
from tests.reliability.files.results import saved_results

FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(ext, name) for name in ext.__all__ if not inspect.isclass(getattr(ext, name))
}
CLASSES: dict[str, type] = {name: getattr(ext, name) for name in ext.__all__ if name not in FUNCTIONS}

ORDER = (
    {"cfg", "model"},
    {"sae", "saes", "sae_a", "sae_b", "sae_from", "sae_to", "stack", "sites", "target", "graph"}
    | {"vector", "vectors", "intervention_of", "routers", "report"},
    {"strength", "strengths", "start", "starts"},
    {"texts", "prompts", "tokens", "sequences", "activations", "examples", "path"},
    {"reward", "k", "ks", "hook_name", "mode"},
)
"""Who comes before whom among the arguments that may be given by position: what is looked at, what with, on what."""

BY_NAME_ALONE = {
    *("seed", "show_progress", "autocast", "device", "dtype", "batch_size", "batch_size_tokens", "folder"),
    *("context_size", "max_tokens", "max_new_tokens", "temperature", "n_resamples", "thresholds", "null"),
}

NOT_SAID = {
    "batch_size_prompts": "batch_size, contexts or sequences that the model reads at once",
    "folds": "n_folds",
    "n_bootstrap": "n_resamples, bootstrap samples",
    "n_boot": "n_resamples, bootstrap samples",
    "samples": "samples_per_prompt",
    "texts_or_tokens": "texts, which may be token ids where the function says so",
    "progress": "show_progress",
    "verbose": "show_progress",
    "random_state": "seed",
    "dictionaries": "saes",
    "hook_point": "hook_name, as in SAELens and TransformerLens",
    "hook": "hook_name, as in SAELens and TransformerLens",
    "documents": "texts",
    "learning_rate": "lr, as in SAELens",
    "n_steps": "steps",
    "out": "folder for a folder, path for a file",
    "caller": "nothing: who calls is no concern of the user's",
}
"""Words for which there is another one."""

DIFFERENT = {
    "activations": "budget_curve takes batches as well, so that they need not fit into memory",
    "alpha": "collapse_report takes several, as it measures all of them in one pass",
    "batch_size": "what fits into memory: rows of logits, of latents or of completions",
    "batch_size_tokens": "a training step, or as many as are encoded at once",
    "clip": "that of the language model may be left out",
    "device": "flow_map leaves the SAEs where they are, what is loaded goes somewhere",
    "domain": "a name among texts, or in mix_datasets the domain's data set",
    "dtype": "a loaded SAE keeps its own, the embedded model has none of its own",
    "features": "of one site, of several by hook name, or in separability examples, as the probe's features",
    "firing_rates": "pool_features has its own SAEs and the references', which only names tell apart",
    "layers": "flow_steering takes a number of layers as well, as the paper gives it",
    "lr": "steering vectors may have one for each layer",
    "max_new_tokens": "dose_response has the length of the paper's protocol",
    "max_tokens": "from 16k where a number is a mean over tokens, 64k where rare latents are to be seen",
    "measure": "what is drawn, or how two vectors are compared",
    "micro_batch_size": "rollouts are always split, the batches of a language model where asked for",
    "mode": "what steering is to do, or which paths a vector takes",
    "model": "the functions on decoder rows alone need one for SAEs of attention heads alone",
    "n_contexts": "a page shows fewer than a table",
    "n_draws": "a draw of the masking curve runs the model, one of the subspaces does not",
    "n_resamples": "2,000 where nothing but rewards that are there is resampled",
    "n_shuffles": "a shuffle of the probe trains it anew",
    "n_tokens": "how much to train on, or in top_activations how many tokens to list",
    "pairs": "which SAEs are compared, or in pair_gains the rewards of pairs of layers",
    "prompts": "path_patching measures rewards only if it is given both prompts and reward",
    "reward": "path_patching measures rewards only if it is given both prompts and reward",
    "routers": "needed where they are read, optional where a model may have none",
    "sae": "with_k gives the class it was given",
    "saes": "evaluate_domains names its rows by the mapping and loads nothing; the hub takes one alone as well",
    "samples_per_prompt": "dose_response repeats each sample at every strength",
    "sequences": "path_patching measures rewards only, if it is given none",
    "sites": "SAEs along the stream; in collapse_report and its picture kinds of sites of the model",
    "start": "the feature a trace starts from, or the vectors a training starts from",
    "starts": "flow_steering takes those of the graph by default, and one alone as well",
    "temperature": "dose_response has that of the paper's protocol",
    "texts": "some compare several texts by name, some one; some need no tokenizer if given token ids",
    "tokens": "token ids; in persistence and propagated_effect which of the tokens count",
    "top_k": "the number that is looked at by default differs with what is ranked",
    "vectors": "the lens reads any vectors, the others what can be added to a model",
    "warmup": "each of the two trainings has its paper's",
    "weight_decay": "each of the two trainings has its paper's",
    "window": "steps of a running mean, or tokens shown, which a circuit has fewer of",
    "words": "a behaviour counts words of a text, collapse_report seeks tokens",
}
"""Arguments of one name whose types or defaults differ, and why."""

NO_SUCH_METHOD = {
    ("ArithmeticExamples", "plot"): "it is data, made anew from its seed",
    ("ArithmeticExamples", "save"): "it is data, made anew from its seed",
    ("ArithmeticExamples", "load"): "it is data, made anew from its seed",
    (
        "BudgetCurve",
        "save",
    ): "it is of the architectures, which know nothing of the files of analyses; to_frame() has all of it",
    ("BudgetCurve", "load"): "see save",
    ("LimeRouters", "provenance"): "it is a module with weights, no result",
    ("NewLatents", "plot"): "texts to read: write_html makes the page",
    ("TrainingLog", "save"): "the training writes it, line by line",
    ("TrainingLog", "provenance"): "the vectors beside it have it",
}
"""What a result class lacks, and why."""


def parameters(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    yield from inspect.signature(function).parameters.values()


def annotation(parameter: inspect.Parameter) -> str:
    """An annotation without the modules of its names, so that a quoted one is equal to one that is not."""
    given = parameter.annotation
    text = given if isinstance(given, str) else inspect.formatannotation(given)
    return re.sub(r"\b(?:\w+\.)+|['\"]", "", text)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_given_by_position_comes_in_the_one_order(name: str) -> None:
    ranks = [
        next((rank for rank, words in enumerate(ORDER) if p.name in words), None)
        for p in parameters(FUNCTIONS[name])
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    known = [rank for rank in ranks if rank is not None]
    assert known == sorted(known), f"{name}: see ORDER"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_settings_are_given_by_name_and_seed_and_show_progress_are_last(name: str) -> None:
    found = list(parameters(FUNCTIONS[name]))
    for parameter in found:
        if parameter.name in BY_NAME_ALONE:
            assert parameter.kind is parameter.KEYWORD_ONLY, f"{name}: give {parameter.name} by name alone"
            assert parameter.default is not parameter.empty, f"{name}: {parameter.name} has a default"
    names = [parameter.name for parameter in found]
    last = [word for word in ("seed", "show_progress") if word in names]
    assert names[len(names) - len(last) :] == last, f"{name}: seed and show_progress come last"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_there_is_one_word_for_one_thing(name: str) -> None:
    for parameter in parameters(FUNCTIONS[name]):
        assert parameter.name not in NOT_SAID, f"{name}: say {NOT_SAID[parameter.name]}"


def test_an_argument_has_one_type_and_one_default_everywhere() -> None:
    told: dict[str, dict[tuple[str, str], list[str]]] = {}
    for name, function in FUNCTIONS.items():
        for p in parameters(function):
            default = "" if p.default is p.empty else repr(p.default)
            told.setdefault(p.name, {}).setdefault((annotation(p), default), []).append(name)
    differing = {argument: ways for argument, ways in told.items() if len(ways) > 1}
    unexplained = {argument: ways for argument, ways in differing.items() if argument not in DIFFERENT}
    assert not unexplained, "make them the same, or give the reason in DIFFERENT"
    assert set(DIFFERENT) <= set(differing), "these are the same by now: take them out of DIFFERENT"


def test_every_result_is_a_table_a_figure_and_a_file() -> None:
    results = {name: cls for name, cls in CLASSES.items() if hasattr(cls, "to_frame") or hasattr(cls, "load")}
    lacking = {
        (name, method)
        for name, cls in results.items()
        for method in ("to_frame", "plot", "save", "load", "provenance")
        if not hasattr(cls, method) and method not in getattr(cls, "__dataclass_fields__", {})
    }
    lacking -= {("SteeringVectors", "provenance")}  # a field of a class that is no dataclass
    assert lacking == set(NO_SUCH_METHOD)


def test_every_result_that_can_be_saved_is_public() -> None:
    for result in saved_results():
        name = type(result).__name__
        assert CLASSES.get(name) is type(result), f"{name} cannot be loaded without knowing its module"


def test_every_public_function_is_told_of_in_the_documentation() -> None:
    root = Path(__file__).parents[1]
    told = "".join(path.read_text() for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))))
    assert [name for name in FUNCTIONS if not re.search(rf"\b{name}\b", told)] == []


@pytest.mark.parametrize("old", NEW_NAME_OF)
def test_old_names_go_on_working_and_say_the_new_one(old: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"sae_lens_ext.{old} is called {NEW_NAME_OF[old]} now"):
        found = getattr(ext, old)
    assert found is getattr(ext, NEW_NAME_OF[old]) and old not in ext.__all__ and old not in MODULE_OF


def test_a_renamed_argument_is_taken_by_its_old_name_too() -> None:
    @renamed_arguments(seeds="starts")
    def give(graph: str, *, starts: int = 0) -> tuple[str, int]:
        return graph, starts

    assert give("a", starts=1) == ("a", 1) and list(inspect.signature(give).parameters) == ["graph", "starts"]
    with pytest.warns(DeprecationWarning, match="seeds of give is called starts now"):
        assert give("a", seeds=2) == ("a", 2)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="given both starts and seeds, which is the old name of starts"):
        give("a", starts=1, seeds=2)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        give("a", start=1)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("function", "old", "new"),
    [("measure_reward", "samples", "samples_per_prompt"), ("flow_steering", "seeds", "starts")],
)
def test_documented_arguments_go_on_working_by_their_old_names(function: str, old: str, new: str) -> None:
    assert new in inspect.signature(FUNCTIONS[function]).parameters
    with (
        pytest.warns(DeprecationWarning, match=f"{old} of {function} is called {new} now"),
        pytest.raises((ValueError, TypeError)),  # the rest of the call is nonsense
    ):
        FUNCTIONS[function](None, None, None, **{old: 1})
