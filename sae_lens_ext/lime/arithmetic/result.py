"""Which expressions a model worked out rightly, by operand count."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result_with_tensors, save_result_with_tensors
from sae_lens_ext.bootstrap import Estimate, mean_estimate
from sae_lens_ext.number_checks import whole_number

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Of = Literal["answer", "chain"]
OF: tuple[Of, ...] = ("answer", "chain")
FORMAT = "sae_lens_ext.ArithmeticAccuracy/1"
_TENSORS = ("answer_right", "chain_right", "n_operands")


@dataclass(frozen=True, eq=False, repr=False)
class ArithmeticAccuracy:
    """What a model made of expressions. See `arithmetic_accuracy`."""

    answer_right: torch.Tensor
    """Whether what is written ends with "=", the right number and the end token, however it was come by, [n], bool."""
    chain_right: torch.Tensor
    """Whether every step is that of the reference, and so the answer, [n], bool."""
    n_operands: torch.Tensor
    """Numbers in each expression, [n], int64."""
    texts: tuple[str, ...]
    """What was written, the expression before it."""
    provenance: Mapping[str, Any]
    """Versions, the model, the examples and hashes of their tokens."""

    @property
    def operand_counts(self) -> tuple[int, ...]:
        """The operand counts measured, ascending."""
        return tuple(sorted(set(self.n_operands.tolist())))

    def accuracy(self, n_operands: int | None = None, of: Of = "answer") -> Estimate:
        """Give the share that is right, with the 95 % bootstrap interval over expressions.

        Args:
            n_operands: Of this operand count alone; None for all expressions.
            of: "answer" or "chain".

        Raises:
            ValueError: There is no such operand count, or nothing of that name.
        """
        return mean_estimate(self._chosen(n_operands, of).double().numpy())

    def by_operands(self, of: Of = "answer") -> dict[int, Estimate]:
        """Give `accuracy` for each operand count."""
        return {k: self.accuracy(k, of) for k in self.operand_counts}

    def minus(
        self, other: "ArithmeticAccuracy", n_operands: int | None = None, of: Of = "answer"
    ) -> Estimate:
        """Give how much larger the share is than another model's, paired by expression. Positive: this model is right more often.

        Args:
            other: Measured on the same expressions.
            n_operands: As for `accuracy`.
            of: As for `accuracy`.

        Raises:
            ValueError: The other was measured on other expressions; or as for `accuracy`.
        """
        own, others = (found.provenance["tokens_sha256"] for found in (self, other))
        if own != others:
            raise ValueError(
                "ArithmeticAccuracy.minus was given an accuracy on other expressions, which cannot be paired with these. Measure both models on the same "
                "ArithmeticExamples."
            )
        difference = self._chosen(n_operands, of).double() - other._chosen(n_operands, of).double()
        return mean_estimate(difference.numpy())

    def to_frame(self) -> "pd.DataFrame":
        """Give a data frame with a row per operand count: `n_operands`, `n`, and of "answer" and "chain" the share, `..._low` and `..._high`."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for k in self.operand_counts:
            row: dict[str, Any] = {"n_operands": k, "n": int((self.n_operands == k).sum())}
            for of in OF:
                found = self.accuracy(k, of)
                row |= {of: found.value, f"{of}_low": found.low, f"{of}_high": found.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(self) -> "go.Figure":
        """Draw the shares by operand count, with their intervals. Returns the figure without showing it."""
        import plotly.graph_objects as go

        frame = self.to_frame()
        figure = go.Figure()
        for of, name in zip(OF, ("the answer is right", "every step is right"), strict=True):
            figure.add_bar(
                x=frame["n_operands"],
                y=frame[of],
                name=name,
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": (frame[f"{of}_high"] - frame[of]).tolist(),
                    "arrayminus": (frame[of] - frame[f"{of}_low"]).tolist(),
                },
            )
        figure.update_layout(
            template="plotly_white",
            title="Arithmetic, step by step, with 95 % intervals over expressions",
            xaxis={"title": "numbers in the expression", "dtick": 1},
            yaxis={"title": "share of expressions", "range": [0, 1.02]},
        )
        return figure

    def save(self, path: str | Path) -> None:
        """Write the result as JSON with safetensors beside it, whole or not at all.

        Args:
            path: The JSON file; its folder must exist.
        """
        content = {"texts": list(self.texts), "provenance": dict(self.provenance)}
        save_result_with_tensors(path, FORMAT, content, {name: getattr(self, name) for name in _TENSORS})

    @classmethod
    def load(cls, path: str | Path) -> "ArithmeticAccuracy":
        """Read a result that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a whole result.
        """

        def build(content: Any, tensors: Any) -> ArithmeticAccuracy:
            own = {name: tensors[name] for name in _TENSORS}
            return cls(**own, texts=tuple(content["texts"]), provenance=content["provenance"])

        return load_result_with_tensors(path, FORMAT, build, "measure again with arithmetic_accuracy")

    def __repr__(self) -> str:
        shares = {of: ", ".join(f"{k}: {e.value:.3f}" for k, e in self.by_operands(of).items()) for of in OF}
        return (
            f"ArithmeticAccuracy on {len(self.texts):,} expressions modulo {self.provenance['examples']['modulus']}\n"
            f"  answers right by operand count: {shares['answer']}\n"
            f"  chains of steps right by operand count: {shares['chain']}"
        )

    def _repr_html_(self) -> str:
        return notebook_view(self, self.to_frame().to_html(index=False, float_format=lambda x: f"{x:.3f}"))

    def _chosen(self, n_operands: int | None, of: Of) -> torch.Tensor:
        if of not in OF:
            raise ValueError(f"ArithmeticAccuracy was asked for {of!r}. Give 'answer' or 'chain'.")
        right = self.answer_right if of == "answer" else self.chain_right
        if n_operands is None:
            return right
        if whole_number(n_operands) not in self.operand_counts:
            raise ValueError(
                f"ArithmeticAccuracy was asked for {n_operands!r} operands, but has {', '.join(map(str, self.operand_counts))}. Give one of these."
            )
        return right[self.n_operands == n_operands]
