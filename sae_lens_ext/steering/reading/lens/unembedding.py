"""A model's unembedding W_U as the lens reads it: which of its columns are tokens, and what of the final norm is in them."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.analysis.top_contexts import token_text
from sae_lens_ext.steering.reading.lens.final_norm import final_norm_of

State = Literal["as trained", "with the final norm folded in"]

CHUNK = 8192
"""Columns of W_U that are looked at at once."""
_SURE = 1e-5
_CENTRED = 1e-5
"""Length of the mean column, in root mean square lengths of a column, up to which W_U counts as centred."""


@dataclass(frozen=True, eq=False)
class Unembedding:
    """W_U of a model, not copied."""

    W_U: torch.Tensor
    """[d_model, d_vocab], as the model has it: its precision, its device."""
    ids: torch.Tensor
    """The columns that are tokens, ascending, [n_tokens], int64, on the CPU: what the tokenizer knows; all, of a model without one."""
    state: State
    """Whether γ of the final norm was multiplied into W_U, as weight processing does."""
    tokenizer: Any
    """The model's, or None."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.W_U.shape[0]

    def columns(self, start: int, stop: int) -> torch.Tensor:
        """Give W_U of the tokens `ids[start:stop]`, [d_model, n], float32."""
        ids = self.ids[start:stop]
        first, last = int(ids[0]), int(ids[-1])
        if last - first + 1 == len(ids):  # a view; copied only to float32
            return self.W_U[:, first : last + 1].float()
        return self.W_U[:, ids.to(self.W_U.device)].float()

    def is_centred(self) -> bool:
        """Tell whether the mean over all columns was taken off each, which adds one number to all logits (`center_unembed`)."""
        total, squares = torch.zeros(self.d_model, dtype=torch.float64, device=self.W_U.device), 0.0
        for columns in self.W_U.split(CHUNK, dim=1):  # no more than a chunk is copied
            part = columns.float()
            total += part.sum(dim=1)
            squares += float(part.norm()) ** 2
        d_vocab = self.W_U.shape[1]
        rounding = torch.finfo(self.W_U.dtype).eps / d_vocab**0.5
        return float(total.norm()) / d_vocab <= max(_CENTRED, rounding) * (squares / d_vocab) ** 0.5

    def text(self, token: int) -> str:
        """Give a token as text, with the space it begins with; `<id>` where the tokenizer has none."""
        return f"<{token}>" if self.tokenizer is None else token_text(self.tokenizer, token)


def unembedding_of(caller: str, model: Any) -> Unembedding:
    """Find a model's unembedding.

    Args:
        caller: Function the model was given to, for messages.
        model: A HookedTransformer or TransformerBridge.

    Raises:
        ValueError: It has no unembedding, or one that does not read the residual stream; W_U is no matrix [d_model, d_vocab] of
            finite numbers; the tokenizer knows none of its tokens.
    """
    W_U = _weight(caller, model)
    tokenizer = getattr(model, "tokenizer", None)
    ids = torch.arange(W_U.shape[1])
    if tokenizer is not None:
        known = torch.tensor(sorted(set(tokenizer.get_vocab().values())))
        ids = known[(known >= 0) & (known < W_U.shape[1])]
        if len(ids) == 0:
            raise ValueError(
                f"{caller} was given a model whose tokenizer knows none of the {W_U.shape[1]} tokens of its unembedding. Set model.tokenizer to the "
                "model's own."
            )
    return Unembedding(W_U, ids, _state(model), tokenizer)


def _weight(caller: str, model: Any) -> torch.Tensor:
    name = type(model).__name__
    if hasattr(model, "mlm_head"):
        raise ValueError(
            f"{caller} was given {name}, a model with a further head between the residual stream and the unembedding, as encoders for masked tokens "
            "have, so that no vector can be read through the unembedding alone. Give a causal model."
        )
    try:
        W_U = model.W_U
    except (AttributeError, RuntimeError, AssertionError) as error:
        raise ValueError(
            f"{caller} was given {name}, a model without an unembedding W_U: no vector says anything about tokens there. Give a HookedTransformer or "
            "TransformerBridge of a language model with its head, such as an AutoModelForCausalLM."
        ) from error
    width = model.cfg.d_model
    if (
        not isinstance(W_U, torch.Tensor)
        or not W_U.is_floating_point()
        or W_U.ndim != 2
        or W_U.shape[0] != width
    ):
        what = f"{tuple(W_U.shape)}, {W_U.dtype}" if isinstance(W_U, torch.Tensor) else type(W_U).__name__
        raise ValueError(
            f"{caller} was given {name} whose W_U is {what}, not [d_model = {width}, d_vocab] of floating-point numbers. Is it quantized? Load it in "
            "float32 or bfloat16. If it projects to another width before W_U (OPT-350m), map vectors through that and multiply by W_U yourself."
        )
    return W_U.detach()


def _state(model: Any) -> State:
    """Tell whether γ is in W_U. A HookedTransformer says it by its kind of norm; a bridge by having been processed to γ = 1."""
    if not isinstance(model, TransformerBridge):
        folded = str(getattr(model.cfg, "normalization_type", None)).endswith("Pre")
    elif not getattr(model, "_weights_processed", False):
        folded = False
    else:
        norm = final_norm_of(model)
        folded = norm is not None and bool(((norm.gain - 1).abs() < _SURE).all())
    return "with the final norm folded in" if folded else "as trained"
