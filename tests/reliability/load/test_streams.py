"""A reader of a long stream holds no more after many tokens than after some: the tensors that are alive, counted.

benchmarks/reliability_load.py does so for every reader, the trainings with their buffers too, over ten million tokens.
"""

import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.load.memory import MemoryCurve, tensor_mib
from tests.reliability.load.readers import READERS
from tests.reliability.load.stream_model import HOOK, load_model, save_model

N_TOKENS = 32_768
KEPT_MIB_PER_MILLION = 2.0
"""A number of 8 bytes for each of a few tokens may be kept, an activation may not: 64 numbers a token are 244 MiB per million."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("reader", ["measure_firing_rates"])
def test_streams_keep_no_activations(
    reader: str, folder: Path, tmp_path: Path, restored_signals: None
) -> None:
    model: Any = load_model(folder)
    curve = MemoryCurve(N_TOKENS // 8, tensor_mib)
    with warnings.catch_warnings(), curve.watching(model, HOOK):
        warnings.simplefilter("ignore")  # of SAELens, about data sets it was given
        READERS[reader](model, N_TOKENS, tmp_path)
    halfway, end = (curve.samples[i] for i in (len(curve.samples) // 2, -1))
    assert end[0] > halfway[0]
    assert (end[1] - halfway[1]) / (end[0] - halfway[0]) * 1e6 <= KEPT_MIB_PER_MILLION, curve.samples
