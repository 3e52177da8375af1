"""The tokens that end a text."""

from typing import Any


def stop_tokens(model: Any) -> list[int]:
    """Give the ids of the tokens that end a text: the model's own and those of its generation settings, else the tokenizer's; none if nobody names one."""
    settings = getattr(getattr(model, "original_model", None), "generation_config", None)
    known = [*_ids(getattr(model.cfg, "eos_token_id", None)), *_ids(getattr(settings, "eos_token_id", None))]
    return list(dict.fromkeys(known)) or _ids(model.tokenizer.eos_token_id)


def _ids(given: Any) -> list[int]:
    if given is None:
        return []
    return [given] if isinstance(given, int) else list(given)
