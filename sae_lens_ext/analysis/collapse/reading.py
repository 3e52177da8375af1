"""The passes over the contexts: twice over those that the entropy is of, once over others that hold words."""

from collections.abc import Iterator, Sequence

import torch
from tqdm.auto import tqdm

from sae_lens_ext.analysis.collapse.dimensions import DimensionStatistics
from sae_lens_ext.analysis.collapse.entropy import eigenvalue_shares, entropy_of_shares
from sae_lens_ext.analysis.collapse.sites import Place, SiteReader
from sae_lens_ext.analysis.collapse.words import Occurrences

KEPT_BYTES = 2**31
"""Up to how much the activations are kept between z-scoring's two passes; beyond, the model runs twice."""
Activations = dict[Place, torch.Tensor]
"""By place, [batch, pos, d], on the CPU."""


class ContextReading:
    """What is measured while contexts are read; words' positions are kept as they come by.

    Args:
        caller: Function on whose behalf, for messages.
        reader: Reads the sites.
        contexts: Token ids [n, pos].
        occurrences: Which positions are kept for the probe.
        n_entropy: How many of the contexts, from the first on, the entropy is of.
        skipped: First positions of a context that it leaves out.
        batch_size: Contexts per forward pass.
        show_progress: Show progress bars.
    """

    def __init__(
        self,
        caller: str,
        reader: SiteReader,
        contexts: torch.Tensor,
        occurrences: Occurrences,
        *,
        n_entropy: int,
        skipped: int,
        batch_size: int,
        show_progress: bool,
    ) -> None:
        self.caller, self.reader, self.contexts, self.occurrences = caller, reader, contexts, occurrences
        self.n_entropy, self.skipped = min(n_entropy, len(contexts)), skipped
        self.batch_size, self.show_progress = batch_size, show_progress
        self.widths: dict[Place, int] = {}
        """Dimensions by place, once something was read."""
        self._at_words: dict[Place, list[torch.Tensor]] = {place: [] for place in reader.places}
        self._which: list[torch.Tensor] = []

    def entropies(self, alphas: Sequence[float], *, z_score: bool) -> dict[Place, torch.Tensor]:
        """Give the entropy of each sequence by place, [alphas, n_entropy]."""
        statistics: dict[Place, DimensionStatistics] = {}
        kept: list[Activations] | None = None
        if z_score:
            kept, size = [], 0
            for batch in self._entropy_batches("Reading activations", keep_words=True):
                for place, x in batch.items():
                    statistics.setdefault(place, DimensionStatistics(x.shape[-1])).add(x)
                size += sum(x.nbytes for x in batch.values())
                kept = None if kept is None or size > KEPT_BYTES else [*kept, batch]
        found: dict[Place, list[torch.Tensor]] = {place: [] for place in self.reader.places}
        for batch in self._again(kept, keep_words=not z_score):
            for place, x in batch.items():
                scored = statistics[place].z_score(x) if z_score else x
                shares = eigenvalue_shares(f"{self.caller}, {place[0]} of layer {place[1]},", scored)
                found[place].append(torch.stack([entropy_of_shares(shares, alpha) for alpha in alphas]))
        return {place: torch.cat(parts, dim=1) for place, parts in found.items()}

    def features(self) -> dict[Place, torch.Tensor]:
        """Give the representations at the words by place, [occurrences, d]; nothing if there are no words. To be called after `entropies`.

        The contexts that are left are read no further than to their last word, those of like length together.
        """
        if not self.occurrences.words:
            return {}
        rows = self.occurrences.rows.unique()
        rows = rows[rows >= self.n_entropy]
        last = torch.zeros(len(self.contexts), dtype=torch.long)
        last.scatter_reduce_(0, self.occurrences.rows, self.occurrences.positions, "amax")
        rows = rows[last[rows].argsort()]
        batches = rows.split(self.batch_size) if len(rows) else ()
        for batch in tqdm(batches, desc="Reading words", disable=not self.show_progress or not batches):
            self._keep_words(self.reader.read(self.contexts[batch, : int(last[batch].max()) + 1]), batch)
        order = torch.cat(self._which).argsort()
        return {place: torch.cat(parts)[order] for place, parts in self._at_words.items()}

    def _again(self, kept: list[Activations] | None, *, keep_words: bool) -> Iterator[Activations]:
        """Give the batches that were kept, or read them."""
        name = "Measuring entropies"
        if kept is None:
            return self._entropy_batches(name, keep_words=keep_words)
        return iter(tqdm(kept, desc=name, disable=not self.show_progress))

    def _entropy_batches(self, description: str, *, keep_words: bool) -> Iterator[Activations]:
        """Read the first contexts; give the positions that the entropy is of, batch by batch."""
        batches = torch.arange(self.n_entropy).split(self.batch_size)
        for batch in tqdm(batches, desc=description, disable=not self.show_progress):
            found = self.reader.read(self.contexts[batch])
            self.widths = {place: x.shape[-1] for place, x in found.items()}
            if keep_words:
                self._keep_words(found, batch)
            yield {place: x[:, self.skipped :] for place, x in found.items()}

    def _keep_words(self, found: Activations, batch: torch.Tensor) -> None:
        """Keep what is at the words of a batch of contexts, given by their numbers [batch]."""
        place_in_batch = torch.full((len(self.contexts),), -1)
        place_in_batch[batch] = torch.arange(len(batch))
        row = place_in_batch[self.occurrences.rows]
        which = (row >= 0).nonzero()[:, 0]
        self._which.append(which)
        for place, x in found.items():
            self._at_words[place].append(x[row[which], self.occurrences.positions[which]])
