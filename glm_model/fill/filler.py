"""A loaded model that turns one text after the other into what is printed."""

import os
import sys
import time
from dataclasses import replace

from transformers.utils import logging as transformers_logging

from ..blank_filling import FillResult, FillStep, stream_blanks
from ..command_line import complain as complain_as
from ..loading import lead_or_follow, load
from .arguments import Arguments
from .interrupt import noted_interrupts
from .output import all_beams, as_json, choose_marks, marked, one_line

NAME = "fill"
_SECONDS_BETWEEN_NOTES = 0.1


class Filler:
    """Loads the model that ``arguments`` name.

    Args:
        by_line: a filled text is to be one line, whatever the model writes.

    Raises:
        ValueError: it cannot be loaded; with a sentence for the user.
    """

    def __init__(self, arguments: Arguments, *, by_line: bool = False) -> None:
        self._is_watched = sys.stderr.isatty()
        self._next_note = 0.0
        if not self._is_watched:
            transformers_logging.disable_progress_bar()
        self._model, self._tokenizer = load(arguments.model, options=arguments.loading)
        if not lead_or_follow(self._model, self._tokenizer):
            raise SystemExit  # rank 0 has filled everything
        longest = min(arguments.options.max_length, self._model.config.max_sequence_length)
        self._options = replace(arguments.options, max_length=longest)
        self._arguments = arguments
        self._by_line = by_line
        self._marks = choose_marks(arguments.color, sys.stdout.isatty(), os.environ)

    def fill(self, text: str) -> str:
        """What to print for a text. Raises ValueError for one that cannot be filled, KeyboardInterrupt after Ctrl-C."""
        result = self._result(text)
        if any(blank.answers[0].finish_reason == "length" for blank in result.blanks):
            complain(f"the text reached {self._options.max_length} tokens and was cut; see --max-length")
        if self._arguments.json:
            return as_json(text, result)
        if self._arguments.all_beams:
            return all_beams(result, self._marks)
        filled = marked(result.texts[0], self._marks)
        return one_line(filled) if self._by_line else filled

    def _result(self, text: str) -> FillResult:
        with noted_interrupts() as is_interrupted:
            for step in stream_blanks(self._model, self._tokenizer, text, self._options, should_stop=is_interrupted):
                self._note(step)
            if is_interrupted():
                raise KeyboardInterrupt
        assert step.result is not None
        return step.result

    def _note(self, step: FillStep) -> None:
        """Tell somebody who watches how far it is; the last step wipes that away."""
        if not self._is_watched or (step.result is None and time.monotonic() < self._next_note):
            return
        self._next_note = time.monotonic() + _SECONDS_BETWEEN_NOTES
        doing = f"filling blank {step.blank + 1} of {step.count} ..." if step.result is None else ""
        print(f"\r\x1b[K{doing}", end="", file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """Say something that is no result."""
    complain_as(NAME, text)
