"""What every test may ask for: a tokenizer, tiny random language models, and tokens to feed them.

Nothing here touches the network: the hub is switched off before any library looks at it.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "disabled"
os.environ["TQDM_DISABLE"] = "1"

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():  # then Triton interprets the kernels, if it is told before it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

from datasets import Dataset
from hypothesis import settings
from sae_lens import HookedSAETransformer
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens import HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

# The tensors are tiny: threads cost more than they bring, and xdist's workers share the cores.
torch.set_num_threads(1)

# On a busy machine any example may take long once; nothing here asserts a time.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

VOCABULARY = ["<|endoftext|>", "<unk>", *(f"w{i}" for i in range(30))]
CONTEXT = 16
TINY = {
    "n_layers": 2,
    "d_model": 16,
    "n_heads": 2,
    "d_head": 8,
    "n_ctx": CONTEXT,
    "d_mlp": 32,
    "d_vocab": len(VOCABULARY),
    "act_fn": "relu",
    "seed": 0,
}


@pytest.fixture(autouse=True)
def _same_randomness_for_every_test() -> None:
    torch.manual_seed(0)


@pytest.fixture
def restored_signals():
    """SAELens' runners replace the interrupt handlers and leave theirs behind."""
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    yield
    for name, handler in handlers.items():
        signal.signal(name, handler)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    end = VOCABULARY[0]
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token=end, eos_token=end, pad_token=end, unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer(tokenizer_folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer of 32 words, read from a folder: TransformerLens asks where it came from."""
    return PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)


@pytest.fixture
def hooked_model(tokenizer: PreTrainedTokenizerFast) -> HookedSAETransformer:
    """A random two-layer `HookedTransformer` to which SAEs can be attached."""
    cfg = HookedTransformerConfig(**TINY, normalization_type="LN", device="cpu")
    return HookedSAETransformer(cfg, tokenizer=tokenizer).eval()


@pytest.fixture
def native_bridge(tokenizer: PreTrainedTokenizerFast) -> TransformerBridge:
    """A random two-layer `TransformerBridge` built without Hugging Face weights."""
    return TransformerBridge.boot_native(dict(TINY), tokenizer=tokenizer).eval()


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Path:
    """A random two-layer GPT-2 saved as Hugging Face does, with its tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gpt2")
    cfg = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=CONTEXT,
        n_embd=TINY["d_model"],
        n_layer=TINY["n_layers"],
        n_head=TINY["n_heads"],
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,  # activations of a size that SAEs notice
    )
    GPT2LMHeadModel(cfg).save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(tokenizer_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def sae_bridge(gpt2_folder: Path) -> SAETransformerBridge:
    """A `TransformerBridge` of the random GPT-2 to which SAEs can be attached."""
    return SAETransformerBridge.boot_transformers(str(gpt2_folder)).eval()


@pytest.fixture(params=["hooked_model", "sae_bridge", "native_bridge"])
def any_model(request: pytest.FixtureRequest) -> Any:
    """Each kind of model in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def tokens() -> torch.Tensor:
    """Four sequences of tokens without special ones, [4, 16]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(2, len(VOCABULARY), (4, CONTEXT), generator=generator)


def tokens_of_the_data_set() -> Dataset:
    """Pre-tokenised rows of 16 tokens, as SAELens' activation store reads them."""
    generator = torch.Generator().manual_seed(2)
    rows: Any = torch.randint(2, len(VOCABULARY), (256, CONTEXT), generator=generator)
    rows[:, 0] = 0
    return Dataset.from_dict({"tokens": rows.tolist()})


@pytest.fixture
def token_dataset() -> Dataset:
    return tokens_of_the_data_set()
