"""Configurations: constructed by name, through JSON and back, without touching what the user owns."""

import copy
import dataclasses
import json

import pytest
from sae_lens import SAE, LanguageModelSAERunnerConfig, TrainingSAE
from sae_lens.config import LoggingConfig
from sae_lens.llm_sae_training_runner import _parse_cfg_args
from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import SAEConfig, SAEMetadata, TrainingSAEConfig

from .cases import CASES, TRAINED, ArchitectureCase
from .synthetic import D_IN, D_SAE, K

trained = pytest.mark.parametrize("case", TRAINED, ids=str)
every = pytest.mark.parametrize("case", CASES, ids=str)
with_lists = pytest.mark.parametrize("case", [c for c in TRAINED if c.list_settings], ids=str)


def through_json(content: dict) -> dict:
    """What a strict JSON file would give back."""
    return json.loads(json.dumps(content, allow_nan=False))


@trained
def test_registered_name_is_the_config_s_architecture(case: ArchitectureCase):
    sae_class, config_class = SAE_TRAINING_CLASS_REGISTRY[case.name]
    assert config_class.architecture() == case.name
    assert isinstance(case.make_training(), sae_class)
    assert case.name in SAE_CLASS_REGISTRY or case.saved_as in SAE_CLASS_REGISTRY


@every
def test_saved_name_resolves_to_the_inference_class(case: ArchitectureCase):
    sae_class, config_class = SAE_CLASS_REGISTRY[case.saved_as]
    sae = case.make_inference()
    assert type(sae) is sae_class
    assert type(sae.cfg) is config_class
    assert config_class.architecture() == case.saved_as


@trained
def test_training_config_survives_json(case: ArchitectureCase):
    cfg = case.config(metadata=SAEMetadata(model_name="m", hook_name="blocks.0.hook_resid_post"))
    loaded = TrainingSAEConfig.from_dict(through_json(cfg.to_dict()))
    assert type(loaded) is type(cfg)
    assert loaded == cfg
    assert loaded.to_dict() == cfg.to_dict()
    assert loaded.metadata.hook_name == "blocks.0.hook_resid_post"


@every
def test_inference_config_survives_json(case: ArchitectureCase):
    cfg = case.make_inference().cfg
    loaded = SAEConfig.from_dict(through_json(cfg.to_dict()))
    assert type(loaded) is type(cfg)
    assert through_json(loaded.to_dict()) == through_json(cfg.to_dict())


@trained
def test_a_changed_field_survives_json(case: ArchitectureCase):
    for change in (
        {"d_sae": 2 * D_SAE},
        {"k": K - 1},
        {"dtype": "bfloat16"},
        {"apply_b_dec_to_input": False},
    ):
        cfg = case.config(**change)
        loaded = TrainingSAEConfig.from_dict(through_json(cfg.to_dict()))
        assert {name: getattr(loaded, name) for name in change} == change


@every
def test_from_dict_leaves_the_dictionary_alone(case: ArchitectureCase):
    content = through_json(case.make_inference().cfg.to_dict())
    before = copy.deepcopy(content)
    SAEConfig.from_dict(content)
    assert content == before


@trained
def test_training_from_dict_leaves_the_dictionary_alone(case: ArchitectureCase):
    content = through_json(case.config(**case.list_settings).to_dict())
    before = copy.deepcopy(content)
    TrainingSAE.from_dict(content)
    assert content == before


@with_lists
def test_user_s_lists_are_not_changed(case: ArchitectureCase):
    lists = copy.deepcopy(dict(case.list_settings))
    case.make_trained(**lists)
    assert lists == case.list_settings


@with_lists
def test_changing_the_user_s_list_afterwards_changes_nothing(case: ArchitectureCase):
    lists = copy.deepcopy(dict(case.list_settings))
    cfg = case.config(**lists)
    before = copy.deepcopy(cfg.to_dict())
    for values in lists.values():
        values.clear()
    assert cfg.to_dict() == before


@with_lists
def test_settings_given_as_lists_survive_json(case: ArchitectureCase):
    cfg = case.config(**case.list_settings)
    assert TrainingSAEConfig.from_dict(through_json(cfg.to_dict())) == cfg


@trained
def test_replace_and_deepcopy_keep_every_field(case: ArchitectureCase):
    cfg = case.config(**case.list_settings)
    assert copy.deepcopy(cfg) == cfg
    assert dataclasses.replace(cfg, metadata=cfg.metadata) == cfg


@trained
def test_a_wrong_normalization_is_refused_by_name(case: ArchitectureCase):
    with pytest.raises(ValueError, match="normalize_activations"):
        case.config(normalize_activations="softmax")


@trained
def test_runner_config_survives_json(case: ArchitectureCase):
    cfg = LanguageModelSAERunnerConfig(
        sae=case.config(**case.list_settings), logger=LoggingConfig(log_to_wandb=False), verbose=False
    )
    content = cfg.to_dict()
    content["sae"] = through_json(content["sae"])
    assert LanguageModelSAERunnerConfig.from_dict(content).sae == cfg.sae


def as_arguments(fields: dict) -> list[str]:
    """Fields as one types them: a list's entries after its name."""
    words = {
        name: [str(one) for one in (value if isinstance(value, list | tuple) else [value])]
        for name, value in fields.items()
    }
    return [word for name, values in words.items() for word in (f"--{name}", *values)]


@trained
def test_sae_lens_command_line_builds_the_config(case: ArchitectureCase):
    wanted = {"d_in": D_IN, "d_sae": D_SAE, **case.settings()}
    cfg = _parse_cfg_args(["--architecture", case.name, "--verbose=False", *as_arguments(wanted)])
    assert type(cfg.sae) is SAE_TRAINING_CLASS_REGISTRY[case.name][1]
    assert {name: getattr(cfg.sae, name) for name in wanted} == wanted


@with_lists
def test_sae_lens_command_line_reads_lists(case: ArchitectureCase):
    args = as_arguments({"d_in": D_IN, "d_sae": D_SAE, **case.settings(), **case.list_settings})
    cfg = _parse_cfg_args(["--architecture", case.name, "--verbose=False", *args])
    assert {name: list(getattr(cfg.sae, name)) for name in case.list_settings} == case.list_settings


@trained
def test_saved_metadata_tells_how_it_was_trained(case: ArchitectureCase, tmp_path):
    cfg = case.config(metadata=SAEMetadata(model_name="tiny", hook_name="blocks.0.hook_resid_post"))
    TrainingSAE.from_dict(cfg.to_dict()).save_inference_model(tmp_path)
    content = json.loads((tmp_path / "cfg.json").read_text(), parse_constant=pytest.fail)
    assert content["architecture"] == case.saved_as
    assert content["metadata"]["training_architecture"] == case.name
    assert content["metadata"]["sae_lens_version"]
    metadata = SAE.load_from_disk(tmp_path).cfg.metadata
    assert (metadata.model_name, metadata.hook_name) == ("tiny", "blocks.0.hook_resid_post")
    details = metadata.training_architecture_details
    assert details.items() <= through_json(case.config().to_dict()).items()
    assert details
