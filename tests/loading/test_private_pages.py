"""Packed weights leave the page cache behind the model's back: the same bits at the same addresses, always."""

import gc
import mmap
import os
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glm_model import ChatGLMForCausalLM
from glm_model.checkpoint import free_memory, private_pages, reading
from glm_model.checkpoint.private_pages import move_weights
from glm_model.quantization.linear import QuantizedLinear, QuantizedWeight
from tests.golden.data import FP32, GOLDEN, PACKED

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="weights are moved on Linux alone")

PIECE = private_pages._PIECE_BYTES
IDS = torch.tensor([[5, 6, 7, 501, 504]])  # [gMASK] <sop>
PLENTY = 1 << 50


@pytest.fixture(autouse=True)
def enough_memory_and_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_pages, "_PAUSE", 0)
    monkeypatch.setattr(private_pages, "free_bytes", lambda: PLENTY)


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ChatGLMForCausalLM]:
    """Load a model whose weights stay where the file is mapped."""
    monkeypatch.setattr(reading, "move_weights", lambda model: None)
    return lambda name: ChatGLMForCausalLM.from_pretrained(GOLDEN / name).eval()


def moved(model: torch.nn.Module) -> None:
    """Move the weights of a model, and wait for the end."""
    thread = move_weights(model)
    assert thread is not None
    thread.join(60)
    assert not thread.is_alive()


def is_private(tensor: Tensor) -> bool:
    """Whether each page of a tensor is the process's own; False if none is. Mixed pages are an error."""
    first, last = (place // mmap.PAGESIZE for place in (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes - 1))
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pages:
        entries = os.pread(pages.fileno(), (last - first + 1) * 8, first * 8)
    # Bit 63 of the kernel's entry says that the page is there, bit 61 that it is a file's.
    private = {bool(entry >> 63) and not entry >> 61 & 1 for (entry,) in struct.iter_unpack("<Q", entries)}
    assert len(private) == 1
    return private.pop()


def packed(model: torch.nn.Module) -> list[Tensor]:
    return [module.weight for module in model.modules() if isinstance(module, QuantizedWeight)]


class Layer(QuantizedLinear):
    """A packed layer whose weight is in a file of its own, [rows, 4096] bytes from 0 to 127."""

    def __init__(self, file: Path, rows: int) -> None:
        super().__init__(4096, 1, 8, bias=False)
        file.write_bytes(bytes(range(128)) * (rows * 32))
        values = torch.from_file(str(file), shared=False, size=rows * 4096, dtype=torch.int8).view(rows, 4096)
        self.weight = torch.nn.Parameter(values, requires_grad=False)


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    return Layer(tmp_path / "weight", 3 * PIECE // 4096)


@pytest.mark.parametrize("name", PACKED)
def test_the_same_bits_at_the_same_addresses(name: str, mapped: Callable[[str], ChatGLMForCausalLM]) -> None:
    model = mapped(name)
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.state_dict().items()}
    with torch.inference_mode():
        logits = model(IDS).logits
        assert not any(is_private(weight) for weight in packed(model))
        moved(model)
        assert all(is_private(weight) for weight in packed(model))
        assert torch.equal(model(IDS).logits, logits)
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, (place, value) in before.items():
        assert after[name].data_ptr() == place
        assert after[name].dtype == value.dtype
        assert torch.equal(after[name], value)


def test_loading_begins_it(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread | None] = []
    monkeypatch.setattr(reading, "move_weights", lambda model: threads.append(move_weights(model)))
    model = ChatGLMForCausalLM.from_pretrained(GOLDEN / PACKED[1])
    assert threads[0] is not None
    threads[0].join(60)
    assert all(is_private(weight) for weight in packed(model))


def test_other_models_need_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert move_weights(ChatGLMForCausalLM.from_pretrained(GOLDEN / FP32)) is None
    assert move_weights(ChatGLMForCausalLM.from_pretrained(GOLDEN / PACKED[1]).to("meta")) is None
    monkeypatch.setattr(sys, "platform", "darwin")
    assert move_weights(ChatGLMForCausalLM.from_pretrained(GOLDEN / PACKED[1])) is None


def test_a_file_that_was_read_and_not_mapped(mapped: Callable[[str], ChatGLMForCausalLM]) -> None:
    """As transformers does on file systems of which mappings are slow."""
    model = ChatGLMForCausalLM.from_pretrained(GOLDEN / PACKED[1], disable_mmap=True).eval()
    moved(model)
    with torch.inference_mode():
        assert torch.equal(model(IDS).logits, mapped(PACKED[1])(IDS).logits)


def test_a_pickled_file_is_mapped_too(tmp_path: Path, mapped: Callable[[str], ChatGLMForCausalLM]) -> None:
    for name in ("config.json", "pytorch_model.bin"):
        (tmp_path / name).symlink_to(GOLDEN / PACKED[1] / name)
    model = ChatGLMForCausalLM.from_pretrained(tmp_path).eval()
    moved(model)
    with torch.inference_mode():
        assert torch.equal(model(IDS).logits, mapped(PACKED[1])(IDS).logits)


def test_written_meanwhile(layer: Layer) -> None:
    """No write of another thread is lost, which a copy that takes the weight's place would lose."""
    mover = move_weights(layer)
    assert mover is not None
    writes = 0
    while mover.is_alive() or writes < 3:
        layer.weight.data.add_(1)
        writes += 1
    assert is_private(layer.weight)
    wanted = (torch.arange(128, dtype=torch.int16) + writes).to(torch.int8).repeat(32)
    assert torch.equal(layer.weight.data, wanted.expand_as(layer.weight))


def test_every_page_is_moved_once(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that begins inside a page, and whose size is no multiple of a piece."""
    part = layer.weight.data.view(-1)[100 : 100 + 2 * PIECE + 4096]
    layer.weight = torch.nn.Parameter(part.view(-1, 4096), requires_grad=False)
    pieces = list(private_pages._pieces([weakref.ref(layer)]))
    assert sum(size for _, size in pieces) == layer.weight.nbytes
    assert [start - layer.weight.data_ptr() for start, _ in pieces] == [0, PIECE, 2 * PIECE]
    moved(layer)
    assert is_private(layer.weight)


class Halted:
    """Stops the thread between two pieces until it is let go; the thread asks for the free memory there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int = 1) -> None:
        self.is_there, self.let_go, self._left = threading.Event(), threading.Event(), after
        monkeypatch.setattr(private_pages, "free_bytes", self._wait)
        monkeypatch.setattr(private_pages, "_BYTES_BETWEEN_LOOKS", 1)

    def _wait(self) -> int:
        if self._left == 0:
            self.is_there.set()
            assert self.let_go.wait(60)
        self._left -= 1
        return PLENTY


def test_dropped_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is freed at once, mapping and all, except for the piece that is moved right then."""
    halted = Halted(monkeypatch)
    model = torch.nn.Sequential(Layer(tmp_path / "one", 2 * PIECE // 4096), Layer(tmp_path / "two", 1))
    mover = move_weights(model)
    assert mover is not None
    assert halted.is_there.wait(60)
    assert str(tmp_path / "two") in Path("/proc/self/maps").read_text()
    del model
    gc.collect()
    assert str(tmp_path / "two") not in Path("/proc/self/maps").read_text()
    halted.let_go.set()
    mover.join(60)
    assert str(tmp_path / "one") not in Path("/proc/self/maps").read_text()


def test_replaced_meanwhile(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread goes on with what the layer has now, be it smaller, on another device or no parameter at all."""
    halted = Halted(monkeypatch)
    mover = move_weights(layer)
    assert mover is not None
    assert halted.is_there.wait(60)
    layer.weight.data = torch.zeros(2, 4096, dtype=torch.int8)
    halted.let_go.set()
    mover.join(60)
    assert torch.equal(layer.weight.data, torch.zeros(2, 4096, dtype=torch.int8))
    for other in (torch.nn.Parameter(torch.zeros(9, device="meta")), None):
        layer._parameters["weight"] = other
        assert move_weights(layer) is None
        private_pages._move([weakref.ref(layer)])


def test_short_of_memory(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that would not fit stays where the kernel can drop it and read it again."""
    needed = layer.weight.nbytes + private_pages.KEPT_FREE
    monkeypatch.setattr(private_pages, "free_bytes", lambda: needed - 1)
    assert layer.weight.data.sum(dtype=torch.int64)  # touches every page
    moved(layer)
    assert not is_private(layer.weight)
    monkeypatch.setattr(private_pages, "free_bytes", lambda: needed)
    moved(layer)
    assert is_private(layer.weight)


def test_memory_that_becomes_short_meanwhile(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([PLENTY, 0])
    monkeypatch.setattr(private_pages, "free_bytes", lambda: next(free))
    monkeypatch.setattr(private_pages, "_BYTES_BETWEEN_LOOKS", PIECE)
    assert layer.weight.data.sum(dtype=torch.int64)
    moved(layer)
    rows = PIECE // 4096
    assert is_private(layer.weight.data[:rows])
    assert not is_private(layer.weight.data[rows:])


def test_a_kernel_that_cannot(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_pages, "_POPULATE_WRITE", 9999)
    assert layer.weight.data.sum(dtype=torch.int64)
    moved(layer)
    assert not is_private(layer.weight)


def test_a_file_that_was_cut(layer: Layer, tmp_path: Path) -> None:
    """The thread ends; nothing kills the process before somebody reads what is gone."""
    os.truncate(tmp_path / "weight", PIECE + 4096)
    moved(layer)
    assert is_private(layer.weight.data[: PIECE // 4096])


def test_it_works_a_small_share_of_the_time(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(private_pages, "_PAUSE", 15)
    monkeypatch.setattr(time, "sleep", pauses.append)
    begin = time.thread_time()
    private_pages._move([weakref.ref(layer)])
    assert len(pauses) == layer.weight.nbytes // PIECE
    assert 0 < sum(pauses) < (time.thread_time() - begin) * 15


def test_free_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "CGROUP", tmp_path)
    alone = free_memory.free_bytes()
    assert alone > 0
    (tmp_path / "memory.max").write_text("9000\n")
    (tmp_path / "memory.current").write_text("8000\n")
    assert free_memory.free_bytes() == 1000
    (tmp_path / "memory.stat").write_text("anon 5000\nactive_file 300\ninactive_file 200\nshmem 10\n")
    assert free_memory.free_bytes() == 1500
    (tmp_path / "memory.max").write_text("7000\n")
    assert free_memory.free_bytes() == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory.free_bytes() > 9000
