"""What `feature_stability` takes as SAEs, what it reads of each kind, and what it refuses."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, StandardSAE, StandardSAEConfig

from sae_lens_ext import KronSAE, KronSAEConfig, ResidualStackSAE
from sae_lens_ext.analysis.dictionaries import decoder_rows, encoder_rows, open_saes
from sae_lens_ext.analysis.stability import StabilityReport
from tests.analysis.stability.labelled import random_rows, sae_of, unit
from tests.analysis.stability.test_feature_stability import stability
from tests.architectures.bases import base_sae, residual_for


def pair(**settings: Any) -> list[SAE[Any]]:
    return [sae_of(random_rows(6, 8, seed), **settings) for seed in range(2)]


def with_weights(sae: SAE[Any], seed: int) -> SAE[Any]:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return sae


def test_saes_may_be_folders_objects_or_mixed_in_a_row_or_by_name(tmp_path: Path) -> None:
    saes = pair()
    for i, sae in enumerate(saes):
        sae.save_model(tmp_path / f"seed_{i}")
    plain = stability(saes)
    ways: list[tuple[Any, tuple[str, ...]]] = [
        ([tmp_path / "seed_0", str(tmp_path / "seed_1")], ("seed_0", "seed_1")),
        ((saes[0], tmp_path / "seed_1"), ("sae_0", "seed_1")),
        ({"first": tmp_path / "seed_0", 2: saes[1]}, ("first", "2")),
    ]
    for way, names in ways:
        report = stability(way)
        assert report.names == names
        assert all(torch.equal(*both) for both in zip(report.max_cosines, plain.max_cosines, strict=True))


def test_saes_may_be_releases(monkeypatch: pytest.MonkeyPatch) -> None:
    saes = dict(zip(("a", "b"), pair(), strict=True))
    monkeypatch.setattr(SAE, "from_pretrained", lambda release, sae_id: saes[sae_id])
    report = stability([("some-release", "a"), ("some-release", "b")])
    assert report.names == ("some-release/a", "some-release/b")


def test_folders_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    for i, sae in enumerate(pair()):
        sae.save_model(tmp_path / f"run_{i}" / "sae")
    report = stability([tmp_path / "run_0" / "sae", tmp_path / "run_1" / "sae"])
    assert report.names == ("sae#0", "sae#1")
    rates = {"sae#0": torch.ones(6), "sae#1": torch.ones(6)}
    assert stability(
        [tmp_path / "run_0" / "sae", tmp_path / "run_1" / "sae"], firing_rates=rates
    ).firing_rates


def test_names_say_what_an_sae_was_trained_as() -> None:
    saes = pair()
    for seed, sae in enumerate(saes):
        sae.cfg.metadata["initialisation_seed"] = seed
        sae.cfg.metadata["training_architecture"] = "hierarchical_topk"
    assert stability(saes).names == ("hierarchical_topk_seed_0", "hierarchical_topk_seed_1")


def test_objects_are_named_by_the_seed_in_their_metadata() -> None:
    saes = [sae_of(random_rows(6, 8, seed)) for seed in range(3)]
    saes[0].cfg.metadata.initialisation_seed = 12
    saes[1].cfg.metadata.initialisation_seed = 0
    assert list(open_saes("it", saes)) == ["standard_seed_12", "standard_seed_0", "sae_2"]
    saes[1].cfg.metadata.initialisation_seed = 12  # say, of another d_sae
    assert list(open_saes("it", saes)) == ["standard_seed_12#0", "standard_seed_12#1", "sae_2#2"]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([], "was given 0 SAEs. Give two or more: stability is what SAEs have in common."),
        ("one", "was given 1 SAE. Give two or more"),
        ("sae", "was given one SAE, 'StandardSAE("),
        ("a/folder", "was given one SAE, 'a/folder'. Give two or more, in a list."),
        (Path("a/folder"), "was given one SAE, 'a/folder'"),
        (
            [("release", "id", "more"), "x"],
            "was given ('release', 'id', 'more'). Give a release as (release, sae_id), two texts.",
        ),
        ([(3, "id"), "x"], "was given (3, 'id'). Give a release as (release, sae_id), two texts."),
        ([3, 4], "was given int as an SAE. Give an SAE, a folder, or (release, sae_id)."),
        ({"a": None, "b": None}, "was given NoneType as an SAE."),
    ],
)
def test_what_is_no_two_saes_is_refused(given: Any, complaint: str) -> None:
    saes = pair()
    given = {"one": saes[:1], "sae": saes[0]}.get(given, given) if isinstance(given, str) else given
    with pytest.raises(ValueError) as info:
        stability(given)
    assert str(info.value).startswith(f"feature_stability {complaint}")


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a saved SAE: there is no such folder"):
        stability([tmp_path / "nowhere", pair()[0]])


def test_the_same_sae_twice_is_noticed() -> None:
    sae, other = pair()
    with pytest.raises(
        ValueError,
        match=r"feature_stability was given the same SAE twice: the decoders of 'a' and 'c' are identical, and every feature would "
        r"seem to come back\. Leave one out\.",
    ):
        stability({"a": sae, "b": other, "c": copy.deepcopy(sae)})
    scaled = copy.deepcopy(sae)
    with torch.no_grad():
        scaled.W_dec.mul_(2)  # the same directions
    with pytest.raises(ValueError, match="the same SAE twice: the decoders of 'sae_0' and 'sae_1'"):
        stability([sae, scaled])


def test_saes_of_different_spaces_are_refused() -> None:
    saes = {"a": sae_of(random_rows(6, 8, 0)), "b": sae_of(random_rows(6, 9, 1))}
    with pytest.raises(
        ValueError, match=r"SAEs of different d_in: 8 \('a'\) and 9 \('b'\).*Give SAEs of one hook of"
    ):
        stability(saes)


@pytest.mark.parametrize(
    ("field", "what", "values"),
    [
        ("hook_name", "hook", ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")),
        ("hook_name", "hook", ("blocks.1.hook_resid_post", "blocks.1.hook_mlp_out")),
        ("model_name", "model", ("gpt2", "pythia-70m")),
        ("hook_head_index", "head", (0, 1)),
    ],
)
def test_saes_of_different_sites_are_refused_whoever_names_them(
    field: str, what: str, values: tuple[Any, Any]
) -> None:
    silent, first, second = (sae_of(random_rows(6, 8, seed)) for seed in range(3))
    silent.cfg.metadata[field] = None  # says nothing, contradicts nobody
    first.cfg.metadata[field], second.cfg.metadata[field] = values
    assert len(stability([silent, first]).names) == 2
    one, other = (str(value) if isinstance(value, int) else repr(value) for value in values)
    with pytest.raises(ValueError) as info:
        stability({"silent": silent, "first": first, "second": second})
    assert str(info.value) == (
        f"feature_stability was given SAEs of different {what}s: {one} ('first') and {other} ('second'), so that equal directions mean "
        f"nothing. Give SAEs of one {what}; if it is the same under two names, set sae.cfg.metadata.{field}."
    )


def test_one_hook_may_have_two_names() -> None:
    saes = pair()
    saes[0].cfg.metadata.hook_name = "blocks.1.hook_resid_post"
    saes[1].cfg.metadata.hook_name = "blocks.1.hook_out"
    assert stability(saes).provenance["hook_name"] == "blocks.1.hook_resid_post"


def test_saes_without_metadata_are_taken() -> None:
    saes = pair()
    for sae in saes:
        sae.cfg.metadata.hook_name = sae.cfg.metadata.model_name = None
    report = stability(saes)
    assert report.provenance["hook_name"] is None and "None at None" in repr(report)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("weights", "what"), [("W_dec", "decoder"), ("W_enc", "encoder")])
def test_weights_that_are_no_numbers_are_refused(value: float, weights: str, what: str) -> None:
    sae, other = pair()
    with torch.no_grad():
        getattr(other, weights)[1, 2] = value
    with pytest.raises(
        ValueError,
        match=f"The {what} of the SAE 'sae_1' holds NaN or infinity. Load it from a save that is whole.",
    ):
        stability([sae, other])


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan"), True, "0.7", None])
def test_a_threshold_that_is_no_cosine_is_refused(threshold: Any) -> None:
    with pytest.raises(
        ValueError, match=r"was given threshold = .*\. Give a cosine above 0 and up to 1, such as 0\.7\."
    ):
        stability(pair(), threshold=threshold)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"min_firing_rate": 0.1},
            "min_firing_rate = 0.1 was given without firing rates, so that no latent could",
        ),
        ({"firing_rates": [torch.ones(6)]}, "firing_rates has 1 entries for 2 SAEs."),
        (
            {"firing_rates": {"sae_0": torch.ones(6)}},
            "firing_rates has no entry for the SAE 'sae_1'. It has 'sae_0'.",
        ),
        (
            {"firing_rates": [torch.ones(6), torch.ones(5)]},
            "The firing rates of the SAE 'sae_1' have the shape (5,)",
        ),
        (
            {"firing_rates": [torch.ones(6), torch.full((6,), -3.0)]},
            "The firing rates of the SAE 'sae_1' ",
        ),
        (
            {"firing_rates": [torch.ones(6)] * 2, "min_firing_rate": 1.5},
            "min_firing_rate = 1.5 is out of range.",
        ),
        (
            {"firing_rates": [torch.ones(6), torch.full((6,), 0.01)], "min_firing_rate": 0.02},
            "No latent of the SAE 'sae_1' counts: none has a decoder row and fires on at least 0.02 of the tokens.",
        ),
        (
            {"firing_rates": [torch.ones(6), torch.zeros(6)]},
            "No latent of the SAE 'sae_1' counts",
        ),
    ],
)
def test_firing_rates_that_do_not_fit_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError) as info:
        stability(pair(), **settings)
    assert str(info.value).startswith(complaint)


def test_an_sae_without_a_single_feature_is_refused() -> None:
    with pytest.raises(ValueError, match="No latent of the SAE 'sae_1' counts: none has a decoder row"):
        stability([sae_of(random_rows(6, 8, 0)), sae_of(torch.zeros(6, 8))])


@pytest.mark.parametrize(("base_dim", "extension_dim"), [(2, 4), (2, 2)])
def test_kron_latents_have_no_encoder_of_their_own(base_dim: int, extension_dim: int) -> None:
    """Also with 2 · 2 latents a head, where the fused encoder has just as many columns as there are latents."""
    cfg = {"d_in": 8, "d_sae": 16, "k": 3, "base_dim": base_dim, "extension_dim": extension_dim}
    saes = [with_weights(KronSAE(KronSAEConfig(**cfg)), seed) for seed in range(2)]
    assert encoder_rows("kron", saes[0]) is None
    report = stability(saes)
    assert report.pairs[0].shared is None and report.shared_fraction is None and "shared" not in repr(report)
    torch.testing.assert_close(report.max_cosines[0][0], largest(saes))
    standard = with_weights(StandardSAE(StandardSAEConfig(d_in=8, d_sae=16)), 2)
    mixed = stability({"kron": saes[0], "standard": standard, "other": pair()[0]})
    assert [pair.shared is None for pair in mixed.pairs] == [True, True, False]
    assert mixed.shared_fraction == mixed.pairs[2].shared
    assert mixed.provenance["architectures"] == ["kron", "standard"]


def largest(saes: list[SAE[Any]]) -> torch.Tensor:
    first, second = (unit(sae.W_dec.detach()) for sae in saes)
    return (first @ second.T).amax(dim=1)


def test_residual_stacks_are_compared_over_all_their_latents() -> None:
    stacks: list[SAE[Any]] = []
    for seed in range(2):
        base = base_sae("topk", seed)
        stacks.append(ResidualStackSAE.from_saes(base, {"code": residual_for(base, seed + 5)}))
    report = stability(stacks)
    assert len(report.included[0]) == 34 and report.pairs[0].shared is not None
    torch.testing.assert_close(report.max_cosines[0][0], largest(stacks))


def test_saes_over_heads_are_read_as_concatenated(tmp_path: Path) -> None:
    saes: list[SAE[Any]] = []
    for seed in range(2):
        cfg = StandardSAEConfig(d_in=8, d_sae=6, reshape_activations="hook_z")
        cfg.metadata.hook_name = "blocks.0.attn.hook_z"
        saes.append(with_weights(StandardSAE(cfg), seed))
    report = stability(saes)
    torch.testing.assert_close(report.max_cosines[0][0], largest(saes))
    assert saes[0].cfg.reshape_activations == "hook_z"


def test_decoder_and_encoder_rows_have_unit_length_in_float32() -> None:
    sae = sae_of(torch.cat([random_rows(5, 8, 0), torch.zeros(1, 8)])).to(dtype=torch.bfloat16)
    rows, columns = decoder_rows("it", sae), encoder_rows("it", sae)
    assert columns is not None and rows.dtype == columns.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.tensor([1.0, 1, 1, 1, 1, 0]))
    torch.testing.assert_close(columns, unit(sae.W_enc.detach().float().T))
    assert columns.shape == rows.shape == (6, 8) and not rows.requires_grad


def test_saes_of_different_widths_are_measured_over_the_smaller() -> None:
    shared = random_rows(4, 8, 0)
    report: StabilityReport = stability([sae_of(shared), sae_of(torch.cat([shared.flip(0), -shared]))])
    assert [len(p) for p in report.reappearance] == [4, 8]
    assert report.reappearance[0].tolist() == [1] * 4
    assert report.pairs[0].pw_mcc == pytest.approx(1, abs=1e-6) and report.pairs[0].matched == 1
