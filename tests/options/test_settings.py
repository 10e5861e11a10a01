"""What each kind of setting takes, how a wrong value is told, and that a setting is one in every form that it has."""

import dataclasses
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch

from glm_model import load
from glm_model.kernels.dispatch import Precision
from glm_model.loading import DTYPES
from glm_model.options import (
    FillOptions,
    LoadOptions,
    LoadSettings,
    Parser,
    PathName,
    Real,
    SamplingOptions,
    Switch,
    Text,
    Whole,
    add_settings,
    check_settings,
    flag,
    read_setting,
    setting,
    settings_of,
)
from glm_model.options.loading import DEVICE_TYPES

ALL = [LoadOptions, SamplingOptions, FillOptions]


@pytest.mark.parametrize(
    ("allowed", "text", "value"),
    [
        (Whole(1), "1", 1),
        (Whole(1, 5), "5", 5),
        (Real(0), "1e300", 1e300),
        (Real(0, 1, open_below=True), "1", 1.0),
        (Switch(), " Yes", True),
        (Switch(), "off", False),
        (Text(), "-x", "-x"),
        (PathName(), "~/a b", "~/a b"),
    ],
)
def test_a_text_is_read(allowed: Any, text: str, value: object) -> None:
    assert read_setting(allowed, text) == value


@pytest.mark.parametrize(
    ("allowed", "text", "told"),
    [
        (Whole(1), "0", "a whole number of at least 1"),
        (Whole(1, 5), "6", "a whole number from 1 to 5"),
        (Whole(0, zero="off"), "-1", "a whole number, 0 (off) or more"),
        (Whole(1), "1.0", "a whole number of at least 1"),
        (Real(0), "inf", "a number of at least 0"),
        (Real(0), "nan", "a number of at least 0"),
        (Real(0, 1, open_below=True), "0", "a number above 0 and at most 1"),
        (Real(-1, 1), "x", "a number from -1 to 1"),
        (Switch(), "maybe", "one of 1, true, yes, on, 0, false, no, off"),
        (Text(), " ", "a text with something in it"),
        (PathName(), "", "a path"),
    ],
)
def test_a_text_that_spells_nothing_allowed_is_told_what_is(allowed: Any, text: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as error:
        read_setting(allowed, text)
    assert str(error.value) == told


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("device", "gpu", "device must be auto, cpu, cuda, cuda:N or mps; not 'gpu'"),
        ("quantize", 4, "quantize must be one of int8, int4, or None; not 4"),
        ("quantize_head", "yes", "quantize_head must be one of 1, true"),
        ("prefix", " ", "prefix must be a path, or None; not ' '"),
        ("max_memory", "20GiB", "max_memory must be a dictionary, or None; not '20GiB'"),
        ("offload_folder", 3, "offload_folder must be a path, or None; not 3"),
        ("device_map", "best", "sequential, a dictionary, or None; not 'best'"),
        ("tensor_parallel", 0, "tensor_parallel must be at least 1, not 0"),
        ("pipeline_parallel", 1.5, "pipeline_parallel must be a whole number of at least 1, not 1.5"),
    ],
)
def test_a_wrong_value_is_named(name: str, value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be ") as error:
        LoadOptions(**{name: value})
    assert told in str(error.value)


def test_values_of_python_code() -> None:
    options = LoadOptions(
        device=torch.device("cpu"),  # type: ignore[arg-type] # worked before there were options
        device_map={"": "cpu"},
        max_memory={0: "20GiB"},
        offload_folder=Path("x"),
    )
    assert options.device_map == {"": "cpu"}


@pytest.mark.parametrize("name", DEVICE_TYPES)
def test_devices_are_those_of_pytorch(name: str) -> None:
    assert torch.device(name).type == name
    assert LoadOptions(device=f"{name}:0").device == f"{name}:0"


def test_a_secret_is_not_shown() -> None:
    @dataclasses.dataclass(frozen=True)
    class Account:
        password: str = setting("x", "of the account", Text(), is_secret=True)

    account = Account("\t")
    assert settings_of(account)["password"].is_secret
    assert "\\t" not in repr(account)
    with pytest.raises(ValueError, match="not what was given") as error:
        check_settings(account)
    assert "\\t" not in str(error.value)


@pytest.mark.parametrize("options", ALL)
def test_every_setting_is_described(options: type) -> None:
    for each in settings_of(options).values():
        assert each.help.strip() == each.help != ""
        assert each.metavar or isinstance(each.allowed, Switch) or not each.in_programs
        assert each.default is None or each.allowed.expected(each.default) is None


def test_load_takes_what_load_options_has() -> None:
    """For type checkers the keyword arguments are spelled a second time."""
    assert get_type_hints(LoadSettings) == get_type_hints(LoadOptions)
    with pytest.raises(TypeError, match="quantise"):
        load(quantise="int4")  # type: ignore[call-arg]


def test_keyword_arguments_win_over_options() -> None:
    options = LoadOptions(quantize="int4", device="cuda:98")
    with pytest.raises(ValueError, match="'cuda:99' is not there"):
        load(options=options, device="cuda:99")
    with pytest.raises(ValueError, match="'cuda:98' is not there"):
        load(options=options)
    model, _ = load(options=options, device="cpu")
    assert model.config.quantization_bit == 4
    assert options.device == "cuda:98"


def test_choices_are_those_of_the_code() -> None:
    assert settings_of(LoadOptions)["precision"].allowed.names == get_args(Precision)  # type: ignore[attr-defined]
    assert {name: getattr(torch, name) for name in DTYPES} == DTYPES


@pytest.mark.parametrize("options", [LoadOptions, SamplingOptions])
def test_flags_of_all_settings(options: type, capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="python -m glm_model.some")
    add_settings(parser, options)
    known = {name: each for name, each in settings_of(options).items() if each.in_programs}
    assert vars(parser.parse_args([])) == {name: each.default for name, each in known.items()}
    parser.print_help()
    shown = " ".join(capsys.readouterr().out.split())
    for name, each in known.items():
        assert flag(name) in shown
        if each.default not in (None, False):
            assert f"(default: {each.default})" in shown
    with pytest.raises(SystemExit) as left:
        parser.parse_args([flag(next(iter(known))), " "])
    assert left.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"some: argument {flag(next(iter(known)))}: ' ' is not ")
    assert errors.count("\n") == 1


def test_a_switch_that_a_program_has_on_has_a_flag_that_turns_it_off() -> None:
    parser = Parser()
    add_settings(parser, FillOptions, ["every_kind", "deterministic"], every_kind=True)
    assert vars(parser.parse_args([])) == {"every_kind": True, "deterministic": True}
    assert vars(parser.parse_args(["--one-kind", "--draw-beams"])) == {"every_kind": False, "deterministic": False}


def test_nan_is_no_number() -> None:
    assert Real(-math.inf).expected(math.nan) is not None
