"""Training against AdamW by hand, and what must stay as it is."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_ext.lime import attach_lime
from sae_lens_ext.lime.training import language_model_loss, train_language_model
from sae_lens_ext.lime.training.checkpoint import CHECKPOINT_FILE, Checkpoint
from sae_lens_ext.lime.training.loss import cross_entropy
from sae_lens_ext.lime.training.order import BatchOrder
from sae_lens_ext.lime.training.parameters import trained_parameters
from sae_lens_ext.lime.training.token_groups import token_groups
from tests.conftest import VOCABULARY
from tests.lime.training.test_loss import Bigram
from tests.lime.training.test_settings import settings

QUIET: dict[str, Any] = {"show_progress": False}


@pytest.fixture
def counting() -> torch.Tensor:
    """Sequences in which each token is the one before plus one, [32, 8]."""
    starts = torch.randint(len(VOCABULARY), (32, 1), generator=torch.Generator().manual_seed(0))
    return (starts + torch.arange(8)) % len(VOCABULARY)


def values(module: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def test_one_step_of_a_model_of_two_tokens_is_adamw_by_hand():
    # Loss of [0, 1]: −ln 3/4; its gradient by the row of 0 is p − onehot(1) = (1/4, −1/4). AdamW's first step is lr · sign, after weight decay.
    model = Bigram()
    before = model.table.detach().clone()
    result = train_language_model(
        model, torch.tensor([[0, 1]]), lr=0.1, weight_decay=0.5, warmup=0.0, final_lr=1.0, **QUIET
    )

    assert result.losses.tolist() == pytest.approx([-math.log(0.75)])
    assert result.gradient_norms.tolist() == pytest.approx([math.hypot(0.25, 0.25)])
    expected = before * (1 - 0.1 * 0.5)
    expected[0] += torch.tensor([-0.1, 0.1])
    torch.testing.assert_close(model.table.detach(), expected)


def put_back(module: Any, before: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), before, strict=True):
            parameter.copy_(value)


def without_dropout(model: Any) -> Any:
    source = getattr(model, "original_model", model)
    for module in (*model.modules(), *source.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def test_training_equals_a_loop_over_adamw_by_its_formulas(any_carrier: Any, tokens: torch.Tensor):
    """Also where parameters are columns of one matrix, which torch's fused AdamW gets wrong."""
    model, steps, clip = without_dropout(any_carrier), 4, 0.5
    routers = attach_lime(model, initial="random")
    before = [values(model), values(routers)]
    result = train_language_model(
        model, tokens, routers=routers, epochs=2, batch_size=2, lr=0.01, router_lr=0.02, clip=clip, **QUIET
    )  # fmt: skip
    trained = [values(model), values(routers)]
    for module, value in zip((model, routers), before, strict=True):
        put_back(module, value)

    found = trained_parameters(model, routers, "all")
    course = settings(lr=0.01, router_lr=0.02)
    moments: dict[str, list[torch.Tensor]] = {}
    rounding: set[int] = set()
    for step in range(steps):
        rows = torch.from_numpy(BatchOrder([4], 2, 0).batch(step)[1])
        (group,) = token_groups("test", model, tokens[rows])
        for p in found.named.values():
            p.grad = None
        loss = cross_entropy(model, group.tokens, group.targets) / int(group.counts.sum())
        loss.backward()
        assert float(loss.detach()) == pytest.approx(result.losses[step], rel=1e-5)
        gradients = {name: p.grad for name, p in found.named.items() if p.grad is not None}
        norm = math.sqrt(sum(float(g.pow(2).sum()) for g in gradients.values()))
        assert norm == pytest.approx(result.gradient_norms[step], rel=1e-5)
        share = course.share(step + 1, steps)
        for name, gradient in gradients.items():
            if (
                gradient.abs().max() < 1e-6
            ):  # of the keys' biases nothing depends, so that AdamW follows what rounding leaves
                rounding.add(id(found.named[name]))
            g = gradient * min(1.0, clip / norm)
            m, v = moments.setdefault(name, [torch.zeros_like(g), torch.zeros_like(g)])
            m += 0.1 * (g - m)
            v += 0.05 * (g * g - v)
            lr = share * (0.02 if name.startswith("routers.") else 0.01)
            decay = 0.1 if name.removeprefix("model.") in found.matrices else 0.0
            m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.95 ** (step + 1))
            with torch.no_grad():
                found.named[name].mul_(1 - lr * decay).sub_(lr * m_hat / (v_hat.sqrt() + 1e-8))
    assert len(rounding) <= model.cfg.n_layers
    compared = {id(found.named[name]) for name in moments}
    assert len(compared) > 10 * model.cfg.n_layers
    for module, of_module in zip((model, routers), trained, strict=True):
        for parameter, mine in zip(module.parameters(), of_module, strict=True):
            reached = id(parameter) in compared  # not a second name of the same memory
            if reached and id(parameter) not in rounding:
                torch.testing.assert_close(parameter.detach(), mine, atol=1e-4, rtol=1e-4)


def test_micro_batches_give_the_step_of_the_whole_batch(any_carrier: Any, tokens: torch.Tensor):
    """Also if one of them has more predictions than the other."""
    model = without_dropout(any_carrier)
    mask = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) < torch.tensor(
        [[0.1], [0.9], [0.2], [0.8]]
    )
    mask[:, 1] = True
    before, found = values(model), []
    for micro in (None, 3, 1):
        put_back(model, before)
        found.append(
            train_language_model(
                model, tokens, loss_mask=mask, batch_size=4, micro_batch_size=micro, max_steps=1, **QUIET
            )
        )

    assert len({int(n) for n in mask[:, 1:].sum(1)}) > 2
    for result in found[1:]:
        np.testing.assert_allclose(result.losses, found[0].losses, rtol=1e-5)
        np.testing.assert_allclose(result.gradient_norms, found[0].gradient_norms, rtol=1e-4)


def test_a_learnable_pattern_is_learnt(native_bridge: TransformerBridge, counting: torch.Tensor):
    routers = attach_lime(native_bridge, initial="random")
    before = values(routers)
    result = train_language_model(
        native_bridge,
        counting,
        routers=routers,
        epochs=20,
        batch_size=8,
        lr=1e-2,
        validation=(counting[:8], None),
        validate_every=40,
        **QUIET,
    )

    assert result.losses[0] > 3 and result.losses[-5:].mean() < 0.5
    assert result.validation_steps.tolist() == [40, 80]
    assert result.validation_loss == pytest.approx(
        language_model_loss(native_bridge, counting[:8]).loss, rel=1e-6
    )
    assert result.tokens.tolist() == [64 * (i + 1) for i in range(80)]
    assert not any(torch.equal(a, b) for a, b in zip(before, values(routers), strict=True))


def test_the_frozen_model_stays_bit_for_bit_while_routers_learn(any_carrier: Any, counting: torch.Tensor):
    routers = attach_lime(any_carrier)
    before, modes = values(any_carrier), [module.training for module in any_carrier.modules()]
    start = values(routers)
    result = train_language_model(
        any_carrier, counting, routers=routers, trained="routers", epochs=4, batch_size=8, **QUIET
    )

    assert all(torch.equal(a, b) for a, b in zip(before, values(any_carrier), strict=True))
    assert all(p.requires_grad and p.grad is None for p in any_carrier.parameters())
    assert [module.training for module in any_carrier.modules()] == modes
    assert not any(torch.equal(a, b) for a, b in zip(start, values(routers), strict=True))
    assert language_model_loss(any_carrier, counting).loss < result.losses[:4].mean()
    assert result.learning_rates.max() == 1e-2


def test_of_a_model_that_is_trained_alone_the_routers_stay(native_bridge: Any, counting: torch.Tensor):
    routers = attach_lime(native_bridge, initial="random")
    before = values(routers)
    train_language_model(native_bridge, counting, routers=routers, trained="model", max_steps=2, **QUIET)

    assert all(torch.equal(a, b) for a, b in zip(before, values(routers), strict=True))
    assert all(p.requires_grad for p in routers.parameters())


def test_only_what_the_mask_says_is_learnt():
    model, tokens = Bigram(), torch.tensor([[0, 0, 1, 1]])
    before = model.table.detach().clone()
    mask = torch.tensor(
        [[True, False, True, False]]
    )  # what 0 is followed by counts once, and what 1 is, never
    result = train_language_model(model, tokens, loss_mask=mask, epochs=5, weight_decay=0.0, **QUIET)

    assert result.losses[0] == pytest.approx(-math.log(0.75))
    after = model.table.detach().softmax(-1)
    assert after[0, 1] > 0.75
    assert torch.equal(model.table.detach()[1], before[1])


def test_the_same_seed_gives_the_same_training_and_the_global_randomness_stays(
    sae_bridge: Any, tokens: torch.Tensor
):
    before, found = values(sae_bridge), []
    for seed, disturbed in ((0, 1), (0, 2), (1, 1)):
        put_back(sae_bridge, before)
        torch.manual_seed(disturbed)  # dropout does not draw from it
        state = torch.get_rng_state()
        found.append(train_language_model(sae_bridge, tokens, batch_size=2, seed=seed, **QUIET).losses)
        assert torch.equal(torch.get_rng_state(), state)

    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()


def test_a_model_in_a_block_without_gradients_is_trained(native_bridge: Any, tokens: torch.Tensor):
    before = values(native_bridge)
    with torch.no_grad():
        train_language_model(native_bridge, tokens, autocast=True, **QUIET)

    assert not torch.equal(before[0], values(native_bridge)[0])
    assert all(p.dtype == torch.float32 for p in native_bridge.parameters())


def test_nan_stops_before_anything_is_spoilt(native_bridge: Any, tokens: torch.Tensor, tmp_path: Path):
    settled = {"batch_size": 2, "epochs": 3, "checkpoint_every": 1, "folder": tmp_path / "run", **QUIET}
    calls, last = 0, native_bridge.unembed

    def spoil(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return output * (float("nan") if calls == 3 else 1.0)

    handle = last.register_forward_hook(spoil)
    with pytest.raises(
        RuntimeError, match="The loss of step 3 is nan, so the training was stopped; the weights"
    ):
        train_language_model(native_bridge, tokens, **settled)
    handle.remove()

    assert all(torch.isfinite(value).all() for value in values(native_bridge))
    assert not native_bridge.training
    saved = Checkpoint.load(tmp_path / "run" / CHECKPOINT_FILE)
    assert saved.step == 2
    named = {f"model.{name}": p for name, p in native_bridge.named_parameters()}
    assert all(torch.equal(tensor, named[name]) for name, tensor in saved.weights.items())


def test_a_gradient_that_is_infinite_stops(tokens: torch.Tensor):
    model = Bigram()
    model.table.register_hook(lambda gradient: gradient * float("inf"))

    with pytest.raises(RuntimeError, match=r"The gradient of step 1 has the norm (inf|nan), so"):
        train_language_model(model, torch.tensor([[0, 1]]), **QUIET)


def test_routers_that_no_gradient_reaches_are_an_error(native_bridge: Any, tokens: torch.Tensor):
    routers = attach_lime(native_bridge)
    with (
        routers.paused(),
        pytest.raises(RuntimeError, match=r"No gradient reaches the routers' .*Are the routers paused"),
    ):
        train_language_model(native_bridge, tokens, routers=routers, **QUIET)


def test_arguments_that_do_not_fit_are_refused(native_bridge: Any, tokens: torch.Tensor):
    for given, message in [
        ({"validate_every": 5}, "validate_every = 5 and nothing to validate on"),
        ({"checkpoint_every": 0}, "checkpoint_every = 0. Give a whole number"),
        ({"show_progress": 1}, "show_progress = 1. Give True or False"),
        ({"validation": tokens.float()}, "validation of dtype torch.float32"),
        ({"loss_mask": tokens > 3, "trained": "routers"}, "no routers"),
    ]:
        with pytest.raises(ValueError, match=message):
            train_language_model(native_bridge, tokens, **given)
    with pytest.raises(ValueError, match="the token id 61"):
        train_language_model(native_bridge, tokens + 30)


def test_the_log_has_a_line_for_every_step(native_bridge: Any, tokens: torch.Tensor, tmp_path: Path):
    result = train_language_model(
        native_bridge, tokens, batch_size=2, validation=tokens, folder=tmp_path / "run", **QUIET
    )

    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [set(line) for line in lines] == [
        {"step", "loss", "lr", "tokens", "grad_norm", "seconds"},
        {"step", "loss", "lr", "tokens", "grad_norm", "seconds", "validation_loss"},
    ]
    assert [line["loss"] for line in lines] == result.losses.tolist()
