"""Contexts of tokens, against packing by hand."""

from collections import Counter

import pytest
import torch
from datasets import Dataset

from sae_lens_ext.language_model import contexts, mix_datasets, packed_contexts

SIZE = 16
BOS = 0
SHORT = ["w0 w1 w2", "w3", "w4 w5 w6"]  # tokens 2 3 4 / 5 / 6 7 8


def documents(n: int = 80, seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (n,), generator=generator).tolist()
    return [
        " ".join(f"w{word}" for word in torch.randint(0, 30, (length,), generator=generator).tolist())
        for length in lengths
    ]


def packed_by_hand(texts: list[str], size: int) -> list[tuple[int, ...]]:
    """One token after the other: BOS at the start of a context and before a document that goes on in one."""
    done: list[tuple[int, ...]] = []
    context: list[int] = []

    def add(token: int) -> None:
        context.append(token)
        if len(context) == size:
            done.append(tuple(context))
            context.clear()

    for text in texts:
        if context:
            add(BOS)
        for word in text.split():
            if not context:
                add(BOS)
            add(int(word[1:]) + 2)
    return done


def rows(packed) -> list[tuple[int, ...]]:
    return [tuple(row) for row in packed["input_ids"]]


def test_contexts_by_hand(tokenizer) -> None:
    packed = contexts(SHORT, tokenizer, context_size=4, seed=0, at_least=1, what="It")
    assert sorted(rows(packed)) == [(0, 2, 3, 4), (0, 5, 0, 6)]
    assert packed.column_names == ["input_ids"]


@pytest.mark.parametrize("size", [2, 5, SIZE])
def test_contexts_hold_the_documents_packed_by_hand_in_another_order(tokenizer, size: int) -> None:
    expected = packed_by_hand(documents(), size)
    packed = rows(contexts(documents(), tokenizer, context_size=size, seed=3, at_least=1, what="It"))
    assert sorted(packed) == sorted(expected) and packed != expected
    assert all(row[0] == BOS for row in packed)


def test_contexts_order_is_the_seed_s(tokenizer) -> None:
    first, again, other = (
        rows(contexts(documents(), tokenizer, context_size=SIZE, seed=seed, at_least=1, what="It"))
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other and sorted(first) == sorted(other)


def test_contexts_take_documents_longer_than_the_model_without_a_word_and_restore_its_limit(
    tokenizer,
) -> None:
    tokenizer.model_max_length = 5
    contexts(documents(), tokenizer, context_size=SIZE, seed=0, at_least=1, what="It")
    assert tokenizer.model_max_length == 5
    assert not tokenizer.deprecation_warnings  # where transformers notes that it has warned of the length


def test_contexts_restore_the_tokenizer_after_an_error(tokenizer, monkeypatch) -> None:
    tokenizer.model_max_length = 5
    with pytest.raises(ValueError, match="too short"):
        contexts(["w1"], tokenizer, context_size=SIZE, seed=0, at_least=1, what="It")
    assert tokenizer.model_max_length == 5

    def fail(*_: object, **__: object) -> None:
        raise KeyError("the tokenizer's own")

    monkeypatch.setattr(tokenizer, "encode", fail)
    with pytest.raises(KeyError, match="the tokenizer's own"):
        contexts(["w1"], tokenizer, context_size=SIZE, seed=0, at_least=1, what="It")
    assert tokenizer.model_max_length == 5


@pytest.mark.parametrize("texts", [[], [""], ["w1 w2"]])
def test_contexts_of_too_little_text_say_how_much_there_is(tokenizer, texts: list[str]) -> None:
    complaint = (
        f"The text 'code' is too short: its {len(texts)} documents fill 0 contexts of 16 tokens, and 1 are needed. "
        "Give more text, or shorter contexts."
    )
    with pytest.raises(ValueError) as info:
        contexts(texts, tokenizer, context_size=SIZE, seed=0, at_least=1, what="The text 'code'")
    assert str(info.value) == complaint


def test_contexts_at_least_counts_exactly(tokenizer) -> None:
    assert len(contexts(SHORT, tokenizer, context_size=4, seed=0, at_least=2, what="It")) == 2
    with pytest.raises(ValueError, match="its 3 documents fill 2 contexts of 4 tokens, and 3 are needed"):
        contexts(SHORT, tokenizer, context_size=4, seed=0, at_least=3, what="It")


def test_contexts_of_one_token_are_refused(tokenizer) -> None:
    """They would hold BOS and nothing else, without end."""
    with pytest.raises(ValueError, match="context_size = 1 leaves no room for text after BOS"):
        contexts(SHORT, tokenizer, context_size=1, seed=0, at_least=1, what="It")


def test_contexts_refuse_documents_that_are_not_text_and_tokenizers_without_bos(tokenizer) -> None:
    with pytest.raises(ValueError, match="The text has a document of type int, 7. Give documents as strings"):
        contexts(["w1 w2", 7], tokenizer, context_size=4)  # type: ignore[list-item]
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="The tokenizer has no BOS token"):
        contexts(["w1 w2"], tokenizer, context_size=4)


def documents_of(name: str, n: int) -> Dataset:
    return Dataset.from_dict({"text": [f"{name}{i}" for i in range(n)]})


@pytest.mark.parametrize(("fraction", "n_general"), [(0.1, 5), (0.5, 45), (0.75, 135), (0.0, 0)])
def test_mix_datasets_holds_the_domain_once_and_the_share_of_general_text(
    fraction: float, n_general: int
) -> None:
    mixed = mix_datasets(documents_of("d", 45), documents_of("g", 60), general_fraction=fraction)["text"]
    counts = Counter(mixed)
    assert {row for row in counts if row[0] == "d"} == {f"d{i}" for i in range(45)}
    assert all(counts[f"d{i}"] == 1 for i in range(45)) and len(mixed) == 45 + n_general
    drawn = [counts[f"g{i}"] for i in range(60)]
    assert max(drawn) - min(drawn) <= 1  # none again before all were there
    assert [row[0] for row in mixed[:45]] != ["d"] * 45 or fraction == 0  # shuffled


def test_mix_datasets_order_is_the_seed_s() -> None:
    one, two, three = (
        list(
            mix_datasets(documents_of("d", 30), documents_of("g", 30), general_fraction=0.2, seed=seed)[
                "text"
            ]
        )
        for seed in (0, 0, 1)
    )
    assert one == two != three


def test_mix_datasets_refuses_what_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match="general_fraction = 1.0 is out of range"):
        mix_datasets(documents_of("d", 3), documents_of("g", 3), general_fraction=1.0)
    with pytest.raises(
        ValueError, match=r"3 rows and the columns \['text'\] cannot be mixed with one of 2 rows"
    ):
        mix_datasets(
            documents_of("d", 3), documents_of("g", 2).rename_column("text", "tokens"), general_fraction=0.1
        )
    with pytest.raises(ValueError, match="cannot be mixed with one of 0 rows"):
        mix_datasets(documents_of("d", 3), documents_of("g", 3).select([]), general_fraction=0.1)


def test_packed_contexts_are_the_first_ones_in_the_seed_s_order(tokenizer) -> None:
    everything = contexts(documents(), tokenizer, context_size=SIZE, seed=7, at_least=1, what="It")
    few = packed_contexts(documents(), tokenizer, context_size=SIZE, max_tokens=5 * SIZE, seed=7, what="It")
    assert few.dtype == torch.int64 and few.shape == (5, SIZE)
    assert [tuple(row) for row in few.tolist()] == rows(everything)[:5]
    others = packed_contexts(
        documents(), tokenizer, context_size=SIZE, max_tokens=5 * SIZE, seed=8, what="It"
    )
    assert not torch.equal(few, others)


@pytest.mark.parametrize(
    ("max_tokens", "n"), [(3 * SIZE, 3), (3 * SIZE + 15, 3), (SIZE, 1), (1, 1), (10**6, None)]
)
def test_packed_contexts_give_whole_contexts_no_more_tokens_and_at_least_one(
    tokenizer, max_tokens: int, n
) -> None:
    packed = packed_contexts(
        documents(), tokenizer, context_size=SIZE, max_tokens=max_tokens, seed=0, what="It"
    )
    assert packed.shape == (n or len(packed_by_hand(documents(), SIZE)), SIZE)


def test_packed_contexts_name_the_text_that_is_too_short(tokenizer) -> None:
    with pytest.raises(
        ValueError, match="The text 'law' is too short: its 1 documents fill 0 contexts of 16"
    ):
        packed_contexts(["w1"], tokenizer, context_size=SIZE, max_tokens=99, seed=0, what="The text 'law'")


def test_contexts_by_default_are_at_least_one_in_the_order_of_seed_0(tokenizer) -> None:
    packed = contexts(documents(), tokenizer, context_size=SIZE)
    expected = contexts(documents(), tokenizer, context_size=SIZE, seed=0, at_least=1, what="The text")
    assert rows(packed) == rows(expected)
    with pytest.raises(ValueError, match="The text is too short: its 1 documents fill 0 contexts"):
        contexts(["w1"], tokenizer, context_size=SIZE)
