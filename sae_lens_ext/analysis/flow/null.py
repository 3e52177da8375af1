"""What the best cosine would be if features of two sites had nothing to do with each other."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from sae_lens_ext.analysis.matching import top_cosines
from sae_lens_ext.architectures.validation import require_positive_int

NullModel = Literal["shuffled", "random"]
N_NULL = 2048


@dataclass(frozen=True, eq=False)
class NullCosines:
    """Best cosines of made-up features with the rows of one dictionary."""

    sorted: torch.Tensor
    """[n], float32, ascending."""

    def quantile_of(self, scores: torch.Tensor) -> torch.Tensor:
        """Give the share of made-up features whose best cosine is below each score; float32, 0 to 1, NaN for NaN."""
        share = torch.searchsorted(self.sorted, scores.to(self.sorted.device).contiguous()) / len(self.sorted)
        return torch.where(scores.to(share.device).isnan(), float("nan"), share.float())


@torch.no_grad()
def made_up_features(
    features: torch.Tensor, model: NullModel, *, n: int = N_NULL, seed: int = 0
) -> torch.Tensor:
    """Make up features that are none.

    "random" draws directions evenly. But decoders fill some directions of the stream more than others, so that unrelated features
    of two sites are more alike than random directions are. "shuffled" keeps that: along each principal axis of the features, the
    made-up ones have the coordinates of true ones, drawn for each axis anew. Where the axes are not determined, as of features that fill
    all directions alike, they are drawn at random, so that the choice of basis does not matter.

    What is not kept is how coordinates go together: features that come in tight clusters, or whose coordinates on several axes are large
    together, are more alike than those made up after them.

    Args:
        features: [n_a, d], unit rows of those that are matched.
        model: "shuffled" or "random".
        n: How many to make up.
        seed: Which.

    Returns:
        [n, d], unit rows, on the CPU.

    Raises:
        ValueError: The model is unknown, or n is no positive whole number.
    """
    require_positive_int("made_up_features", "n_null", n)
    # A stream of random numbers of its own: torch's of the same seed may have drawn the features themselves.
    generator = np.random.default_rng([seed, 1])
    features = features.cpu().float()
    if model == "random":
        made_up = torch.from_numpy(generator.standard_normal((n, features.shape[1]), dtype=np.float32))
    elif model == "shuffled":
        gram = (features.T @ features).double()
        noise = torch.from_numpy(generator.standard_normal(gram.shape))
        size = gram.diagonal().mean()
        _, axes = torch.linalg.eigh(gram + 1e-6 * size * (noise + noise.T))
        coordinates = features @ axes.float()
        rows = torch.from_numpy(generator.integers(len(coordinates), size=(n, coordinates.shape[1])))
        made_up = coordinates.gather(0, rows) @ axes.float().T
    else:
        raise ValueError(f"There is no null model {model!r}. Give 'shuffled' or 'random'.")
    return torch.nn.functional.normalize(made_up, dim=1)


def null_cosines(made_up: torch.Tensor, dictionary: torch.Tensor) -> NullCosines:
    """Match made-up features [n, d] with a dictionary [n_b, d], unit rows both."""
    return NullCosines(top_cosines(made_up.to(dictionary.device), dictionary).values[:, 0].sort().values)
