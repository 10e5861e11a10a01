"""Train the demo model's SentencePiece vocabulary and lay it out like the published ``ice_text.model``.

Order of the published file: <unk> <s> </s> <pad> <n> ▁ , . then text pieces; eight control pieces; tab and blanks;
the 256 bytes. Digits are single pieces, Chinese is written character by character.
"""

import io
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2

from . import words

# The module creates its classes at import, so type checkers do not see them.
pb: Any = sentencepiece_model_pb2

TEXT_PIECES = 3400
CONTROL = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
WHITE_SPACE = ("<|tab|>", *(f"<|blank_{n}|>" for n in range(2, 81)))
_FIRST = ("<unk>", "<s>", "</s>", "<pad>", "<n>", "▁", ",", ".")
_REQUIRED = "".join(
    dict.fromkeys(
        "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,.:;!?+-*/×÷=()[]_'\"“”‘’「」、。《》%&#@<>$~^|{}\\`"
        + words.CHARACTERS_ZH + words.SURNAMES_ZH + words.GIVEN_ZH
    )
)  # fmt: skip
# Lines with a character that is rarer than this are not used; byte fallback encodes rarer characters.
_FREQUENT = 10
_BETWEEN_PIECES = "\u2063"
_HANZI = re.compile("([\u4e00-\u9fff])")


def train(texts: Iterable[str]) -> bytes:
    """Return a serialised BPE model with `TEXT_PIECES` text pieces, trained on texts without line breaks.

    The result depends only on the texts.
    """
    lines = _usable(list(texts))
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(_HANZI.sub(rf"{_BETWEEN_PIECES}\1{_BETWEEN_PIECES}", line) for line in lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=TEXT_PIECES,
        character_coverage=1.0,
        split_digits=True,
        normalization_rule_name="nmt_nfkc",
        add_dummy_prefix=True,
        remove_extra_whitespaces=True,
        required_chars=_REQUIRED,
        user_defined_symbols=["<n>"],
        pad_id=3,
        pad_piece="<pad>",
        pretokenization_delimiter=_BETWEEN_PIECES,
        num_threads=1,
        shuffle_input_sentence=False,
        minloglevel=2,
    )
    return _lay_out(model.getvalue())


def _usable(lines: list[str]) -> list[str]:
    counts = Counter("".join(lines))
    rare = {c for c, n in counts.items() if n < _FREQUENT and c not in _REQUIRED}
    return [line for line in lines if not rare.intersection(line)]


def _lay_out(data: bytes) -> bytes:
    """Return the trained model with its pieces in the order of the published file."""
    model = pb.ModelProto.FromString(data)
    trained = {piece.piece: piece for piece in model.pieces}
    lowest = min(piece.score for piece in model.pieces)
    kind = pb.ModelProto.SentencePiece.Type
    rest = [p for p in model.pieces if p.piece not in _FIRST]

    def piece(text: str, type_: int, score: float = 0.0) -> Any:
        return pb.ModelProto.SentencePiece(piece=text, score=score, type=type_)

    first = [trained.get(text) or piece(text, kind.NORMAL, lowest) for text in _FIRST]
    added = [
        *(piece(text, kind.CONTROL) for text in CONTROL),
        *(piece(text, kind.USER_DEFINED) for text in WHITE_SPACE),
        *(piece(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)),
    ]
    pieces = [pb.ModelProto.SentencePiece.FromString(p.SerializeToString()) for p in (*first, *rest)]
    del model.pieces[:]
    model.pieces.extend([*pieces, *added])
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString()
