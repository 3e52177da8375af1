"""The page of a repository of SAEs: what they are, and the lines that load them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_lens import SAE

from sae_lens_ext.architectures.catalogue import cite, list_architectures, summary
from sae_lens_ext.hub.facts import Facts
from sae_lens_ext.hub.markdown import cell
from sae_lens_ext.hub.material import facts_by_id
from sae_lens_ext.hub.names import MAIN, by_id, require_repo_id, require_revision
from sae_lens_ext.hub.usage import loading, usage

INSTALL = "pip install sae-lens-ext"
_TAGS = ("sparse-autoencoder", "saelens", "mechanistic-interpretability")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_COLUMNS = (
    "id",
    "architecture",
    "trained as",
    "hook",
    "d_in",
    "d_sae",
    "k",
    "parameters",
    "dtype",
    "fingerprint",
)
_NUMBERS = ("d_in", "d_sae", "parameters")
_SHOWN = 12  # characters of a fingerprint


def model_card(
    saes: SAE[Any] | str | Path | Mapping[str, SAE[Any] | str | Path],
    repo_id: str,
    *,
    revision: str | None = None,
    license: str | None = None,
    install: str = INSTALL,
) -> str:
    """Write the card that `upload_to_hub` puts beside SAEs, without asking the hub anything.

    Args:
        saes: SAEs, or the folders they are saved in, by the ids they shall have; or one of them alone (see `upload_to_hub`).
        repo_id: Where they will be, "user/name".
        revision: The branch; None for the main one, the only one that `SAE.from_pretrained` reads. The card of another says how to load from that.
        license: Their licence, as the hub abbreviates it, such as "mit"; None to state none.
        install: The line by which a reader gets this package, where an SAE needs it.

    Returns:
        Markdown, with YAML before it.

    Raises:
        FileNotFoundError: A folder or a file of it is missing.
        ValueError: An SAE is damaged or a checkpoint of training, or an argument is not what it should be; the message says which.
    """
    repo_id, revision = require_repo_id("model_card", repo_id), require_revision("model_card", revision)
    require_words("model_card", license, install)
    facts = facts_by_id("model_card", by_id("model_card", saes))
    return card_of(facts, repo_id, revision=revision, license=license, install=install)


def require_words(caller: str, license: Any, install: Any) -> None:
    """Raise ValueError unless a licence is an abbreviation or None, and the line of installing a line."""
    if license is not None and not (isinstance(license, str) and _LICENSE.fullmatch(license)):
        raise ValueError(
            f'{caller} was given license = {license!r:.100}, which is no abbreviation of the hub\'s. Give one such as "mit", "apache-2.0" or "other", or None.'
        )
    if not isinstance(install, str) or not install.strip() or not install.isprintable() or "```" in install:
        raise ValueError(
            f'{caller} was given install = {install!r:.100}. Give one line that a reader can copy, such as "{INSTALL}".'
        )


def card_of(facts: Sequence[Facts], repo_id: str, *, revision: str, license: str | None, install: str) -> str:
    """Write the card of SAEs that have been described; the arguments are as those of `model_card`."""
    names = _architectures(facts)
    parts = [
        _front_matter(facts, license),
        f"# {repo_id.partition('/')[2]}",
        f"{_number(facts)} for [SAELens](https://github.com/decoderesearch/SAELens){_of_models(facts)}.",
        _table(facts),
        "The fingerprint is the beginning of `sae_lens_ext.weights_fingerprint(sae)`, a hash of the weights, rounded to bfloat16, and of the settings that "
        "decide what is made of them.",
        "## Loading",
        *loading(facts, repo_id, "" if revision == MAIN else revision, install),
        *usage(facts, repo_id, "" if revision == MAIN else revision),
    ]
    if names:
        parts += ["## Architectures", "\n".join(f"- `{name}`: {summary(name)}" for name in names)]
        parts += ["## Citing", "\n\n".join(f"```bibtex\n{entry}\n```" for entry in _once(map(cite, names)))]
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: Sequence[Facts], license: str | None) -> str:
    """Give the YAML that the hub reads; JSON's strings are YAML's as well."""
    lines = ["---", "library_name: saelens"]
    lines += [] if license is None else [f"license: {json.dumps(license)}"]
    models = _once(fact.model_name for fact in facts if _is_on_the_hub(fact.model_name))
    lines += ["base_model:", *(f"- {json.dumps(model)}" for model in models)] if models else []
    names = (name for fact in facts for name in (fact.architecture, fact.trained_as) if name)
    tags = _once((*_TAGS, *(name.replace("_", "-") for name in names)))
    return "\n".join([*lines, "tags:", *(f"- {json.dumps(tag)}" for tag in tags), "---"])


def _is_on_the_hub(model_name: str | None) -> bool:
    """Whether a model's name can be one of the hub's: of a namespace, and no folder of this machine."""
    return bool(model_name and _HUB_ID.fullmatch(model_name) and not Path(model_name).exists())


def _architectures(facts: Sequence[Facts]) -> list[str]:
    """Give the names of ours, of which there is something to say."""
    known = set(list_architectures())
    return sorted({name for fact in facts for name in (fact.architecture, fact.trained_as) if name in known})


def _number(facts: Sequence[Facts]) -> str:
    return "A sparse autoencoder" if len(facts) == 1 else f"{len(facts)} sparse autoencoders"


def _of_models(facts: Sequence[Facts]) -> str:
    models = _once(fact.model_name for fact in facts if fact.model_name)
    if not models:
        return ""
    return f", trained on activations of {', '.join(cell(model) for model in models)}"


def _table(facts: Sequence[Facts]) -> str:
    rows = [
        (
            f"`{fact.sae_id}`",
            cell(fact.architecture),
            cell(fact.trained_as or ""),
            cell(fact.hook_name or ""),
            str(fact.d_in),
            str(fact.d_sae),
            cell(fact.k),
            f"{fact.parameters:,}",
            cell(fact.dtype),
            f"`{fact.fingerprint[:_SHOWN]}`",
        )
        for fact in facts
    ]
    empty = {name for i, name in enumerate(_COLUMNS) if not any(row[i] for row in rows)}
    kept = [i for i, name in enumerate(_COLUMNS) if name not in empty]
    lines = [[_COLUMNS[i] for i in kept], ["--:" if _COLUMNS[i] in _NUMBERS else "---" for i in kept]]
    lines += [[row[i] for i in kept] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _once(items: Iterable[str | None]) -> list[str]:
    """Give each text once, in the order of the first."""
    return [item for item in dict.fromkeys(items) if item is not None]
