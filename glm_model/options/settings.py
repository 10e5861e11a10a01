"""Describes settings: their defaults, allowed values and help.

A setting is a field of a frozen dataclass, made with :func:`setting`. The same description checks a value that Python
code gives, and reads a text from a command line or an environment variable.
"""

import math
import os
from dataclasses import MISSING, Field, dataclass, field, fields
from numbers import Integral
from numbers import Real as RealNumber
from typing import Any, Protocol


class Allowed(Protocol):
    """The values that a setting may have."""

    def parse(self, text: str) -> object:
        """Return the value that a text stands for, or the text itself if it stands for none."""

    def expected(self, value: object) -> str | None:
        """Return what the value must be instead, such as "at least 1"; None if it is allowed."""


@dataclass(frozen=True)
class Whole:
    """The whole numbers of a range.

    Args:
        least: the least number.
        most: the largest number; None for no limit.
        zero: meaning of 0, such as "off", for a range that begins with 0.
    """

    least: int
    most: int | None = None
    zero: str = ""

    def parse(self, text: str) -> object:
        """Return the value that a text stands for, or the text itself."""
        try:
            return int(text)
        except ValueError:
            return text

    def expected(self, value: object) -> str | None:
        """Return what the value must be instead; None if it is allowed."""
        words = _range_words(self.least, self.most, self.zero)
        if not isinstance(value, Integral):
            return _of_kind("a whole number", words)
        is_inside = int(value) >= self.least and (self.most is None or int(value) <= self.most)
        return None if is_inside else words


@dataclass(frozen=True)
class Real:
    """The finite numbers of a range.

    Args:
        least: the least number.
        most: the largest number.
        zero: meaning of 0, such as "greedy", for a range that begins with 0.
        open_below: the least number itself is not allowed.
    """

    least: float
    most: float = math.inf
    zero: str = ""
    open_below: bool = False

    def parse(self, text: str) -> object:
        """Return the value that a text stands for, or the text itself."""
        try:
            return float(text)
        except ValueError:
            return text

    def expected(self, value: object) -> str | None:
        """Return what the value must be instead; None if it is allowed."""
        words = _range_words(self.least, None if self.most == math.inf else self.most, self.zero)
        if self.open_below:
            words = f"above {self.least:g} and at most {self.most:g}"
        if not isinstance(value, RealNumber):
            return _of_kind("a number", words)
        number = float(value)
        is_inside = self.least <= number <= self.most and not math.isinf(number)
        return None if is_inside and not (self.open_below and number == self.least) else words


def _of_kind(kind: str, words: str) -> str:
    """Return a range with what it is a range of, such as "a whole number of at least 1"."""
    if words.startswith("at least"):
        return f"{kind} of {words}"
    return f"{kind} {words}" if words.startswith(("from", "above")) else f"{kind}, {words}"


def _range_words(least: float, most: float | None, zero: str) -> str:
    if zero:
        return f"{least:g} ({zero}) or more" if most is None else f"from {least:g} ({zero}) to {most:g}"
    return f"at least {least}" if most is None else f"from {least} to {most}"


@dataclass(frozen=True)
class Choice:
    """One of several names.

    Args:
        names: the names.
        or_dictionary: Python code may give a dictionary instead of a name.
    """

    names: tuple[str, ...]
    or_dictionary: bool = False

    def parse(self, text: str) -> object:
        """Return the value that a text stands for, or the text itself."""
        return text

    def expected(self, value: object) -> str | None:
        """Return what the value must be instead; None if it is allowed."""
        if value in self.names or (self.or_dictionary and isinstance(value, dict)):
            return None
        return "one of " + ", ".join((*self.names, *["a dictionary"] * self.or_dictionary))


@dataclass(frozen=True)
class Switch:
    """A setting that is on or off."""

    def parse(self, text: str) -> object:
        """Return the value that a text stands for, or the text itself."""
        return _SWITCH_WORDS.get(text.strip().lower(), text)

    def expected(self, value: object) -> str | None:
        """Return what the value must be instead; None if it is allowed."""
        return None if isinstance(value, bool) or value in (0, 1) else "one of " + ", ".join(_SWITCH_WORDS)


_SWITCH_WORDS = {**dict.fromkeys(("1", "true", "yes", "on"), True), **dict.fromkeys(("0", "false", "no", "off"), False)}


@dataclass(frozen=True)
class Text:
    """A text that is not blank."""

    def parse(self, text: str) -> object:
        """Return the value that a text stands for, or the text itself."""
        return text

    def expected(self, value: object) -> str | None:
        """Return what the value must be instead; None if it is allowed."""
        return None if isinstance(value, str) and value.strip() else "a text with something in it"


@dataclass(frozen=True)
class PathName:
    """A path: a text that is not blank, or an object of ``pathlib``."""

    def parse(self, text: str) -> object:
        """Return the value that a text stands for, or the text itself."""
        return text

    def expected(self, value: object) -> str | None:
        """Return what the value must be instead; None if it is allowed."""
        return None if isinstance(value, str | os.PathLike) and str(value).strip() else "a path"


@dataclass(frozen=True)
class Instance:
    """An object that only Python code can give.

    Args:
        kind: the class of the object.
        words: name of the class in messages, such as "a dictionary".
    """

    kind: type
    words: str

    def parse(self, text: str) -> object:
        """Return the value that a text stands for, or the text itself."""
        return text

    def expected(self, value: object) -> str | None:
        """Return what the value must be instead; None if it is allowed."""
        return None if isinstance(value, self.kind) else self.words


@dataclass(frozen=True)
class Setting:
    """One field of options, as code that makes flags reads it.

    Args:
        name: name of the field.
        default: its default.
        allowed: the values that it may have.
        help: its meaning, for ``--help``.
        metavar: name of the value in ``--help``.
        off_flag: the flag that turns a switch off that is on by default.
        in_programs: True if command lines have a flag for it; False if no text can express its values.
        is_secret: True if messages must not show its value.
    """

    name: str
    default: Any
    allowed: Allowed
    help: str
    metavar: str | None = None
    off_flag: str | None = None
    in_programs: bool = True
    is_secret: bool = False


_METADATA_NAMES = ("allowed", "help", "metavar", "off_flag", "in_programs")


def setting(
    default: Any,
    help: str,
    allowed: Allowed,
    *,
    metavar: str | None = None,
    off_flag: str | None = None,
    in_programs: bool = True,
    is_secret: bool = False,
    **of_a_program: object,
) -> Any:
    """Return a dataclass field with this description as its metadata; see :class:`Setting` for the arguments.

    Args:
        of_a_program: more metadata, which the program that declares the setting reads.
    """
    described = {
        "allowed": allowed,
        "help": help,
        "metavar": metavar,
        "off_flag": off_flag,
        "in_programs": in_programs,
    }
    return field(default=default, metadata={**described, **of_a_program}, repr=not is_secret)


def settings_of(options: Any) -> dict[str, Setting]:
    """Return the settings of a dataclass, or of an instance of one, by their names."""
    return {each.name: _setting_of(each) for each in fields(options)}


def _setting_of(each: "Field[Any]") -> Setting:
    assert each.default is not MISSING
    metadata = {name: each.metadata[name] for name in _METADATA_NAMES}
    return Setting(each.name, each.default, is_secret=not each.repr, **metadata)


def check_settings(options: Any) -> None:
    """Raise ValueError unless every field has an allowed value; the message names field and value.

    None is allowed if it is the default.
    """
    for each in settings_of(options).values():
        value = getattr(options, each.name)
        if value is None and each.default is None:
            continue
        expected = each.allowed.expected(value)
        if expected is not None:
            expected += ", or None" if each.default is None else ""
            shown = "what was given" if each.is_secret else repr(value)
            raise ValueError(f"{each.name} must be {expected}{';' if ',' in expected else ','} not {shown}")


def read_setting(allowed: Allowed, text: str) -> Any:
    """Return the value that a text stands for. Raise ValueError if there is none; its message says what is allowed."""
    value = allowed.parse(text)
    expected = allowed.expected(value)
    if expected is not None:
        raise ValueError(allowed.expected(text) or expected)  # of a text also what it should have spelled
    return value
