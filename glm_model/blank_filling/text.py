"""Fills the blanks of a text: chooses the next mask, and puts its answer in place.

The rules are those of ``fill_blanks`` in GLM-130B's ``generate.py``. Of [MASK], [sMASK] and [gMASK], in this order, the
first kind that the text holds is filled, from left to right. A text without any gets a [gMASK] at its end. ``</s>`` is
appended to a text that does not end in a mask. Each answer replaces its mask before the next blank is filled; after a
beam search this is the answer of the best beam. A mask token of that kind inside an answer is a blank too.

The published code of ChatGLM-6B has no such function. For it and the demo model the same rules hold, except that
``</s>`` is not appended, because it is not in their ``eos_token_id``. Only GLM-130B has [sMASK].
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from unicodedata import category, east_asian_width

from ..errors import FillError, UnsupportedError
from ..generation.alone import run
from ..generation.requests import Interrupted, Writer, changed
from ..generation.sampling import Chooser
from ..model.configuration import GLMConfig
from ..model.decoder import GLMForCausalLM
from ..options import FillOptions
from .answers import Continuation, fill_sampler, published_chooser, seeded, write_blank
from .results import Answer, Blank, FilledText, FillResult, FillStep, Segment

# Each blank costs a pass over the whole text. The limit also ends a text whose answers add mask tokens without end.
MAX_BLANKS = 64

_MASK = re.compile(r"(\[[sg]?MASK\])")


class BlankTokenizer(Protocol):
    """The methods of a tokenizer that blank filling needs."""

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of ``text`` without special tokens; the spelling of a special token is ordinary text."""

    def decode_exact(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, without cleaning up spaces."""


@dataclass(frozen=True)
class _Piece:
    """Consecutive ids of a text: given text, a mask, a filling, or the end token.

    Args:
        token_ids: the ids.
        text: the spelling of given text; None if it follows from the ids.
        filled_by: index of the blank that this fills, in the order of filling; None for given text.
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
    """Fill the blanks of a text in the order that the module's docstring gives, and return the result.

    Args:
        model: GLM-130B, ChatGLM-6B or the demo model, in evaluation mode.
        tokenizer: the model's tokenizer.
        text: text that may hold [MASK], [gMASK] and, for GLM-130B, [sMASK].
        options: how blanks are filled; None for the defaults.
        should_stop: called after every token. When it returns True the answer ends, and later blanks are not filled.

    Raises:
        FillError: the text has no tokens, more than the model or ``options.max_length`` allows, or more blanks than
            ``MAX_BLANKS``.
        UnsupportedError: the text holds a kind of mask that the model does not have.
        GLMError: the model's scores are not finite.
        ValueError: beam search needs more candidates than the vocabulary has tokens.
    """
    for step in stream_blanks(model, tokenizer, text, options, should_stop=should_stop):
        result = step.result
    assert result is not None
    return result


def stream_blanks(
    model: GLMForCausalLM,
    tokenizer: BlankTokenizer,
    text: str,
    options: FillOptions | None = None,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[FillStep]:
    """Yield a step after each token of :func:`fill_blanks`; the last step has the result.

    Arguments and errors are those of :func:`fill_blanks`; errors are raised at the first step.
    """
    options = options or FillOptions()
    chooser = published_chooser(options, seeded(options, model.device))
    return run(model, write_blanks(model, tokenizer, text, options, should_stop=should_stop, chooser=chooser))


def write_blanks(
    model: GLMForCausalLM,
    tokenizer: BlankTokenizer,
    text: str,
    options: FillOptions,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    chooser: Chooser | None = None,
) -> Writer[FillStep, None]:
    """Return the writer of :func:`stream_blanks`, with the same arguments.

    Args:
        chooser: chooses the tokens of sampling; None chooses by ``options``, together with other rows.
    """
    config = model.config
    pieces, kinds = _read(text, tokenizer, config, options.every_kind)
    _require_fitting(pieces, kinds, config, options)
    chooser, generator = chooser or fill_sampler(options), seeded(options, model.device)
    show = partial(_filled_text, tokenizer=tokenizer, config=config)
    blanks: list[Blank] = []
    filled = [pieces]
    while (place := _next_blank(_ids(filled[0]), kinds)) is not None and len(blanks) < MAX_BLANKS:
        prompt = [*_ids(filled[0]), config.bos_token_id]
        fill = partial(_fill, filled[0], place, filled_by=len(blanks))
        answers = write_blank(model, prompt, place, options, chooser, generator, should_stop)
        step = partial(_step, fill, show, len(blanks), len(blanks) + _count(filled[0], kinds))
        try:
            continuations = yield from changed(answers, step)
        except Interrupted:
            if not blanks:
                raise
            break
        filled = [fill(continuation.token_ids) for continuation in continuations]
        blanks.append(Blank(tuple(prompt), tuple(_answer(continuation, tokenizer) for continuation in continuations)))
        if any(continuation.finish_reason == "cancelled" for continuation in continuations):
            break
    texts = tuple(show(pieces, answer.score) for pieces, answer in zip(filled, blanks[-1].answers, strict=True))
    count = len(blanks) + _count(filled[0], kinds)
    yield FillStep(len(blanks) - 1, count, lambda: texts[0], FillResult(texts, tuple(blanks)))


# ---- reading a text


def _read(text: str, tokenizer: BlankTokenizer, config: GLMConfig, every_kind: bool) -> tuple[list[_Piece], list[int]]:
    """Return the pieces of a text, without ``<sop>``, and the ids of the kinds of mask to fill, in order.

    Raises:
        FillError: the text has no tokens.
        UnsupportedError: the text holds a kind of mask that the model does not have.
    """
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
    """Return the mask tokens that the model has, by name, in the order of filling."""
    masks = {"[MASK]": config.mask_token_id, "[sMASK]": config.smask_token_id, "[gMASK]": config.gmask_token_id}
    return {name: id_ for name, id_ in masks.items() if id_ is not None}


def _mask_piece(name: str, masks: dict[str, int]) -> _Piece:
    if name not in masks:
        raise UnsupportedError(f"this model knows no {name}; use one of {', '.join(masks)}")
    return _Piece((masks[name],), name)


def _require_fitting(pieces: Sequence[_Piece], kinds: Sequence[int], config: GLMConfig, options: FillOptions) -> None:
    """Raise FillError if the text has too many tokens or blanks.

    Room for one token of the first answer is enough. Each later blank then has room for one too, because an answer
    replaces its mask and its ``<sop>`` leaves the text.
    """
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
    """Return the index of the mask to fill next: the first one of the first kind that occurs; None if there is none."""
    return next((ids.index(kind) for kind in kinds if kind in ids), None)


def _count(pieces: Sequence[_Piece], kinds: Sequence[int]) -> int:
    return sum(id_ in kinds for id_ in _ids(pieces))


def _step(
    fill: Callable[[tuple[int, ...]], list[_Piece]],
    show: Callable[[list[_Piece], float | None], FilledText],
    blank: int,
    count: int,
    answer: tuple[int, ...],
) -> FillStep:
    """Return the step with this state of an answer."""
    return FillStep(blank, count, lambda: show(fill(answer), None))


def _fill(pieces: Sequence[_Piece], place: int, answer: tuple[int, ...], filled_by: int) -> list[_Piece]:
    """Return the pieces with the token at index ``place`` of the whole text replaced by an answer."""
    filled: list[_Piece] = []
    for piece in pieces:
        if 0 <= place < len(piece.token_ids):
            filled += _replaced(piece, place, _Piece(answer, None, filled_by))
        else:
            filled.append(piece)
        place -= len(piece.token_ids)
    return filled


def _replaced(piece: _Piece, place: int, answer: _Piece) -> Iterator[_Piece]:
    """Yield the parts of a piece around its token at ``place``, with an answer between them."""
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
    """Return the text of a piece that follows ``text`` of ``ids``, with a space in front only if words need one."""
    known, whole = tokenizer.decode_exact(ids), tokenizer.decode_exact([*ids, *piece.token_ids])
    if not whole.startswith(known):  # the bytes of one character are split between ``ids`` and the piece
        return tokenizer.decode_exact(piece.token_ids)
    shown = whole[len(known) :]
    if shown.startswith(" ") and (not text or _takes_no_space(text[-1]) or _is_wide(shown[1:2])):
        return shown[1:]
    return shown


def _takes_no_space(character: str) -> bool:
    """Return whether a word follows a character without a space: white space, an opening bracket or quote, Chinese."""
    return character.isspace() or category(character) in ("Ps", "Pi") or _is_wide(character)


def _is_wide(character: str) -> bool:
    """Return whether a character is wide, as in Chinese, which has no spaces; False for an empty string."""
    return character != "" and east_asian_width(character) in "WF"
