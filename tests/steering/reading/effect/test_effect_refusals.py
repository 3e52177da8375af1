"""What effects refuse, each in a full sentence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sae_lens import HookedSAETransformer

from sae_lens_ext.steering import AddVector
from sae_lens_ext.steering.reading.effect import persistence, propagated_effect
from sae_lens_ext.steering.sequences import Sequences
from sae_lens_ext.steering.vectors import SteeringVectors
from tests.steering.naive import sae_at
from tests.steering.reading.effect.toy import LinearModel, ragged, random_vectors, turn

IDS = torch.tensor([[0, 2, 4, 6]])
both = pytest.mark.parametrize("measure", [propagated_effect, persistence])
Measure = Callable[..., Any]


def toy() -> LinearModel:
    return LinearModel([turn(10), turn(20)])


def vectors(layer: int = 0, d_model: int = 2, value: float = 1.0) -> SteeringVectors:
    return SteeringVectors({layer: torch.full((d_model,), value)})


@both
def test_vectors_of_another_model(measure: Measure) -> None:
    with pytest.raises(ValueError, match=r"of layer 5, but the model LinearModel has the layers 0 to 1\."):
        measure(toy(), vectors(5), IDS, show_progress=False)
    with pytest.raises(ValueError, match=r"of width 3, but the model LinearModel has d_model 2\."):
        measure(toy(), vectors(d_model=3), IDS, show_progress=False)


@both
def test_a_vector_of_zeros(measure: Measure) -> None:
    with pytest.raises(
        ValueError, match=rf"{measure.__name__} was given a vector of zeros at layer 1, which changes"
    ):
        measure(toy(), SteeringVectors({0: torch.ones(2), 1: torch.zeros(2)}), IDS, show_progress=False)


@both
def test_what_is_no_vectors(measure: Measure) -> None:
    with pytest.raises(
        ValueError, match=rf"{measure.__name__} was given dict as vectors\. Give SteeringVectors"
    ):
        measure(toy(), {0: torch.ones(2)}, IDS, show_progress=False)


def test_persistence_of_an_intervention() -> None:
    with pytest.raises(
        ValueError, match="was given AddVector as vectors. Give SteeringVectors, one vector per layer"
    ):
        persistence(toy(), AddVector("blocks.0.hook_resid_post", torch.ones(2)), IDS)  # type: ignore[arg-type]


@both
def test_a_model_whose_last_block_has_no_hook(measure: Measure) -> None:
    model = toy()
    model.cfg.n_layers = 3
    with pytest.raises(ValueError, match=r"LinearModel has no hook 'blocks.2.hook_resid_post'"):
        measure(model, vectors(), IDS, show_progress=False)
    with pytest.raises(
        ValueError,
        match=r"was given Linear, whose cfg does not say how many blocks|Linear is no model with hook points",
    ):
        measure(torch.nn.Linear(2, 2), vectors(), IDS, show_progress=False)


@both
def test_sequences_in_which_no_token_counts(measure: Measure) -> None:
    with pytest.raises(
        ValueError, match=r"1 sequences in which no token counts: each is one token long\. Give"
    ):
        measure(toy(), vectors(), torch.tensor([[3]]), show_progress=False)
    prompt_alone = Sequences((IDS[0],), (4,))
    with pytest.raises(
        ValueError, match=r"nothing was generated after their prompts\. Give longer ones, or tokens='all'"
    ):
        measure(toy(), vectors(), prompt_alone, tokens="generated", show_progress=False)


def test_sequences_in_which_no_token_counts_are_left_out_beside_others() -> None:
    sequences = Sequences((IDS[0], torch.tensor([2])), (1, 1))
    assert persistence(toy(), vectors(), sequences, show_progress=False).n_sequences == 1


@both
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tokens": "last"}, r"was given tokens = 'last'\. Give 'all', every token but the first"),
        ({"batch_size": 0}, r"batch_size = 0 is out of range"),
        ({"batch_size": 2.0}, r"batch_size must be a whole number"),
    ],
)
def test_settings(measure: Measure, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(toy(), vectors(), IDS, show_progress=False, **setting)


def test_no_bootstrap_samples() -> None:
    with pytest.raises(ValueError, match=r"persistence.n_resamples = 0 is out of range"):
        persistence(toy(), vectors(), IDS, n_resamples=0)


@both
def test_nan_in_the_model_says_where(measure: Measure) -> None:
    broken = LinearModel([turn(0), torch.full((2, 2), torch.nan)])
    with pytest.raises(
        ValueError, match=r"NaN or infinity in the output of block 1 of the model unsteered\."
    ):
        measure(broken, vectors(), IDS, show_progress=False)
    # 3e38 twice is beyond float32 where the vector is added.
    model = toy()
    model.embedding.data.fill_(2e38)
    with pytest.raises(ValueError, match=r"in the output of block \d of the model steered by 'layer 0'"):
        measure(model, vectors(value=3e38), IDS, show_progress=False)


def test_a_model_too_imprecise_for_the_vector() -> None:
    model = toy()
    model.embedding.data.mul_(1e8)
    with pytest.raises(
        ValueError, match=r"the vector is lost in the rounding of torch.float32\. Load the model"
    ):
        persistence(model, vectors(), IDS, show_progress=False)


@both
def test_sequences_longer_than_the_model_reads(measure: Measure) -> None:
    with pytest.raises(
        ValueError, match=rf"{measure.__name__} was given 33 tokens in row 0, but this model reads 32"
    ):
        measure(toy(), vectors(), torch.zeros(1, 33, dtype=torch.long), show_progress=False)


@both
def test_attached_saes(measure: Measure, hooked_model: HookedSAETransformer) -> None:
    sae = sae_at("blocks.0.hook_resid_post")
    hooked_model.add_sae(sae)
    with pytest.raises(ValueError, match="The model has SAEs attached at 'blocks.0.hook_resid_post'"):
        measure(hooked_model, random_vectors(hooked_model), ragged(hooked_model), show_progress=False)


def test_an_intervention_with_a_mask(hooked_model: HookedSAETransformer) -> None:
    mask = torch.ones(5, 3, dtype=torch.bool)
    masked = AddVector("blocks.0.hook_resid_post", torch.ones(16), positions=mask)
    with pytest.raises(ValueError, match="propagated_effect was given .* with positions as a mask"):
        propagated_effect(hooked_model, masked, ragged(hooked_model), show_progress=False)
