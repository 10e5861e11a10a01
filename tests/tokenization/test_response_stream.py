"""The published clean-up of an answer that comes in pieces."""

import random

import pytest

from glm_model.text.chat_format import ResponseStream, process_response

# Everything the rules look at, whole and in halves.
BITS = [*"中文ab ,!:;?\n[]　", "[[训练时间]]", "[[训练", "时间]]", "[[", "2023年"]


def streamed(pieces: list[str]) -> list[str]:
    stream = ResponseStream()
    return [*map(stream.push, pieces), stream.finish()]


@pytest.mark.parametrize("seed", range(20))
def test_the_pieces_join_to_the_published_response(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(500):
        pieces = ["".join(rng.choices(BITS, k=rng.randint(0, 3))) for _ in range(rng.randint(0, 8))]
        assert "".join(streamed(pieces)) == process_response("".join(pieces)), pieces


def test_only_what_is_undecided_is_held_back() -> None:
    shown = streamed(["  你好", ",", "小明", "! ", "[[训练", "时间]]", ", ok", ", ", "bye, "])
    assert shown == ["你好", "，", "小明", "！", " ", "2023年", "， ok", "", ", bye", ","]
