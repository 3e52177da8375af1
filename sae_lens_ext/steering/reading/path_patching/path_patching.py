"""Which paths through the next block a steering vector takes: modes against each other (arXiv 2509.06608)."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.analysis.texts import require_detached
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.bootstrap import Estimate, mean_estimate
from sae_lens_ext.language_model import evaluating
from sae_lens_ext.number_checks import require_seed
from sae_lens_ext.steering.reading.path_patching.entering import entering_vector
from sae_lens_ext.steering.reading.path_patching.identities import check_identities
from sae_lens_ext.steering.reading.path_patching.measure import distances, estimates
from sae_lens_ext.steering.reading.path_patching.modes import PathMode, head_modes
from sae_lens_ext.steering.reading.path_patching.paths import patched_paths
from sae_lens_ext.steering.reading.path_patching.projections import Projections, require_heads
from sae_lens_ext.steering.reading.path_patching.result import PathPatching, PathRow
from sae_lens_ext.steering.sequences import Sequences, as_sequences, padded_batches
from sae_lens_ext.steering.training.measure import measure_reward
from sae_lens_ext.steering.training.reward_calls import Reward, require_reward, reward_name

_CALLER = "path_patching"


@torch.no_grad()
def path_patching(
    model: Any,
    vector: Any,
    sequences: Any = None,
    *,
    modes: Sequence[PathMode | str] = ("full", "skip_attn", "skip_layer", "base"),
    reference: PathMode | str = "full",
    layer: int | None = None,
    heads: Literal["all"] | None = None,
    prompts: Sequence[str] | None = None,
    reward: Reward | None = None,
    samples_per_prompt: int = 16,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
    stop_tokens: Sequence[int] | None = None,
    prepend_bos: bool = True,
    batch_size: int = 8,
    n_resamples: int = 1_000,
    seed: int = 0,
    show_progress: bool = True,
) -> PathPatching:
    """Measure what is left of a steering vector's effect when parts of the block it enters do not read it.

    Given sequences, the model reads each in every mode, and its predictions of the generated tokens are compared: KL in float64 against a reference mode
    and against base, the share of the effect that is kept, the likeliest token, and the probability of the token that came. Given
    prompts and a reward, it writes in every mode, with the same random numbers in each, and the mean reward is measured.

    The paper asks this of the penultimate vector, which enters the last block: with skip_attn ≈ full it works through MLP and unembedding and leaves
    attention alone; skip_layer is its direct path to the unembedding.

    Before anything is measured, identities that hold in every model are checked on the first batch: full is plain steering; base is none;
    skip_layer is adding the vector after the block; and, where single heads can be patched, all of them patched one by one are attention patched
    as a whole.

    Args:
        model: A HookedTransformer or TransformerBridge, with no SAE attached.
        vector: As for `patched_paths`: a tensor [d_model], `SteeringVectors` with one layer, or an intervention that adds one vector.
        sequences: Texts of the steered model with their prompts: `Sequences` of ids, which is exact; (prompt, completion) pairs of strings; token ids
            [batch, pos] or texts, of which the first token counts as the prompt. None to measure the reward alone.
        modes: The modes, by name or as `PathMode`; see there.
        reference: The mode to compare with; it need not be among the modes.
        layer: L, after which the vector is added; by default the vector's own, or the last but one. Any with a block after it.
        heads: "all" adds both modes of every head of q, k and v: two passes a head.
        prompts: Prompts to write from; None to measure sequences alone.
        reward: What is written is worth reward(prompt, completion), a number; 0 or 1 for accuracy.
        samples_per_prompt: Completions of each prompt.
        max_new_tokens: Tokens of a completion, at most.
        temperature: Of the sampling; predictions are compared at 1.
        stop_tokens: Ids of tokens that end a completion; None for the model's own.
        prepend_bos: Whether BOS comes before each prompt.
        batch_size: Sequences or completions run at once. The logits of three or four modes at the generated tokens are kept, and while
            identities are checked, on the first batch, those of four at all tokens.
        n_resamples: Bootstrap samples of the prompts for the intervals (`Sequences.prompt_of`).
        seed: Of samples and intervals.
        show_progress: Show a progress bar.

    Returns:
        A row for each mode.

    Raises:
        ValueError: There are neither sequences nor prompts, or one of prompts and reward without the other; a mode is none or given twice; a vector, layer
            or head does not fit the model, as for `patched_paths`; the sequences are none, longer than the context, or all without a generated token;
            a number is out of range; the model has SAEs attached; there is NaN or infinity in the logits; or as for `measure_reward`.
        NotImplementedError: The block is of a kind whose paths cannot be told apart exactly.
        RuntimeError: An identity does not hold; it says which, and by how much.
    """
    require_detached(model)
    for name, value in (("batch_size", batch_size), ("n_resamples", n_resamples)):
        require_positive_int(_CALLER, name, value)
    seed = require_seed(_CALLER, seed)
    at, s = entering_vector(_CALLER, model, vector, layer)
    against = PathMode.parse(reference)
    wanted = _modes(model, at, modes, heads)
    _require_heads_exist(model, at, (*wanted, against))
    texts = _require_both(prompts, reward)
    given = _sequences(model, sequences)
    if given is None and not texts:
        raise ValueError(
            f"{_CALLER} was given neither sequences nor prompts. Give texts of the steered model, to compare predictions on, or prompts and a reward."
        )
    of_heads = any(mode.of_head for mode in (*wanted, against))
    tokens, real = _first_batch(model, given, texts, batch_size)

    def run() -> torch.Tensor:
        with evaluating(model):
            return model(tokens, return_type="logits")[real]

    identities = check_identities(model, at, s, run, heads=of_heads)
    n_batches = 0 if given is None else -(-sum(n > 0 for n in given.generated) // batch_size)
    rows: list[dict[str, Estimate | None]] = [{} for _ in wanted]
    with tqdm(
        total=(len(wanted) + 1) * n_batches + len(wanted) * bool(texts),
        desc="Path patching",
        disable=not show_progress,
    ) as bar:
        if given is not None:
            every = (*wanted, PathMode.base())
            sums = distances(model, at, s, given, every, against, batch_size, bar.update)
            rows = estimates(sums[:-1], sums[-1], given.generated, given.prompt_of, n_resamples, seed)
        for mode, row in zip(wanted if texts else (), rows, strict=bool(texts)):
            assert reward is not None  # it is given with the prompts, or neither is
            with patched_paths(model, s, mode, layer=at):
                measured = measure_reward(
                    model,
                    texts,
                    reward,
                    samples_per_prompt=samples_per_prompt,
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    stop_tokens=stop_tokens,
                    prepend_bos=prepend_bos,
                    seed=seed,
                    batch_size=batch_size,
                    show_progress=False,
                )
                by_prompt = measured.rewards.mean(axis=1)
                row["reward"] = mean_estimate(by_prompt, n_resamples=n_resamples, seed=seed)
            bar.update()
    return PathPatching(
        rows=tuple(PathRow.of(mode, row) for mode, row in zip(wanted, rows, strict=True)),
        layer=at,
        reference=against.name,
        n_tokens=0 if given is None else sum(given.generated),
        n_sequences=0 if given is None else sum(n > 0 for n in given.generated),
        identities=identities,
        provenance={
            **versions(),
            "model_name": getattr(model.cfg, "model_name", None),
            "hook_names": [f"blocks.{at}.hook_resid_post"],
            "vector_norm": float(s.norm()),
            "tokens_read": None if given is None else given.digest,
            "prompts": list(texts),
            "reward": reward_name(reward) if texts else None,
            "samples_per_prompt": samples_per_prompt if texts else None,
            "max_new_tokens": max_new_tokens if texts else None,
            "temperature": temperature if texts else None,
            "prepend_bos": prepend_bos if texts else None,
            "batch_size": batch_size,
            "n_resamples": n_resamples,
            "seed": seed,
        },
    )


def _modes(model: Any, layer: int, modes: Any, heads: Any) -> tuple[PathMode, ...]:
    """Read the modes, each once, and add those of all heads."""
    if isinstance(modes, (str, PathMode)):
        raise ValueError(
            f"{_CALLER} was given modes = {str(modes)!r}. Give a list of modes, such as [{str(modes)!r}]."
        )
    if not isinstance(modes, Iterable) or isinstance(modes, torch.Tensor):
        raise ValueError(
            f"{_CALLER} was given modes = {modes!r}. Give a list of modes, such as ['skip_attn']."
        )
    found = [PathMode.parse(mode) for mode in modes]
    twice = next((mode for i, mode in enumerate(found) if mode in found[:i]), None)
    if twice is not None:
        raise ValueError(f"{_CALLER} was given the mode {twice.name!r} twice. Give each once.")
    if heads not in (None, "all"):
        raise ValueError(
            f'{_CALLER} was given heads = {heads!r}. Give "all", or None and single heads among the modes, such as "vanilla:q:3".'
        )
    if heads == "all":
        of_heads = head_modes(Projections(model, layer + 1).heads)
        found += [mode for mode in of_heads if mode not in found]
    if not found:
        raise ValueError(f"{_CALLER} was given no mode. Give at least one, such as skip_attn.")
    return (*(mode for mode in found if not mode.of_head), *(mode for mode in found if mode.of_head))


def _require_heads_exist(model: Any, layer: int, modes: Sequence[PathMode]) -> None:
    for mode in modes:
        if mode.part is not None and mode.head is not None:
            heads = Projections(model, layer + 1).heads
            require_heads(_CALLER, model, layer + 1, heads, mode.part, mode.head)


def _require_both(prompts: Any, reward: Any) -> tuple[str, ...]:
    if (prompts is None) != (reward is None):
        given, missing = ("prompts", "reward") if reward is None else ("reward", "prompts")
        raise ValueError(
            f"{_CALLER} was given {given} without {missing}. Give both to measure a reward, or neither."
        )
    if isinstance(prompts, str):
        raise ValueError(f"{_CALLER} was given one string as prompts. Give a list of texts.")
    if prompts is not None and not isinstance(prompts, Sequence):
        raise ValueError(f"{_CALLER} was given {type(prompts).__name__} as prompts. Give a list of texts.")
    if prompts is not None and len(prompts) == 0:
        raise ValueError(f"{_CALLER} was given an empty list of prompts. Give at least one.")
    if reward is not None:
        require_reward(_CALLER, reward)
    return tuple(prompts or ())


def _sequences(model: Any, value: Any) -> Sequences | None:
    if value is None:
        return None
    found = as_sequences(_CALLER, model, value)
    if not any(found.generated):
        raise ValueError(
            f"{_CALLER} was given {len(found)} sequences without a token after their prompts. Give texts that the steered model has written something in."
        )
    return found


def _first_batch(
    model: Any, given: Sequences | None, texts: Sequence[str], batch_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the tokens on which the identities are checked, and which of them are real."""
    read = as_sequences(_CALLER, model, list(texts[:batch_size])) if given is None else given
    device = next(model.parameters()).device
    _, tokens, real = next(padded_batches(read, batch_size, device))
    return tokens, real
