"""Encodes a task's texts as GLM sequences: a context with its blank, ``<sop>``, and the tokens to score.

The rules are those of GLM-130B's ``evaluation/dataset.py`` (github.com/THUDM/GLM-130B):

- Options and answers (``MultiChoiceTaskDataset``, ``GenerationTaskDataset``): the target goes into the mask that the
  context holds; a context without one gets a mask at its end. Then follow ``<sop>`` and the target. No end token is
  scored. Context and target are encoded separately; of a context that is too long the end is kept.
- Unidirectional (``build_generation_sample``): ``[gMASK] <sop>`` precedes the text, all of which is causal.
- Rolling (``LanguageModelTaskDataset``): a text is split into windows, and each token is scored once. The first window
  is ``[gMASK] <sop>`` and the beginning of the text. Each later window scores the next ``rolling_stride`` tokens; as
  many tokens before them as fit are its bidirectional context.

Masks and positions follow from the ids by the rules of the model (``glm_model.model.masking``), as in generation. This
file runs no model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, Protocol

from ..errors import GLMError, UnsupportedError
from ..model.configuration import GLM130BConfig, GLMConfig

MaskName = Literal["MASK", "gMASK", "sMASK"]

_MASK = re.compile(r"\[([gs]?MASK)\]")


class TextEncoder(Protocol):
    """The method of a tokenizer that encoding needs."""

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of ``text`` without special tokens; the spelling of a special token is ordinary text."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How the texts of tasks are encoded.

    Args:
        mask: the mask appended to a context without one: "MASK", "gMASK" or, for GLM-130B, "sMASK". None chooses: to
            score a target, "MASK" for GLM-130B, as its evaluation does for options, and "gMASK" for ChatGLM-6B, which
            was tuned to answer there; to write an answer, "gMASK" for both.
        unidirectional: attention is causal throughout, after a leading [gMASK].
        blanks: "[MASK]", "[gMASK]" and "[sMASK]" in a text are blanks; if False they are ordinary text.
        max_length: the largest number of tokens of a sequence; None is the model's own limit.
        rolling_stride: tokens that each window of a rolling log-likelihood scores, except the first; the original's
            ``generation_length``.

    Raises:
        ValueError: an unknown mask, [MASK] with ``unidirectional``, or a number that is too small.
    """

    mask: MaskName | None = None
    unidirectional: bool = False
    blanks: bool = True
    max_length: int | None = None
    rolling_stride: int = 256

    def __post_init__(self) -> None:
        if self.mask not in (None, "MASK", "gMASK", "sMASK"):
            raise ValueError(f"mask must be MASK, gMASK or sMASK, not {self.mask!r}")
        if self.unidirectional and self.mask not in (None, "gMASK"):
            raise ValueError(f"unidirectional goes with mask gMASK only, not {self.mask}")
        for name, least in (("max_length", 3), ("rolling_stride", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")


@dataclass(frozen=True)
class ScoredSequence:
    """A sequence and the tokens whose probability is computed.

    Args:
        input_ids: context, ``<sop>`` and all target tokens but the last.
        target_ids: the tokens that the last ``len(target_ids)`` positions of ``input_ids`` should predict.
        dropped: number of tokens that were cut from the context because they did not fit.
    """

    input_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    dropped: int = 0


@dataclass(frozen=True)
class Prompt:
    """A sequence that a model is to continue.

    Args:
        input_ids: the context up to and including ``<sop>``; if unidirectional, ``[gMASK] <sop>`` and then the context.
        dropped: number of tokens that were cut from the context because they did not fit.
    """

    input_ids: tuple[int, ...]
    dropped: int = 0


class TaskEncoder:
    """An encoder of tasks for one model.

    Args:
        config: the model's configuration.
        tokenizer: the model's tokenizer.
        options: None for the defaults.

    Raises:
        UnsupportedError: the model has no mask token of the kind ``options.mask``.
        ValueError: ``options.max_length`` is more than the model's ``max_sequence_length``.
    """

    def __init__(self, config: GLMConfig, tokenizer: TextEncoder, options: EvaluationOptions | None = None) -> None:
        self._config = config
        self._encode = tokenizer.encode_text
        self._options = options = options or EvaluationOptions()
        masks = {"MASK": config.mask_token_id, "gMASK": config.gmask_token_id, "sMASK": config.smask_token_id}
        self._masks = {name: token_id for name, token_id in masks.items() if token_id is not None}
        if options.mask not in (None, *self._masks):
            raise UnsupportedError(f"this model knows no [{options.mask}]; use one of {', '.join(self._masks)}")
        self._max_length = options.max_length or config.max_sequence_length
        if self._max_length > config.max_sequence_length:
            raise ValueError(
                f"max_length {self._max_length} is more than the model's max_sequence_length "
                f"{config.max_sequence_length}"
            )

    # ---- the three kinds of requests

    def option(self, context: str, target: str) -> ScoredSequence:
        """Return the sequence that scores ``target`` as the answer to ``context``.

        Raises:
            GLMError: the target has no tokens or too many, or the context has a blank though attention is
                unidirectional.
        """
        if self._options.unidirectional:
            text_ids, target_ids = self._split(context, target)
            prompt = self._open_text(text_ids, self._room_beside(target, target_ids))
        else:
            target_ids = self._encode(target)
            mask = "MASK" if isinstance(self._config, GLM130BConfig) else "gMASK"
            prompt = self._blank_in(context, mask, self._room_beside(target, target_ids))
        return ScoredSequence((*prompt.input_ids, *target_ids[:-1]), tuple(target_ids), prompt.dropped)

    def prompt(self, context: str, new_tokens: int) -> Prompt:
        """Return the prompt of which a model writes the answer to ``context``, of up to ``new_tokens`` tokens.

        Raises:
            GLMError: so many new tokens leave no room for a context, or the context has a blank though attention is
                unidirectional.
        """
        room = self._max_length - new_tokens
        if room < 3:
            raise GLMError(
                f"{new_tokens} new tokens leave no room for a context within max_length {self._max_length}: ask for "
                "fewer (max_gen_toks)"
            )
        if self._options.unidirectional:
            self._refuse_blanks(context)
            return self._open_text(self._encode(context), room)
        return self._blank_in(context, "gMASK", room)

    def windows(self, text: str) -> list[ScoredSequence]:
        """Return the windows that together score each token of a text once; none for a text without tokens."""
        ids = self._encode(text)
        size = self._max_length - 1  # tokens of text in a window; [gMASK] and <sop> are added, the last one is no input
        stride = min(self._options.rolling_stride, size)
        windows = [self._window([], ids[:size])] if ids else []
        for end in range(size, len(ids), stride):
            start = end + stride - size
            windows.append(self._window(ids[start:end], ids[end : end + stride]))
        return windows

    # ---- parts of a sequence

    def _window(self, context: list[int], text: list[int]) -> ScoredSequence:
        start = [self._config.gmask_token_id, self._config.bos_token_id]
        frame = [*start, *context] if self._options.unidirectional else [*context, *start]
        return ScoredSequence((*frame, *text[:-1]), tuple(text))

    def _room_beside(self, target: str, target_ids: Sequence[int]) -> int:
        """Return the number of tokens that the prompt of a target may have, mask and ``<sop>`` included.

        Raises:
            GLMError: the target has no tokens, or too many.
        """
        if not target_ids:
            raise GLMError(f"the target {target!r} has no tokens: nothing to score")
        room = self._max_length - (len(target_ids) - 1)
        if room < 2:
            raise GLMError(
                f"the target {target[:40]!r}... has {len(target_ids)} tokens; with its mask and <sop> it does not fit "
                f"into max_length {self._max_length}"
            )
        return room

    def _split(self, context: str, target: str) -> tuple[list[int], list[int]]:
        """Return the ids of context and target, encoded as one text.

        The split is at the first token that differs from the context's own tokens, so that a token across the border
        belongs to the target.
        """
        self._refuse_blanks(context)
        whole = self._encode(context + target)
        pairs = zip(self._encode(context), whole, strict=False)
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        return whole[:shared], whole[shared:]

    def _open_text(self, ids: list[int], room: int) -> Prompt:
        dropped = max(0, len(ids) + 2 - room)
        return Prompt((self._config.gmask_token_id, self._config.bos_token_id, *ids[dropped:]), dropped)

    def _blank_in(self, text: str, usual_mask: str, room: int) -> Prompt:
        """Return a prompt of at most ``room`` tokens, with a blank: that of the text, or ``usual_mask`` at its end.

        A text that is too long is cut at its beginning, at most up to the blank, and then at its end.
        """
        ids = self._with_blanks(text)
        if not set(self._masks.values()) & set(ids):
            ids.append(self._masks[self._options.mask or usual_mask])
        blank = next(ids.index(kind) for kind in self._config.mask_token_priority if kind in ids)
        dropped = max(0, len(ids) + 1 - room)
        start = min(dropped, blank)
        return Prompt((*ids[start : start + room - 1], self._config.bos_token_id), dropped)

    def _with_blanks(self, text: str) -> list[int]:
        if not self._options.blanks:
            return self._encode(text)
        ids: list[int] = []
        start = 0
        for mask in _MASK.finditer(text):
            if mask[1] in self._masks:
                ids += [*self._encode(text[start : mask.start()]), self._masks[mask[1]]]
                start = mask.end()
        return [*ids, *self._encode(text[start:])]

    def _refuse_blanks(self, text: str) -> None:
        mask = _MASK.search(text) if self._options.blanks else None
        if mask and mask[1] in self._masks:
            raise GLMError(
                f"unidirectional attention cannot fill the {mask[0]} in {text[:40]!r}...: leave unidirectional off, or "
                "set blanks=false if it is ordinary text"
            )
