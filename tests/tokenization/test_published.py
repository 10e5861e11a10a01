"""Every output of the original tokenizer that the golden data holds."""

from typing import Any

import numpy as np
import pytest
import torch

from glm_model.text.chat_format import process_response
from glm_model.text.tokenizer import ChatGLMTokenizer
from tests.tokenization.data import GOLDEN, VERSIONS, expected, golden

pytestmark = pytest.mark.parametrize("version", VERSIONS)


def cases(version: str, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = expected(version)[key]
    assert found
    return found


def test_encode(version: str) -> None:
    tokenizer = golden(version)
    assert len(cases(version, "encode")) == 320
    for case in cases(version, "encode"):
        text = case["text"]
        assert tokenizer.encode(text) == case["ids"], text
        assert tokenizer.encode(text, add_special_tokens=False) == case["ids_no_special"], text
        assert tokenizer.tokenize(text) == case["tokens"], text


def test_decode(version: str) -> None:
    tokenizer = golden(version)
    for case in cases(version, "encode"):
        ids, text_ids = case["ids"], case["ids_no_special"]
        assert tokenizer.decode(text_ids) == case["decode"], ids
        assert tokenizer.decode(ids) == case["decode_with_special"], ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == case["decode_skip_special"], ids
        assert tokenizer.decode(text_ids, clean_up_tokenization_spaces=False) == case["decode_no_cleanup"], ids


def test_text_layer(version: str) -> None:
    layer = golden(version).sp_tokenizer
    for case in cases(version, "encode"):
        text = case["text"]
        assert layer.encode(text) == case["sp_encode"], text
        assert layer.encode(text, add_dummy_prefix=False) == case["sp_encode_no_dummy_prefix"], text
        assert layer.decode(case["ids_no_special"]) == case["sp_decode"], text
        assert golden(version).encode_text(text) == case["sp_encode"], text


def test_the_constructor_alone_recognises_no_special_token_in_text(version: str) -> None:
    images = expected(version)["num_image_tokens"]
    tokenizer = ChatGLMTokenizer(GOLDEN / version / "ice_text.model", num_image_tokens=images)
    assert tokenizer.unique_no_split_tokens == []
    for case in cases(version, "encode"):
        wanted = case.get("ids_no_special_direct_constructor", case["ids_no_special"])
        assert tokenizer.encode(case["text"], add_special_tokens=False) == wanted, case["text"]


def test_pairs(version: str) -> None:
    for case in cases(version, "encode_pair"):
        assert golden(version).encode(case["a"], case["b"]) == case["ids"]


def test_batches(version: str) -> None:
    for case in cases(version, "batch"):
        batch = golden(version)(case["texts"], **case["kwargs"])
        assert set(batch) == set(case["out"])
        for mask in batch["attention_mask"]:
            assert mask.dtype == np.bool_
        for key, wanted in case["out"].items():
            assert [np.asarray(row, dtype=int).tolist() for row in batch[key]] == wanted, (case["texts"], key)


def test_batches_as_tensors(version: str) -> None:
    for case in cases(version, "batch"):
        batch = golden(version)(case["texts"], **case["kwargs"], return_tensors="pt")
        assert batch["attention_mask"].dtype == torch.bool
        assert batch["position_ids"].dtype == batch["input_ids"].dtype == torch.int64
        for key, wanted in case["out"].items():
            assert torch.equal(batch[key].long(), torch.tensor(wanted)), (case["texts"], key)


def test_which_keys_a_call_gives(version: str) -> None:
    tokenizer, text = golden(version), "你好"
    calls = {
        "str": tokenizer(text),
        "str padding=True": tokenizer(text, padding=True),
        "[str]": tokenizer([text]),
        "[str] padding=True": tokenizer([text], padding=True),
        "[str] return_tensors=pt": tokenizer([text], return_tensors="pt"),
        "str max_length+truncation": tokenizer(text, max_length=16, truncation=True),
    }
    assert {name: sorted(call) for name, call in calls.items()} == expected(version)["call_keys"]


def test_decode_of_given_ids(version: str) -> None:
    tokenizer = golden(version)
    for case in cases(version, "decode_ids"):
        assert tokenizer.decode(case["ids"]) == case["decode"]
        assert tokenizer.decode(torch.tensor(case["ids"], dtype=torch.long)) == case["decode"]
        assert tokenizer.decode(case["ids"], skip_special_tokens=True) == case["decode_skip"]
        assert tokenizer.convert_ids_to_tokens(case["ids"]) == case["tokens"]
        assert tokenizer.sp_tokenizer.decode(case["ids"]) == case["sp_decode"]
    negative = expected(version)["decode_ids_negative"]
    assert tokenizer.decode(negative["ids"]) == negative["decode"]
    for case in cases(version, "decode_single_int"):
        assert tokenizer.decode(case["id"]) == case["decode"]


def test_batch_decode(version: str) -> None:
    case = expected(version)["batch_decode"]
    assert golden(version).batch_decode(case["ids"]) == case["out"]
    assert golden(version).batch_decode(case["ids"], skip_special_tokens=True) == case["out_skip"]
    assert golden(version).batch_decode([]) == []


def test_process_response(version: str) -> None:
    for case in cases(version, "process_response"):
        assert process_response(case["in"]) == case["out"]


def test_prompts_of_chat(version: str) -> None:
    tokenizer = golden(version)
    for case in cases(version, "chat"):
        prompt = tokenizer.build_prompt(case["query"], case["history"])
        assert prompt == case["prompt"]
        assert tokenizer([prompt])["input_ids"] == [case["input_ids"]]


def test_features_of_the_fine_tuning_script(version: str) -> None:
    """As ptuning/main.py makes them: both sides cut, joined as a pair, padded on the right by hand."""
    tokenizer = golden(version)
    for case in cases(version, "ptuning_train_features"):
        source = tokenizer.encode(case["prompt"], add_special_tokens=False)[: case["max_source_length"] - 1]
        target = tokenizer.encode(case["response"], add_special_tokens=False)[: case["max_target_length"] - 2]
        ids = tokenizer.build_inputs_with_special_tokens(source, target)
        padding = len(case["input_ids"]) - len(ids)
        assert ids + [tokenizer.pad_token_id] * padding == case["input_ids"]
        start = ids.index(tokenizer.bos_token_id)
        assert [-100] * start + ids[start:] + [-100] * padding == case["labels"]


def test_the_vocabulary(version: str) -> None:
    tokenizer, wanted = golden(version), expected(version)
    assert {name: getattr(tokenizer, name) for name in wanted["special"]} == wanted["special"]
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in wanted["ids"]} == wanted["ids"]
    assert tokenizer.convert_ids_to_tokens(list(wanted["ids"].values())) == list(wanted["ids"])
    for name in (
        "all_special_tokens",
        "all_special_ids",
        "unique_no_split_tokens",
        "added_tokens_encoder",
        "padding_side",
        "truncation_side",
        "model_max_length",
        "vocab_size",
    ):
        assert getattr(tokenizer, name) == wanted[name], name
    assert len(tokenizer) == wanted["len"]
    assert tokenizer.sp_tokenizer.num_text_tokens == wanted["num_text_tokens"]
    vocabulary = tokenizer.get_vocab()
    assert len(vocabulary) == wanted["vocab_size"]
    assert wanted["ids"].items() <= vocabulary.items()
