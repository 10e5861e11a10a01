"""The golden tokenizers, the original's outputs for them, and vocabularies of other kinds trained on the spot."""

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceTrainer

from glm_model.text.tokenizer import ChatGLMTokenizer

GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "tokenizer"
VERSIONS = ["v1.0", "v1.1", "v1.1_bpe"]
CONTROL_TOKENS = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
WHITE_SPACE_TOKENS = ["<n>", "<|tab|>", *(f"<|blank_{length}|>" for length in range(2, 81))]

# How a vocabulary of another kind can differ: its algorithm, what it does with spaces, whether it knows bytes.
OTHER_KINDS: dict[str, dict[str, Any]] = {
    "keeps spaces": {"model_type": "bpe", "remove_extra_whitespaces": False},
    "no dummy prefix": {
        "model_type": "unigram",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
    },
    "no bytes": {"model_type": "bpe", "byte_fallback": False, "normalization_rule_name": "identity"},
}


@cache
def golden(version: str) -> ChatGLMTokenizer:
    """Shared between tests, which must not change it."""
    return ChatGLMTokenizer.from_pretrained(GOLDEN / version)


@cache
def expected(version: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((GOLDEN / version / "expected.json").read_text("utf-8"))
    return values


def train(folder: Path, num_image_tokens: int = 7, **settings: Any) -> Path:
    """A published-style folder whose control tokens have other ids than the golden ones."""
    corpus = folder / "corpus.txt"
    lines = [case["text"].replace("\n", " ").replace("\0", "") for case in expected("v1.1")["encode"][:150]]
    corpus.write_text("\n".join(lines), "utf-8")
    SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "ice_text"),
        control_symbols=CONTROL_TOKENS,
        user_defined_symbols=WHITE_SPACE_TOKENS,
        pad_id=3,
        minloglevel=2,
        num_threads=1,
        **{"vocab_size": 900, "hard_vocab_limit": False, "byte_fallback": True, **settings},
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"num_image_tokens": num_image_tokens}))
    return folder


_FRAGMENTS = [
    *"abcXYZ 019 .,!?:;'\"<>[]|_-/\\\n\t\r你好世界的是，。！？：；\u3000￥％▁龘éßα한",
    *CONTROL_TOKENS,
    *["<pad>", "<unk>", "<s>", "</s>", "[mask]", "<0x41>", "<image_3>", "[MAS", "K]", "<so", "p>"],
    *["<n>", "<|tab|>", "<|blank_2|>", "<|blank_80|>", "<|blank_81|>", "  ", " " * 79, " " * 81, " " * 161],
    *[
        " '",
        " n't",
        " 's",
        "😀",
        "👨\u200d👩\u200d👧",
        "ﬁ",
        "①",
        "e\u0301",
        "𠮷",
        "\0",
        "\x1c",
        "\x85",
        "\xa0",
        "\u2028",
    ],
]


def random_texts(count: int, seed: str) -> Iterator[str]:
    """Short texts of fragments that GLM's rules treat in different ways, whole and cut."""
    source = random.Random(seed)
    for _ in range(count):
        yield "".join(source.choices(_FRAGMENTS, k=source.choice([1, 2, 3, 5, 8, 13, 40])))


def random_ids(tokenizer: ChatGLMTokenizer, count: int, seed: str) -> Iterator[list[int]]:
    """Lists of ids of every sort: bytes in any order, control tokens, padding, spaces, ids of no piece."""
    source = random.Random(seed)
    named = [tokenizer.convert_tokens_to_ids(name) for name in [*CONTROL_TOKENS, *WHITE_SPACE_TOKENS[:4]]]
    named += [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids("▁")]
    utf8 = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "😀龘é".encode()]
    first, last = tokenizer.sp_tokenizer.num_image_tokens, tokenizer.vocab_size
    for _ in range(count):
        ids: list[int] = []
        for _ in range(source.choice([1, 2, 3, 6, 20])):
            sort = source.randrange(5)
            if sort == 0:
                ids += utf8[source.randrange(len(utf8)) :][: source.randrange(1, 6)]
            elif sort == 1:
                ids.append(source.choice(named))
            elif sort == 2:
                ids.append(tokenizer.convert_tokens_to_ids(f"<0x{source.randrange(256):02X}>"))
            else:
                ids.append(source.randrange(first - 5, last + 5))
        yield ids
