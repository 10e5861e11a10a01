"""Defines the exit statuses of all programs; the rule is in the docstring of ``glm_model/command_line.py``."""

SUCCEEDED = 0
FAILED = 1
WRONG_COMMAND_LINE = 2
INTERRUPTED = 130
"""The status after Ctrl-C, as shells report it: 128 + SIGINT."""

EXIT_STATUS = (
    "Exit status: 0; 1 if the work failed, with a sentence on standard error; 2 if the command line is wrong; "
    "130 after Ctrl-C; 143 after SIGTERM."
)
"""The rule as ``--help`` shows it."""
