"""Filling the blanks of a text: which mask is next, and where its answer goes.

The rules are those of ``fill_blanks`` in GLM-130B's ``generate.py``. Of [MASK], [sMASK] and [gMASK], in this order, the
first kind that the text holds is filled, from left to right; a text without any gets a [gMASK] at its end. ``</s>`` is
appended to a text that does not end in a mask. Each answer takes its mask's place before the next blank is looked at,
and a beam search goes on from the best beam of the blank before. A mask token of that kind inside an answer is a blank
like any other.

For ChatGLM-6B and the demo model, whose published code has no such function, the same rules hold but for ``</s>``:
their texts do not end with it (it is not in their ``eos_token_id``). Only GLM-130B knows [sMASK].
"""

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from unicodedata import category, east_asian_width

import torch

from ..errors import FillError, UnsupportedError
from ..model.configuration import GLMConfig
from ..model.decoder import GLMForCausalLM
from ..model.every_rank import on_every_rank
from ..options import FillOptions
from .answers import AnswerStream, Continuation, stream_answer
from .results import Answer, Blank, FilledText, FillResult, FillStep, Segment

# Each blank costs a pass over the whole text. The bound also ends a text whose answers bring mask tokens without end.
MAX_BLANKS = 64

_MASK = re.compile(r"(\[[sg]?MASK\])")


class BlankTokenizer(Protocol):
    """What blank filling needs of a tokenizer."""

    def encode_text(self, text: str) -> list[int]:
        """Ids of ``text`` alone, in which nothing is recognised as a special token."""

    def decode_exact(self, token_ids: Sequence[int]) -> str:
        """The text of ids, without clean-up."""


@dataclass(frozen=True)
class _Piece:
    """A run of ids: given text, a mask, a filling, or the end of the text.

    Args:
        text: how given text is spelled; None where the ids alone tell.
        filled_by: index of the blank that this fills, in the order of filling; None for what was given.
    """

    token_ids: tuple[int, ...]
    text: str | None
    filled_by: int | None = None


def fill_blanks(
    model: GLMForCausalLM,
    tokenizer: BlankTokenizer,
    text: str,
    options: FillOptions | None = None,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> FillResult:
    """Fill the blanks of a text; the module says which, and in what order.

    Args:
        model: GLM-130B, ChatGLM-6B or the demo model, in evaluation mode.
        tokenizer: its tokenizer.
        text: may hold [MASK], [gMASK] and, for GLM-130B, [sMASK].
        options: None for the defaults.
        should_stop: asked after every token. Once it is true the answer ends, and later blanks stay as they are.

    Raises:
        FillError: the text has no tokens, more than the model or ``options.max_length`` allows, or more blanks than
            ``MAX_BLANKS``.
        UnsupportedError: it holds a mask that the model does not know.
        GLMError: the model's scores are not finite.
        ValueError: more beams than the vocabulary has candidates for.
    """
    for step in stream_blanks(model, tokenizer, text, options, should_stop=should_stop):
        result = step.result
    assert result is not None
    return result


@on_every_rank
def stream_blanks(
    model: GLMForCausalLM,
    tokenizer: BlankTokenizer,
    text: str,
    options: FillOptions | None = None,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[FillStep]:
    """As :func:`fill_blanks`, token by token; the last step has the result. Raises at the first step."""
    options = options or FillOptions()
    config = model.config
    pieces, kinds = _read(text, tokenizer, config, options.every_kind)
    _require_fitting(pieces, kinds, config, options)
    generator = None if options.seed is None else torch.Generator(model.device).manual_seed(options.seed)
    show = partial(_filled_text, tokenizer=tokenizer, config=config)
    blanks: list[Blank] = []
    filled = [pieces]
    while (place := _next_blank(_ids(filled[0]), kinds)) is not None and len(blanks) < MAX_BLANKS:
        prompt = [*_ids(filled[0]), config.bos_token_id]
        fill = partial(_fill, filled[0], place, filled_by=len(blanks))
        answers = stream_answer(model, prompt, place, options, generator, should_stop)
        count = len(blanks) + _count(filled[0], kinds)
        continuations = yield from _steps(answers, fill, show, len(blanks), count)
        filled = [fill(continuation.token_ids) for continuation in continuations]
        blanks.append(Blank(tuple(prompt), tuple(_answer(continuation, tokenizer) for continuation in continuations)))
        if any(continuation.finish_reason == "cancelled" for continuation in continuations):
            break
    texts = tuple(show(pieces, answer.score) for pieces, answer in zip(filled, blanks[-1].answers, strict=True))
    yield FillStep(len(blanks) - 1, len(blanks), lambda: texts[0], FillResult(texts, tuple(blanks)))


# ---- reading a text


def _read(text: str, tokenizer: BlankTokenizer, config: GLMConfig, every_kind: bool) -> tuple[list[_Piece], list[int]]:
    """The text in pieces, ready for the model but for its ``<sop>``; and the ids of the masks to fill, in order."""
    masks = _mask_ids(config)
    parts = _MASK.split(text)  # texts, which may be empty, and masks in turn
    pieces = [
        _mask_piece(part, masks) if _MASK.fullmatch(part) else _Piece(tuple(tokenizer.encode_text(part)), part)
        for part in parts
    ]
    if not _ids(pieces):
        raise FillError(
            "the text has no tokens: write something with a [MASK] in it, or a beginning to continue", "no_text"
        )
    if len(parts) == 1:
        parts += ["[gMASK]", ""]
        pieces.append(_mask_piece("[gMASK]", masks))
    if parts[-1] and len(config.end_token_ids) > 1:
        pieces.append(_Piece((config.end_token_ids[1],), ""))
    kinds = [id_ for name, id_ in masks.items() if name in parts]
    return pieces, kinds if every_kind else kinds[:1]


def _mask_ids(config: GLMConfig) -> dict[str, int]:
    """The masks that the model knows, by name, the first to be filled first."""
    masks = {"[MASK]": config.mask_token_id, "[sMASK]": config.smask_token_id, "[gMASK]": config.gmask_token_id}
    return {name: id_ for name, id_ in masks.items() if id_ is not None}


def _mask_piece(name: str, masks: dict[str, int]) -> _Piece:
    if name not in masks:
        raise UnsupportedError(f"this model knows no {name}; use one of {', '.join(masks)}")
    return _Piece((masks[name],), name)


def _require_fitting(pieces: Sequence[_Piece], kinds: Sequence[int], config: GLMConfig, options: FillOptions) -> None:
    """Every blank gets room for a token if the first one does: its mask and the next ``<sop>`` make it."""
    tokens, most = len(_ids(pieces)), config.max_sequence_length
    if tokens > most:
        raise FillError(
            f"the text has {tokens} tokens, the model takes {most} (max_sequence_length): shorten it",
            "too_long",
            tokens,
            most,
        )
    if tokens + 1 >= options.max_length:
        raise FillError(
            f"the text has {tokens} tokens and max_length is {options.max_length}: no room to fill it. Shorten the "
            "text or raise max_length",
            "too_long",
            tokens,
            options.max_length - 2,
        )
    count = _count(pieces, kinds)
    if count > MAX_BLANKS:
        raise FillError(
            f"the text has {count} blanks, at most {MAX_BLANKS} can be filled: split it",
            "too_many_blanks",
            count,
            MAX_BLANKS,
        )


# ---- filling


def _ids(pieces: Sequence[_Piece]) -> list[int]:
    return [id_ for piece in pieces for id_ in piece.token_ids]


def _next_blank(ids: list[int], kinds: Sequence[int]) -> int | None:
    """Index of the mask to fill next: the first of the first kind that is there."""
    return next((ids.index(kind) for kind in kinds if kind in ids), None)


def _count(pieces: Sequence[_Piece], kinds: Sequence[int]) -> int:
    return sum(id_ in kinds for id_ in _ids(pieces))


def _steps(
    answers: AnswerStream,
    fill: Callable[[tuple[int, ...]], list[_Piece]],
    show: Callable[[list[_Piece], float | None], FilledText],
    blank: int,
    count: int,
) -> Generator[FillStep, None, list[Continuation]]:
    """A step for each state of an answer; returns what ``answers`` does."""

    def filled_with(answer: tuple[int, ...]) -> FilledText:
        return show(fill(answer), None)

    while True:
        try:
            answer = next(answers)
        except StopIteration as end:
            return end.value
        yield FillStep(blank, count, partial(filled_with, answer))


def _fill(pieces: Sequence[_Piece], place: int, answer: tuple[int, ...], filled_by: int) -> list[_Piece]:
    """The pieces with the token at index ``place`` replaced by an answer."""
    filled: list[_Piece] = []
    for piece in pieces:
        if 0 <= place < len(piece.token_ids):
            filled += _replaced(piece, place, _Piece(answer, None, filled_by))
        else:
            filled.append(piece)
        place -= len(piece.token_ids)
    return filled


def _replaced(piece: _Piece, place: int, answer: _Piece) -> Iterator[_Piece]:
    """The parts of a piece around the token at ``place``, with an answer in its stead."""
    before, after = piece.token_ids[:place], piece.token_ids[place + 1 :]
    if before:
        yield _Piece(before, None, piece.filled_by)
    yield answer
    if after:
        yield _Piece(after, None, piece.filled_by)


# ---- showing


def _answer(continuation: Continuation, tokenizer: BlankTokenizer) -> Answer:
    ids = continuation.token_ids
    return Answer(tokenizer.decode_exact(ids), ids, continuation.score, continuation.finish_reason)


def _filled_text(
    pieces: Sequence[_Piece], score: float | None, *, tokenizer: BlankTokenizer, config: GLMConfig
) -> FilledText:
    ids = _ids(pieces)
    if ids and ids[-1] in config.end_token_ids[1:2]:
        ids.pop()
    filled_by = tuple(piece.filled_by for piece in pieces if piece.filled_by is not None)
    return FilledText(tuple(_segments(pieces, tokenizer)), tokenizer.decode_exact(ids), score, filled_by)


def _segments(pieces: Sequence[_Piece], tokenizer: BlankTokenizer) -> Iterator[Segment]:
    text = ""
    ids: list[int] = []
    for piece in pieces:
        shown = piece.text if piece.text is not None else _spelling(piece, text, ids, tokenizer)
        text += shown
        ids += piece.token_ids
        if shown or piece.filled_by is not None:
            yield Segment(shown, piece.filled_by is not None)


def _spelling(piece: _Piece, text: str, ids: list[int], tokenizer: BlankTokenizer) -> str:
    """A piece's text where it stands, behind ``text`` of ``ids``: with a space in front only where words need one."""
    known, whole = tokenizer.decode_exact(ids), tokenizer.decode_exact([*ids, *piece.token_ids])
    if not whole.startswith(known):  # a character whose bytes lie on both sides
        return tokenizer.decode_exact(piece.token_ids)
    shown = whole[len(known) :]
    if shown.startswith(" ") and (not text or _takes_no_space(text[-1]) or _is_wide(shown[1:2])):
        return shown[1:]
    return shown


def _takes_no_space(character: str) -> bool:
    """Whether a word follows it at once: white space, an opening bracket or quotation mark, Chinese."""
    return character.isspace() or category(character) in ("Ps", "Pi") or _is_wide(character)


def _is_wide(character: str) -> bool:
    """Chinese and the like, which is written without spaces; False for an empty string."""
    return character != "" and east_asian_width(character) in "WF"
