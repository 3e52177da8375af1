"""`upload`: publish SAEs on the Hugging Face hub, with a card that says how they are loaded."""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME

from sae_lens_ext.asides import is_aside
from sae_lens_ext.cli.answer import give, say
from sae_lens_ext.cli.errors import CommandError
from sae_lens_ext.cli.quiet import quieten
from sae_lens_ext.cli.verb_parser import add_verb
from sae_lens_ext.hub import HubUpload, model_card, upload_to_hub
from sae_lens_ext.hub.card import INSTALL
from sae_lens_ext.hub.upload import Existing

DESCRIPTION = """\
Put saved SAEs into a repository of the Hugging Face hub, where
SAE.from_pretrained("user/name", "id") finds them, with a card (README.md) that
says what they are and holds the lines that load them. Everything is checked
before anything is sent.

Prints what was sent, what was there already, and what became of the card.

FOLDER holds one SAE, whose id will be the folder's name, or several, whose ids
will be their paths in it. The token is that of `hf auth login` or of HF_TOKEN.
Interrupted, the same command goes on.
"""
EXAMPLES = (
    "sae-lens-ext upload my_saes --repo me/my-saes --card-only",
    "sae-lens-ext upload my_saes --repo me/my-saes --license mit --private",
    "sae-lens-ext upload k_32=run_7/sae code=python_run/saes/python \\\n    --repo me/my-saes --json",
)


def add_parsers(verbs: Any) -> None:
    """Add the verb to the command's parser."""
    parser = add_verb(
        verbs,
        "upload",
        run,
        help="publish SAEs on the Hugging Face hub, with a card",
        description=DESCRIPTION,
        examples=EXAMPLES,
    )
    parser.add_argument("folders", nargs="+", metavar="[ID=]FOLDER", help="saved SAEs, and what to call them")
    parser.add_argument(
        "--repo", required=True, metavar="USER/NAME", help="the repository; made if it is not there"
    )
    parser.add_argument(
        "--private",
        action="store_true",
        default=None,
        help="make it private; refused if it is there and public",
    )
    parser.add_argument(
        "--revision",
        metavar="BRANCH",
        help="the branch; SAE.from_pretrained reads the main one only (default: main)",
    )
    parser.add_argument(
        "--license",
        metavar="NAME",
        help="of the SAEs, as the hub abbreviates it, such as mit (default: none)",
    )
    parser.add_argument(
        "--card", type=Path, metavar="FILE", help="the card's text (default: written from the SAEs)"
    )
    parser.add_argument(
        "--install",
        default=INSTALL,
        metavar="LINE",
        help="how a reader gets this package, where an SAE needs it (default: %(default)s)",
    )
    parser.add_argument(
        "--existing",
        choices=get_args(Existing),
        default="refuse",
        help="what to do with something else there under these names, the card included (default: %(default)s)",
    )
    parser.add_argument("--card-only", action="store_true", help="print the card and send nothing")


def run(options: argparse.Namespace) -> None:
    """Upload, or print the card.

    Raises:
        CommandError: The folders or the options do not do.
    """
    quieten()
    saes = _by_id(options.folders)
    if options.card_only:
        if options.card is not None:
            raise CommandError(
                "--card-only prints the card that would be written, and --card gives another. Leave one out."
            )
        card = model_card(
            saes, options.repo, revision=options.revision, license=options.license, install=options.install
        )
        say(options, card.rstrip("\n"))
        give(options, {"repo_id": options.repo, "card": card})
        return
    try:
        done = upload_to_hub(
            saes,
            options.repo,
            private=options.private,
            revision=options.revision,
            license=options.license,
            card=None if options.card is None else _text(options.card),
            install=options.install,
            existing=options.existing,
        )
    except KeyboardInterrupt as stop:
        print(stop, file=sys.stderr)
        raise
    say(options, "\n".join(_lines(done)))
    give(options, asdict(done))


def _by_id(words: Iterable[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for word in words:
        sae_id, path = _named(word)
        for part, folder in _saes_in(path):
            name = "/".join(filter(None, (sae_id or ("" if part else path.resolve().name), part)))
            if name in found:
                raise CommandError(
                    f"{found[name]} and {folder} would both be called {name!r}. Name one of them otherwise, as {name}_2={folder}."
                )
            found[name] = folder
    return found


def _named(word: str) -> tuple[str, Path]:
    """Take ID=FOLDER apart; a folder that is called so is a folder."""
    if not word or "\0" in word:
        raise CommandError(f"{word!r} names no folder. Give that of a saved SAE.")
    sae_id, equals, folder = word.partition("=")
    if not equals or Path(word).exists():
        return "", Path(word)
    if not sae_id or not folder:
        raise CommandError(f"{word!r} is not ID=FOLDER. Give both, or the folder alone.")
    return sae_id, Path(folder)


def _saes_in(path: Path) -> list[tuple[str, Path]]:
    """Give the SAE in a folder, or those below it by their paths there."""
    if not path.is_dir() or any((path / name).is_file() for name in (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME)):
        return [("", path)]  # where it is none, the upload says what is wrong with it
    found = sorted(cfg.parent for cfg in path.rglob(SAE_CFG_FILENAME))
    saes = [folder for folder in found if not any(map(is_aside, (folder, *folder.parents)))]
    if not saes:
        raise CommandError(
            f"{path} holds no saved SAE, and no folder below it does. Give the folder that save_sae or a training run's output_path wrote."
        )
    return [(folder.relative_to(path).as_posix(), folder) for folder in saes]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--card {path} cannot be read ({error}). Give a text file.") from error


def _lines(done: HubUpload) -> Iterable[str]:
    """Say what was done."""
    yield done.url
    for state, names in (
        ("sent", done.uploaded),
        ("there already", done.unchanged),
        ("not sent, something else is there", done.kept),
    ):
        yield from (f"  {name}: {state}" for name in names)
    yield f"  card: {done.card}"
    if done.others and done.card == "written":
        yield f"The card says nothing of other SAEs that are there: {', '.join(done.others)}."
    if done.card == "kept" and done.uploaded:
        yield "The card that is there was kept, and may say nothing of what was sent. --card-only prints one that does."
