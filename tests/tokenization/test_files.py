"""Folders and files: what loads, through which class, what is written back, and what is refused why."""

import json
import pickle
import shutil
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from transformers import AddedToken, AutoTokenizer

from glm_model.errors import GLMError, TokenizerError, UnsupportedError
from glm_model.text.tokenizer import ChatGLMTokenizer, register
from tests.tokenization.data import GOLDEN, VERSIONS, golden, random_texts

CHAT = GOLDEN.parent / "chatglm_tiny_chat"
TEXT = "Hello [MASK] 世界\n  😀 <sop>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A writable copy of a published-style folder."""
    for name in ("ice_text.model", "tokenizer_config.json"):
        shutil.copyfile(GOLDEN / "v1.1" / name, tmp_path / name)
    return tmp_path


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def behaves_alike(one: ChatGLMTokenizer, other: ChatGLMTokenizer) -> bool:
    texts = [TEXT, *random_texts(50, "files")]
    return all(one.encode(text) == other.encode(text) for text in texts) and one.decode(
        range(len(one))
    ) == other.decode(range(len(other)))


# ---- writing and reading back


@pytest.mark.parametrize("version", VERSIONS)
def test_saved_and_loaded(version: str, tmp_path: Path) -> None:
    tokenizer = golden(version)
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "ice_text.model").read_bytes() == (GOLDEN / version / "ice_text.model").read_bytes()
    loaded = ChatGLMTokenizer.from_pretrained(tmp_path)
    assert behaves_alike(tokenizer, loaded)
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    name = "tokenizer_config.json"
    assert (again / name).read_text() == (tmp_path / name).read_text()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_saved_configuration_has_the_published_fields(version: str, tmp_path: Path) -> None:
    golden(version).save_pretrained(tmp_path)
    published = json.loads((GOLDEN / version / "tokenizer_config.json").read_text())
    published.pop("name_or_path")
    saved = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert published.items() <= saved.items()
    assert saved["num_image_tokens"] == published.get("num_image_tokens", 20000)
    assert saved["added_tokens_decoder"] == {}
    assert not {"is_local", "backend", "vocab_file", "model_specific_special_tokens"} & set(saved)


def test_a_saved_vocabulary_does_not_need_its_source(folder: Path, tmp_path: Path) -> None:
    tokenizer = ChatGLMTokenizer.from_pretrained(folder)
    (folder / "ice_text.model").unlink()
    tokenizer.save_pretrained(tmp_path / "saved")
    assert behaves_alike(tokenizer, ChatGLMTokenizer.from_pretrained(tmp_path / "saved"))


def test_copies_and_pickles() -> None:
    tokenizer = golden("v1.0")
    assert behaves_alike(tokenizer, pickle.loads(pickle.dumps(tokenizer)))
    assert behaves_alike(tokenizer, deepcopy(tokenizer))


def test_added_tokens_survive(folder: Path, tmp_path: Path) -> None:
    tokenizer = ChatGLMTokenizer.from_pretrained(folder)
    size = tokenizer.vocab_size
    assert tokenizer.add_tokens(["新词", AddedToken("<x>"), "▁"]) == 2
    assert tokenizer.add_special_tokens({"additional_special_tokens": ["[gMASK]", "<|im|>"]}) == 1
    assert tokenizer.convert_tokens_to_ids(["新词", "<x>", "<|im|>"]) == [size, size + 1, size + 2]
    assert (len(tokenizer), tokenizer.vocab_size) == (size + 3, size)
    text = "a 新词 b <|im|> [gMASK] c"
    ids = tokenizer.encode(text, add_special_tokens=False)
    parts = [tokenizer.encode_text(part) for part in "abc"]
    assert ids == [*parts[0], size, *parts[1], size + 2, tokenizer.gmask_token_id, *parts[2]]
    # As in transformers 4: a space on both sides of an added token, none for a control token of the vocabulary.
    assert tokenizer.decode(ids) == "a 新词 b <|im|> c"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a 新词 b c"
    assert tokenizer.decode_exact(ids) == "a新词 b<|im|> c"
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = ChatGLMTokenizer.from_pretrained(tmp_path / "saved")
    assert loaded.encode(text, add_special_tokens=False) == ids
    assert loaded.decode(ids, skip_special_tokens=True) == "a 新词 b c"
    assert len(loaded) == size + 3


def test_special_tokens_may_be_added_ones(folder: Path, tmp_path: Path) -> None:
    tokenizer = ChatGLMTokenizer.from_pretrained(folder, pad_token="[PAD]")
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    size = tokenizer.vocab_size
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (size, size + 1)
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = ChatGLMTokenizer.from_pretrained(tmp_path / "saved")
    assert (loaded.pad_token_id, loaded.eos_token_id) == (size, size + 1)
    batch = loaded(["a", "a b c d"], padding=True)["input_ids"]
    assert batch[0][0] == size
    assert loaded.decode(batch[0]) == loaded.decode_exact(batch[0]) == "a"


def test_pieces_listed_as_added_tokens_stay_pieces(folder: Path) -> None:
    """transformers 4.34 and later write the special tokens of the vocabulary into added_tokens_decoder."""
    token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    edit_config(folder, added_tokens_decoder={"765": {"content": "<sop>", **token}})
    loaded = ChatGLMTokenizer.from_pretrained(folder)
    assert behaves_alike(golden("v1.1"), loaded)
    assert loaded.decode([765, 489]) == "你好"


def test_the_names_of_the_first_weeks(folder: Path) -> None:
    """Before 2023-04-11 the end of an answer was `eop_token` and `eos_token` the end of a text."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["end_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "</s>", "eop_token": "<eop>"}))
    loaded = ChatGLMTokenizer.from_pretrained(folder)
    assert (loaded.eos_token, loaded.end_token) == ("<eop>", "</s>")
    assert loaded.all_special_tokens == golden("v1.1").all_special_tokens
    assert behaves_alike(golden("v1.1"), loaded)


# ---- AutoTokenizer


@pytest.fixture
def booby_trapped(folder: Path) -> Path:
    """Code in the folder, as published ones have, that must not run."""
    for name in ("tokenization_chatglm.py", "configuration_chatglm.py"):
        (folder / name).write_text("raise AssertionError('code of the folder ran')")
    register()
    return folder


@pytest.mark.parametrize("trust", [True, False, None])
def test_auto_tokenizer_takes_ours_without_a_config(booby_trapped: Path, trust: bool | None) -> None:
    loaded = AutoTokenizer.from_pretrained(booby_trapped, trust_remote_code=trust)
    assert type(loaded) is ChatGLMTokenizer
    assert not any("tokenization_chatglm" in name for name in sys.modules)


@pytest.mark.parametrize("trust", [True, False, None])
def test_auto_tokenizer_takes_ours_beside_a_config(booby_trapped: Path, trust: bool | None) -> None:
    shutil.copyfile(CHAT / "config.json", booby_trapped / "config.json")
    loaded = AutoTokenizer.from_pretrained(booby_trapped, trust_remote_code=trust)
    assert type(loaded) is ChatGLMTokenizer
    assert behaves_alike(loaded, golden("v1.1"))


def test_auto_tokenizer_finds_what_we_saved(tmp_path: Path) -> None:
    register()
    golden("v1.0").save_pretrained(tmp_path)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is ChatGLMTokenizer


# ---- what is refused


def test_a_missing_vocabulary(folder: Path) -> None:
    (folder / "ice_text.model").unlink()
    with pytest.raises(TokenizerError, match=r"holds no ice_text\.model.*Copy it there"):
        ChatGLMTokenizer.from_pretrained(folder)
    with pytest.raises(TokenizerError, match=r"Cannot read the vocabulary .*ice_text\.model: No such file"):
        ChatGLMTokenizer(folder / "ice_text.model")


def test_a_git_lfs_pointer(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:5e974d9a\nsize 2706249\n"
    (folder / "ice_text.model").write_text(pointer)
    with pytest.raises(TokenizerError, match=r"ice_text\.model is a Git-LFS pointer.*git lfs pull"):
        ChatGLMTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kept", [0, 1, 100, 5_000, 5_001, 100_000, -1])
def test_a_vocabulary_cut_short(folder: Path, kept: int) -> None:
    path = folder / "ice_text.model"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TokenizerError, match=r"ice_text\.model .* cut short"):
        ChatGLMTokenizer.from_pretrained(folder)


def test_a_vocabulary_of_garbage(folder: Path) -> None:
    (folder / "ice_text.model").write_bytes(b"\x80not a model" * 1000)
    with pytest.raises(TokenizerError, match=r"ice_text\.model .* not a SentencePiece model"):
        ChatGLMTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("lacking", ["[gMASK]", "<sop>", "<eop>"])
def test_a_vocabulary_without_a_control_token(folder: Path, lacking: str) -> None:
    path, other = folder / "ice_text.model", "~" * len(lacking)
    path.write_bytes(path.read_bytes().replace(lacking.encode(), other.encode()))
    with pytest.raises(TokenizerError) as error:
        ChatGLMTokenizer.from_pretrained(folder)
    assert str(path) in str(error.value)
    assert f"no piece {lacking}," in str(error.value)


@pytest.mark.parametrize("number", ["0", None, 0.5])
def test_a_number_of_image_tokens_that_is_none(folder: Path, number: Any) -> None:
    edit_config(folder, num_image_tokens=number)
    with pytest.raises(TokenizerError, match="num_image_tokens"):
        ChatGLMTokenizer.from_pretrained(folder)


def test_a_name_in_the_configuration_that_is_no_piece(folder: Path) -> None:
    edit_config(folder, gmask_token="[GMASK]")
    with pytest.raises(TokenizerError, match=r"no piece \[GMASK\].*tokenizer_config\.json"):
        ChatGLMTokenizer.from_pretrained(folder)


def test_the_tokenizer_of_a_later_model(folder: Path) -> None:
    (folder / "ice_text.model").rename(folder / "tokenizer.model")
    with pytest.raises(TokenizerError, match="tokenizer of ChatGLM2, ChatGLM3"):
        ChatGLMTokenizer.from_pretrained(folder)
    register()
    with pytest.raises(TokenizerError, match="tokenizer of ChatGLM2, ChatGLM3"):
        AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


def test_a_later_vocabulary_beside_ours_is_not_read(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"something else")
    assert behaves_alike(ChatGLMTokenizer.from_pretrained(folder), golden("v1.1"))


def test_a_fast_tokenizer_beside_ours_is_not_read(folder: Path) -> None:
    """ChatGLM-6B has none; one that somebody converted would bring its own idea of added tokens."""
    token = {"id": 2000, "content": "世界", "special": False, "normalized": False}
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [token]}))
    assert behaves_alike(ChatGLMTokenizer.from_pretrained(folder), golden("v1.1"))


def test_errors_are_value_errors_of_one_tree() -> None:
    assert issubclass(TokenizerError, GLMError)
    assert issubclass(UnsupportedError, GLMError)
    assert issubclass(GLMError, ValueError)


def test_padding_on_the_right_is_refused(folder: Path) -> None:
    with pytest.raises(UnsupportedError, match="left only"):
        ChatGLMTokenizer.from_pretrained(folder, padding_side="right")
    with pytest.raises(UnsupportedError, match="left only"):
        golden("v1.1")(["a", "b c"], padding=True, padding_side="right")
