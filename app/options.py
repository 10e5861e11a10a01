"""Define every setting of the front-ends: its flag, environment variable, default, allowed values and help.

Each field of `Options` is one setting. The settings that load a model or control generation are inherited from the
model package (`glm_model/options`); the others are defined here. A flag overrides the environment variable (`GLM_` and
the field's name in capitals), which overrides the default. No slow library is imported, so that `--help` answers at
once.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from .package_settings import package_settings as package

if TYPE_CHECKING:
    from glm_model.options import LoadOptions, SamplingOptions

FrontEnd = Literal["web", "terminal"]
BOTH: tuple[FrontEnd, ...] = ("web", "terminal")
MOST_SEED = 2**63 - 1
ENV_PREFIX = "GLM_"
"""The prefix of every environment variable; the field's name in capitals follows it."""

# Narrower limits than the model package has: the range of the page's controls, and bounds that catch typing errors.
_LIMITS: dict[str, package.Allowed] = {
    "max_length": package.Whole(32, 1_000_000),
    "temperature": package.Real(0, 10),
    "seed": package.Whole(0, MOST_SEED),
    "prompt_lookup": package.Whole(0, 1000),
    "message": package.Text(),
}


class _RootPath:
    """The allowed values of a URL path: empty for the root, else a path that starts with `/`."""

    def parse(self, text: str) -> object:
        return text.rstrip("/") if text.startswith("/") else text

    def expected(self, value: object) -> str | None:
        is_path = isinstance(value, str) and value == value.strip() and (not value or value.startswith("/"))
        return None if is_path else "a path that starts with /, such as /glm"


class _Accounts:
    """The allowed values of accounts: pairs of a user name and a password, both not empty."""

    def parse(self, text: str) -> object:
        accounts = [part.partition(":") for part in text.split(",")]
        return tuple((user.strip(), password) for user, _, password in accounts)

    def expected(self, value: object) -> str | None:
        are_accounts = isinstance(value, tuple) and all(user and password for user, password in value)
        return None if are_accounts else "user:password, or several with commas between them"


_PRECISION = package.settings_of(package.LoadOptions)["precision"]


@dataclass(frozen=True, kw_only=True)
class Options(package.LoadOptions, package.SamplingOptions):
    """The settings of a front-end.

    Raises:
        ValueError: a value that is not allowed, or two that exclude each other.
    """

    model: str | None = package.setting(
        None,
        "folder of the model, such as a published ChatGLM-6B; without it the small demo model answers",
        package.PathName(),
        metavar="FOLDER",
        group="model",
    )
    # The perplexity of the demo model is that of `exact` to five digits (benchmarks/precision.py), and many rows take
    # half the time. The library's own default stays `exact`.
    precision: str = package.setting("fast", _PRECISION.help, _PRECISION.allowed, metavar=_PRECISION.metavar)
    threads: int | None = package.setting(
        None, "CPU threads; PyTorch's own choice if not given", package.Whole(1, 1024), metavar="N", group="model"
    )

    language: str = package.setting(
        "auto",
        "of the interface: auto (the browser's or the terminal's), zh, en",
        package.Choice(("auto", "zh", "en")),
        metavar="NAME",
        group="interface",
    )

    host: str = package.setting(
        "0.0.0.0",
        "address to listen on; 127.0.0.1 for this machine alone",
        package.Text(),
        group="server",
        metavar="ADDRESS",
        used_by=["web"],
    )
    port: int = package.setting(
        7860, "port to listen on", package.Whole(0, 65535), metavar="N", group="server", used_by=["web"]
    )
    share: bool = package.setting(
        False,
        "let Gradio make a public link (passes through its servers)",
        package.Switch(),
        group="server",
        used_by=["web"],
    )
    inbrowser: bool = package.setting(
        False, "open the page in this machine's browser", package.Switch(), group="server", used_by=["web"]
    )
    root_path: str | None = package.setting(
        None,
        "path of the page behind a reverse proxy, such as /glm",
        _RootPath(),
        group="server",
        metavar="PATH",
        used_by=["web"],
    )
    auth: tuple[tuple[str, str], ...] = package.setting(
        (),
        "who may enter; repeat it or separate with commas; the environment variable keeps passwords out of "
        "the list of processes",
        _Accounts(),
        group="server",
        metavar="USER:PASSWORD",
        used_by=["web"],
        repeatable=True,
        is_secret=True,
    )
    max_rows: int = package.setting(
        32,
        "answers that are written at the same time; others wait",
        package.Whole(1, 1024),
        group="server",
        metavar="N",
        used_by=["web"],
    )
    cache_gb: float | None = package.setting(
        None,
        "GB of memory for the keys and values of all answers; half of the free memory if not given",
        package.Real(0, 100_000, open_below=True),
        group="server",
        metavar="X",
        used_by=["web"],
    )
    queue_size: int = package.setting(
        32,
        "answers that may wait for the model before visitors are asked to come back",
        package.Whole(1, 100_000),
        group="server",
        metavar="N",
        used_by=["web"],
    )

    message: str | None = package.setting(
        None,
        "print the answer to this one message and leave",
        package.Instance(str, "a text"),
        group="interface",
        metavar="TEXT",
        used_by=["terminal"],
    )

    def loading(self) -> LoadOptions:
        """Return the settings that load the model, as the model package's `LoadOptions`."""
        from glm_model.options import LoadOptions

        return LoadOptions(**{each.name: getattr(self, each.name) for each in fields(LoadOptions)})

    def sampling(self) -> SamplingOptions:
        """Return the settings of the generation, as the model package's `SamplingOptions`."""
        from glm_model.options import SamplingOptions

        return SamplingOptions(**{each.name: getattr(self, each.name) for each in fields(SamplingOptions)})


GROUPS = {
    "model": "the model",
    "answers": "the answers",
    "interface": "the interface",
    "server": "the server",
}
_EXIT_STATUS: dict[FrontEnd, str] = {
    "web": "Exit status: 0 after Ctrl-C or SIGTERM; 1 if the model cannot be loaded or the page not be served, with a "
    "sentence on standard error; 2 if the command line is wrong.",
    "terminal": f"{package.EXIT_STATUS} A chat ends with 0, also after a signal.",
}
flag = package.flag


def variable(name: str) -> str:
    """Return the name of a field's environment variable, such as `GLM_MAX_LENGTH` for `max_length`."""
    return ENV_PREFIX + name.upper()


def answer_settings() -> list[str]:
    """Return the names of the generation settings, which are the fields of `SamplingOptions`."""
    return list(package.settings_of(package.SamplingOptions))


def read_value(name: str, text: str) -> Any:
    """Return the value of the field `name` that `text` stands for.

    Raises:
        ValueError: the value is not allowed; the message names what is.
    """
    return package.read_setting(_LIMITS.get(name, SETTINGS[name].allowed), text)


SETTINGS: dict[str, package.Setting] = {
    name: each for name, each in package.settings_of(Options).items() if each.in_programs
}
"""The settings that the command line and the environment can change, by field name."""
_FIELDS: dict[str, Field[Any]] = {each.name: each for each in fields(Options)}


def group_of(name: str) -> str:
    """Return the key of `GROUPS` to which a setting belongs."""
    if name in answer_settings():
        return "answers"
    return str(_FIELDS[name].metadata.get("group", "model"))  # fields without a group come from LoadOptions


def users_of(name: str) -> Sequence[FrontEnd]:
    """Return the front-ends that have a setting."""
    users: Sequence[FrontEnd] = _FIELDS[name].metadata.get("used_by", BOTH)
    return users


def parse_web(argv: Sequence[str] | None = None) -> Options:
    """Return the settings of the web front-end, or print and exit: status 0 for --help, 2 for a wrong value."""
    return _parse("web", "Chat with a GLM in the browser.", argv)


def parse_terminal(argv: Sequence[str] | None = None) -> Options:
    """Return the settings of the terminal front-end, or print and exit: status 0 for --help, 2 for a wrong value."""
    return _parse("terminal", "Chat with a GLM in the terminal, or answer what comes through a pipe.", argv)


def _parse(front_end: FrontEnd, description: str, argv: Sequence[str] | None) -> Options:
    own = [each for each in SETTINGS.values() if front_end in users_of(each.name)]
    parser = package.Parser(
        description=description,
        epilog=f"Each option is also an environment variable: {variable('max_length')} for {flag('max_length')}. A "
        f"flag wins over the variable. Switches take 1 or 0 there. {_EXIT_STATUS[front_end]}",
    )
    _add_arguments(parser, own)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    not_given = [each.name for each in own if each.name not in given]
    try:
        return Options(**_from_environment(not_given, os.environ), **_from_flags(given))
    except ValueError as error:
        parser.error(str(error))


def _add_arguments(parser: argparse.ArgumentParser, own: Sequence[package.Setting]) -> None:
    for group, title in GROUPS.items():
        members = [each for each in own if group_of(each.name) == group]
        members.sort(key=lambda each: each.name != "model")  # --model is listed first
        shown = parser.add_argument_group(title) if members else parser
        for each in members:
            shown.add_argument(flag(each.name), **_argument(each))


def _argument(each: package.Setting) -> dict[str, Any]:
    """Return the arguments of `add_argument` for a field. argparse keeps texts; `_from_flags` converts them."""
    described = {"dest": each.name, "default": None, "help": package.help_text(each.help, each.default)}
    if isinstance(each.allowed, package.Switch):
        return {**described, "action": argparse.BooleanOptionalAction}
    is_repeatable = _FIELDS[each.name].metadata.get("repeatable", False)
    return {**described, "action": "append" if is_repeatable else "store", "metavar": each.metavar}


def _from_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values from the command line, converted from text."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, bool):
            values[name] = value
        elif isinstance(value, list):
            values[name] = tuple(one for text in value for one in _read(name, text, flag(name)))
        else:
            values[name] = _read(name, value, flag(name))
    return values


def _from_environment(names: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the values from the environment. Empty variables are ignored: compose files set unused ones empty."""
    texts = {name: environment.get(variable(name), "") for name in names}
    return {name: _read(name, text, variable(name)) for name, text in texts.items() if text}


def _read(name: str, text: str, source: str) -> Any:
    """Return the value of the field `name`. Raise ValueError with the flag or variable that `source` names."""
    try:
        return read_value(name, text)
    except ValueError as error:
        shown = "the value" if SETTINGS[name].is_secret else repr(text)  # a password must not be printed
        raise ValueError(f"{source}: {shown} is not {error}") from None
