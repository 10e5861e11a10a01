"""The SentencePiece layer of the GLM tokenizers: `ice_text.model`, white space, ids; no special-token rules.

SentencePiece swallows line breaks, tabs and runs of spaces. GLM therefore spells them as pieces of the vocabulary
(`<n>`, `<|tab|>`, `<|blank_2|>` .. `<|blank_80|>`) before encoding and turns these back after decoding.

An *id* is a row of the model's embedding: the piece's index in the `.model` plus `num_image_tokens` (20000 in the
first vocabulary layout, 0 in the later one). Ids below that belong to images and are written `<image_N>`.

Control tokens (`[gMASK]`, `<sop>`, ...) are CONTROL pieces: SentencePiece never produces one from text and decodes
it to nothing. That is what makes `encode` safe for text of unknown origin.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sentencepiece import SentencePieceProcessor

from .errors import TokenizerError

LONGEST_BLANK = 80
SPACE_SYMBOL = "▁"

WHITE_SPACE_PIECES: dict[str, str] = {
    "<n>": "\n",
    "<|tab|>": "\t",
    **{f"<|blank_{length}|>": " " * length for length in range(2, LONGEST_BLANK + 1)},
}

_Item = TypeVar("_Item", int, str)

_LFS_POINTER = b"version https://git-lfs"
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACES = re.compile(" {2,}")
_WHITE_SPACE_PIECE = re.compile(r"<(?:n|\|tab\||\|blank_[1-9][0-9]?\|)>")
_IMAGE_TOKEN = re.compile(r"<image_([0-9]+)>")


def read_model_file(path: str | Path) -> bytes:
    """The bytes of a `.model` file; raises `TokenizerError` if it is absent or only a Git-LFS pointer."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TokenizerError(
            f"Cannot read the tokenizer's vocabulary {path}: {error.strerror}. "
            "Copy ice_text.model from the checkpoint's repository into the folder."
        ) from error
    if data.startswith(_LFS_POINTER):
        raise TokenizerError(
            f"{path} is a Git-LFS pointer, not the file itself. "
            "Run `git lfs pull` in the checkpoint's folder, or download ice_text.model on its own."
        )
    return data


def load_processor(data: bytes, path: str | Path) -> SentencePieceProcessor:
    """A SentencePiece processor of a `.model` file's bytes; `path` only names the file in a `TokenizerError`."""
    processor = SentencePieceProcessor()
    try:
        loaded = processor.LoadFromSerializedProto(data)
    except (RuntimeError) as error:
        raise TokenizerError(_damaged(path, str(error))) from error
    if not loaded or not processor.GetPieceSize():
        raise TokenizerError(_damaged(path, f"no pieces in {len(data)} bytes"))
    return processor


def _damaged(path: str | Path, reason: str) -> str:
    return f"{path} is not a SentencePiece model, or is cut short ({reason}). Download ice_text.model again."


def encode_white_space(text: str) -> str:
    """Spell line breaks, tabs and runs of 2 or more spaces as pieces; a run over 80 is cut from the left."""
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    return _SPACES.sub(_blank_pieces, text)


def _blank_pieces(match: re.Match[str]) -> str:
    full, rest = divmod(len(match[0]), LONGEST_BLANK)
    tail = f"<|blank_{rest}|>" if rest > 1 else " " * rest
    return f"<|blank_{LONGEST_BLANK}|>" * full + tail


def decode_white_space(text: str) -> str:
    """Turn every spelled white-space piece in `text` into the white space it stands for."""
    return _WHITE_SPACE_PIECE.sub(lambda match: WHITE_SPACE_PIECES.get(match[0], match[0]), text)


def _encode(encode: Callable[[str], list[_Item]], text: str, add_dummy_prefix: bool) -> list[_Item]:
    text = encode_white_space(_without_lone_surrogates(text))
    return encode(text) if add_dummy_prefix else encode("<n>" + text)[2:]


def _without_lone_surrogates(text: str) -> str:
    """Half a UTF-16 pair, as some browsers and JSON send, has no UTF-8 form: whole pairs join, halves become U+FFFD."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class SentencePieceText:
    """Text to ids and back, with the published names (`tokenizer.sp_tokenizer` of the original).

    Args:
        vocab_file: path of the `.model` file; it is read once, so that pickles and copies carry their vocabulary.
        num_image_tokens: number of ids that come before the first piece.
    Raises:
        TokenizerError: the file is missing, a Git-LFS pointer, damaged or not SentencePiece.
    """

    def __init__(self, vocab_file: str | Path, num_image_tokens: int = 20000) -> None:
        self.num_image_tokens = num_image_tokens
        self.processor = load_processor(read_model_file(vocab_file), vocab_file)
        self.num_text_tokens: int = self.processor.GetPieceSize()

    @property
    def num_tokens(self) -> int:
        """Number of ids: image tokens and pieces."""
        return self.num_image_tokens + self.num_text_tokens

    def encode(self, text: str, add_dummy_prefix: bool = True) -> list[int]:
        """Ids of `text`, none of them a control token.

        Without the dummy prefix the text is encoded behind a line break, which is then dropped, so that it continues
        a line instead of starting one.
        """
        indices = _encode(self.processor.EncodeAsIds, text, add_dummy_prefix)
        return [index + self.num_image_tokens for index in indices]

    def tokenize(self, text: str, add_dummy_prefix: bool = True) -> list[str]:
        """Like `encode`, as pieces. A character outside the vocabulary stays itself (without byte pieces)."""
        return _encode(self.processor.EncodeAsPieces, text, add_dummy_prefix)

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`, image ids left out."""
        indices = [int(id_) - self.num_image_tokens for id_ in ids]
        return decode_white_space(self.processor.DecodeIds([index for index in indices if index >= 0]))

    def decode_tokens(self, tokens: list[str]) -> str:
        """Text of pieces; a string that is no piece stays itself."""
        return decode_white_space(self.processor.DecodePieces(tokens))

    @property
    def dropped_leading_spaces(self) -> float:
        """How many space symbols SentencePiece drops at the start of a text: none, one or all, by the normaliser."""
        kept = len(self.processor.DecodePieces([SPACE_SYMBOL] * 3))
        return 3 - kept if kept else math.inf

    def surface(self, id_: int) -> str | bytes:
        """What an id alone adds to a text: one byte of a character, or text in which `▁` is a space."""
        index = id_ - self.num_image_tokens
        token = self.id_to_token(id_)
        if not 0 <= index < self.num_text_tokens:
            return token
        if self.processor.IsByte(index):
            return bytes.fromhex(token[3:5])
        if self.processor.IsControl(index) or self.processor.IsUnknown(index):
            return self.processor.DecodeIds([index])
        return WHITE_SPACE_PIECES.get(token, token)

    def serialized(self) -> bytes:
        """The bytes of the `.model` file."""
        return self.processor.serialized_model_proto()

    def has_piece(self, piece: str) -> bool:
        return self.processor.IdToPiece(self.processor.PieceToId(piece)) == piece

    def token_to_id(self, token: str) -> int:
        """Id of a piece or `<image_N>`; the id of `<unk>` for anything else."""
        if image := _IMAGE_TOKEN.fullmatch(token):
            return int(image[1])
        return self.processor.PieceToId(token) + self.num_image_tokens

    def id_to_token(self, id_: int) -> str:
        """The piece of an id; `<image_N>` for an id below or beyond the pieces."""
        index = id_ - self.num_image_tokens
        return self.processor.IdToPiece(index) if 0 <= index < self.num_text_tokens else f"<image_{id_}>"
