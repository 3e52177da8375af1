"""TopTokens and TopWindows, against sorting everything at the end; and ties."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_ext.analysis.flow.top_activations.running import TopTokens, TopWindows, window_starts

CPU = torch.device("cpu")


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 4),
    batches=st.integers(1, 4),
    levels=st.integers(1, 6),
)
def test_tokens_are_those_that_sorting_everything_gives(seed: int, n: int, batches: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    top = TopTokens(3, n, CPU)
    largest: list[dict[int, float]] = [{}, {}, {}]
    for _ in range(batches):
        tokens = torch.randint(7, (2, 5), generator=generator)
        acts = torch.randint(-1, levels, (2, 5, 3), generator=generator).float()  # few values: many ties
        top.add(acts, tokens)
        for b in range(2):
            for p in range(5):
                for f in range(3):
                    value, token = acts[b, p, f].item(), int(tokens[b, p])
                    if value > 0:
                        largest[f][token] = max(value, largest[f].get(token, 0.0))
    for f in range(3):
        expected = sorted(largest[f].items(), key=lambda pair: (-pair[1], pair[0]))[:n]
        found = list(zip(top.token[f].tolist(), top.activation[f].tolist(), strict=True))
        assert found == expected + [(-1, 0.0)] * (n - len(expected))


@given(seed=st.integers(0, 10_000), n=st.integers(1, 4), levels=st.integers(1, 6))
def test_windows_are_those_that_sorting_everything_gives(seed: int, n: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    top = TopWindows(3, n, 4, CPU)
    acts = torch.randint(-1, levels, (7, 6, 3), generator=generator).float()
    for first, part in ((0, acts[:2]), (2, acts[2:3]), (3, acts[3:])):
        top.add(part, first)
    for f in range(3):
        peaks = [(-acts[c, :, f].max().item(), c) for c in range(7)]
        expected = [(c, -value) for value, c in sorted(peaks) if value < 0][:n]
        assert [
            (c, v) for c, v in zip(top.top.context[f].tolist(), top.top.activation[f].tolist(), strict=True)
        ][: len(expected)] == expected
        for rank, (c, value) in enumerate(expected):
            peak = acts[c, :, f].tolist().index(value)
            start = min(max(peak - 2, 0), 2)
            assert top.windows[f, rank].tolist() == acts[c, start : start + 4, f].tolist()
        assert (top.top.context[f, len(expected) :] == -1).all()


def test_of_equal_contexts_the_earlier_comes_first_and_stays() -> None:
    top = TopWindows(1, 2, 2, CPU)
    for first in range(3):
        top.add(torch.tensor([[[0.0], [1.0], [1.0]]]), first)

    assert top.top.context.tolist() == [[0, 1]]
    assert top.top.position.tolist() == [[1, 1]]
    assert top.windows.tolist() == [[[0.0, 1.0], [0.0, 1.0]]]


def test_a_window_has_its_peak_in_the_middle_as_far_as_the_context_allows() -> None:
    assert window_starts(torch.tensor([0, 3, 5, 9]), 4, 10).tolist() == [0, 1, 3, 6]
