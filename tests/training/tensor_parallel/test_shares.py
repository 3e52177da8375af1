"""Cutting a state to shares and joining it again, in memory and on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TrainingSAE
from safetensors import safe_open
from safetensors.torch import save_file

from sae_lens_ext.ranks import Ranks, current_ranks
from sae_lens_ext.training.tensor_parallel import DividedTopKTrainingSAE
from sae_lens_ext.training.tensor_parallel import shares as shares_module
from sae_lens_ext.training.tensor_parallel.shares import (
    DIVIDED_AXIS,
    joined_state,
    joined_tensor,
    own_latents,
    share_of_state,
    share_of_tensor,
)
from tests.in_ranks import in_ranks
from tests.training.tensor_parallel.divided import share_of, topk_cfg, undivided

WHOLE = {
    "W_enc": torch.arange(24.0).view(3, 8),
    "b_enc": torch.arange(8.0),
    "W_dec": torch.arange(100.0, 124.0).view(8, 3),
    "b_dec": torch.tensor([1.0, 2.0, 3.0]),
}


def test_shares_by_hand() -> None:
    share = share_of_state(WHOLE, slice(2, 4))
    assert share["W_enc"].tolist() == [[2, 3], [10, 11], [18, 19]]
    assert share["b_enc"].tolist() == [2, 3]
    assert share["W_dec"].tolist() == [[106, 107, 108], [109, 110, 111]]
    assert share["b_dec"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("n", [1, 2, 4])
def test_joined_shares_are_the_whole_and_on_the_first_rank_only(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares_module, "BYTES_PER_MESSAGE", 12)  # a latent a message

    def there_and_back() -> dict[str, torch.Tensor] | None:
        ranks = current_ranks()
        return joined_state(share_of_state(WHOLE, own_latents(8, ranks)), ranks)

    first, *others = in_ranks(n, there_and_back)
    assert others == [None] * (n - 1)
    assert first.keys() == WHOLE.keys()
    for name, tensor in first.items():
        assert tensor.equal(WHOLE[name]) and tensor.is_contiguous(), name


def test_shares_of_several_dtypes_are_joined() -> None:
    whole = torch.arange(8)

    def there_and_back() -> list[torch.Tensor | None]:
        ranks = current_ranks()
        share = share_of_tensor(whole, 0, own_latents(8, ranks))
        return [
            joined_tensor(share.to(dtype), 0, ranks, "testing") for dtype in (torch.bfloat16, torch.int64)
        ]

    for joined in in_ranks(2, there_and_back)[0]:
        assert joined.tolist() == whole.tolist()


def test_a_share_does_not_keep_the_whole_in_memory() -> None:
    share = share_of_tensor(torch.zeros(8, 3), 0, slice(0, 2))
    assert share.untyped_storage().nbytes() == 2 * 3 * 4


def test_latents_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"d_sae = 2 latents cannot be divided evenly over 3 ranks.*3 or 3"):
        own_latents(2, Ranks(0, 3, current_ranks().tell))


@pytest.mark.parametrize("rescale", [True, False])
def test_saved_by_two_ranks_is_an_ordinary_sae(tmp_path: Path, rescale: bool) -> None:
    whole = undivided(rescale_acts_by_decoder_norm=rescale)
    x = torch.randn(20, 8)

    def save() -> None:
        share = share_of(whole)
        share.save_model(tmp_path / "training")
        share.save_inference_model(tmp_path / "inference")
        torch.testing.assert_close(share.state_dict(), share_of(whole).state_dict(), rtol=0, atol=0)
        current_ranks().tell.wait("testing")

    in_ranks(2, save)
    training = TrainingSAE.load_from_disk(tmp_path / "training")
    inference = SAE.load_from_disk(tmp_path / "inference")
    assert training.cfg.architecture() == inference.cfg.architecture() == "topk"
    assert training.cfg.d_sae == inference.cfg.d_sae == 32
    for name, tensor in training.state_dict().items():
        assert tensor.equal(whole.state_dict()[name]), name
    torch.testing.assert_close(inference(x), whole(x).detach())


def test_a_hierarchical_topk_of_one_budget_is_saved_as_such(tmp_path: Path) -> None:
    whole = undivided()

    def save() -> None:
        share = DividedTopKTrainingSAE(whole.cfg)
        share.load_state_dict(share_of(whole).state_dict())
        share.save_model(tmp_path / "training")
        share.save_inference_model(tmp_path / "inference")

    in_ranks(2, save)
    training = TrainingSAE.load_from_disk(tmp_path / "training")
    assert training.cfg.architecture() == "hierarchical_topk" and training.cfg.levels == (4,)
    assert training.W_enc.equal(whole.W_enc)
    assert SAE.load_from_disk(tmp_path / "inference").cfg.architecture() == "topk"


def test_any_number_of_ranks_reads_its_share_of_a_saved_sae(tmp_path: Path) -> None:
    whole = undivided()
    whole.save_model(tmp_path)

    def load() -> bool:
        share = DividedTopKTrainingSAE(topk_cfg())
        share.load_weights_from_checkpoint(tmp_path)
        expected = share_of(whole).state_dict()
        return all(tensor.equal(expected[name]) for name, tensor in share.state_dict().items())

    for n in (1, 4):
        assert in_ranks(n, load) == [True] * n


def test_an_sae_of_another_size_or_kind_is_refused(tmp_path: Path) -> None:
    undivided(d_sae=64).save_model(tmp_path)
    with pytest.raises(
        ValueError, match=r"holds \w+ of shape \[.*64.*but the SAE.*1 ranks has \[.*32.*same d_in and d_sae"
    ):
        DividedTopKTrainingSAE(topk_cfg()).load_weights_from_checkpoint(tmp_path)
    save_file({"W_dec": torch.zeros(3)}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(
        ValueError, match=r"holds W_dec, not W_dec, W_enc, b_dec, b_enc. Give a TopK SAE's folder"
    ):
        DividedTopKTrainingSAE(topk_cfg()).load_weights_from_checkpoint(tmp_path)


def test_only_the_share_is_read_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is read by slices, each of which is the share it is for."""
    undivided().save_model(tmp_path)
    monkeypatch.setattr(
        "sae_lens_ext.training.tensor_parallel.saved.safe_open",
        lambda path, framework: _WithoutWholes(safe_open(path, framework=framework)),
    )
    in_ranks(2, lambda: DividedTopKTrainingSAE(topk_cfg()).load_weights_from_checkpoint(tmp_path))


class _WithoutWholes:
    """A file from which nothing is read but by slices."""

    def __init__(self, file: object) -> None:
        self._file = file

    def __enter__(self) -> "_WithoutWholes":
        self._open = self._file.__enter__()  # type: ignore[attr-defined]
        self.keys = self._open.keys
        return self

    def get_slice(self, name: str) -> "_Sliced":
        return _Sliced(self._open.get_slice(name), DIVIDED_AXIS.get(name))

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)  # type: ignore[attr-defined]


class _Sliced:
    """A tensor of a file, of whose latents no more than one rank's may be read."""

    def __init__(self, tensor: Any, axis: int | None) -> None:
        self._tensor, self._axis, self.get_shape = tensor, axis, tensor.get_shape

    def __getitem__(self, where: Any) -> torch.Tensor:
        if self._axis is not None:
            latents = where[self._axis] if isinstance(where, tuple) else where
            n = self.get_shape()[self._axis]
            assert len(range(n)[latents]) == n // 2
        return self._tensor[where]
