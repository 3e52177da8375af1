"""What is no intervention, and says so."""

from typing import Any

import pytest
import torch
from sae_lens import (
    StandardSAE,
    StandardSAEConfig,
)

from sae_lens_ext.architectures.residual import BASE_METADATA_KEY
from sae_lens_ext.steering import (
    AblateFeature,
    AddFeature,
    AddVector,
    ClampFeature,
    InterventionSum,
    ScaleFeature,
)
from tests.steering.by_hand import INFINITY, NAN
from tests.steering.naive import EARLY, sae_at


@pytest.mark.parametrize(
    ("vector", "says"),
    [
        (torch.ones(2, 2), r"a vector that is \(2, 2\)"),
        (torch.ones(2, dtype=torch.long), "torch.int64"),
        ([1.0, 2.0], "a vector that is list"),
        (torch.tensor([1.0, NAN]), "NaN or infinity"),
        (torch.tensor([1.0, INFINITY]), "NaN or infinity"),
    ],
)
def test_what_is_no_vector_is_refused(vector: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AddVector(EARLY, vector)


@pytest.mark.parametrize("number", [NAN, INFINITY, True, "2", None])
def test_what_is_no_number_is_refused(number: Any) -> None:
    sae = sae_at(EARLY)
    for make in (
        lambda: AddVector(EARLY, torch.ones(2), number),
        lambda: AddFeature(sae, 0, number),
        lambda: ScaleFeature(sae, 0, number),
        lambda: ClampFeature(sae, 0, number),
        lambda: AblateFeature(sae, 0) * number,
    ):
        with pytest.raises(ValueError, match="Give a finite number"):
            make()


@pytest.mark.parametrize("make", [lambda *a: AddFeature(*a, 1.0), AblateFeature], ids=["add", "ablate"])
def test_what_is_no_feature_is_refused(make: Any) -> None:
    sae = sae_at(EARLY)
    for index, says in ((24, "has the features 0 to 23"), (-1, "0 to 23"), (True, "an int"), (1.0, "an int")):
        with pytest.raises(ValueError, match=says):
            make(sae, index)
    with pytest.raises(ValueError, match="was given str as the SAE"):
        make("sae", 0)
    with pytest.raises(ValueError, match="names no hook in its metadata"):
        make(sae_at(None), 0)
    unfolded = StandardSAE(
        StandardSAEConfig(d_in=4, d_sae=4, normalize_activations="expected_average_only_in")
    )
    with pytest.raises(ValueError, match="never folded"):
        make(unfolded, 0)
    sae.cfg.metadata[BASE_METADATA_KEY] = {"architecture": "topk"}
    with pytest.raises(ValueError, match="a residual SAE by itself"):
        make(sae, 0)


def test_a_feature_without_a_direction_is_refused() -> None:
    sae = sae_at(EARLY)
    sae.W_dec.data[3] = 0
    sae.W_dec.data[4] = NAN
    for index in (3, 4):
        with pytest.raises(ValueError, match="zero, NaN or infinite"):
            AddFeature(sae, index, 1.0)
    with pytest.raises(ValueError, match="NaN or infinity in them"):
        AblateFeature(sae, 4).hooks()
    with pytest.raises(ValueError, match="zeros have no direction"):
        AddVector(EARLY, torch.zeros(2), relative=True)


def test_a_decoder_that_is_no_sum_is_refused() -> None:
    class Squares(StandardSAE):
        def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
            return super().decode(feature_acts**2)

    sae = Squares(StandardSAEConfig(d_in=4, d_sae=4))
    sae.cfg.metadata.hook_name = EARLY
    with pytest.raises(ValueError, match="does not decode to a sum"):
        (AblateFeature(sae, 0) + AblateFeature(sae, 1)).hooks()


SETTERS: dict[str, Any] = {
    "clamp": lambda sae, **where: ClampFeature(sae, 1, 2.0, **where),
    "ablate": lambda sae, **where: AblateFeature(sae, 1, **where),
    "scale": lambda sae, **where: ScaleFeature(sae, 1, 0.0, **where),
}


@pytest.mark.parametrize("first", SETTERS)
@pytest.mark.parametrize("second", SETTERS)
def test_two_values_for_one_feature_are_refused_where_they_meet(first: str, second: str) -> None:
    sae, x = sae_at(EARLY), torch.randn(1, 3, 16)
    one, other = SETTERS[first], SETTERS[second]
    with pytest.raises(ValueError, match="set one feature at the same token, .* add up to a third value"):
        (one(sae) + other(sae)).hooks()
    for positions in (slice(1, None), [2, 0], torch.tensor([[True, False, True]])):
        [(_, hook)] = (one(sae, positions=positions) + other(sae, positions=-1)).hooks()
        with pytest.raises(ValueError, match="positions or phases that do not overlap"):
            hook(x)
    apart = one(sae, positions=0) + other(sae, positions=[1, 2])
    [(_, hook)] = apart.hooks()
    both = x
    for part in apart.parts:
        [(_, alone)] = part.hooks()
        both = both + alone(x) - x
    torch.testing.assert_close(hook(x), both)
    (one(sae) + other(sae_at(EARLY))).hooks()  # another SAE


def test_a_wrong_width_is_refused_when_it_is_met() -> None:
    x = torch.randn(1, 2, 5)
    [(_, hook)] = AddVector(EARLY, torch.ones(4)).hooks()
    with pytest.raises(
        ValueError, match="adds a vector of 4 numbers, but the activations at .* have width 5"
    ):
        hook(x)
    for steering in (AddFeature(sae_at(EARLY), 0, 1.0), AblateFeature(sae_at(EARLY), 0)):
        [(_, hook)] = steering.hooks()
        with pytest.raises(ValueError, match=r"(vector of 16 numbers|d_in = 16)"):
            hook(x)
    with pytest.raises(ValueError, match="where another adds 16"):
        (AddFeature(sae_at(EARLY), 0, 1.0) + AddFeature(sae_at(EARLY, d_in=4), 0, 1.0)).hooks()


def test_what_is_no_intervention_is_refused() -> None:
    with pytest.raises(ValueError, match="was given int as an intervention"):
        InterventionSum([3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no intervention"):
        InterventionSum([])
    with pytest.raises(TypeError):
        AddVector(EARLY, torch.ones(2)) + 3  # type: ignore[operator]


def test_activations_that_are_no_vectors_of_tokens_are_refused() -> None:
    [(_, hook)] = AddVector(EARLY, torch.ones(2)).hooks()
    with pytest.raises(ValueError, match=r"are Tensor of the shape \(4, 2\). Interventions act on vectors"):
        hook(torch.ones(4, 2))
