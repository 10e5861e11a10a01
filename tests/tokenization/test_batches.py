"""Masks, positions and padding: the rules, written a second time as plain loops."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import DataCollatorWithPadding

from glm_model.text.tokenizer import ChatGLMTokenizer
from tests.tokenization.data import golden, random_texts

TEXTS = ["你好", "a [MASK] b", "one two three four five", "", "a<sop>b"]


def masked(tokenizer: ChatGLMTokenizer, ids: list[int], padding: int) -> list[list[bool]]:
    """Column j is hidden from row i: padding from everybody, and from padding; after the context, the future."""
    context = padding + (ids.index(tokenizer.bos_token_id) if tokenizer.bos_token_id in ids else len(ids))
    size = padding + len(ids)
    return [[i < padding or j < padding or (j > i and j >= context) for j in range(size)] for i in range(size)]


def positions(tokenizer: ChatGLMTokenizer, ids: list[int], padding: int) -> list[list[int]]:
    context = ids.index(tokenizer.bos_token_id) if tokenizer.bos_token_id in ids else len(ids)
    blanks = [token for token in (tokenizer.mask_token_id, tokenizer.gmask_token_id) if token in ids]
    rows: list[list[int]] = [[0] * padding, [0] * padding]
    for index in range(len(ids)):
        inside = index < context
        rows[0].append(index if inside or not blanks else ids.index(blanks[0]))
        rows[1].append(0 if inside else index - context + 1)
    return rows


def check(tokenizer: ChatGLMTokenizer, batch: Any, all_ids: list[list[int]]) -> None:
    for row, ids in enumerate(all_ids):
        padding = len(batch["input_ids"][row]) - len(ids)
        assert list(batch["input_ids"][row]) == [tokenizer.pad_token_id] * padding + ids
        assert np.asarray(batch["attention_mask"][row]).tolist() == [masked(tokenizer, ids, padding)]
        assert np.asarray(batch["position_ids"][row]).tolist() == positions(tokenizer, ids, padding)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"padding": True},
        {"padding": "max_length", "max_length": 30},
        {"padding": True, "pad_to_multiple_of": 8},
        {"padding": True, "truncation": True, "max_length": 6},
        {"truncation": True, "max_length": 6},
    ],
)
def test_batches(special: bool, settings: dict[str, Any]) -> None:
    tokenizer = golden("v1.0")
    texts = [*TEXTS, *random_texts(20, "batches")]
    cut = {key: settings[key] for key in ("truncation", "max_length") if "truncation" in settings}
    all_ids = [tokenizer.encode(text, add_special_tokens=special, **cut) for text in texts]
    batch = tokenizer(texts, add_special_tokens=special, **settings)
    check(tokenizer, batch, all_ids)
    if "padding" in settings:
        length = max(map(len, all_ids)) if settings["padding"] is True else 30
        while length % settings.get("pad_to_multiple_of", 1):
            length += 1
        assert [len(ids) for ids in batch["input_ids"]] == [max(length, len(ids)) for ids in all_ids]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("texts", "strategy", "max_length", "kept"),
    [
        (("a b c",), True, 2, ("a b c",)),
        (("a b c",), "only_first", 1, ("a b c",)),
        (("a b c", "d e"), "only_first", 3, ("a b c", "d e")),
        (("a b c", "d e"), "only_second", 4, ("a b c", "d e")),
        (("a b c", "d e"), "longest_first", 3, ("", "")),
        (("a b c", ""), "longest_first", 3, ("", "")),
        (("a b c", ""), "only_first", 3, ("a b c", "")),
        (("", ""), "only_second", 2, ("", "")),
    ],
)
def test_truncation_without_room_for_text(
    texts: tuple[str, ...], strategy: bool | str, max_length: int, kept: tuple[str, ...], side: str
) -> None:
    """As transformers 4.27 did it: whole where a text would be cut away alone; a second text keeps its <eop>."""
    tokenizer = ChatGLMTokenizer.from_pretrained(golden("v1.1").name_or_path, truncation_side=side)
    cut = tokenizer(*texts, truncation=strategy, max_length=max_length)
    assert cut["input_ids"] == tokenizer(*kept)["input_ids"]


def test_a_sequence_longer_than_the_padding_stays_whole() -> None:
    tokenizer = golden("v1.1")
    batch = tokenizer([TEXTS[2]], padding="max_length", max_length=4)
    check(tokenizer, batch, [tokenizer.encode(TEXTS[2])])


def test_encodings_with_masks_can_be_padded_later() -> None:
    """What a data collator does with examples that were truncated, and so have masks already."""
    tokenizer = golden("v1.1")
    examples = [tokenizer(text, truncation=True, max_length=6) for text in TEXTS]
    all_ids = [list(example["input_ids"]) for example in examples]
    batch = DataCollatorWithPadding(tokenizer)(examples)
    assert batch["attention_mask"].dtype == torch.bool
    check(tokenizer, {key: value.tolist() for key, value in batch.items()}, all_ids)
    longer = tokenizer.pad([dict(example) for example in examples], padding="max_length", max_length=9)
    check(tokenizer, longer, all_ids)
    twice = tokenizer.pad(longer, padding="max_length", max_length=11)
    assert np.asarray(twice["attention_mask"]).shape == (len(TEXTS), 1, 11, 11)
    check(tokenizer, twice, all_ids)


def test_the_mask_can_be_left_out() -> None:
    batch = golden("v1.1")(TEXTS, padding=True, return_attention_mask=False)
    assert set(batch) == {"input_ids", "position_ids"}


def test_special_tokens_are_marked() -> None:
    tokenizer = golden("v1.1")
    one, pair = (tokenizer(*texts, return_special_tokens_mask=True) for texts in (("a",), ("a", "b")))
    control = {tokenizer.gmask_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    for encoded in (one, pair):
        assert encoded["special_tokens_mask"] == [int(token in control) for token in encoded["input_ids"]]
    padded = tokenizer(["a", "a b c d"], padding=True, return_special_tokens_mask=True)
    assert [len(mask) for mask in padded["special_tokens_mask"]] == [len(ids) for ids in padded["input_ids"]]
    assert padded["special_tokens_mask"][0][0] == 1
    assert tokenizer.num_special_tokens_to_add() == 2
    assert tokenizer.num_special_tokens_to_add(pair=True) == 3
