"""The Triton kernels against the naive forms: on the GPU where there is one, else in Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_ext import (
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
    KronTrainingSAE,
    KronTrainingSAEConfig,
)
from sae_lens_ext.ops import (
    multi_budget,
    multi_budget_loss,
    multi_budget_loss_naive,
    sparse_decode,
    sparse_decode_naive,
    sparse_decoder,
)
from sae_lens_ext.ops.triton_kernels import availability
from tests.contract.synthetic import relative_error, step_input

CUDA = torch.cuda.is_available()
if sys.platform != "linux" or importlib.util.find_spec("triton") is None:
    pytest.skip("triton, which is made for Linux, is not installed here", allow_module_level=True)
if not CUDA and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("there is no GPU here, and Triton's interpreter is off", allow_module_level=True)

# Where there is a GPU the interpreter is not asked for (tests/conftest.py), and the same tests run there.
on_device = pytest.mark.parametrize(
    "device", [pytest.param("cuda", id="cuda") if CUDA else pytest.param("cpu", id="interpreter")]
)
precisions = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
widths = st.sampled_from([4, 16, 256])
by_example = settings(deadline=None, max_examples=60)


@pytest.fixture
def triton_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (multi_budget, sparse_decoder):
        monkeypatch.setattr(module, "use_triton", lambda *_: True)


def block_width(width: int) -> Any:
    """Columns in steps of at most `width`, so that a small d has several blocks."""
    from sae_lens_ext.ops.triton_kernels import launch

    return patch.object(launch, "WIDEST", width)


def problem(
    tokens: int, k: int, d: int, latents: int, seed: int, dtype: torch.dtype, device: str
) -> list[torch.Tensor]:
    """Ranked values, indices, decoder, bias and target of size one; a third of the values are 0.

    The indices of a token are distinct if there are at least k latents, else every latent is named again and again.
    """
    generator = torch.Generator().manual_seed(seed)
    values = (torch.randn(tokens, k, generator=generator) + 0.4).relu().sort(descending=True).values
    indices = torch.rand(tokens, max(k, latents), generator=generator).argsort()[:, :k] % latents
    decoder = torch.randn(latents, d, generator=generator) / d**0.5
    bias, target = torch.randn(d, generator=generator), torch.randn(tokens, d, generator=generator)
    floats = (values, decoder, bias / d**0.5, target / d**0.5)
    values, decoder, bias, target = (t.to(device, dtype) for t in floats)
    return [values, indices.to(device), decoder, bias, target]


def exactly(fn, inputs: list[torch.Tensor], *args: Any, **options: Any) -> list[torch.Tensor]:
    """As `differentiated`, in float64."""
    doubles = [t.double() if t.is_floating_point() else t for t in inputs]
    return differentiated(fn, doubles, *args, **options)


def differentiated(fn, inputs: list[torch.Tensor], *args: Any, **options: Any) -> list[torch.Tensor]:
    """What `fn` gives, and the gradients of its first part, each number of it weighted differently."""
    inputs = [t.detach().requires_grad_(t.is_floating_point()) for t in inputs]
    out = fn(*inputs, *args, **options)
    out, *rest = out if isinstance(out, tuple) else (out,)
    leaves = [t for t in inputs if t.requires_grad]
    weights = (torch.arange(out.numel(), device=out.device) % 3 + 1).view_as(out)  # exact in any precision
    return [out.detach(), *rest, *torch.autograd.grad(out, leaves, weights.to(out.dtype))]


def assert_all_close(actual: list[torch.Tensor], wanted: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    for a, w in zip(actual, wanted, strict=True):
        torch.testing.assert_close(a.double(), w.double(), rtol=tolerance, atol=tolerance)


@on_device
@by_example
@given(
    tokens=st.integers(0, 3),
    k=st.integers(1, 7),
    d=st.integers(1, 37),
    latents=st.integers(2, 12),
    width=widths,
    dtype=precisions,
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_multi_budget_kernel_equals_the_formula(
    device: str,
    tokens: int,
    k: int,
    d: int,
    latents: int,
    width: int,
    dtype: torch.dtype,
    seed: int,
    data: st.DataObject,
) -> None:
    """Whatever the precision of the inputs, the sums are float32."""
    from sae_lens_ext.ops.triton_kernels.multi_budget import by_triton

    budgets = tuple(sorted(data.draw(st.sets(st.integers(1, k), min_size=1))))
    inputs = problem(tokens, k, d, latents, seed, dtype, device)
    with block_width(width):
        found = by_triton(*inputs, budgets)
    actual = [found.loss, found.reconstruction, found.values, found.decoder, found.target]
    if tokens == 0:
        assert found.loss == 0 and not found.decoder.any() and found.values.shape == (0, k)
        return
    loss, reconstruction, d_values, d_decoder, d_bias, d_target = exactly(
        multi_budget_loss_naive, inputs, budgets
    )
    assert_all_close(actual, [loss, reconstruction, d_values, d_decoder, d_target])
    assert_all_close([-found.target.sum(dim=0)], [d_bias])
    assert {t.dtype for t in actual} == {torch.float32}


@on_device
@by_example
@given(
    tokens=st.integers(0, 3),
    k=st.integers(1, 6),
    more=st.integers(0, 5),
    d=st.integers(1, 37),
    width=widths,
    dtype=precisions,
    seed=st.integers(0, 2**16),
)
def test_decode_kernels_equal_the_matrix_product(
    device: str, tokens: int, k: int, more: int, d: int, width: int, dtype: torch.dtype, seed: int
) -> None:
    from sae_lens_ext.ops.triton_kernels.sparse_decode import decode, decode_gradients

    *inputs, _, target = problem(tokens, k, d, k + more, seed, dtype, device)
    with block_width(width):
        out, gradients = decode(*inputs), decode_gradients(target, *inputs)
    doubles = [t.double().requires_grad_() if t.is_floating_point() else t for t in inputs]
    wanted = sparse_decode_naive(*doubles)
    assert out.dtype == dtype
    torch.testing.assert_close(out, wanted.to(dtype))
    wanted.backward(target.double())
    assert_all_close(list(gradients), [doubles[0].grad, doubles[2].grad])


@on_device
def test_kernels_in_float32_are_within_1e_5_of_float64(device: str, triton_everywhere: None) -> None:
    inputs = problem(40, 9, 50, 64, 0, torch.float32, device)
    with block_width(32):
        for budgets in [(9,), (2, 3, 7), tuple(range(1, 10))]:
            actual = differentiated(multi_budget_loss, inputs, budgets)
            for a, w in zip(actual, exactly(multi_budget_loss_naive, inputs, budgets), strict=True):
                assert (a.double() - w).norm() <= 1e-5 * w.norm()
        actual = differentiated(sparse_decode, inputs[:3])
        for a, w in zip(actual, exactly(sparse_decode_naive, inputs[:3]), strict=True):
            assert (a.double() - w).norm() <= 1e-5 * w.norm()


@on_device
@pytest.mark.parametrize("unit_rows", [False, True])
def test_kernels_give_bfloat16_gradients_for_bfloat16_inputs(
    device: str, unit_rows: bool, triton_everywhere: None
) -> None:
    inputs = problem(6, 5, 20, 30, 0, torch.bfloat16, device)
    actual = differentiated(multi_budget_loss, inputs, (1, 3, 5), unit_rows=unit_rows)
    wanted = exactly(multi_budget_loss_naive, inputs, (1, 3, 5), unit_rows=unit_rows)
    assert_all_close(actual[:1], wanted[:1])
    assert_all_close(actual[1:], wanted[1:], tolerance=2**-7)
    actual_decoded = differentiated(sparse_decode, inputs[:3])
    assert_all_close(actual_decoded, exactly(sparse_decode_naive, inputs[:3]), tolerance=2**-7)
    assert {t.dtype for t in [*actual[1:], *actual_decoded]} == {torch.bfloat16}


@on_device
def test_kernels_take_any_layout_and_count_a_latent_named_twice_twice(
    device: str, triton_everywhere: None
) -> None:
    values, indices, decoder, bias, target = problem(5, 6, 10, 3, 0, torch.float32, device)
    scattered = [values.T.contiguous().T, indices.T.contiguous().T, decoder.T.contiguous().T]
    assert not any(t.is_contiguous() for t in scattered)
    for inputs in (scattered, [values, indices.int(), decoder]):
        budgets = (2, 5)
        actual = differentiated(multi_budget_loss, [*inputs, bias, target.T.contiguous().T], budgets)
        naive = [values, indices, decoder, bias, target]
        assert_all_close(actual, exactly(multi_budget_loss_naive, naive, budgets))
        by_gathering = differentiated(lambda z, i, e: (z.unsqueeze(-1) * e[i]).sum(dim=1), naive[:3])
        assert_all_close(differentiated(sparse_decode, inputs), by_gathering)


@on_device
@pytest.mark.parametrize("budgets", ["all", (1, 3), (4,)])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("name", ["hierarchical_topk", "kron"])
def test_training_steps_are_the_same_with_the_kernels(
    device: str, name: str, rescale: bool, budgets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"d_in": 12, "d_sae": 32, "k": 4, "budgets": budgets, "rescale_acts_by_decoder_norm": rescale}
    if name == "kron":
        cfg = KronTrainingSAEConfig(**fields, base_dim=2, extension_dim=4)
        make = lambda: KronTrainingSAE(cfg)  # noqa: E731
    else:
        make = lambda: HierarchicalTopKTrainingSAE(HierarchicalTopKTrainingSAEConfig(**fields))  # noqa: E731
    plain, fast = make().to(device), make().to(device)
    fast.load_state_dict(plain.state_dict())
    batches = torch.randn(3, 10, 12, device=device)
    dead = torch.arange(32, device=device) % 3 == 0
    launched = []
    from sae_lens_ext.ops.triton_kernels import multi_budget as kernels

    kernel = kernels.by_triton
    monkeypatch.setattr(kernels, "by_triton", lambda *args: launched.append(1) or kernel(*args))
    for sae, with_kernels in ((plain, False), (fast, True)):
        monkeypatch.setattr(multi_budget, "use_triton", lambda *_, answer=with_kernels: answer)
        sae.losses = []
        optimizer = torch.optim.SGD(sae.parameters(), lr=1e-2)
        for x in batches:
            optimizer.zero_grad()
            output = sae.training_forward_pass(step_input(x, dead=dead))
            output.loss.backward()
            optimizer.step()
            sae.losses.append(output.loss.detach())
        assert len(launched) == 3 * with_kernels
    torch.testing.assert_close(fast.losses, plain.losses)
    for (parameter, a), b in zip(fast.named_parameters(), plain.parameters(), strict=True):
        assert relative_error(a.grad, b.grad) < 1e-5, parameter


@on_device
def test_sparse_decode_uses_the_kernels_when_it_may(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, asked = problem(3, 4, 6, 9, 0, torch.float32, device)[:3], []
    monkeypatch.setattr(sparse_decoder, "use_triton", lambda *tensors: asked.append(tensors) or True)
    out = sparse_decode(inputs[0], inputs[1], inputs[2].requires_grad_())
    assert len(asked) == 1 and out.grad_fn.name() == "SparseDecodeBackward"


def stand_in(**fields: Any) -> Any:
    return SimpleNamespace(**{"is_cuda": True, "dtype": torch.float32, "device": "cuda:0", **fields})


def test_use_triton_is_for_supported_gpus_and_orderless_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    use_triton, capability = availability.use_triton, [8, 0]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: tuple(capability))
    assert use_triton(stand_in()) and use_triton(stand_in(dtype=torch.bfloat16), stand_in())
    assert not use_triton(torch.zeros(1)) and not use_triton(stand_in(), torch.zeros(1))
    assert not use_triton(stand_in(), stand_in(dtype=torch.float64))
    capability[0] = 7
    assert not use_triton(stand_in())
    capability[0] = 9
    assert use_triton(stand_in())
    with patch.object(availability, "IS_INSTALLED", False):
        assert not use_triton(stand_in())
    with patch.dict("os.environ", {availability.SWITCH: "0"}):
        assert not use_triton(stand_in())
    torch.use_deterministic_algorithms(True)
    try:
        assert not use_triton(stand_in())
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore")  # of what the tracer itself does
@on_device
def test_kernels_run_in_a_compiled_step(device: str, triton_everywhere: None) -> None:
    inputs = problem(2, 3, 6, 9, 0, torch.float32, device)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *args: multi_budget_loss(*args, (1, 3)), backend="eager")
    assert_all_close(differentiated(compiled, inputs), differentiated(multi_budget_loss, inputs, (1, 3)))


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sae_lens_ext.ops.triton_kernels import launch, multi_budget, sparse_decode

for kernel in (multi_budget._multi_budget_kernel, sparse_decode._decode_kernel, sparse_decode._gradients_kernel):
    for capability in (80, 90):
        for decoder in ("fp32", "bf16"):
            types = {"indices": "*i64", "decoder": "*" + decoder, "is_level": "*i8", "weight": "fp32"}
            numbers = {name: "i32" for name in ("n_tokens", "n_values", "n_ranks", "d")}
            signature = {name: {**types, **numbers}.get(name, "*fp32") for name in kernel.arg_names}
            source = ASTSource(kernel, {**signature, "WIDTH": "constexpr"}, {"WIDTH": launch.WIDEST})
            options = {"num_warps": launch.WARPS}
            program = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            assert len(program.asm["cubin"]) > 0
            print(kernel.__name__, capability, decoder)
"""


def test_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    """What the interpreter accepts, the compiler may not; it needs no GPU to say so."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 12
