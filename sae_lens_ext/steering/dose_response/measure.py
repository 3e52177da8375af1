"""The dose-response curve of a steering: behaviour and coherence of what a model writes, strength by strength (arXiv 2502.03032).

The paper has an LLM judge both. Here behaviour is any function of the text, and coherence is what the unsteered model thinks of the
text, so that a curve needs no second model.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from sae_lens_ext.analysis.provenance import versions
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.bootstrap import Estimate, estimate, resamples
from sae_lens_ext.number_checks import require_seed
from sae_lens_ext.steering.dose_response.behaviour import Behaviour, behaviour_name, score_completion
from sae_lens_ext.steering.dose_response.checks import (
    CALLER,
    require_acts_on_prompts,
    require_settings,
    require_strengths,
    require_texts,
)
from sae_lens_ext.steering.dose_response.estimates import (
    Mode,
    distinct_share,
    dose_estimates,
)
from sae_lens_ext.steering.dose_response.result import Completion, DoseResponse, DoseRow
from sae_lens_ext.steering.dose_response.sampling import Batch, Sampler
from sae_lens_ext.steering.intervention import Intervention
from sae_lens_ext.steering.live_feature import LiveFeature
from sae_lens_ext.steering.steer import steer

REPR_LENGTH = 300
"""Characters of an intervention's repr that the provenance keeps."""


@torch.no_grad()
def dose_response(
    model: Any,
    intervention_of: Any,
    strengths: Sequence[float],
    prompts: Sequence[str],
    *,
    behaviour: Behaviour,
    mode: Mode = "activate",
    theme_texts: Sequence[str] | None = None,
    max_new_tokens: int = 36,
    temperature: float = 1.27,
    top_p: float = 0.7,
    samples_per_prompt: int = 1,
    batch_size: int = 16,
    n_resamples: int = 1_000,
    seed: int = 0,
    show_progress: bool = True,
) -> DoseResponse:
    """Let a model write at several strengths of a steering, and measure what that does to behaviour and coherence.

    Coherence is exp(min(0, CE₀ − CE)) · min(1, D/D₀). CE is the UNSTEERED model's cross-entropy per token of what the steered one wrote,
    given the prompt, and CE₀ that of its own texts, sampled alike, all means over prompts; D and D₀ are the shares of distinct bigrams, as text
    that repeats itself is likely, too. So 1 is a text as likely and as varied as the model's own, and one that is less likely by one nat
    per token, or repeats itself so that two thirds of its variety are gone, has a third. The paper's score is the product of behaviour (or 1 − behaviour) and coherence, each judged by an LLM.

    Every strength, and the unsteered model, samples with the same random numbers, so that what adds nothing at strength 0 writes the
    unsteered model's text there, token by token. Prompts are batched by their length in tokens, without padding. The batches are part
    of what `seed` means: another `batch_size` gives other samples. The global random state is left as it was.

    Args:
        model: A HookedTransformer or TransformerBridge with a tokenizer and no SAE attached.
        intervention_of: What steers: a function from the strength to an intervention (None for none); or an AddVector or AddFeature,
            or a sum of these, which is multiplied by the strength.
        strengths: The strengths, in any order. 0 need not be among them, the unsteered model is always measured. (With
            `ScaleFeature` 0 is no absence of steering: it removes the feature.)
        prompts: What to continue; BOS is put first.
        behaviour: A function from a completion to a number from 0 to 1, such as `share_of_words(["sea", "ship"])`.
        mode: "activate": score = behaviour × coherence; "suppress": (1 − behaviour) × coherence.
        theme_texts: Texts whose log-probability to the steered model is measured as well, each read in one pass, so that all
            its tokens are of the phase "prompt".
        max_new_tokens: Tokens of a completion, at most. The paper's 36, or 96 to suppress.
        temperature: Of the sampling, 0 for the likeliest token. The paper's 1.27.
        top_p: The likeliest tokens with this probability in sum are sampled from. The paper's 0.7.
        samples_per_prompt: Completions of each prompt.
        batch_size: Completions sampled at a time.
        n_resamples: Bootstrap samples of the prompts for the intervals.
        seed: Of the samples and the intervals.
        show_progress: Show a progress bar.

    Returns:
        A row for each strength and one for the unsteered model, and every text.

    Raises:
        ValueError: A strength is not finite or given twice; there are no prompts, one is given twice, or one is too long for the
            model with its completion; the behaviour gives something else than 0 to 1; what was given or made does not steer; the
            model has SAEs attached or no tokenizer; there is NaN or infinity in the logits.
    """
    doses = require_strengths(strengths)
    texts = require_texts("prompts", prompts)
    themes = require_texts("theme_texts", theme_texts) if theme_texts is not None else ()
    temperature, top_p = require_settings(model, behaviour, mode, temperature, top_p)
    for what, value in (
        ("max_new_tokens", max_new_tokens),
        ("samples_per_prompt", samples_per_prompt),
        ("batch_size", batch_size),
        ("n_resamples", n_resamples),
    ):
        require_positive_int(CALLER, what, value)
    seed = require_seed(CALLER, seed)
    interventions = [None, *(_intervention(intervention_of, dose) for dose in doses)]
    if themes:
        require_acts_on_prompts(interventions)
    sampler = Sampler(model, max_new_tokens, temperature, top_p)
    batches = sampler.batches(
        sampler.tokenize(texts, room=max_new_tokens), samples_per_prompt, batch_size, seed
    )
    theme_tokens = sampler.tokenize(themes, room=0) if themes else []
    completions: list[Completion] = []
    theme_log_probs: list[list[float]] = []
    with tqdm(total=len(interventions) * len(batches), desc="Sampling", disable=not show_progress) as bar:
        for dose, intervention in zip((None, *doses), interventions, strict=True):
            written: list[torch.Tensor] = []
            with nullcontext() if intervention is None else steer(model, intervention):
                for batch in batches:
                    written.append(sampler.write(batch))
                    bar.update()
                theme_log_probs.append(sampler.log_probabilities(theme_tokens, batch_size))
            completions += _completions(sampler, batches, written, dose, behaviour)
    rows = _rows((None, *doses), completions, theme_log_probs, len(texts), mode, n_resamples, seed)
    return DoseResponse(
        rows=rows[1:],
        unsteered=rows[0],
        completions=tuple(completions),
        prompts=texts,
        mode=mode,
        theme_texts=themes,
        theme_log_prob=float(np.mean(theme_log_probs[0])) if themes else None,
        provenance={
            **versions(),
            "model_name": getattr(model.cfg, "model_name", None),
            "hook_names": sorted(
                {name for one in interventions if one is not None for name in one.hook_names}
            ),
            "interventions": [None if one is None else repr(one)[:REPR_LENGTH] for one in interventions[1:]],
            "behaviour": behaviour_name(behaviour),
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "samples_per_prompt": samples_per_prompt,
            "batch_size": batch_size,
            "n_resamples": n_resamples,
            "seed": seed,
        },
    )


def _completions(
    sampler: Sampler,
    batches: Sequence[Batch],
    written: Sequence[torch.Tensor],
    dose: float | None,
    behaviour: Behaviour,
) -> list[Completion]:
    """Measure what was written at one strength, with the model unsteered; completions by prompt and sample."""
    found = [
        Completion(
            strength=dose,
            prompt=one.prompt,
            sample=one.sample,
            text=one.text,
            n_tokens=len(one.tokens),
            behaviour=score_completion(behaviour, one.text),
            cross_entropy=one.cross_entropy,
            distinct_bigrams=distinct_share(one.tokens),
        )
        for batch, tokens in zip(batches, written, strict=True)
        for one in sampler.read(batch, tokens)
    ]
    return sorted(found, key=lambda one: (one.prompt, one.sample))


def _rows(
    doses: Sequence[float | None],
    completions: Sequence[Completion],
    theme_log_probs: Sequence[Sequence[float]],
    n_prompts: int,
    mode: Mode,
    n_resamples: int,
    seed: int,
) -> tuple[DoseRow, ...]:
    """Estimate each strength's measures, the unsteered model's first."""
    names = ("behaviour", "cross_entropy", "distinct_bigrams")
    values = np.array([[getattr(one, name) for name in names] for one in completions], dtype=np.float64)
    # [strength, prompt, measure]: completions are ordered by strength, prompt, sample
    by_prompt = values.reshape(len(doses), n_prompts, -1, len(names)).mean(axis=2)
    samples = resamples(n_prompts, n_resamples, seed)
    themes = np.array(theme_log_probs, dtype=np.float64)  # [strength, text]
    theme_samples = resamples(themes.shape[1], n_resamples, seed) if themes.size else None
    rows: list[DoseRow] = []
    for i, dose in enumerate(doses):
        steered, unsteered = ({name: by_prompt[k, :, j] for j, name in enumerate(names)} for k in (i, 0))
        measured = dose_estimates(steered, unsteered, mode, samples)
        gained: Estimate | None = None
        if theme_samples is not None:
            differences = (themes[i] - themes[0])[theme_samples].mean(axis=1)
            gained = estimate(differences, themes.shape[1])
        rows.append(DoseRow(strength=dose, theme_log_prob=gained, **measured))
    return tuple(rows)


def _intervention(intervention_of: Any, dose: float) -> Intervention | None:
    """Make the intervention of a strength."""
    if isinstance(intervention_of, Intervention):
        live = next((part for part in intervention_of.parts if isinstance(part, LiveFeature)), None)
        if live is not None:
            raise ValueError(
                f"{CALLER} was given {live} as intervention_of, whose multiples are not what a strength should be. Give a function from the strength, such as "
                "lambda s: ClampFeature(sae, i, s) or lambda s: ScaleFeature(sae, i, s)."
            )
        return intervention_of * dose
    if not callable(intervention_of):
        raise ValueError(
            f"{CALLER} was given {type(intervention_of).__name__} as intervention_of. Give a function from the strength to an intervention, such "
            "as lambda s: AddFeature(sae, 7, s), or an AddVector or AddFeature."
        )
    made = intervention_of(dose)
    if made is not None and not isinstance(made, Intervention):
        raise ValueError(
            f"intervention_of gave {type(made).__name__} for strength {dose:g}. Give a function whose values are interventions, such as lambda s: "
            "AddFeature(sae, 7, s), or None for no steering."
        )
    return made
