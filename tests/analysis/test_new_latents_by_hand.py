"""New latents of a model that looks activations up in a table, against numbers worked by hand."""

import pytest
import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformer_lens.hook_points import HookPoint
from transformers import PreTrainedTokenizerFast

from sae_lens_ext import ResidualStackSAE
from sae_lens_ext.analysis.new_latents import Context, LatentUse, compare_new_latents


class TableModel(nn.Module):
    def __init__(self, tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        rows = torch.zeros(32, 3)
        rows[0] = 100  # <|endoftext|>
        for word, row in enumerate([(1, 0, 0), (0, 2, 0), (0, 0, 3), (5, 0, 0), (0, 0, 1)]):
            rows[word + 2] = torch.tensor(row)
        self.table = nn.Parameter(rows)
        self.hook_embed = HookPoint()
        self.hook_dict = {"hook_embed": self.hook_embed}
        self.contexts_run = 0

    def forward(self, tokens, return_type):
        self.contexts_run += len(tokens)
        return self.hook_embed(self.table[tokens])


@pytest.fixture
def table_model(tokenizer) -> TableModel:
    return TableModel(tokenizer)


def hand_stack() -> ResidualStackSAE:
    base = StandardSAE(StandardSAEConfig(d_in=3, d_sae=2))
    residual = JumpReLUSAE(JumpReLUSAEConfig(d_in=3, d_sae=3, apply_b_dec_to_input=False))
    with torch.no_grad():
        base.W_enc.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 0]]))
        base.W_dec.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
        residual.W_enc.copy_(torch.tensor([[0.0, 1, 0], [0, 0, 0], [1, 0, 0]]))
        residual.W_dec.copy_(torch.tensor([[0.0, 3, 4], [2, 0, 0], [-2, -1, 0]]))
        residual.b_enc.copy_(torch.tensor([0.0, 0, -1]))
        residual.threshold.fill_(0.5)
    base.cfg.metadata.hook_name = "hook_embed"
    base.cfg.metadata.neuronpedia_id = "tiny/0-res"
    return ResidualStackSAE.from_saes(base, {"code": residual})


A, B = ["w0 w1 w2 w3 w4 w5 w2"], ["w3 w5 w5 w5 w5 w1 w5"]  # one context of 8 tokens each, BOS first
BY_HAND = {"context_size": 8, "tokens_around": 2, "show_progress": False}


def test_compare_new_latents_by_hand(table_model) -> None:
    result = compare_new_latents(table_model, hand_stack(), {"a": A, "b": B}, **BY_HAND)
    # Contributions: 0: (3² + 1² + 3²) · 5² = 475;  1: (1² + 5² + 5²) · 2² = 204;  2: 0.
    dim2, dim0, silent = result.pairs
    assert dim2.new == LatentUse(
        index=0,
        flat_index=2,
        firing_rates={"a": 3 / 7, "b": 0.0},
        max_activation=3.0,
        contexts=(
            Context("a", ("w0", "w1", "w2", "w3", "w4"), (0.0, 0.0, 3.0, 0.0, 1.0), 2),
        ),  # first of equals
        url=None,
    )
    assert (dim2.cosine, dim2.base.index) == (pytest.approx(0.6), 1)
    assert dim2.base == LatentUse(
        index=1,
        flat_index=1,
        firing_rates={"a": 1 / 7, "b": 1 / 7},
        max_activation=2.0,
        contexts=(
            Context("a", ("<|endoftext|>", "w0", "w1", "w2", "w3"), (0.0, 0.0, 2.0, 0.0, 0.0), 2),
            Context("b", ("w5", "w5", "w1", "w5"), (0.0, 0.0, 2.0, 0.0), 2),
        ),
        url="https://neuronpedia.org/tiny/0-res/1",
    )
    assert (dim0.new.index, dim0.base.index, dim0.cosine) == (1, 0, pytest.approx(1.0))
    assert dim0.new.firing_rates == {"a": 2 / 7, "b": 1 / 7} and dim0.new.max_activation == 5.0
    assert dim0.new.contexts == (
        Context("a", ("w1", "w2", "w3", "w4", "w5"), (0.0, 0.0, 5.0, 0.0, 0.0), 2),
        Context("b", ("<|endoftext|>", "w3", "w5", "w5"), (0.0, 5.0, 0.0, 0.0), 1),
    )
    assert (silent.new.index, silent.base.index, silent.cosine) == (2, 1, pytest.approx(-(5**-0.5)))
    assert silent.new == LatentUse(2, 4, {"a": 0.0, "b": 0.0}, 0.0, (), None)
    assert result.provenance["n_tokens"] == {"a": 7, "b": 7}


def test_compare_new_latents_ties_go_to_the_earlier_text_and_one_context_each(table_model) -> None:
    texts = {"b": B, "a": A, "c": ["w3 w3 w3 w3 w3 w3 w3"]}
    for size in (1, 8):
        result = compare_new_latents(
            table_model, hand_stack(), texts, latents=[1], n_contexts=2, **BY_HAND, batch_size=size
        )
        assert [context.text for context in result.pairs[0].new.contexts] == ["b", "a"]
    result = compare_new_latents(table_model, hand_stack(), texts, latents=[1], **BY_HAND)
    assert [(c.text, len(c.tokens)) for c in result.pairs[0].new.contexts] == [("b", 4), ("a", 5), ("c", 4)]


def test_compare_new_latents_keeps_the_spaces_that_sentencepiece_drops_when_it_decodes() -> None:
    words = Tokenizer(
        models.WordLevel({"<s>": 0, "<unk>": 1, **{f"▁w{i}": i + 2 for i in range(30)}}, unk_token="<unk>")
    )
    words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="<s>", unk_token="<unk>"
    )
    assert tokenizer.decode([5]) == "w3"
    result = compare_new_latents(TableModel(tokenizer), hand_stack(), {"b": B}, latents=[1], **BY_HAND)
    assert result.pairs[0].new.contexts[0].tokens == ("<s>", " w3", " w5", " w5")


def test_compare_new_latents_runs_again_only_the_contexts_it_shows(table_model) -> None:
    silent = " ".join(["w5"] * 7)
    compare_new_latents(table_model, hand_stack(), {"a": A, "none": [silent] * 20}, latents=[0], **BY_HAND)
    assert table_model.contexts_run == 21 + 1
    nothing = compare_new_latents(table_model, hand_stack(), {"none": [silent]}, **BY_HAND)
    assert [pair.new.contexts for pair in nothing.pairs] == [()] * 3
    assert [pair.new.index for pair in nothing.pairs] == [0, 1, 2]


def test_compare_new_latents_of_a_decoder_row_of_zeros_has_cosine_zero(table_model) -> None:
    stack = hand_stack()
    stack.W_dec.data[2] = 0
    assert compare_new_latents(table_model, stack, {"a": A}, latents=[0], **BY_HAND).pairs[0].cosine == 0
