"""Makes flags of a command line from settings."""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from .exit_status import EXIT_STATUS, WRONG_COMMAND_LINE
from .settings import Setting, Switch, read_setting, settings_of

_Value = TypeVar("_Value")
_Arguments = argparse.ArgumentParser | argparse._ArgumentGroup


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line, without argparse's usage lines.

    The line begins with the program's short name, without ``python -m glm_model.``. ``--help`` ends with the rule of
    exit statuses. Flags cannot be abbreviated.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "epilog": EXIT_STATUS, **settings})

    def error(self, message: str) -> NoReturn:
        """Print one line on standard error and exit with status 2."""
        name = self.prog.removeprefix("python -m ").removeprefix("glm_model.")
        self.exit(WRONG_COMMAND_LINE, f"{name}: {message} (see --help)\n")


def flag(name: str) -> str:
    """Return the flag of a setting: ``--max-length`` for ``max_length``."""
    return "--" + name.replace("_", "-")


def help_text(text: str, default: object) -> str:
    """Return a setting's help for argparse, with its default unless that is None, False or empty."""
    shown = "" if default is None or default is False or default == () else f" (default: {default})"
    return (text + shown).replace("%", "%%")


def add_settings(group: _Arguments, options: type, names: Iterable[str] | None = None, **defaults: object) -> None:
    """Add a flag for each setting of a dataclass that a text can express.

    Args:
        group: the parser or group of arguments to add to.
        options: the dataclass, such as ``LoadOptions``.
        names: names of the settings to add, in this order; None for all.
        defaults: defaults of this program that replace those of the settings.
    """
    known = settings_of(options)
    for name in known if names is None else names:
        if known[name].in_programs:
            add_setting(group, replace(known[name], default=defaults.get(name, known[name].default)))


def add_setting(group: _Arguments, each: Setting) -> None:
    """Add the flag of a setting; the parsed value is stored under the setting's name.

    A switch that is on by default gets the flag that turns it off.
    """
    if not isinstance(each.allowed, Switch):
        shown, read = help_text(each.help, each.default), argument_type(each)
        group.add_argument(
            flag(each.name), dest=each.name, type=read, default=each.default, metavar=each.metavar, help=shown
        )
        return
    named = each.off_flag if each.default else flag(each.name)
    assert named is not None, f"{each.name} is on and has no flag that turns it off"
    action = "store_false" if each.default else "store_true"
    group.add_argument(named, dest=each.name, action=action, help=help_text(each.help, None))


def add_hidden_alias(group: _Arguments, spelling: str, dest: str, **settings: Any) -> None:
    """Add a flag of earlier releases that ``--help`` does not show; ``settings`` are passed to ``add_argument``."""
    group.add_argument(spelling, dest=dest, help=argparse.SUPPRESS, **settings)


def argument_type(each: Setting) -> Callable[[str], Any]:
    """Return the function with which argparse reads a value of a setting."""

    def read(text: str) -> Any:
        try:
            return read_setting(each.allowed, text)
        except ValueError as error:
            raise ValueError(f"{text!r} is not {error}") from None

    return with_sentence(read)


def with_sentence(read: Callable[[str], _Value]) -> Callable[[str], _Value]:
    """Return a function like ``read`` whose ValueError argparse shows with its own message."""

    def read_argument(text: str) -> _Value:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_argument
