"""What `dose_response` refuses, each in a full sentence."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sae_lens_ext.analysis.texts import require_detached
from sae_lens_ext.number_checks import require_number
from sae_lens_ext.steering.dose_response.estimates import MODES

CALLER = "dose_response"


def require_acts_on_prompts(interventions: Sequence[Any]) -> None:
    """Raise ValueError if a part of an intervention acts on what is generated alone."""
    for intervention in interventions:
        for part in intervention.parts if intervention is not None else ():
            if "prompt" not in part.tokens.phases:
                raise ValueError(
                    f"{CALLER} was given theme_texts, which are read as prompts, but {part} acts on what is generated alone. Leave theme_texts out, or "
                    'add the phase "prompt".'
                )


def require_strengths(strengths: Any) -> tuple[float, ...]:
    """Give the strengths as floats; raise ValueError unless they are finite, different, and at least one."""
    sized = not isinstance(strengths, (str, bytes, Mapping)) and isinstance(strengths, Iterable)
    several: list[Any] = list(strengths) if sized and getattr(strengths, "ndim", 1) == 1 else []
    if not several:
        raise ValueError(
            f"{CALLER} was given strengths = {strengths!r}. Give a list of numbers, such as [0, 4, 8]."
        )
    doses = tuple(require_number(CALLER, "a strength", strength) for strength in several)
    if len(set(doses)) < len(doses):
        raise ValueError(f"{CALLER} was given a strength twice, in {several!r}. Give each once.")
    return doses


def require_texts(what: str, texts: Any) -> tuple[str, ...]:
    """Give texts as a tuple; raise ValueError unless they are different strings that are not empty, and at least one."""
    if isinstance(texts, str) or not isinstance(texts, Sequence) or len(texts) == 0:
        raise ValueError(f"{CALLER} was given {what} = {texts!r:.60}. Give a list of strings.")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{CALLER} was given {text!r:.60} in {what}. Give strings that are not empty.")
    found: tuple[str, ...] = tuple(texts)
    if len(set(found)) < len(found):
        twice = next(text for text in found if found.count(text) > 1)
        raise ValueError(
            f"{CALLER} was given {twice!r:.60} twice in {what}, which would count as independent. Give each once, and more samples_per_prompt."
        )
    return found


def require_settings(
    model: Any, behaviour: Callable[..., Any], mode: str, temperature: Any, top_p: Any
) -> tuple[float, float]:
    """Give temperature and top_p as floats; raise ValueError unless the model can write and be measured, and the settings are in range."""
    require_detached(model)
    if getattr(model, "tokenizer", None) is None:
        raise ValueError(
            f"{CALLER} was given a model without a tokenizer, so that it cannot write. Set model.tokenizer."
        )
    if not callable(behaviour):
        raise ValueError(
            f"{CALLER} was given behaviour = {behaviour!r}. Give a function from a completion to a number from 0 to 1, such as "
            'share_of_words(["sea", "ship"]).'
        )
    if mode not in MODES:
        raise ValueError(f"{CALLER} was given mode = {mode!r}. Give one of {', '.join(map(repr, MODES))}.")
    temperature = require_number(CALLER, "temperature", temperature)
    top_p = require_number(CALLER, "top_p", top_p)
    if temperature < 0:
        raise ValueError(
            f"{CALLER} was given temperature = {temperature!r}. Give a number from 0 on, such as 1.27."
        )
    if not 0 < top_p <= 1:
        raise ValueError(
            f"{CALLER} was given top_p = {top_p!r}. Give a number above 0 and up to 1, such as 0.7."
        )
    return temperature, top_p
