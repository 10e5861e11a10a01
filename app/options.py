"""Every setting of the front-ends, once: its flag, environment variable, default, allowed values and help.

The fields of `Options` are that table. A flag wins over the environment variable (`GLM_` and the field's name
in capitals), which wins over the default. Nothing heavy is imported, so that `--help` comes at once.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NoReturn

if TYPE_CHECKING:
    from glm_model.options import SamplingOptions

FrontEnd = Literal["web", "terminal"]
BOTH: tuple[FrontEnd, ...] = ("web", "terminal")
MOST_SEED = 2**63 - 1
ENV_PREFIX = "GLM_"
"""An environment variable is this and the field's name in capitals."""


# --- readers: a text of the command line or the environment -> its value, or ValueError with what is allowed


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    allowed = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise ValueError(allowed)
        return value

    return read


def _real(least: float, most: float, *, open_below: bool = False) -> Callable[[str], float]:
    allowed = f"a number above {least:g} and at most {most:g}" if open_below else f"a number from {least:g} to {most:g}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (open_below and value == least):
            raise ValueError(allowed)
        return value

    return read


def _choice(*names: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in names:
            raise ValueError("one of " + ", ".join(names))
        return text

    return read


_SWITCHED = {**dict.fromkeys(("1", "true", "yes", "on"), True), **dict.fromkeys(("0", "false", "no", "off"), False)}


def _switch(text: str) -> bool:
    switched = _SWITCHED.get(text.strip().lower())
    if switched is None:
        raise ValueError("one of " + ", ".join(_SWITCHED))
    return switched


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("a text with something in it")
    return text


def _root_path(text: str) -> str:
    if not text.startswith("/") or text != text.strip():
        raise ValueError("a path that starts with /, such as /glm")
    return text.rstrip("/")


def _accounts(text: str) -> tuple[tuple[str, str], ...]:
    accounts = [part.partition(":") for part in text.split(",")]
    if not all(user.strip() and password for user, _, password in accounts):
        raise ValueError("user:password, or several with commas between them")
    return tuple((user.strip(), password) for user, _, password in accounts)


# --- the table


def _setting(
    default: Any,
    help: str,
    *,
    group: str,
    read: Callable[[str], Any] = _text,
    metavar: str | None = None,
    used_by: Sequence[FrontEnd] = BOTH,
    repeatable: bool = False,
    secret: bool = False,
) -> Any:
    metadata = {
        "help": help,
        "group": group,
        "read": read,
        "metavar": metavar,
        "used_by": tuple(used_by),
        "repeatable": repeatable,
    }
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True)
class Options:
    """The settings of a front-end; the defaults are what it does when told nothing."""

    model: str | None = _setting(
        None,
        "folder of the model, such as a published ChatGLM-6B; without it the small demo model answers",
        group="model",
        metavar="FOLDER",
    )
    device: str = _setting(
        "auto", "auto (a GPU if there is one), cpu, cuda, cuda:1, mps ...", group="model", metavar="DEVICE"
    )
    dtype: str = _setting(
        "auto",
        "numbers to compute with: auto (float16 on a GPU, float32 on a CPU), float32, float16, bfloat16",
        group="model",
        read=_choice("auto", "float32", "float16", "bfloat16"),
        metavar="TYPE",
    )
    quantize: str | None = _setting(
        None,
        "shrink the weights while loading: int4, int8",
        group="model",
        read=_choice("int4", "int8"),
        metavar="BITS",
    )
    quantize_head: bool = _setting(False, "shrink the embedding and the head, too", group="model", read=_switch)
    precision: str = _setting(
        "exact",
        "of shrunk weights on a CPU: exact, or fast, which also rounds what they are multiplied with to 8 bits",
        group="model",
        read=_choice("exact", "fast"),
        metavar="NAME",
    )
    cache_dtype: str | None = _setting(
        None,
        "numbers to remember the conversation in, float16 or bfloat16 for half the memory; as --dtype if not given",
        group="model",
        read=_choice("float32", "float16", "bfloat16"),
        metavar="TYPE",
    )
    prefix: str | None = _setting(
        None,
        "file or folder of a P-Tuning prefix to put on the model",
        group="model",
        metavar="PATH",
    )
    device_map: str | None = _setting(
        None,
        "spread the model over the GPUs, then the CPU and the disk: auto, balanced, balanced_low_0, sequential",
        group="model",
        read=_choice("auto", "balanced", "balanced_low_0", "sequential"),
        metavar="MAP",
    )
    tensor_parallel: int = _setting(
        1,
        "processes that share every layer; start as many with torchrun",
        group="model",
        read=_whole(1, 1024),
        metavar="N",
    )
    pipeline_parallel: int = _setting(
        1,
        "stages of processes that hold some of the layers each; start as many with torchrun",
        group="model",
        read=_whole(1, 1024),
        metavar="N",
    )
    threads: int | None = _setting(
        None,
        "CPU threads; PyTorch's own choice if not given",
        group="model",
        read=_whole(1, 1024),
        metavar="N",
    )

    max_length: int = _setting(
        2048,
        "tokens of the conversation and its answer together, at most as many as the model was trained for",
        group="answers",
        read=_whole(32, 1_000_000),
        metavar="N",
    )
    top_p: float = _setting(
        0.7,
        "choose among the likeliest tokens that hold this share of the probability",
        group="answers",
        read=_real(0, 1, open_below=True),
        metavar="P",
    )
    top_k: int = _setting(
        50,
        "choose among this many of the likeliest tokens; 0 for any number",
        group="answers",
        read=_whole(0),
        metavar="N",
    )
    temperature: float = _setting(
        0.95,
        "0 for always the likeliest token, above 1 for surprises",
        group="answers",
        read=_real(0, 10),
        metavar="T",
    )
    seed: int | None = _setting(
        None,
        "makes the same question get the same answer",
        group="answers",
        read=_whole(0, MOST_SEED),
        metavar="N",
    )
    prompt_lookup: int = _setting(
        0,
        "tokens of the text so far to try as its continuation in each step: faster where an answer quotes; 0 for none",
        group="answers",
        read=_whole(0, 1000),
        metavar="N",
    )
    language: str = _setting(
        "auto",
        "of the interface: auto (the browser's or the terminal's), zh, en",
        group="interface",
        read=_choice("auto", "zh", "en"),
        metavar="NAME",
    )

    host: str = _setting(
        "0.0.0.0",
        "address to listen on; 127.0.0.1 for this machine alone",
        group="server",
        metavar="ADDRESS",
        used_by=["web"],
    )
    port: int = _setting(7860, "port to listen on", group="server", read=_whole(0, 65535), metavar="N", used_by=["web"])
    share: bool = _setting(
        False,
        "let Gradio make a public link (passes through its servers)",
        group="server",
        read=_switch,
        used_by=["web"],
    )
    inbrowser: bool = _setting(
        False, "open the page in this machine's browser", group="server", read=_switch, used_by=["web"]
    )
    root_path: str | None = _setting(
        None,
        "path of the page behind a reverse proxy, such as /glm",
        group="server",
        read=_root_path,
        metavar="PATH",
        used_by=["web"],
    )
    auth: tuple[tuple[str, str], ...] = _setting(
        (),
        "who may enter; repeat it or separate with commas; the environment variable keeps passwords out of "
        "the list of processes",
        group="server",
        read=_accounts,
        metavar="USER:PASSWORD",
        used_by=["web"],
        repeatable=True,
        secret=True,
    )
    queue_size: int = _setting(
        32,
        "answers that may wait for the model before visitors are asked to come back",
        group="server",
        read=_whole(1, 100_000),
        metavar="N",
        used_by=["web"],
    )

    message: str | None = _setting(
        None,
        "print the answer to this one message and leave",
        group="interface",
        metavar="TEXT",
        used_by=["terminal"],
    )

    def sampling(self) -> SamplingOptions:
        """The settings of an answer as the model package takes them."""
        from glm_model.options import SamplingOptions

        return SamplingOptions(
            max_length=self.max_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            prompt_lookup=self.prompt_lookup,
        )


GROUPS = {
    "model": "the model",
    "answers": "the answers",
    "interface": "the interface",
    "server": "the server",
}


def flag(name: str) -> str:
    """The command-line flag of a field, `--max-length` for `max_length`."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment variable of a field, `GLM_MAX_LENGTH` for `max_length`."""
    return ENV_PREFIX + name.upper()


def answer_settings() -> list[str]:
    """The fields that an answer is made with, those of `SamplingOptions`."""
    return [each.name for each in _FIELDS.values() if each.metadata["group"] == "answers"]


def read_value(name: str, text: str) -> Any:
    """The value that `text` gives to the field `name`. Raises ValueError with the allowed values."""
    return _FIELDS[name].metadata["read"](text)


_FIELDS: dict[str, Field[Any]] = {each.name: each for each in fields(Options)}


def parse_web(argv: Sequence[str] | None = None) -> Options:
    """The settings of the browser front-end; prints and exits (0 for --help, 2 for a wrong value)."""
    return _parse("web", "Chat with a GLM in the browser.", argv)


def parse_terminal(argv: Sequence[str] | None = None) -> Options:
    """The settings of the terminal front-end; prints and exits (0 for --help, 2 for a wrong value)."""
    return _parse("terminal", "Chat with a GLM in the terminal, or answer what comes through a pipe.", argv)


def _parse(front_end: FrontEnd, description: str, argv: Sequence[str] | None) -> Options:
    own = [each for each in _FIELDS.values() if front_end in each.metadata["used_by"]]
    parser = _parser(own, description)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    not_given = [each.name for each in own if each.name not in given]
    try:
        values = _from_environment(not_given, os.environ) | _from_flags(given)
    except ValueError as error:
        parser.error(str(error))
    return Options(**values)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse prints its usage above."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _parser(own: Sequence[Field[Any]], description: str) -> argparse.ArgumentParser:
    parser = _Parser(
        description=description,
        epilog=f"Each option is also an environment variable: {variable('max_length')} for "
        f"{flag('max_length')}. A flag wins over the variable. Switches take 1 or 0 there.",
        allow_abbrev=False,
    )
    groups = {
        name: parser.add_argument_group(title)
        for name, title in GROUPS.items()
        if any(each.metadata["group"] == name for each in own)
    }
    for each in own:
        groups[each.metadata["group"]].add_argument(flag(each.name), **_argument(each))
    return parser


def _argument(each: Field[Any]) -> dict[str, Any]:
    """argparse's description of a field. Values stay texts here; `_from_flags` reads them."""
    metadata = each.metadata
    shown = "" if each.default in (None, False, ()) else f" (default: {each.default})"
    described = {"dest": each.name, "default": None, "help": (metadata["help"] + shown).replace("%", "%%")}
    if metadata["read"] is _switch:
        return {**described, "action": argparse.BooleanOptionalAction}
    action = "append" if metadata["repeatable"] else "store"
    return {**described, "action": action, "metavar": metadata["metavar"]}


def _from_flags(given: Mapping[str, Any]) -> dict[str, Any]:
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
    """What the environment says; an empty variable says nothing, as compose files leave them."""
    texts = {name: environment.get(variable(name), "") for name in names}
    return {name: _read(name, text, variable(name)) for name, text in texts.items() if text}


def _read(name: str, text: str, source: str) -> Any:
    try:
        return read_value(name, text)
    except ValueError as error:
        shown = repr(text) if _FIELDS[name].repr else "the value"  # never print a password
        raise ValueError(f"{source}: {shown} is not {error}") from None
