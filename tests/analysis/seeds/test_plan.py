"""What a configuration and seeds become, and what is refused before anything is loaded."""

import copy
import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from sae_lens import LoggingConfig

from sae_lens_ext import HierarchicalTopKTrainingSAEConfig, KronTrainingSAEConfig
from sae_lens_ext.analysis.seeds.plan import seed_plan

from .tiny import HOOK, several, single, topk

SAES = {"topk": topk(), "kron": KronTrainingSAEConfig(d_in=16, d_sae=32, k=4, base_dim=2, extension_dim=4)}


@pytest.mark.parametrize(
    ("vary", "seeds"),
    [
        ("initialisation", [(3, 42), (5, 42)]),
        ("data_order", [(42, 3), (42, 5)]),
        ("both", [(3, 3), (5, 5)]),
    ],
)
def test_seed_plan_gives_each_sae_its_two_seeds(vary, seeds) -> None:
    plan = seed_plan(single(seed=42), [3, 5], vary)
    assert [(m.initialisation_seed, m.data_order_seed) for m in plan.members] == seeds
    assert [(m.name, m.kind, m.seed) for m in plan.members] == [("seed_3", "", 3), ("seed_5", "", 5)]
    for member in plan.members:
        metadata = plan.cfg.saes[member.name].metadata
        assert metadata.initialisation_seed == member.initialisation_seed
        assert metadata.data_order_seed == member.data_order_seed


def test_seed_plan_of_several_saes_has_the_same_seeds_for_all_or_those_by_name() -> None:
    names = [m.name for m in seed_plan(several(SAES), range(2), "both").members]
    assert names == ["topk_seed_0", "topk_seed_1", "kron_seed_0", "kron_seed_1"]
    by_name = seed_plan(several(SAES), {"kron": [7, 1], "topk": (0, 9, 4)}, "both")
    names = [m.name for m in by_name.members]
    assert names == ["topk_seed_0", "topk_seed_9", "topk_seed_4", "kron_seed_7", "kron_seed_1"]
    assert seed_plan(several(SAES), (seed for seed in (1, 2)), "both").members[3].name == "kron_seed_2"


def test_seed_plan_takes_over_hooks_heads_and_what_all_share() -> None:
    heads = {"topk": 1, "kron": None}
    hooks = {"topk": "blocks.0.attn.hook_z", "kron": HOOK}
    plan = seed_plan(several(SAES, hook_names=hooks, hook_head_indices=heads, lr=0.5), range(2), "both")
    assert plan.cfg.hook_names_per_sae == {
        "topk_seed_0": hooks["topk"],
        "topk_seed_1": hooks["topk"],
        "kron_seed_0": HOOK,
        "kron_seed_1": HOOK,
    }
    assert plan.cfg.hook_head_indices_per_sae["topk_seed_1"] == 1
    assert plan.cfg.lr == 0.5 and plan.cfg.lr_end == 0.05
    one = seed_plan(single(hook_name="blocks.0.attn.hook_z", hook_head_index=1), range(2), "both").cfg
    assert one.hook_head_indices_per_sae == {"seed_0": 1, "seed_1": 1}


def test_seed_plan_leaves_the_configuration_alone_and_shares_nothing_with_it() -> None:
    logger = LoggingConfig(log_to_wandb=True, run_name="mine", wandb_project="seeds")
    cfg = single(logger=logger, model_kwargs={"a": 1}, exclude_special_tokens=[0, 1])
    before = copy.deepcopy(cfg.to_dict())
    plan = seed_plan(cfg, range(2), "both")
    assert cfg.to_dict() == before and "initialisation_seed" not in cfg.sae.metadata
    assert asdict(plan.cfg.logger) == asdict(logger) and plan.cfg.logger is not logger
    assert plan.cfg.exclude_special_tokens is not cfg.exclude_special_tokens
    assert plan.cfg.saes["seed_0"].metadata is not plan.cfg.saes["seed_1"].metadata


def test_seed_plan_hands_on_the_user_s_own_evaluator() -> None:
    class Evaluator:
        def __call__(self, sae, stream, scaler):
            return {}

    evaluator = Evaluator()
    assert seed_plan(several(SAES, evaluator=evaluator), range(2), "both").cfg.evaluator is evaluator


def test_SeedPlan_to_dict_holds_what_decides_the_numbers_and_not_where_they_go(tmp_path) -> None:
    plan = seed_plan(
        several(SAES, tmp_path / "one"), {"topk": [1, 2], "kron": [3, 4]}, "data_order"
    ).to_dict()
    there = seed_plan(
        several(SAES, tmp_path / "two"), {"topk": [1, 2], "kron": [3, 4]}, "data_order"
    ).to_dict()
    assert json.dumps(plan) == json.dumps(there)
    assert plan["vary"] == "data_order" and plan["seeds"]["kron_seed_4"] == 4
    assert plan["saes"]["kron_seed_4"]["architecture"] == "kron"
    assert set(plan["hook_names"].values()) == {HOOK}
    assert not {"output_path", "checkpoint_path", "logger", "resume_from_checkpoint"} & set(plan)
    for change in ({"lr": 0.1}, {"seed": 1}, {"training_tokens": 128}):
        assert seed_plan(several(SAES, **change), range(2), "both").to_dict() != plan


SEEDS = r"Seeds are whole numbers from 0 to 2\*\*32 - 1, such as those of range\(8\)\.$"
TWO = "Give two or more, each once: what a seed decides shows only in what differs from another."


@pytest.mark.parametrize(
    ("seeds", "complaint"),
    [
        ([], rf"^train_seeds was given the seeds \[\]\. {TWO}$"),
        ([1], rf"^train_seeds was given the seeds \[1\]\. {TWO}$"),
        ([1, 2, 1], rf"^train_seeds was given the seeds \[1, 2, 1\]\. {TWO}$"),
        ([0, True], rf"^train_seeds was given the seed = True\. {SEEDS}"),
        ([0, -1], rf"^train_seeds was given the seed = -1\. {SEEDS}"),
        ([0, 2**32], rf"^train_seeds was given the seed = 4294967296\. {SEEDS}"),
        ([0, 1.0], rf"^train_seeds was given the seed = 1\.0\. {SEEDS}"),
        ("01", rf"^train_seeds was given the seed = '0'\. {SEEDS}"),
        (8, r"^train_seeds was given the seeds 8\. Give them one by one, such as range\(8\)\.$"),
        (
            {"topk": [0, 1]},
            "^train_seeds was given seeds by name, for 'topk', but the configuration is of a single SAE, which has none. Give a list.$",
        ),
    ],
)
def test_seed_plan_refuses_seeds(seeds, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        seed_plan(single(), seeds, "initialisation")


@pytest.mark.parametrize(
    ("seeds", "complaint"),
    [
        (
            {"topk": [0, 1]},
            "^train_seeds was given seeds for 'topk', but the SAEs of the configuration are 'topk', 'kron'. Give seeds for each of them, "
            "or one list for all.$",
        ),
        ({}, "^train_seeds was given seeds for nothing, but the SAEs of"),
        ({"topk": [0, 1], "kron": [0, 1], "krn": [0, 1]}, "given seeds for 'topk', 'kron', 'krn', but"),
        ({"topk": [0, 1], "kron": [3]}, rf"^train_seeds was given the seeds of 'kron' \[3\]\. {TWO}$"),
        ({"topk": [0, 1], "kron": 3}, "^train_seeds was given the seeds of 'kron' 3. Give them one by one"),
        (
            {"topk": [0, 1], "kron": [0, False]},
            rf"^train_seeds was given the seed of 'kron' = False\. {SEEDS}",
        ),
    ],
)
def test_seed_plan_refuses_seeds_by_name(seeds, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        seed_plan(several(SAES), seeds, "initialisation")


@pytest.mark.parametrize("seed", [None, -1, True, 0.5])
def test_seed_plan_refuses_a_shared_seed_that_is_none(seed) -> None:
    with pytest.raises(ValueError, match=rf"^train_seeds was given cfg\.seed = {seed}\. {SEEDS}"):
        seed_plan(single(seed=seed), range(2), "initialisation")


@pytest.mark.parametrize("vary", ["weights", "", None])
def test_seed_plan_refuses_unknown_vary(vary) -> None:
    with pytest.raises(
        ValueError,
        match=f"^train_seeds was given vary = {vary!r}. Give one of 'initialisation', 'data_order', 'both'.$",
    ):
        seed_plan(single(), range(2), vary)


def test_seed_plan_refuses_other_configurations() -> None:
    with pytest.raises(
        ValueError,
        match=r"^train_seeds was given a configuration of type SimpleNamespace\. Give SAELens' LanguageModelSAERunnerConfig, or "
        r"MultiSAETrainingRunnerConfig for several architectures\.$",
    ):
        seed_plan(SimpleNamespace(seed=0), range(2), "both")
    with pytest.raises(ValueError, match="a configuration of type HierarchicalTopKTrainingSAEConfig"):
        seed_plan(HierarchicalTopKTrainingSAEConfig(d_in=16, d_sae=32, k=4), range(2), "both")


@pytest.mark.parametrize("config", [lambda **more: single(**more), lambda **more: several(SAES, **more)])
def test_seed_plan_refuses_to_resume(config) -> None:
    with pytest.raises(
        ValueError,
        match=r"^train_seeds was given resume_from_checkpoint = 'there'\. Leave it out: called again with the same output_path, "
        r"train_seeds goes on from its last checkpoint by itself\.$",
    ):
        seed_plan(config(resume_from_checkpoint="there"), range(2), "both")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"use_cached_activations": True}, "use_cached_activations = True"),
        ({"from_pretrained_path": "there"}, "from_pretrained_path = 'there'"),
        ({"compile_sae": True}, "compile_sae = True"),
        (
            {"compile_sae": True, "from_pretrained_path": "there"},
            "from_pretrained_path = 'there', compile_sae = True",
        ),
    ],
)
def test_seed_plan_refuses_what_only_the_single_runner_does(given, said: str) -> None:
    with pytest.raises(
        ValueError,
        match=f"^train_seeds was given {said}, which SAELens' multi-SAE runner does not do. Leave it at its default.$",
    ):
        seed_plan(single(**given), range(2), "both")
