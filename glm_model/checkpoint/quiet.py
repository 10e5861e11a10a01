"""Keep transformers quiet while it loads a model, whose faults this package reports itself."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

# What transformers says about the tensors that it has read: tables of names, tied weights, conversions.
_READERS = ("transformers.modeling_utils", "transformers.core_model_loading")


@contextmanager
def quiet_reading(reports: bool = False) -> Iterator[None]:
    """Drop what transformers logs about tensors in the context, and its progress bars where no terminal shows them.

    Args:
        reports: whether its reports are wanted after all, because no check of ours speaks for them.
    """
    thread = threading.get_ident()

    def is_of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno > logging.WARNING

    loggers = [] if reports else [logging.getLogger(name) for name in _READERS]
    for logger in loggers:
        logger.addFilter(is_of_others)
    hides_bars = transformers_logging.is_progress_bar_enabled() and not _shows_bars()
    if hides_bars:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if hides_bars:
            transformers_logging.enable_progress_bar()
        for logger in loggers:
            logger.removeFilter(is_of_others)


def _shows_bars() -> bool:
    """Return whether a progress bar moves where it is written: on a terminal or in a notebook, not in a log file."""
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
