import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sae_lens_ext import KronSAE, KronSAEConfig
from sae_lens_ext.analysis.flow import FeatureMatch, match_features
from sae_lens_ext.analysis.stability.rotations import random_rotation
from tests.analysis.flow.dictionaries import RES, axes, sae_of


def test_match_features_by_hand() -> None:
    a = sae_of([[2.0, 0.0], [0.0, -1.0], [3.0, 4.0]], RES.format(0))
    b = sae_of([[1.0, 0.0], [0.0, 5.0]], RES.format(1))
    match = match_features(a, b, top_k=2)
    assert match.indices.tolist() == [[0, -1], [-1, -1], [1, 0]]
    torch.testing.assert_close(match.scores[2], torch.tensor([0.8, 0.6]))
    assert match.scores[1].isnan().all()


def test_match_features_gives_no_match_for_a_row_of_zeros() -> None:
    match = match_features(sae_of(axes(-1, 0), RES.format(0)), sae_of(axes(0), RES.format(1)))
    assert match.indices.tolist() == [[-1], [0]]


def test_match_features_one_to_one_gives_no_feature_twice_and_the_largest_sum() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(12, 5), torch.randn(12, 5)
    match = match_features(sae_of(a, RES.format(0)), sae_of(b, RES.format(1)), one_to_one=True)
    cosines = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    for row, column in zip(rows, columns, strict=True):
        expected = column if cosines[row, column] > 0 else -1
        assert match.indices[row, 0] == expected
    kept = match.indices[match.indices >= 0]
    assert len(kept) == len(kept.unique())


@given(seed=st.integers(0, 1000), k=st.integers(1, 4))
def test_match_features_is_the_same_in_any_rotated_stream_and_for_rows_of_any_length(
    seed: int, k: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(7, 5, generator=generator), torch.randn(6, 5, generator=generator)
    turn = random_rotation(5, generator)
    plain = match_features(sae_of(a, RES.format(0)), sae_of(b, RES.format(1)), top_k=k)
    scale = torch.rand(7, 1, generator=generator) + 0.1
    turned = match_features(sae_of(scale * a @ turn, RES.format(0)), sae_of(b @ turn, RES.format(1)), top_k=k)
    torch.testing.assert_close(plain.scores, turned.scores, equal_nan=True, atol=1e-5, rtol=0)


@given(seed=st.integers(0, 1000))
def test_match_features_agrees_with_a_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(5, 3, generator=generator), torch.randn(4, 3, generator=generator)
    match = match_features(sae_of(a, RES.format(0)), sae_of(b, RES.format(1)))
    for i in range(5):
        best, where = 0.0, -1
        for j in range(4):
            cosine = float((a[i] @ b[j]) / (a[i].norm() * b[j].norm()))
            if cosine > best:
                best, where = cosine, j
        assert match.indices[i, 0] == where
        assert where == -1 or math.isclose(match.scores[i, 0].item(), best, rel_tol=1e-4)


def test_FeatureMatch_then_follows_the_best_matches() -> None:
    a, b, c = (sae_of(axes(*which), RES.format(i)) for i, which in enumerate([(0, 1, 2), (2, 0, 3), (0, 3)]))
    composed = match_features(a, b).then(match_features(b, c))
    assert composed.indices.tolist() == [[0], [-1], [-1]]
    assert composed.scores[0].item() == pytest.approx(1.0)
    assert composed.d_sae_b == 2
    with pytest.raises(ValueError, match="ends at 3 features cannot go on with one that begins at 2"):
        match_features(a, b).then(match_features(c, a))


def test_FeatureMatch_to_frame_has_a_row_per_match() -> None:
    match = match_features(sae_of(axes(0, 1, 4), RES.format(0)), sae_of(axes(1, 0), RES.format(1)), top_k=2)
    frame = match.to_frame()
    assert frame[["feature", "rank", "match"]].to_numpy().tolist() == [[0, 1, 1], [1, 1, 0]]
    assert repr(match).startswith("FeatureMatch of 3 features with 2")
    assert "<table" in match._repr_html_()


def test_match_features_takes_any_architecture_and_a_folder(tmp_path) -> None:
    kron = KronSAE(KronSAEConfig(d_in=6, d_sae=8, k=2, base_dim=2, extension_dim=2))
    torch.nn.init.normal_(kron.W_dec)
    kron.save_model(tmp_path)
    assert match_features(tmp_path, sae_of(torch.randn(5, 6), RES.format(1))).indices.shape == (8, 1)


def test_match_features_refusals() -> None:
    a, b = sae_of(axes(0, 1), RES.format(0)), sae_of(axes(0, 1), RES.format(1))
    with pytest.raises(ValueError, match="top_k = 3 is out of range"):
        match_features(a, b, top_k=3)
    with pytest.raises(ValueError, match="one_to_one with top_k = 2"):
        match_features(a, b, top_k=2, one_to_one=True)
    with pytest.raises(ValueError, match="width 6 .* and one of width 2"):
        match_features(a, sae_of([[1.0, 0.0]], RES.format(1)))
    with pytest.raises(ValueError, match="give SAEs of one model"):
        match_features(a, sae_of(axes(0), RES.format(1), model="other"))
    b.W_dec.data[0, 0] = float("inf")
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        match_features(a, b)


def test_FeatureMatch_saves_loads_and_draws_itself(tmp_path) -> None:
    match = match_features(sae_of(axes(0, 1, 4), RES.format(0)), sae_of(axes(1, 0), RES.format(1)))
    match.save(tmp_path / "match.json")
    again = FeatureMatch.load(tmp_path / "match.json")
    assert again.to_frame().equals(match.to_frame())
    assert (again.d_sae_b, again.one_to_one, again.by) == (2, False, "cosine")
    assert len(match.plot().data[0].x) == 2
    (tmp_path / "match.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a FeatureMatch"):
        FeatureMatch.load(tmp_path / "match.json")
