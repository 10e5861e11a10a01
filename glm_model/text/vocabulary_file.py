"""Find, read and check the vocabulary `ice_text.model`."""

from __future__ import annotations

from pathlib import Path

from sentencepiece import SentencePieceProcessor

from ..errors import TokenizerError

VOCAB_FILE = "ice_text.model"
_LATER_VOCAB_FILE = "tokenizer.model"
_MOST_BYTES = 64 << 20  # far more than any vocabulary needs
_LFS_POINTER = b"version https://git-lfs"


def find_vocabulary(folder: str | Path, offered: str | None) -> str:
    """Return the path of `ice_text.model`.

    Args:
        folder: the folder that the tokenizer is loaded from.
        offered: the file that transformers found, which may be any SentencePiece file; None if it found none.

    Raises:
        TokenizerError: there is no such file, or the folder is of ChatGLM2 or later.
    """
    if offered is not None and Path(offered).name != _LATER_VOCAB_FILE:
        return offered
    if (own := Path(folder, VOCAB_FILE)).is_file():
        return str(own)
    if offered is not None:
        raise TokenizerError(
            f"{folder} holds {_LATER_VOCAB_FILE} and no {VOCAB_FILE}: it is the tokenizer of ChatGLM2, ChatGLM3 "
            "or a later model, which are other architectures. Load it with the code made for that model; this "
            "package runs ChatGLM-6B and GLM-130B."
        )
    raise TokenizerError(
        f"{folder} holds no {VOCAB_FILE}, the vocabulary of ChatGLM-6B and GLM-130B. "
        "Copy it there from the checkpoint's repository."
    )


def read_vocabulary(path: str | Path) -> SentencePieceProcessor:
    """Return the SentencePiece model in a file.

    Raises:
        TokenizerError: the file is missing, a Git-LFS pointer, cut short or something else.
    """
    try:
        if (size := Path(path).stat().st_size) > _MOST_BYTES:
            raise TokenizerError(
                f"{path} has {size:,} bytes, and the largest {VOCAB_FILE} has 2,706,249: it is another file. Copy the "
                "one from the checkpoint's repository."
            )
        data = Path(path).read_bytes()
    except OSError as error:
        raise TokenizerError(
            f"Cannot read the vocabulary {path}: {error.strerror}. "
            f"Copy {VOCAB_FILE} from the checkpoint's repository into the folder."
        ) from error
    if data.startswith(_LFS_POINTER):
        raise TokenizerError(
            f"{path} is a Git-LFS pointer, not the file itself. "
            f"Run `git lfs pull` in the folder, or download {VOCAB_FILE} on its own."
        )
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except RuntimeError as error:
        raise TokenizerError(
            f"{path} ({len(data):,} bytes) is not a SentencePiece model, or is cut short. Download {VOCAB_FILE} again."
        ) from error
    return processor


def require_pieces(processor: SentencePieceProcessor, pieces: list[str], path: str | Path) -> None:
    """Raise `TokenizerError` unless the vocabulary holds every one of `pieces`."""
    missing = [piece for piece in pieces if processor.IdToPiece(processor.PieceToId(piece)) != piece]
    if missing:
        raise TokenizerError(
            f"{path} ({Path(path).stat().st_size:,} bytes) has no piece {', '.join(missing)}, so no prompt can be "
            f"written with it. An {VOCAB_FILE} from before 2023-04-06 (2,699,926 bytes) lacks these: take the "
            "current one (2,706,249 bytes) from the checkpoint's repository. Another size may be a file cut short. "
            "If tokenizer_config.json names other tokens, correct it."
        )
