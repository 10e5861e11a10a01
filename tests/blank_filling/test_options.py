"""Values outside their range are refused by name."""

import math
from typing import Any

import pytest

from glm_model.blank_filling import FillOptions


def test_the_defaults_are_those_of_the_original_script() -> None:
    options = FillOptions()
    assert (options.strategy, options.max_length, options.min_gen_length) == ("sampling", 256, 0)
    assert (options.temperature, options.top_k, options.top_p) == (1.0, 0, 0.7)
    assert (options.num_beams, options.length_penalty, options.no_repeat_ngram_size) == (4, 1.0, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strategy", "BeamSearch"),
        ("max_length", 0),
        ("max_length", 2.5),
        ("num_beams", 0),
        ("num_beams", "4"),
        ("top_k", -1),
        ("no_repeat_ngram_size", -1),
        ("min_gen_length", -1),
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("length_penalty", math.nan),
        ("length_penalty", math.inf),
        ("length_penalty", 100.5),
        ("length_penalty", -2000),
        ("seed", 2**64),
        ("seed", 1.5),
        ("seed", "7"),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .*{value}"):
        FillOptions(**{name: value})
