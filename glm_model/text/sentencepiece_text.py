"""Encode text to ids and decode ids with the SentencePiece model `ice_text.model`, without rules of special tokens.

SentencePiece swallows line breaks, tabs and runs of spaces. GLM therefore spells them as pieces of the
vocabulary (`<n>`, `<|tab|>`, `<|blank_2|>` .. `<|blank_80|>`) before encoding and turns these back afterwards.

An id is a row of the model's embedding: the piece's index in the `.model` plus `num_image_tokens` (20000 in the
first layout of the vocabulary, 0 in the later one). The ids below belong to images, written `<image_N>`.

Control tokens (`[gMASK]`, `<sop>`, ...) are CONTROL pieces: SentencePiece never finds one in text and decodes it
to nothing. That is what makes `encode` safe for text of any origin.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .incremental_decoder import SPACE_SYMBOL
from .vocabulary_file import read_vocabulary

LONGEST_BLANK = 80
WHITE_SPACE_PIECES: dict[str, str] = {
    "<n>": "\n",
    "<|tab|>": "\t",
    **{f"<|blank_{length}|>": " " * length for length in range(2, LONGEST_BLANK + 1)},
}

_SPACES = re.compile(" {2,}")
_WHITE_SPACE_PIECE = re.compile(r"<(?:n|\|tab\||\|blank_[1-9][0-9]?\|)>")
_IMAGE_TOKEN = re.compile(r"<image_([0-9]+)>")
_SURROGATE = re.compile("[\ud800-\udfff]")
_Item = TypeVar("_Item", int, str)


def encode_white_space(text: str) -> str:
    """Spell line breaks, tabs and runs of two or more spaces as pieces, 80 spaces at most in one."""
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    return _SPACES.sub(_blank_pieces, text)


def _blank_pieces(spaces: re.Match[str]) -> str:
    full, rest = divmod(len(spaces[0]), LONGEST_BLANK)
    tail = f"<|blank_{rest}|>" if rest > 1 else " " * rest
    return f"<|blank_{LONGEST_BLANK}|>" * full + tail


def decode_white_space(text: str) -> str:
    """Turn every spelled white-space piece in `text` into the white space that it stands for."""
    return _WHITE_SPACE_PIECE.sub(lambda match: WHITE_SPACE_PIECES.get(match[0], match[0]), text)


def _whole_characters(text: str) -> str:
    """Join halves of UTF-16 pairs, as some browsers and JSON send them; a lone half becomes U+FFFD."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _encode(encode: Callable[[str], list[_Item]], text: str, add_dummy_prefix: bool) -> list[_Item]:
    text = encode_white_space(_whole_characters(text))
    return encode(text) if add_dummy_prefix else encode("<n>" + text)[2:]


class SentencePieceText:
    """The text layer of the tokenizer (`tokenizer.sp_tokenizer`, with the method names of the original).

    Args:
        vocab_file: path of the `.model` file; it is read once, and copies and pickles carry what was read.
        num_image_tokens: number of ids before the first piece.

    Raises:
        TokenizerError: the file is missing, damaged or of another kind.
    """

    def __init__(self, vocab_file: str | Path, num_image_tokens: int = 20000) -> None:
        self.num_image_tokens = num_image_tokens
        self.processor = read_vocabulary(vocab_file)
        self.num_text_tokens: int = self.processor.GetPieceSize()

    @property
    def num_tokens(self) -> int:
        """The number of ids: image tokens and pieces."""
        return self.num_image_tokens + self.num_text_tokens

    def encode(self, text: str, add_dummy_prefix: bool = True) -> list[int]:
        """Return the ids of `text`, none of them a control token.

        Without the dummy prefix the text is encoded behind a line break that is then dropped, so that it
        continues a line instead of beginning one.
        """
        indices = _encode(self.processor.EncodeAsIds, text, add_dummy_prefix)
        return [index + self.num_image_tokens for index in indices]

    def tokenize(self, text: str, add_dummy_prefix: bool = True) -> list[str]:
        """Return the pieces of `text`; a character without a piece stays as it is if the model has no byte pieces."""
        return _encode(self.processor.EncodeAsPieces, text, add_dummy_prefix)

    def decode(self, ids: list[int]) -> str:
        """Return the text of `ids` without image ids."""
        indices = [int(token_id) - self.num_image_tokens for token_id in ids]
        return decode_white_space(self.processor.DecodeIds([index for index in indices if index >= 0]))

    def decode_tokens(self, tokens: list[str]) -> str:
        """Return the text of pieces; a string that is no piece stays as it is."""
        return decode_white_space(self.processor.DecodePieces(tokens))

    def has_piece(self, piece: str) -> bool:
        return bool(self.processor.IdToPiece(self.processor.PieceToId(piece)) == piece)

    def token_to_id(self, token: str) -> int:
        """Return the id of a piece or of `<image_N>`; that of `<unk>` for any other string."""
        if image := _IMAGE_TOKEN.fullmatch(token):
            return int(image[1])
        return int(self.processor.PieceToId(token)) + self.num_image_tokens

    def id_to_token(self, token_id: int) -> str:
        """Return the piece of an id; `<image_N>` for an id before the first piece or after the last."""
        index = token_id - self.num_image_tokens
        if not 0 <= index < self.num_text_tokens:
            return f"<image_{token_id}>"
        return str(self.processor.IdToPiece(index))

    def surface(self, token_id: int) -> str | bytes:
        """Return the content of an id: one byte of a UTF-8 character, or text in which `▁` stands for a space."""
        token = self.id_to_token(token_id)
        index = token_id - self.num_image_tokens
        if not 0 <= index < self.num_text_tokens:
            return token
        if self.processor.IsByte(index):
            return bytes.fromhex(token[3:5])
        if self.processor.IsControl(index) or self.processor.IsUnknown(index):
            return str(self.processor.DecodeIds([index]))
        return WHITE_SPACE_PIECES.get(token, token)

    @property
    def dropped_leading_spaces(self) -> float:
        """The number of space symbols that the model drops at the start of a text: 0, 1 or all (`inf`)."""
        kept = len(self.processor.DecodePieces([SPACE_SYMBOL] * 3))
        return 3 - kept if kept else math.inf

    def serialized(self) -> bytes:
        """Return the bytes of the `.model` file."""
        return bytes(self.processor.serialized_model_proto())
