"""How GPUs are written."""

import pytest

from glm_model.plan.gpus import GIB, GPU, MIB, USABLE_SHARE, parse_gpus, write_gpus


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("24GB", [24]),
        ("1x80GB", [80]),
        ("4x24GB", [24] * 4),
        ("4 x 24 GB", [24] * 4),
        ("4X24gb", [24] * 4),
        ("2*40GiB", [40] * 2),
        ("3×11G", [11] * 3),
        ("2x80GB,4x24GB", [80, 80, 24, 24, 24, 24]),
        ("80GB, 24GB", [80, 24]),
        ("2x10.5GB", [10.5] * 2),
    ],
)
def test_forms(text: str, sizes: list[float]) -> None:
    assert parse_gpus(text) == tuple(GPU(int(size * GIB)) for size in sizes)


def test_megabytes_as_nvidia_smi_prints_them() -> None:
    assert parse_gpus("2x81559MiB") == (GPU(81559 * MIB),) * 2


@pytest.mark.parametrize(
    "text",
    ["", "x", "24", "4x", "x24GB", "4x24", "4x24TB", "4 of 24GB", "-4x24GB", "4x-24GB", "4x24GB,", "A100", "1e3GB"],
)
def test_other_forms_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"names no GPUs; write 24GB, 4x24GB or 2x80GB,4x24GB"):
        parse_gpus(text)


@pytest.mark.parametrize("text", ["0x24GB", "4x0GB", "4x0.0GB", "5000x24GB", "2x24GB,0x24GB"])
def test_no_card_or_no_memory(text: str) -> None:
    with pytest.raises(ValueError, match="there must be 1 to 4096 cards, and memory on each"):
        parse_gpus(text)


@pytest.mark.parametrize("text", ["1x24GB", "4x24GB", "2x80GB,4x24GB", "1x10.5GB"])
def test_written_as_read(text: str) -> None:
    assert write_gpus(parse_gpus(text)) == text


def test_the_smallest_card_that_offers_enough() -> None:
    for needed in (1, GIB, 20 * GIB, int(24 * GIB * USABLE_SHARE), int(24 * GIB * USABLE_SHARE) + 1):
        card = GPU.with_usable(needed)
        assert card.usable >= needed > GPU(card.memory - GIB).usable
