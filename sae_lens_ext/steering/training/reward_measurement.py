"""What a reward says of a model's completions: tables, intervals, files."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sae_lens_ext.analysis.notebook_view import notebook_view
from sae_lens_ext.analysis.result_files import load_result, save_result
from sae_lens_ext.bootstrap import Estimate, mean_estimate
from sae_lens_ext.steering.sequences import Sequences

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_FORMAT = "sae_lens_ext.RewardMeasurement/1"


@dataclass(frozen=True, eq=False, repr=False)
class RewardMeasurement:
    """What a reward says of sampled completions."""

    prompts: tuple[str, ...]
    """The prompts."""
    rewards: NDArray[np.float64]
    """Of each sample, [prompts, samples]."""
    completions: tuple[tuple[str, ...], ...]
    """What was written, as the reward read it: a prefix with it, the token that ended it not, [prompts][samples]."""
    tokens: tuple[tuple[tuple[int, ...], ...], ...]
    """Token ids written, the one that ended the text with them, [prompts][samples][tokens]; without a prefix."""
    prompt_tokens: tuple[tuple[int, ...], ...]
    """Token ids the model was given: BOS, prompt and prefix, [prompts][tokens]."""
    ended: NDArray[np.bool_]
    """Whether a stop token ended it, [prompts, samples]."""
    log_probs: NDArray[np.float64]
    """Mean log-probability of the tokens written, as they were sampled, [prompts, samples], nats."""
    provenance: dict[str, Any]
    """Versions, model, reward, seed, samples and how they were drawn."""

    @property
    def estimate(self) -> Estimate:
        """The mean reward with its 95 % bootstrap interval over prompts."""
        return mean_estimate(self.rewards.mean(axis=1))

    @property
    def mean(self) -> float:
        """The mean reward."""
        return float(self.rewards.mean())

    @property
    def interval(self) -> tuple[float, float] | None:
        """Ends of the 95 % bootstrap interval over prompts; None with one prompt."""
        found = self.estimate
        return None if found.low is None or found.high is None else (found.low, found.high)

    @property
    def length(self) -> float:
        """Mean number of tokens written."""
        return float(np.mean([len(tokens) for of_prompt in self.tokens for tokens in of_prompt]))

    @property
    def sequences(self) -> Sequences:
        """Prompts and completions as token ids, prompt by prompt, for `token_shift` and its like."""
        given = [ids for ids, written in zip(self.prompt_tokens, self.tokens, strict=True) for _ in written]
        return Sequences.joined(given, [one for written in self.tokens for one in written])

    def gain_over(self, other: RewardMeasurement) -> Estimate:
        """Give the difference of the mean rewards, this less the other, with its interval over the prompts, which are resampled for both alike.

        Raises:
            ValueError: The other has other prompts.
        """
        if self.prompts != other.prompts:
            raise ValueError(
                f"Two measurements of other prompts ({len(self.prompts)} and {len(other.prompts)}) cannot be subtracted prompt by prompt. Measure both on the "
                "same prompts, in the same order."
            )
        return mean_estimate(self.rewards.mean(axis=1) - other.rewards.mean(axis=1))

    def __repr__(self) -> str:
        return (
            f"RewardMeasurement: mean reward {self.estimate} of {self.rewards.size} completions of {len(self.prompts)} prompts\n"
            f"by {self.provenance.get('reward_name')}, steered by {self.provenance.get('intervention') or 'nothing'}\n"
            f"{self.length:.1f} tokens each in the mean, {self.ended.mean():.0%} ended by themselves"
        )

    def to_frame(self) -> pd.DataFrame:
        """Give one row per completion: prompt, sample, completion, reward, n_tokens, ended, log_prob."""
        import pandas as pd

        n_prompts, n_samples = self.rewards.shape
        return pd.DataFrame(
            [
                {
                    "prompt": self.prompts[i],
                    "sample": j,
                    "completion": self.completions[i][j],
                    "reward": self.rewards[i, j],
                    "n_tokens": len(self.tokens[i][j]),
                    "ended": bool(self.ended[i, j]),
                    "log_prob": self.log_probs[i, j],
                }
                for i in range(n_prompts)
                for j in range(n_samples)
            ]
        )

    def plot(self) -> go.Figure:
        """Draw the mean reward of each prompt, ascending, and that of all."""
        import plotly.graph_objects as go

        means = self.rewards.mean(axis=1)
        order = np.argsort(means, kind="stable")
        figure = go.Figure(
            go.Scatter(
                x=list(range(1, len(order) + 1)),
                y=means[order],
                mode="markers",
                text=[escape(self.prompts[i], quote=False) for i in order],
                hovertemplate="%{text}<br>%{y:.3f}<extra></extra>",
                name="prompts",
            )
        )
        figure.add_hline(y=self.mean, line_dash="dash", annotation_text=f"mean {self.mean:.3f}")
        figure.update_layout(
            title=f"Reward of {self.rewards.shape[1]} completions a prompt",
            xaxis_title="prompts, by reward",
            yaxis_title="mean reward",
            showlegend=False,
            template="plotly_white",
        )
        return figure

    def save(self, path: str | Path) -> None:
        """Write the measurement as JSON."""
        content = {
            "prompts": self.prompts,
            "rewards": self.rewards.tolist(),
            "completions": self.completions,
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "ended": self.ended.tolist(),
            "log_probs": self.log_probs.tolist(),
            "provenance": self.provenance,
        }
        save_result(path, _FORMAT, content)

    @classmethod
    def load(cls, path: str | Path) -> RewardMeasurement:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not a whole file of this kind.
        """
        return load_result(path, _FORMAT, cls._of, "measure again with measure_reward")

    @classmethod
    def _of(cls, content: Any) -> RewardMeasurement:
        return cls(
            tuple(content["prompts"]),
            np.array(content["rewards"], dtype=np.float64),
            tuple(tuple(of_prompt) for of_prompt in content["completions"]),
            tuple(tuple(tuple(one) for one in of_prompt) for of_prompt in content["tokens"]),
            tuple(tuple(one) for one in content["prompt_tokens"]),
            np.array(content["ended"], dtype=np.bool_),
            np.array(content["log_probs"], dtype=np.float64),
            content["provenance"],
        )

    def _repr_html_(self) -> str:
        return notebook_view(self, self.to_frame().head(10).to_html(index=False))
