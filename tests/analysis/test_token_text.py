"""Tokens as text, also those that the tokenizer does not know."""

from transformers import PreTrainedTokenizerFast

from sae_lens_ext.analysis.top_contexts import token_text


def test_an_id_of_a_padded_vocabulary_is_named_by_its_number(tokenizer: PreTrainedTokenizerFast) -> None:
    assert token_text(tokenizer, 5) == "w3"
    assert token_text(tokenizer, 40) == "<40>"
