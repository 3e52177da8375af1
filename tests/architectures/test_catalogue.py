"""Names, descriptions and citations; registration once and never over somebody else's."""

import pytest
from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

import sae_lens_ext
from sae_lens_ext import cite, describe, list_architectures
from sae_lens_ext.architectures import register_architectures

NAMES = ["hierarchical_topk", "kron", "residual", "residual_stack"]


def test_list_architectures_takes_wildcards() -> None:
    assert list_architectures() == NAMES
    assert list_architectures("*topk*") == ["hierarchical_topk"]
    assert list_architectures("residual*") == ["residual", "residual_stack"]
    assert list_architectures("nothing") == []


@pytest.mark.parametrize("name", NAMES)
def test_describe_and_cite_say_what_a_user_needs(name: str) -> None:
    text = describe(name)
    assert text.startswith(f"{name}: ") and "arXiv 250" in text and "saved as" in text
    assert cite(name).startswith("@misc{") and "eprint = {250" in cite(name)


def test_describe_lists_an_architectures_own_fields_with_their_defaults() -> None:
    text = describe("residual")
    assert "  base_path = None" in text and "  d_sae = 1024" in text and "  k = 5" in text


def test_unknown_names_are_answered_with_those_there_are() -> None:
    for function in (describe, cite):
        with pytest.raises(ValueError, match=r"no architecture 'krn'.*'kron'.*Did you mean 'kron'\?"):
            function("krn")


def test_register_architectures_can_be_called_again() -> None:
    register_architectures()
    assert SAE_CLASS_REGISTRY["hierarchical_topk"][0] is TopKSAE
    for name in ("hierarchical_topk", "kron", "residual"):
        sae_class, config_class = SAE_TRAINING_CLASS_REGISTRY[name]
        assert config_class.architecture() == name and sae_class.__module__.startswith("sae_lens_ext")


def test_register_architectures_refuses_to_share_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAE_CLASS_REGISTRY, "kron", (StandardSAE, StandardSAEConfig))
    with pytest.raises(
        ValueError, match="'kron' is already registered in SAELens for sae_lens.saes.standard_sae"
    ):
        register_architectures()


def test_every_public_name_is_there() -> None:
    for name in sae_lens_ext.__all__:
        assert getattr(sae_lens_ext, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'KronSEA'"):
        sae_lens_ext.KronSEA  # noqa: B018
