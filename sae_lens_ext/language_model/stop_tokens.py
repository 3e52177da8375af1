"""The tokens that end a text."""

from typing import Any


def stop_tokens(model: Any) -> list[int]:
    """Give the ids of the tokens that end a text: the model's own, else the tokenizer's; none if neither names one."""
    known = getattr(model.cfg, "eos_token_id", None)
    known = model.tokenizer.eos_token_id if known is None else known
    if known is None:
        return []
    return [known] if isinstance(known, int) else list(known)
