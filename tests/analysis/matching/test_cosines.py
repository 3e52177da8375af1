"""The largest cosines: against plain loops, in chunks, and from a shortlist in bfloat16 that must not lose the largest."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from sae_lens_ext.analysis.matching import cosines as module
from sae_lens_ext.analysis.matching import top_cosines
from sae_lens_ext.analysis.matching.cosines import paired_cosines


def random_rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def by_loops(a: torch.Tensor, b: torch.Tensor, top_k: int) -> list[list[tuple[float, int]]]:
    """For each row of `a` the largest cosines and where they are, in float64."""
    found: list[list[tuple[float, int]]] = []
    for row in a.double().tolist():
        cosines = [sum(x * y for x, y in zip(row, other, strict=True)) for other in b.double().tolist()]
        found.append(sorted(((cosine, j) for j, cosine in enumerate(cosines)), reverse=True)[:top_k])
    return found


@pytest.mark.parametrize("top_k", [1, 3, 20])
@pytest.mark.parametrize("shortlist", [False, True])
def test_top_cosines_are_those_of_plain_loops(top_k: int, shortlist: bool) -> None:
    a, b = random_rows(7, 5), random_rows(20, 5, seed=1)
    found = top_cosines(a, b, top_k, shortlist=shortlist)
    expected = by_loops(a, b, top_k)
    assert found.values.shape == found.indices.shape == (7, top_k)
    assert found.values.dtype == torch.float32 and found.indices.dtype == torch.int64
    assert (found.values.diff(dim=1) <= 0).all()
    for values, indices, own in zip(found.values.tolist(), found.indices.tolist(), expected, strict=True):
        assert values[0] == pytest.approx(own[0][0], abs=1e-6) and indices[0] == own[0][1]
        if not shortlist:
            assert values == pytest.approx([cosine for cosine, _ in own], abs=1e-6)
            assert indices == [j for _, j in own]


def test_top_cosines_counts_the_sign_and_gives_a_row_of_zeros_the_cosine_0() -> None:
    a = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    for shortlist in (False, True):
        found = top_cosines(a, b, 1, shortlist=shortlist)
        torch.testing.assert_close(found.values[:, 0], torch.tensor([1.0, -0.6, 0.0]))
        assert found.indices[:2, 0].tolist() == [0, 1]
    assert top_cosines(a, torch.zeros(3, 2)).values.tolist() == [[0.0]] * 3


@pytest.mark.parametrize("shortlist", [False, True])
@pytest.mark.parametrize("chunk_bytes", [1, 1000, 5000, 2**30])
def test_top_cosines_in_chunks_of_any_size_are_the_same(chunk_bytes: int, shortlist: bool) -> None:
    a, b = random_rows(33, 8), random_rows(50, 8, seed=1)
    whole = top_cosines(a, b, 2, shortlist=shortlist)
    parts = top_cosines(a, b, 2, chunk_bytes=chunk_bytes, shortlist=shortlist)
    torch.testing.assert_close(parts.values[:, 0], whole.values[:, 0], rtol=0, atol=1e-6)
    assert torch.equal(parts.indices[:, 0], whole.indices[:, 0])


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation makes."""

    n_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and not tensor._is_view():
                self.n_bytes = max(self.n_bytes, tensor.numel() * tensor.element_size())
        return out


@pytest.mark.parametrize("shortlist", [False, True])
@pytest.mark.parametrize(("m", "d"), [(2000, 16), (100, 64)])
def test_top_cosines_never_holds_more_than_a_chunk(m: int, d: int, shortlist: bool) -> None:
    a, b = random_rows(2000, d), random_rows(m, d, seed=1)
    with Largest() as largest:
        top_cosines(a, b, chunk_bytes=200_000, shortlist=shortlist)
    # The decoder in bfloat16, the chunk, and the result of 2,000 rows are all there is; the cosines would be 4 · 2,000 · m bytes.
    assert 0 < largest.n_bytes <= 200_000


def test_top_cosines_shortlist_is_right_where_bfloat16_rounds_as_badly_as_it_can() -> None:
    # Every element of `u` lies in the middle of two bfloat16 numbers, so that its cosines with its own like are too small by 2⁻⁷; and
    # they fall just below the middle of two bfloat16 numbers themselves.
    u = torch.zeros(4096)
    u[:4063] = (1 + 2**-8) / 64
    u[4063] = (1 - u.double().square().sum()).sqrt().float()
    b = u.repeat(80, 1)
    for row in range(80):  # six signs turned; in the one that is most like `u`, five
        b[row, 6 * row : 6 * row + (5 if row == 50 else 6)] *= -1
    exact, rough = b @ u, b.bfloat16() @ u.bfloat16()
    assert int(exact.argmax()) == 50 and exact[50] > exact[0]
    assert (rough == rough[0]).all() and exact[0] - rough[0] > 2**-7 + 2**-11  # nothing tells them apart
    found = top_cosines(u[None], b, shortlist=True)
    assert found.indices.item() == 50 and found.values.item() == pytest.approx(float(exact[50]), abs=1e-6)


@settings(max_examples=40)
@given(
    n=st.integers(1, 6),
    m=st.integers(9, 60),
    d=st.integers(1, 24),
    spread=st.sampled_from([1e-5, 1e-4, 1e-3, 1e-2, 1.0]),
    top_k=st.integers(1, 9),
    seed=st.integers(0, 2**20),
)
def test_top_cosines_shortlist_finds_the_largest_among_near_ties(
    n: int, m: int, d: int, spread: float, top_k: int, seed: int
) -> None:
    a = random_rows(n, d, seed)
    near = a[torch.arange(m) % n] + spread * random_rows(m, d, seed + 1)  # told apart by less than rounding
    b = torch.nn.functional.normalize(near, dim=1)
    short, exact = (top_cosines(a, b, top_k, shortlist=on, chunk_bytes=500) for on in (True, False))
    torch.testing.assert_close(short.values[:, 0], exact.values[:, 0], rtol=0, atol=5e-7)
    at_them = (a[:, None] * b[short.indices]).sum(dim=-1)
    torch.testing.assert_close(short.values, at_them, rtol=0, atol=5e-7)
    # The others are smaller than the right ones by no more than rounding.
    assert (short.values >= exact.values - 2**-6).all()


def test_top_cosines_uses_a_shortlist_where_bfloat16_is_fast_and_rows_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    shortlisted = module._shortlisted
    monkeypatch.setattr(
        module, "_shortlisted", lambda a, b, *rest: asked.append(len(b)) or shortlisted(a, b, *rest)
    )
    a = random_rows(3, 4)
    for fast in (False, True):
        monkeypatch.setattr(module, "_is_fast_at_bfloat16", lambda device_type, fast=fast: fast)
        for m in (511, 512):
            top_cosines(a, random_rows(m, 4))
    assert asked == [512]
    top_cosines(a, random_rows(600, 4), shortlist=False)
    top_cosines(a, random_rows(8, 4), shortlist=True)  # a shortlist of all
    assert asked == [512]


def test_top_cosines_knows_without_asking_anyone_whether_bfloat16_is_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module._is_fast_at_bfloat16.cache_clear()
    assert module._is_fast_at_bfloat16("cuda") and not module._is_fast_at_bfloat16("mps")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert not module._is_fast_at_bfloat16("cpu")
    module._is_fast_at_bfloat16.cache_clear()


def test_top_cosines_among_16384_random_directions_of_gpt2_are_about_0_141() -> None:
    largest = top_cosines(random_rows(200, 768), random_rows(16_384, 768, seed=1)).values
    assert float(largest.median()) == pytest.approx(0.141, abs=0.002)
    assert float(largest.max()) < 0.25  # nowhere near 0.7


@pytest.mark.parametrize("top_k", [0, -1, 6])
def test_top_cosines_top_k_out_of_range(top_k: int) -> None:
    with pytest.raises(
        ValueError,
        match=rf"top_k = {top_k} is out of range\. There are 5 rows to choose from: give 1 to 5\.",
    ):
        top_cosines(random_rows(3, 4), random_rows(5, 4), top_k)


def test_top_cosines_of_no_rows_are_none() -> None:
    found = top_cosines(torch.zeros(0, 4), random_rows(5, 4), 2)
    assert found.values.shape == found.indices.shape == (0, 2)


def test_top_cosines_builds_no_graph() -> None:
    found = top_cosines(random_rows(3, 4).requires_grad_(), random_rows(20, 4).requires_grad_())
    assert not found.values.requires_grad


def test_paired_cosines_by_hand() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    b = torch.tensor([[0.0, -1.0], [0.8, 0.6]])
    found = paired_cosines(a, b, torch.tensor([1, 0, -1])).tolist()
    assert found[:2] == pytest.approx([0.8, -1.0]) and math.isnan(found[2])
