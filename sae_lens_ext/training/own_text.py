"""A second reader of the same text."""

import copy

from sae_lens.training.activations_store import ActivationsStore


def reading_anew(store: ActivationsStore) -> ActivationsStore:
    """Give a store that reads the same text from its beginning: what is read from it is not taken from the first one.

    Args:
        store: SAELens' store; not one of cached activations.
    """
    other = copy.copy(store)
    other.n_dataset_processed = 0
    other.iterable_sequences = other._iterate_tokenized_sequences()
    other._dataloader = None
    return other
