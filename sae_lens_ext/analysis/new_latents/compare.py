"""Show the latents that a residual SAE adds beside the base's most similar ones, by what they fire on.

A residual SAE may learn a concept that its base lacks, or a sibling of one that it has. The cosine of decoder
rows alone does not tell; the texts on which both fire most do.
"""

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import normalize

from sae_lens_ext.analysis.new_latents.result import LatentPair, LatentUse, NewLatents
from sae_lens_ext.analysis.new_latents.search import Findings, LatentReader, reread, search
from sae_lens_ext.analysis.provenance import model_name, tokens_read, versions
from sae_lens_ext.analysis.texts import pack_texts, require_detached, require_texts, special_tokens
from sae_lens_ext.analysis.top_contexts import Context, token_text
from sae_lens_ext.architectures.residual_stack import BASE, ResidualStackSAE
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.language_model import Site, find_hook_point
from sae_lens_ext.ops.chunks import chunks

_CALLER = "compare_new_latents"


@torch.no_grad()
def compare_new_latents(
    model: Any,
    stack: ResidualStackSAE,
    texts: Mapping[str, Sequence[str]],
    *,
    domain: str | None = None,
    latents: Sequence[int] | None = None,
    n_latents: int = 10,
    n_contexts: int = 6,
    tokens_around: int = 12,
    context_size: int = 128,
    max_tokens: int = 65_536,
    batch_size: int = 8,
    autocast: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> NewLatents:
    """Find what a domain's latents fire on most, and what the base's most similar latents do.

    The most similar base latent is the one with the largest cosine of decoder rows. The documents of a text
    are packed into contexts, BOS first and between them. Special tokens do not count: an activation there is
    taken as 0. The stack is read with this domain on and the others off, and left as it was.

    Args:
        model: A HookedTransformer, a TransformerBridge or SAELens' HookedProxyLM, with no SAE attached.
        stack: Base and residual SAEs.
        texts: Held-out documents by name, such as `{"python": [...], "general": [...]}`. Contexts are searched
            in all of them.
        domain: Which of the stack's domains; may be left out if it has just one.
        latents: Indices within the domain, in the order of the result. By default the `n_latents` that contribute
            most over all texts: sum of squared activations × squared norm of the decoder row.
        n_latents: How many latents to choose, if `latents` is left out; all, if the domain has fewer.
        n_contexts: Top contexts shown of each latent, at most; at most one per packed context.
        tokens_around: Tokens shown on each side of the peak, within its context.
        context_size: Tokens per context.
        max_tokens: Tokens read of each text, at most.
        batch_size: Contexts per forward pass.
        autocast: Run the model in bfloat16, as SAELens' `autocast_lm` does; the stack keeps its precision.
        seed: Which contexts of a text are read, and in which order.
        show_progress: Show a progress bar.

    Returns:
        A pair for each latent. One that never fires has no contexts.

    Raises:
        ValueError: `stack` is not a ResidualStackSAE or names no hook; the domain is unknown, or not named among
            several; latents are out of range or repeated; a number is not a positive int; there are no texts, or
            one is too short, one string, or of special tokens only; the model has no such hook, another width
            there, or SAEs attached.
    """
    if not isinstance(stack, ResidualStackSAE):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(
            f"{_CALLER} was given a stack of type {type(stack).__name__}. Give a ResidualStackSAE: "
            'ResidualStackSAE.from_saes(base, {"domain": residual}).'
        )
    domain = _require_domain(stack, domain)
    size = stack.cfg.part_sizes[1 + stack.domains.index(domain)]
    given = None if latents is None else _require_latents(latents, domain, size)
    for name, value in (
        ("n_latents", n_latents),
        ("n_contexts", n_contexts),
        ("tokens_around", tokens_around),
        ("context_size", context_size),
        ("max_tokens", max_tokens),
        ("batch_size", batch_size),
    ):
        require_positive_int(_CALLER, name, value)
    require_texts(_CALLER, texts)
    site = _require_site(model, stack)
    reader = LatentReader(model, stack.with_active((domain,)), site, special_tokens(model), autocast)
    contexts = pack_texts(model, texts, context_size=context_size, max_tokens=max_tokens, seed=seed)
    for name, tokens in contexts.items():
        if not reader.counted(tokens).any():
            raise ValueError(
                f"The text {name!r} has nothing but special tokens, which do not count. Give documents with words in them."
            )

    candidates = range(size) if given is None else given
    new = [stack.flat_index(domain, index) for index in candidates]
    nearest = _nearest_in_base(stack, new)
    columns = list(dict.fromkeys([*new, *(flat for flat, _ in nearest)]))
    findings = search(
        reader,
        contexts,
        columns,
        n_contexts=n_contexts,
        batch_size=batch_size,
        show_progress=show_progress,
    )
    chosen = range(len(new))
    if given is None:
        energy = findings.energy[: len(new)]
        contribution = energy * stack.W_dec[new].double().square().sum(dim=-1).to(energy.device)
        chosen = contribution.sort(descending=True, stable=True).indices[:n_latents].tolist()
    shown = dict.fromkeys(flat for i in chosen for flat in (new[i], nearest[i][0]))
    uses = _uses(reader, contexts, columns, findings, list(shown), tokens_around, batch_size)
    return NewLatents(
        pairs=tuple(LatentPair(uses[new[i]], uses[nearest[i][0]], nearest[i][1]) for i in chosen),
        domain=domain,
        provenance={
            **versions(),
            "model_name": model_name(model, stack),
            "hook_name": site.hook_name,
            "base_sha256": stack.cfg.metadata.residual_base_sha256,
            "n_tokens": dict(findings.n_tokens),
            "tokens_sha256": tokens_read(contexts),
            "latents_given": given is not None,
            "n_contexts": n_contexts,
            "tokens_around": tokens_around,
            "context_size": context_size,
            "max_tokens": max_tokens,
            "autocast": autocast,
            "seed": seed,
        },
    )


def _nearest_in_base(stack: ResidualStackSAE, latents: Sequence[int]) -> list[tuple[int, float]]:
    """For each latent the base's with the largest cosine of decoder rows: its flat index, and the cosine."""
    directions = normalize(stack.W_dec.detach().float(), dim=-1)
    base = directions[: stack.cfg.part_sizes[0]]
    found: list[tuple[int, float]] = []
    for rows in chunks(len(latents), len(base), base.device):
        cosines = directions[list(latents[rows])] @ base.T
        nearest = cosines.argmax(dim=-1)
        best = cosines.gather(1, nearest[:, None])[:, 0]
        found += zip(nearest.tolist(), best.tolist(), strict=True)
    return found


@dataclass(frozen=True)
class _Packed:
    """All texts' contexts, numbered through, and how their tokens read."""

    tokens: torch.Tensor
    texts: list[str]
    tokenizer: Any

    def window(self, number: int, acts: torch.Tensor, peak: int, around: int) -> Context:
        """Cut the tokens around a peak out of a context; acts: [context_size]."""
        start, stop = max(0, peak - around), peak + around + 1
        return Context(
            text=self.texts[number],
            tokens=tuple(
                token_text(self.tokenizer, token) for token in self.tokens[number, start:stop].tolist()
            ),
            activations=tuple(acts[start:stop].tolist()),
            peak=peak - start,
        )


def _uses(
    reader: LatentReader,
    contexts: Mapping[str, torch.Tensor],
    columns: Sequence[int],
    findings: Findings,
    shown: Sequence[int],
    around: int,
    batch_size: int,
) -> dict[int, LatentUse]:
    """Describe the latents that are shown, by flat index; their top contexts are run once more."""
    packed = _Packed(
        torch.cat(list(contexts.values())),
        [text for text, tokens in contexts.items() for _ in tokens],
        reader.model.tokenizer,
    )
    column = {flat: i for i, flat in enumerate(columns)}
    top = {flat: findings.top.of(column[flat]) for flat in shown}
    numbers = sorted({number for found in top.values() for number, _, _ in found})
    again = reread(reader, packed.tokens[numbers], shown, batch_size=batch_size)
    row = {number: i for i, number in enumerate(numbers)}
    uses: dict[int, LatentUse] = {}
    for i, flat in enumerate(shown):
        part, index = reader.stack.locate(flat)
        uses[flat] = LatentUse(
            index=index,
            flat_index=flat,
            firing_rates={
                text: findings.fired[text][column[flat]].item() / n for text, n in findings.n_tokens.items()
            },
            max_activation=top[flat][0][2] if top[flat] else 0.0,
            contexts=tuple(
                packed.window(number, again[row[number], :, i], peak, around) for number, peak, _ in top[flat]
            ),
            url=_neuronpedia_url(reader.stack, index) if part == BASE else None,
        )
    return uses


def _neuronpedia_url(stack: ResidualStackSAE, index: int) -> str | None:
    site = stack.cfg.metadata.neuronpedia_id
    return f"https://neuronpedia.org/{site}/{index}" if site else None


def _require_domain(stack: ResidualStackSAE, domain: str | None) -> str:
    names = ", ".join(map(repr, stack.domains))
    if domain is None and len(stack.domains) == 1:
        return stack.domains[0]
    if not stack.domains:
        raise ValueError(
            f"{_CALLER} was given a stack without domains: it is its base alone. Give one made with "
            'ResidualStackSAE.from_saes(base, {"domain": residual}).'
        )
    if domain is None:
        raise ValueError(
            f"{_CALLER} was given a stack of several domains, {names}, and no domain. Name one of them, such as "
            f"domain={stack.domains[0]!r}."
        )
    if domain not in stack.domains:
        raise ValueError(
            f"{_CALLER} was given domain = {domain!r}, but this stack has {names}. Name one of these."
        )
    return domain


def _require_latents(latents: Sequence[int], domain: str, size: int) -> list[int]:
    try:
        wanted = [operator.index(index) for index in latents]
    except TypeError as error:
        raise ValueError(
            f"{_CALLER} was given latents = {latents!r}, which are not whole numbers in a sequence. Give indices within "
            f"the domain {domain!r}, such as [0, 3]."
        ) from error
    outside = [index for index in wanted if not 0 <= index < size]
    if outside:
        raise ValueError(
            f"{_CALLER} was given the latents {', '.join(map(str, outside))}, but the domain {domain!r} has 0 to "
            f"{size - 1}. Give indices within the domain; stack.locate(flat_index) tells them from flat ones."
        )
    repeated = [index for index, count in Counter(wanted).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{_CALLER} was given the latents {', '.join(map(str, repeated))} more than once. Give each once."
        )
    if not wanted:
        raise ValueError(
            f"{_CALLER} was given no latents. Give indices within the domain {domain!r}, or leave them out."
        )
    return wanted


def _require_site(model: Any, stack: ResidualStackSAE) -> Site:
    require_detached(model)
    metadata = stack.cfg.metadata
    if metadata.hook_name is None:
        raise ValueError(
            "The stack names no hook in its metadata. Set stack.cfg.metadata.hook_name to where its base reads."
        )
    find_hook_point(model, metadata.hook_name)
    return Site(metadata.hook_name, metadata.hook_head_index)
