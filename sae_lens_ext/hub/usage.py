"""The lines of a card that a reader copies: they run as they stand."""

from collections.abc import Sequence

from sae_lens_ext.hub.facts import Facts
from sae_lens_ext.hub.markdown import cell, python, quoted

_FLOAT32 = "float32"
OURS = "sae_lens_ext"


def loading(facts: Sequence[Facts], repo_id: str, revision: str, install: str) -> list[str]:
    """Say how the SAEs are loaded, those that need no package besides SAELens first.

    Args:
        facts: What is in the repository.
        repo_id: Its name.
        revision: The branch; empty for the main one.
        install: The line by which a reader gets this package.

    Returns:
        Paragraphs and blocks of code.
    """
    parts: list[str] = []
    for package in sorted({fact.package for fact in facts}, key=lambda name: name or ""):
        group = [fact for fact in facts if fact.package == package]
        ids = ", ".join(f"`{fact.sae_id}`" for fact in group)
        if package is None:
            parts.append(f"With SAELens alone: {ids}.")
        elif package == OURS:
            names = ", ".join(sorted({f"`{fact.architecture}`" for fact in group}))
            parts += [
                f"With the package `{OURS}`, whose import makes {names} known to SAELens: {ids}.",
                f"```bash\n{install}\n```",
            ]
        else:
            parts.append(f"With the package `{package}`, which defines their architecture: {ids}.")
        code = [*_imports(package, revision), *_load("sae", group[0].sae_id, repo_id, revision)]
        parts.append(python(code))
    other = sorted({fact.dtype for fact in facts} - {_FLOAT32})
    if other and not revision:
        named = " or ".join(f'`dtype="{dtype}"`' for dtype in other)
        parts.append(
            f"`SAE.from_pretrained` loads in float32 whatever was saved; {named} keeps what the table says."
        )
    return parts


def usage(facts: Sequence[Facts], repo_id: str, revision: str) -> list[str]:
    """Say what can be done with SAEs that are more, or less, than one dictionary for one budget."""
    parts: list[str] = []
    for fact in facts:
        if fact.budgets:
            parts += _several_budgets(fact, repo_id, revision)
        if fact.base is not None:
            parts += _residual(fact, facts, repo_id, revision)
        if fact.domains:
            parts += _stack(fact, repo_id, revision)
    return parts


def _several_budgets(fact: Facts, repo_id: str, revision: str) -> list[str]:
    smaller = [budget for budget in fact.budgets if budget <= fact.budgets[-1] // 2]
    code = [
        *_imports(OURS, revision),
        *_load("sae", fact.sae_id, repo_id, revision),
        f"sparser = sae_lens_ext.with_k(sae, {(smaller or fact.budgets)[-1]})",
    ]
    return [
        f"### `{fact.sae_id}` at other budgets",
        f"It was trained at once for {_in_words(fact.budgets)}: `with_k` of `{OURS}` gives the same weights at each of them.",
        python(code),
    ]


def _in_words(budgets: Sequence[int]) -> str:
    if len(budgets) > 2 and list(budgets) == list(range(budgets[0], budgets[-1] + 1)):
        return f"every number of latents per token from {budgets[0]} to {budgets[-1]}"
    *first, last = map(str, budgets)
    return f"{', '.join(first)} and {last} latents per token" if first else f"{last} latents per token"


def _residual(fact: Facts, facts: Sequence[Facts], repo_id: str, revision: str) -> list[str]:
    assert fact.base is not None
    fingerprint = str(fact.base.get("weights_sha256"))
    here = [other for other in facts if other.fingerprint == fingerprint]
    release, sae_id = fact.base.get("release"), fact.base.get("sae_id")
    text = (
        f"It predicts what its base SAE leaves over of the activations, and not the activations: by itself it is of no use. Its base has the architecture "
        f"{cell(fact.base.get('architecture'))}, {cell(fact.base.get('d_sae'))} latents and the fingerprint {cell(fingerprint)}, "
    )
    if here:
        text += f"and is `{here[0].sae_id}` of this repository."
        base = _load("base", here[0].sae_id, repo_id, revision)
    elif release and sae_id:
        text += f"and is {cell(sae_id)} of the release {cell(release)}."
        base = [f"base = SAE.from_pretrained({quoted(release)}, {quoted(sae_id)})"]
    else:
        text += "and is not in this repository. A base of other weights is refused."
        base = ['base = SAE.load_from_disk("path/to/the/base")']
    code = [
        *_imports(OURS, revision),
        *base,
        *_load("residual", fact.sae_id, repo_id, revision),
        'stack = sae_lens_ext.ResidualStackSAE.from_saes(base, {"domain": residual})',
    ]
    return [f"### `{fact.sae_id}` on its base", text, python(code)]


def _stack(fact: Facts, repo_id: str, revision: str) -> list[str]:
    names = ", ".join(quoted(domain) for domain in fact.domains)
    code = [
        *_imports(OURS, revision),
        *_load("stack", fact.sae_id, repo_id, revision),
        f"stack.domains  # ({names},)",
        f"stack.active = ({quoted(fact.domains[0])},)",
    ]
    return [
        f"### The domains of `{fact.sae_id}`",
        "It is a base SAE and a residual SAE for each domain, in one. All domains are on unless switched:",
        python(code),
    ]


def _imports(package: str | None, revision: str) -> list[str]:
    lines = [] if package is None else [f"import {package}  # tells SAELens its architectures"]
    lines += ["from huggingface_hub import snapshot_download"] if revision else []
    return [*lines, "from sae_lens import SAE", ""]


def _load(variable: str, sae_id: str, repo_id: str, revision: str) -> list[str]:
    """Load from the main branch as SAELens does, which can read no other."""
    if not revision:
        return [f"{variable} = SAE.from_pretrained({quoted(repo_id)}, {quoted(sae_id)})"]
    return [
        f"folder = snapshot_download({quoted(repo_id)}, revision={quoted(revision)}, allow_patterns={quoted(sae_id + '/*')})",
        f'{variable} = SAE.load_from_disk(f"{{folder}}/{sae_id}")',
    ]
