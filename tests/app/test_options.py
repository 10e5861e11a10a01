"""The table of settings: flags, environment, their order, and what a wrong value is told."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from app import options as module
from app.options import SETTINGS, Options, flag, parse_terminal, parse_web, users_of, variable
from glm_model.options import LoadOptions, SamplingOptions, settings_of

ROOT = Path(__file__).parents[2]
PARSERS = {"web": parse_web, "terminal": parse_terminal}

# field: (text, value, another text, its value); every field stands here, see the first test.
EXAMPLES: dict[str, tuple[str, Any, str, Any]] = {
    "model": ("/a/model", "/a/model", "other", "other"),
    "device": ("cpu", "cpu", "cuda:1", "cuda:1"),
    "dtype": ("bfloat16", "bfloat16", "float16", "float16"),
    "quantize": ("int4", "int4", "int8", "int8"),
    "quantize_head": ("1", True, "0", False),
    "precision": ("exact", "exact", "fast", "fast"),
    "cache_dtype": ("bfloat16", "bfloat16", "float16", "float16"),
    "prefix": ("/a/prefix", "/a/prefix", "other", "other"),
    "prompt_lookup": ("10", 10, "0", 0),
    "device_map": ("auto", "auto", "sequential", "sequential"),
    "tensor_parallel": ("4", 4, "1", 1),
    "pipeline_parallel": ("2", 2, "1", 1),
    "threads": ("3", 3, "1", 1),
    "max_length": ("512", 512, "4096", 4096),
    "top_p": ("0.5", 0.5, "1", 1.0),
    "top_k": ("0", 0, "7", 7),
    "temperature": ("0", 0.0, "1.5", 1.5),
    "seed": ("0", 0, "42", 42),
    "language": ("zh", "zh", "en", "en"),
    "host": ("127.0.0.1", "127.0.0.1", "::1", "::1"),
    "port": ("0", 0, "8080", 8080),
    "share": ("1", True, "off", False),
    "inbrowser": ("yes", True, "0", False),
    "root_path": ("/glm/", "/glm", "/x/y", "/x/y"),
    "auth": ("a:b", (("a", "b"),), "c:d:e,f:g", (("c", "d:e"), ("f", "g"))),
    "max_rows": ("1", 1, "8", 8),
    "cache_gb": ("0.5", 0.5, "12", 12.0),
    "queue_size": ("1", 1, "99", 99),
    "message": ("你好", "你好", "-x", "-x"),
}
WRONG = {
    "model": [" "],
    "device": ["gpu", "cuda:one", " "],
    "dtype": ["half"],
    "quantize": ["int3", "4"],
    "precision": ["best"],
    "cache_dtype": ["int8"],
    "prefix": [" "],
    "prompt_lookup": ["-1", "x"],
    "device_map": ["cpu"],
    "tensor_parallel": ["0", "x"],
    "pipeline_parallel": ["0", "x"],
    "threads": ["0", "many"],
    "max_length": ["31", "1e3", "-5"],
    "top_p": ["0", "1.01", "nan", "x"],
    "top_k": ["-1", "2.5"],
    "temperature": ["-0.1", "inf", "11"],
    "seed": ["-1", str(2**63)],
    "language": ["fr"],
    "port": ["65536", "-1"],
    "root_path": ["glm"],
    "auth": ["alone", ":p", "u:", "a:b,"],
    "max_rows": ["0", "1025"],
    "cache_gb": ["0", "-1", "all"],
    "queue_size": ["0"],
    "message": [" "],
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(variable(name), raising=False)


def arguments(name: str, text: str) -> list[str]:
    if isinstance(SETTINGS[name].default, bool):
        return [flag(name) if text in ("1", "yes") else flag(name).replace("--", "--no-")]
    return [f"{flag(name)}={text}"]


def test_every_field_has_an_example() -> None:
    assert set(EXAMPLES) == set(SETTINGS)


def test_names_follow_one_rule() -> None:
    assert flag("max_length") == "--max-length"
    assert variable("max_length") == "GLM_MAX_LENGTH"


@pytest.mark.parametrize("front_end", PARSERS)
def test_told_nothing_the_defaults_hold(front_end: str) -> None:
    assert PARSERS[front_end]([]) == Options()


@pytest.mark.parametrize("name", SETTINGS)
def test_flag_then_environment_then_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value, other_text, other = EXAMPLES[name]
    assert value != SETTINGS[name].default
    for front_end in users_of(name):
        parse = PARSERS[front_end]
        monkeypatch.delenv(variable(name), raising=False)
        assert getattr(parse(arguments(name, text)), name) == value
        monkeypatch.setenv(variable(name), other_text)
        assert getattr(parse([]), name) == other
        assert getattr(parse(arguments(name, text)), name) == value


@pytest.mark.parametrize("name", SETTINGS)
def test_an_empty_variable_says_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable(name), "")
    assert getattr(PARSERS[users_of(name)[0]]([]), name) == SETTINGS[name].default


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in WRONG for text in WRONG[name]])
def test_a_wrong_value_is_named_in_one_line(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    allowed = read_error(name, text)
    parse = PARSERS[users_of(name)[0]]
    for source, argv in ((flag(name), arguments(name, text)), (variable(name), [])):
        if source == variable(name):
            monkeypatch.setenv(source, text)
        with pytest.raises(SystemExit) as exit_:
            parse(argv)
        printed = capsys.readouterr()
        assert exit_.value.code == 2
        assert printed.err.count("\n") == 1
        assert source in printed.err
        assert allowed in printed.err
        assert not printed.out


def read_error(name: str, text: str) -> str:
    with pytest.raises(ValueError, match=r"\w") as error:
        module.read_value(name, text)
    return str(error.value)


def test_a_wrong_variable_does_not_matter_under_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_TOP_P", "much")
    assert parse_web(["--top-p", "0.5"]).top_p == 0.5


@pytest.mark.parametrize("text", ["maybe", "2"])
def test_a_switch_in_the_environment_is_yes_or_no(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GLM_SHARE", text)
    with pytest.raises(SystemExit):
        parse_web([])
    assert "GLM_SHARE" in capsys.readouterr().err


def test_passwords_are_never_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_web(["--auth", "me:secret,oops-no-colon"])
    assert "secret" not in capsys.readouterr().err
    assert "secret" not in repr(parse_web(["--auth", "me:secret"]))


def test_auth_adds_up() -> None:
    assert parse_web(["--auth", "a:1", "--auth", "b:2,c:3"]).auth == (("a", "1"), ("b", "2"), ("c", "3"))


def test_a_front_end_knows_only_its_own(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_PORT", "not a port")
    assert parse_terminal([]) == Options()
    for parse, argv in (
        (parse_terminal, ["--port", "1"]),
        (parse_web, ["--message", "x"]),
        (parse_web, ["--por", "1"]),
    ):
        with pytest.raises(SystemExit) as exit_:
            parse(argv)
        assert exit_.value.code == 2
    assert "--port" in capsys.readouterr().err


@pytest.mark.parametrize("front_end", PARSERS)
def test_help_shows_every_setting_with_its_default(front_end: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        PARSERS[front_end](["--help"])
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, each in SETTINGS.items():
        assert (flag(name) in text) == (front_end in users_of(name))
        if front_end in users_of(name) and each.default not in (None, False, ()):
            assert f"(default: {each.default})" in text


def test_the_model_package_gets_settings_of_its_own_classes() -> None:
    assert Options().sampling() == SamplingOptions()
    assert Options().loading() == LoadOptions(precision="fast")
    assert type(Options().loading()) is LoadOptions


@pytest.mark.parametrize("own", [LoadOptions, SamplingOptions])
def test_what_the_model_package_has_is_told_alike(own: type) -> None:
    """Not a copy: every setting that a command line can spell, with the same help, metavar and, but one, default."""
    for name, each in settings_of(own).items():
        if each.in_programs:
            ours = SETTINGS[name]
            default = "fast" if name == "precision" else each.default
            assert (ours.default, ours.help, ours.metavar) == (default, each.help, each.metavar)
        else:
            assert name not in SETTINGS


def test_loading_carries_every_setting() -> None:
    argv = [
        word for name in settings_of(LoadOptions) if name in SETTINGS for word in arguments(name, EXAMPLES[name][0])
    ]
    argv = [word for word in argv if not word.startswith("--device-map")]  # which excludes the parallel ones
    loading = parse_web(argv).loading()
    for name in settings_of(LoadOptions):
        if name in SETTINGS and name != "device_map":
            assert getattr(loading, name) == EXAMPLES[name][1]
    assert parse_web(["--device-map=auto"]).loading() == LoadOptions(device_map="auto", precision="fast")


def test_settings_that_exclude_each_other_are_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_web(["--device-map=auto", "--tensor-parallel=2"])
    assert exit_.value.code == 2
    assert "use one or the other" in capsys.readouterr().err


def test_sampling_carries_every_setting() -> None:
    argv = ["--max-length=99", "--top-p=0.5", "--top-k=3", "--temperature=0", "--seed=7", "--prompt-lookup=5"]
    sampling = parse_terminal(argv).sampling()
    assert dataclasses.asdict(sampling) == {
        "max_length": 99, "top_p": 0.5, "top_k": 3, "temperature": 0.0, "seed": 7, "prompt_lookup": 5,
    }  # fmt: skip


def test_help_loads_nothing_heavy() -> None:
    """Asked of the interpreter, not the clock; the clock is only held to be of the right order."""
    code = (
        "import sys, app.options\n"
        "try: app.options.parse_terminal(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'gradio', 'numpy', 'rich', 'prompt_toolkit'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert time.monotonic() - start < 2
