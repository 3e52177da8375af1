"""Activations whose features are known, half of them crowded into a small subspace (the synthetic model of arXiv 2606.12138)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sae_lens.synthetic import ActivationGenerator, FeatureDictionary
from sae_lens.util import temporary_seed
from torch.nn.functional import normalize

from sae_lens_ext.analysis.dictionaries import SAESources
from sae_lens_ext.analysis.stability.rotations import random_rotation
from sae_lens_ext.architectures.validation import require_positive_int
from sae_lens_ext.number_checks import require_number

if TYPE_CHECKING:
    from sae_lens_ext.analysis.stability.report import StabilityReport
    from sae_lens_ext.analysis.stability.synthetic.recovery import FeatureRecovery

INDEPENDENT, LOW_RANK = "independent", "low_rank"
GROUPS = (INDEPENDENT, LOW_RANK)
MEAN_MAGNITUDE, MAGNITUDE_DEVIATION = 1.0, 0.25
"""How strongly a feature fires when it fires: normal, cut off at 0, which is four deviations away."""


@dataclass(frozen=True)
class LowRankFeatureModel:
    """A ground truth of feature stability: independent features beside features confined to a subspace of few dimensions.

    An activation is x = Σᵢ zᵢ fᵢ + noise. Each latent zᵢ is 0, or fires with `firing_probability`, independently of all others and with
    the same distribution in both groups. The unit vectors fᵢ are

    - "independent" (group A): spread by SAELens' `orthogonal_initializer` over the d_in − r dimensions that are orthogonal to the
      other group. They are orthogonal to each other up to 1e-3 if there are no more of them than these dimensions, else as far
      apart as they go.
    - "low_rank" (group B): spread in the same way over a random subspace of r = `rank` dimensions, span(B). With r equal to their
      number they are orthogonal as well, and nothing but the name distinguishes the groups.

    The paper finds that SAEs recover such a subspace but not its features. How its model is made is not known to us: dimensions,
    magnitudes, firing and spreading are our reading. The default firing probability has more low-rank features fire together
    (6.4 of 64) than a sparse code in 8 dimensions could tell apart; with few at a time SAEs find many of them after all.

    The dictionary is SAELens' `FeatureDictionary` and the latents come from its `ActivationGenerator`, so that its own tools,
    `train_toy_sae` or `eval_sae_on_synthetic_data`, take `model.dictionary` and `model.generator` (these know no noise). `batches` is the
    data of any SAELens trainer.

    Raises:
        ValueError: A number is out of range; the low-rank features are fewer than their dimensions, or leave no dimension to the
            others.
    """

    d_in: int = 96
    """Width of the activations."""
    n_independent: int = 64
    """Features of the group "independent"."""
    n_low_rank: int = 64
    """Features of the group "low_rank", at least `rank`."""
    rank: int = 8
    """r: dimensions that the low-rank features span, less than `d_in`."""
    firing_probability: float = 0.1
    """Share of the activations in which a feature fires, the same for all features, above 0 and up to 1."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise in each of the d_in dimensions; a feature has the magnitude 1 ± 0.25."""
    seed: int = 0
    """Which features, and which subspace."""

    def __post_init__(self) -> None:
        for name in ("d_in", "n_independent", "n_low_rank", "rank"):
            require_positive_int("LowRankFeatureModel", name, getattr(self, name))
        _require_seed("LowRankFeatureModel", self.seed)
        for name in ("firing_probability", "noise"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real):
                require_number("LowRankFeatureModel", name, value)
        if not 0 < self.firing_probability <= 1:
            raise ValueError(
                f"LowRankFeatureModel.firing_probability = {self.firing_probability} is no probability to fire with. Give a number above 0 and "
                "up to 1, such as 0.1."
            )
        if not 0 <= self.noise < float("inf"):
            raise ValueError(
                f"LowRankFeatureModel.noise = {self.noise} is no standard deviation. Give 0 for none, or a positive number."
            )
        if self.rank >= self.d_in:
            raise ValueError(
                f"LowRankFeatureModel.rank = {self.rank} leaves no dimension of d_in = {self.d_in} to the independent features, which are orthogonal to "
                f"the low-rank ones. Give a rank of at most {self.d_in - 1}, better d_in − n_independent."
            )
        if self.rank > self.n_low_rank:
            raise ValueError(
                f"LowRankFeatureModel.n_low_rank = {self.n_low_rank} features cannot span rank = {self.rank} dimensions. Give at least as many features "
                "as dimensions; many more are what makes them hard to tell apart."
            )

    @property
    def n_features(self) -> int:
        """Number of features, n."""
        return self.n_independent + self.n_low_rank

    @property
    def features(self) -> torch.Tensor:
        """The true features, [n, d_in], rows of unit length, the independent ones first."""
        return self.dictionary.feature_vectors.detach()

    @property
    def groups(self) -> "np.ndarray[Any, np.dtype[np.str_]]":
        """The group of each feature, [n] of "independent" | "low_rank"."""
        return np.array([INDEPENDENT] * self.n_independent + [LOW_RANK] * self.n_low_rank)

    @property
    def low_rank_basis(self) -> torch.Tensor:
        """An orthonormal basis of span(B), [rank, d_in]."""
        return self._basis[: self.rank]

    @property
    def complement_basis(self) -> torch.Tensor:
        """An orthonormal basis of what is orthogonal to span(B), in which the independent features lie, [d_in − rank, d_in]."""
        return self._basis[self.rank :]

    @cached_property
    def dictionary(self) -> FeatureDictionary:
        """The features as SAELens' dictionary."""
        _, a, b = self._seeds
        with torch.inference_mode(False), torch.enable_grad():  # SAELens spreads vectors by gradient descent
            independent = FeatureDictionary(self.n_independent, self.d_in - self.rank, seed=a).feature_vectors
            low_rank = FeatureDictionary(self.n_low_rank, self.rank, seed=b).feature_vectors
            dictionary = FeatureDictionary(self.n_features, self.d_in, initializer=None, seed=a)
            rows = torch.cat([independent @ self.complement_basis, low_rank @ self.low_rank_basis])
            dictionary.feature_vectors.data = normalize(rows.detach(), dim=1)
            return dictionary.requires_grad_(False)

    @cached_property
    def generator(self) -> ActivationGenerator:
        """What draws the latents: SAELens' generator."""
        return ActivationGenerator(
            self.n_features,
            self.firing_probability,
            std_firing_magnitudes=MAGNITUDE_DEVIATION,
            mean_firing_magnitudes=MEAN_MAGNITUDE,
        )

    def sample(self, n: int, seed: int) -> torch.Tensor:
        """Draw activations, [n, d_in].

        Args:
            n: How many.
            seed: Which ones; torch's global generator is left as it is.

        Raises:
            ValueError: `n` is no positive number, or `seed` none at all.
        """
        return self.sample_with_latents(n, seed)[0]

    def sample_with_latents(self, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the same activations as `sample`, and give the latents they are made of.

        Returns:
            Activations [n, d_in], and how strongly each feature fires in each, [n, n_features], 0 or more.

        Raises:
            ValueError: `n` is no positive number, or `seed` none at all.
        """
        require_positive_int("LowRankFeatureModel.sample", "n", n)
        _require_seed("LowRankFeatureModel.sample", seed)
        with temporary_seed(seed), torch.no_grad():  # SAELens' generator draws on torch's global one
            latents = self.generator.sample(n)
            x = self.dictionary(latents)
            return x + self.noise * torch.randn_like(x), latents

    def batches(self, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
        """Draw batches [batch_size, d_in] for ever, all different: the `data_provider` of SAELens' `SAETrainer`.

        Args:
            batch_size: Activations in a batch.
            seed: Which ones, in which order. SAEs that are to differ in their initial weights only get the same.

        Raises:
            ValueError: `batch_size` is no positive number, or `seed` none at all.
        """
        require_positive_int("LowRankFeatureModel.batches", "batch_size", batch_size)
        _require_seed("LowRankFeatureModel.batches", seed)
        seeds = np.random.default_rng(seed)
        return (self.sample(batch_size, int(seeds.integers(2**63))) for _ in repeat(None))

    def recovery(
        self,
        saes: SAESources,
        report: "StabilityReport | None" = None,
        *,
        n_samples: int = 16_384,
        seed: int = 0,
    ) -> "FeatureRecovery":
        """Measure what SAEs trained on this model recovered of it, by group.

        A latent belongs to the group "low_rank" if more than half of its decoder row's squared length lies in span(B), else to
        "independent". Of a random row r / d_in lies there. Latents that fire on none of a sample do not count, nor those that do
        not count in the report.

        Directions crowded into few dimensions are similar by chance: in 8 dimensions most directions have a cosine of at least 0.7
        with one of 64 others. So beside p̂ and the cosines with the truth stands a null: the same with the SAEs' decoders turned at
        random within span(B), and within what is orthogonal to it.

        Args:
            saes: Two or more SAEs, as `feature_stability` takes them.
            report: What `feature_stability` found of the same SAEs, in the same order, for p̂; without it there is none.
            n_samples: Activations on at least one of which a latent must fire.
            seed: Which activations, and which rotations of the null.

        Returns:
            Measures of each SAE and group.

        Raises:
            FileNotFoundError: A folder is missing.
            ValueError: There are fewer than two SAEs; one has another d_in, holds NaN or infinity, or has no latent that counts; the
                report is of other SAEs.
        """
        from sae_lens_ext.analysis.stability.synthetic.measure import measure_recovery

        return measure_recovery(self, saes, report, n_samples=n_samples, seed=seed)

    @cached_property
    def _basis(self) -> torch.Tensor:
        """A random orthonormal basis of all d_in dimensions, in rows."""
        with torch.inference_mode(False):  # it is kept
            return random_rotation(self.d_in, torch.Generator().manual_seed(self._seeds[0]))

    @property
    def _seeds(self) -> list[int]:
        """Independent seeds of the basis and of either group."""
        return np.random.SeedSequence(self.seed).generate_state(3).tolist()


def _require_seed(owner: str, seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(
            f"{owner} was given seed = {seed!r}. Give a whole number from 0 to 2**63 - 1, as an int."
        )
