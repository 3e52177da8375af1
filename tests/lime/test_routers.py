"""Routers by themselves: what they start from, and as a file."""

import copy
import math
from pathlib import Path

import pytest
import torch

from sae_lens_ext.lime import LimeRouters


def test_weights_have_target_head_source_layer_source_head():
    routers = LimeRouters(4, 3)

    assert list(routers.weights) == [0, 1, 2, 3]
    assert [tuple(R.shape) for R in routers.weights.values()] == [(3, n, 3) for n in (1, 2, 3, 4)]
    assert sum(p.numel() for p in routers.parameters()) == 9 * (2 + 3 + 4)


def test_identity_reads_the_own_layer_only():
    R = LimeRouters(3, 2).weights[2]

    assert torch.equal(R[:, 2], torch.eye(2)) and not R[:, :2].any()


def test_random_starts_as_the_paper_does():
    routers = LimeRouters(40, 8, initial="random", seed=1)
    R = routers.weights[39].detach()
    bound = math.sqrt(3 / (40 * 8))

    assert torch.equal(R[:, 39], torch.eye(8))
    assert bound * 0.99 < float(R[:, :39].abs().max()) <= bound
    assert abs(float(R[:, :39].var()) * 40 * 8 - 1) < 0.05  # the variance of U(−b, b) is b²/3
    assert torch.equal(R, LimeRouters(40, 8, initial="random", seed=1).weights[39])
    assert not torch.equal(R, LimeRouters(40, 8, initial="random", seed=2).weights[39])


def test_average_reads_the_same_head_of_each_layer_and_is_frozen():
    routers = LimeRouters(3, 2, initial="average")

    torch.testing.assert_close(routers.weights[2][:, 0], torch.eye(2) / 3)
    assert not any(p.requires_grad for p in routers.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 2), "n_layers = 0. Give a whole number of at least 1"),
        ((2, 1.5), "n_kv_heads = 1.5"),
        ((True, 2), "n_layers = True"),
    ],
)
def test_bad_sizes_are_refused(arguments: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        LimeRouters(*arguments)


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="initial = 'zeros'. Give one of 'identity', 'random', 'average'"):
        LimeRouters(2, 2, initial="zeros")  # type: ignore[arg-type]


@pytest.mark.parametrize("initial", ["identity", "random", "average"])
def test_a_saved_file_gives_the_same_routers(tmp_path: Path, initial: str):
    routers = LimeRouters(3, 2, initial=initial, seed=5)  # type: ignore[arg-type]
    routers.save(tmp_path / "routers.safetensors")
    loaded = LimeRouters.load(tmp_path / "routers.safetensors")

    assert all(torch.equal(loaded.weights[layer], R) for layer, R in routers.weights.items())
    assert loaded.provenance["initial"] == initial and loaded.provenance["seed"] == 5
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in routers.parameters()]


def test_a_truncated_file_is_refused(tmp_path: Path):
    path = tmp_path / "routers.safetensors"
    LimeRouters(3, 2).save(path)
    path.write_bytes(path.read_bytes()[:-9])

    with pytest.raises(ValueError, match="holds no LIMe routers that this version can read"):
        LimeRouters.load(path)
    with pytest.raises(FileNotFoundError):
        LimeRouters.load(tmp_path / "none.safetensors")


def test_nan_is_not_saved_over_what_was_there(tmp_path: Path):
    path = tmp_path / "routers.safetensors"
    routers = LimeRouters(3, 2)
    routers.save(path)
    before = path.read_bytes()
    with torch.no_grad():
        routers.weights[1][0, 0, 0] = torch.nan

    with pytest.raises(ValueError, match=r"layer.1 holds NaN or infinity"):
        routers.save(path)
    assert path.read_bytes() == before


def test_weights_of_another_shape_are_refused_before_any_is_copied():
    routers = LimeRouters(3, 2)
    with pytest.raises(ValueError, match=r"given weights of shape \(2, 2, 2\) for layer 2"):
        routers.set_weights({1: torch.ones(2, 2, 2), 2: torch.ones(2, 2, 2)})
    assert torch.equal(routers.weights[1], LimeRouters(3, 2).weights[1])


def test_what_needs_a_model_says_so():
    with pytest.raises(
        RuntimeError, match=r"cannot train: they are attached to no model. Attach them by attach_lime"
    ):
        LimeRouters(2, 2).train_on(torch.zeros(1, 2, dtype=torch.long))


def test_repr_is_three_lines():
    assert (
        repr(LimeRouters(3, 2)).splitlines()[0]
        == "LimeRouters(3 layers, 2 key-value heads, attached to no model)"
    )
    assert len(repr(LimeRouters(1, 2)).splitlines()) == 3


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_copies_and_pickles_are_exact(precision: torch.dtype, tmp_path: Path):
    routers = LimeRouters(3, 2, initial="random").to(precision)
    torch.save(routers, tmp_path / "routers.pt")
    for copied in (copy.deepcopy(routers), torch.load(tmp_path / "routers.pt", weights_only=False)):
        assert all(torch.equal(copied.weights[layer], R) for layer, R in routers.weights.items())
        assert copied.weights[2].dtype == precision and copied.weights[2] is not routers.weights[2]
