"""What a setting carries: its default, the values that it may have, and what a person is told of it.

A setting is a field of a frozen dataclass, made with :func:`setting`. The same description checks a value that Python
code gives and reads a text of a command line or an environment variable.
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
        """Return the value that a text spells, or the text itself if it spells none."""

    def expected(self, value: object) -> str | None:
        """Return what the value must be instead, such as "at least 1"; None if it is allowed."""


@dataclass(frozen=True)
class Whole:
    """Whole numbers of a range.

    Args:
        zero: what 0 stands for, such as "off"; of a range that begins there.
    """

    least: int
    most: int | None = None
    zero: str = ""

    def parse(self, text: str) -> object:
        """See :class:`Allowed`."""
        try:
            return int(text)
        except ValueError:
            return text

    def expected(self, value: object) -> str | None:
        """See :class:`Allowed`."""
        words = _range_words(self.least, self.most, self.zero)
        if not isinstance(value, Integral):
            return _of_kind("a whole number", words)
        is_inside = int(value) >= self.least and (self.most is None or int(value) <= self.most)
        return None if is_inside else words


@dataclass(frozen=True)
class Real:
    """Finite numbers of a range.

    Args:
        zero: what 0 stands for, such as "greedy"; of a range that begins there.
        open_below: the range does not hold its least number.
    """

    least: float
    most: float = math.inf
    zero: str = ""
    open_below: bool = False

    def parse(self, text: str) -> object:
        """See :class:`Allowed`."""
        try:
            return float(text)
        except ValueError:
            return text

    def expected(self, value: object) -> str | None:
        """See :class:`Allowed`."""
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
    """One of some names.

    Args:
        or_dictionary: Python code may give a dictionary instead.
    """

    names: tuple[str, ...]
    or_dictionary: bool = False

    def parse(self, text: str) -> object:
        """See :class:`Allowed`."""
        return text

    def expected(self, value: object) -> str | None:
        """See :class:`Allowed`."""
        if value in self.names or (self.or_dictionary and isinstance(value, dict)):
            return None
        return "one of " + ", ".join((*self.names, *["a dictionary"] * self.or_dictionary))


@dataclass(frozen=True)
class Switch:
    """Yes or no."""

    def parse(self, text: str) -> object:
        """See :class:`Allowed`."""
        return _SWITCHED.get(text.strip().lower(), text)

    def expected(self, value: object) -> str | None:
        """See :class:`Allowed`."""
        return None if isinstance(value, bool) or value in (0, 1) else "one of " + ", ".join(_SWITCHED)


_SWITCHED = {**dict.fromkeys(("1", "true", "yes", "on"), True), **dict.fromkeys(("0", "false", "no", "off"), False)}


@dataclass(frozen=True)
class Text:
    """A text that is not blank."""

    def parse(self, text: str) -> object:
        """See :class:`Allowed`."""
        return text

    def expected(self, value: object) -> str | None:
        """See :class:`Allowed`."""
        return None if isinstance(value, str) and value.strip() else "a text with something in it"


@dataclass(frozen=True)
class PathName:
    """A path; a text that is not blank, or one of ``pathlib``."""

    def parse(self, text: str) -> object:
        """See :class:`Allowed`."""
        return text

    def expected(self, value: object) -> str | None:
        """See :class:`Allowed`."""
        return None if isinstance(value, str | os.PathLike) and str(value).strip() else "a path"


@dataclass(frozen=True)
class Instance:
    """An object that only Python code can give.

    Args:
        words: what it is, such as "a dictionary".
    """

    kind: type
    words: str

    def parse(self, text: str) -> object:
        """See :class:`Allowed`."""
        return text

    def expected(self, value: object) -> str | None:
        """See :class:`Allowed`."""
        return None if isinstance(value, self.kind) else self.words


@dataclass(frozen=True)
class Setting:
    """One field of options, for whoever makes flags of it.

    Args:
        metavar: what stands for the value in ``--help``.
        off_flag: the flag that turns a switch off, for programs that have it on.
        in_programs: command lines have it; not so where no text can spell it.
        is_secret: the value is never shown.
    """

    name: str
    default: Any
    allowed: Allowed
    help: str
    metavar: str | None = None
    off_flag: str | None = None
    in_programs: bool = True
    is_secret: bool = False


_CARRIED = ("allowed", "help", "metavar", "off_flag", "in_programs")


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
        of_a_program: more metadata, of those who declare it.
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
    """Return the settings of a dataclass, or of an object of one, by their names."""
    return {each.name: _described(each) for each in fields(options)}


def _described(each: "Field[Any]") -> Setting:
    assert each.default is not MISSING
    carried = {name: each.metadata[name] for name in _CARRIED}
    return Setting(each.name, each.default, is_secret=not each.repr, **carried)


def check_settings(options: Any) -> None:
    """Raise ValueError, which names field and value, unless every field has an allowed value.

    None is allowed where it is the default.
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
    """Return the value that a text spells. Raises ValueError whose message is what is allowed."""
    value = allowed.parse(text)
    expected = allowed.expected(value)
    if expected is not None:
        raise ValueError(allowed.expected(text) or expected)  # of a text also what it should have spelled
    return value
