"""The help as a newcomer reads it: every verb listed once, lines that fit, examples that work, flags that mean one thing."""

import argparse
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sae_lens_ext import __version__
from sae_lens_ext.cli import train
from sae_lens_ext.cli.app import EPILOG, VERBS, build_parser, main
from sae_lens_ext.cli.flags import take_switch

PARSER = build_parser()
PAGE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text()
COLUMNS = 80
ONE_IS_REQUIRED = ("start",)  # of flow: or --all
OWN_PARSER = "train"  # reads its words by SAELens' parser


def actions(verb: str) -> list[argparse.Action]:
    """A verb's arguments, but for --help."""
    return [action for action in PARSER.verbs[verb]._actions if action.dest != "help"]


def test_every_verb_is_in_one_group_of_the_help() -> None:
    lines = PARSER.format_help().partition("\nexamples\n")[0].splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert Counter(listed) == Counter(list(PARSER.verbs))
    assert [line for line in lines if line in VERBS] == list(VERBS)
    modules = [module for group in VERBS.values() for module in group]
    assert len(modules) == len(set(modules))


def test_the_help_fits_a_terminal() -> None:
    texts = [PARSER.format_help()]
    texts += [text for verb in PARSER.verbs.values() for text in (verb.description, verb.epilog) if text]
    assert [line for text in texts for line in text.splitlines() if len(line) > COLUMNS] == []


def test_a_verb_s_help_is_where_its_module_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capsys.readouterr().out == PARSER.format_help()
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"sae-lens-ext {__version__}\n"


@pytest.mark.parametrize("verb", PARSER.verbs)
def test_a_verb_says_what_comes_out(verb: str) -> None:
    description, epilog = PARSER.verbs[verb].description, PARSER.verbs[verb].epilog
    assert description and re.search(r"\b(Prints?|a line each|Describe)\b", description)
    assert epilog and epilog.startswith("examples:\n  sae-lens-ext " + verb)


def test_the_page_has_a_part_and_an_example_for_every_verb() -> None:
    headings = {name for line in re.findall(r"^## (.*)$", PAGE, re.MULTILINE) for name in line.split(", ")}
    assert set(PARSER.verbs) <= headings
    assert all(f"\nsae-lens-ext {verb}" in PAGE for verb in PARSER.verbs)


def examples() -> Iterator[str]:
    """Every example of the help and of the page on the command line, each as one line."""
    for text in (EPILOG, *(verb.epilog or "" for verb in PARSER.verbs.values()), PAGE):
        for line in text.replace("\\\n", " ").splitlines():
            if re.match(r"(  )?(sae-lens-ext|torchrun) ", line) and not {"…", "..."} & set(line.split()):
                yield line.partition(" 2>")[0].strip()


@pytest.mark.parametrize("line", list(examples()))
def test_an_example_parses(line: str) -> None:
    words = shlex.split(line)
    words = words[words.index("sae_lens_ext" if words[0] == "torchrun" else "sae-lens-ext") + 1 :]
    if words[0] == OWN_PARSER:
        cfg, seeded, _ = train.read_words(take_switch(words[1:], "--json")[0])
        assert cfg.hook_name.startswith("blocks.") and cfg.output_path in ("my_sae", "my_seeds")
        assert (seeded is not None) == ("--seeds" in words)
    else:
        assert PARSER.parse_args(words).verb == words[0]


@pytest.mark.parametrize("verb", [verb for verb in PARSER.verbs if verb != OWN_PARSER])
def test_a_flag_says_what_it_is_without_it(verb: str) -> None:
    for action in actions(verb):
        assert action.help, action
        if action.option_strings and action.nargs != 0 and not action.required:
            assert "(default: " in action.help or action.dest in ONE_IS_REQUIRED, action.option_strings


def test_flags_of_one_name_take_one_kind_of_value() -> None:
    kinds: dict[str, set[tuple[object, object]]] = {}
    for verb in PARSER.verbs:
        for action in actions(verb):
            for flag in action.option_strings:
                kinds.setdefault(flag, set()).add((action.type, action.nargs))
    assert {flag for flag, found in kinds.items() if len(found) > 1} == set()
    assert all(re.fullmatch("--[a-z]+(-[a-z]+)*", flag) for flag in kinds)


@pytest.mark.parametrize(
    ("words", "old", "name", "value"),
    [
        (["steer", "sae", "--prompt", "a"], "--index", "feature", 3),
        (["quickstart"], "--dataset", "text", "3"),
        (["train-lime", "--text", "a", "--out", "b"], "--tokens", "training_tokens", 3),
        (
            ["train-vectors", "a", "--reward", "boxed", "--out", "b"],
            "--batch-size",
            "micro_batch_size",
            3,
        ),
    ],
)
def test_an_old_spelling_works_and_is_not_shown(
    words: list[str], old: str, name: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert getattr(PARSER.parse_args([*words, old, "3"]), name) == value
    assert getattr(PARSER.parse_args([*words, f"{old}=3"]), name) == value
    help_text = PARSER.verbs[words[0]].format_help()
    assert not re.search(rf"(?<![\w-]){old}\b", help_text) and f"--{name.replace('_', '-')}" in help_text
    with pytest.raises(SystemExit):
        PARSER.parse_args([*words, old])
    assert f"argument --{name.replace('_', '-')}: expected one argument" in capsys.readouterr().err


def test_train_takes_the_flags_of_the_other_verbs() -> None:
    words = ["--architecture", "topk", "--k", "4", "--log_to_wandb", "false"]
    given = ["--out", "o", "--model=m", "--model-class", "HookedTransformer", "--hook", "h", "--text", "t=1"]
    cfg, _, _ = train.read_words([*words, *given])
    found = (cfg.output_path, cfg.model_name, cfg.model_class_name, cfg.hook_name, cfg.dataset_path)
    assert found == ("o", "m", "HookedTransformer", "h", "t=1")
