"""What is noticed while a source is read: damage, values that are no numbers, files that are not what they seem."""

import os
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glm_model import CheckpointError
from glm_model.conversion import weight_file
from glm_model.conversion.__main__ import main
from glm_model.conversion.convert import sat_to_huggingface, to_sat
from glm_model.conversion.quantize import quantize_checkpoint
from glm_model.conversion.sat import SatArchive, read_sat_checkpoint
from glm_model.conversion.weight_file import open_weights
from tests.conversion.archives import EMBEDDING, change_rank, drawn_weights, rank_file, rank_tensors, write_archive

LAYER = "transformer.layers.1."
NORM = f"{LAYER}input_layernorm.bias"
DENSE = f"{LAYER}attention.dense.weight"
FEED = f"{LAYER}mlp.dense_h_to_4h.bias"
FLIPS = 60  # bits flipped in one file


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "archive", drawn_weights(), 2)


def values(folder: Path) -> dict[str, Tensor]:
    return read_sat_checkpoint(folder)[1]


def assert_equal(actual: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert actual.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in actual.items())


def entries(file: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of each tensor's bytes."""
    with zipfile.ZipFile(file) as content, file.open("rb") as stream:
        found = {}
        for info in content.infolist():
            stream.seek(info.header_offset + 26)
            lengths = stream.read(4)
            start = 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
            found[info.filename.split("/", 1)[1]] = (info.header_offset + start, info.file_size)
        return found


def flip(file: Path, byte: int, bit: int = 0) -> None:
    with file.open("r+b") as stream:
        stream.seek(byte)
        old = stream.read(1)[0]
        stream.seek(byte)
        stream.write(bytes([old ^ 1 << bit]))


def repack(file: Path, change: Callable[[zipfile.ZipInfo, bytes], Iterator[tuple[zipfile.ZipInfo, bytes]]]) -> None:
    """Write an archive again, with what `change` makes of each entry."""
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(file.with_suffix(".new"), "w") as target:
        for info in source.infolist():
            for entry, content in change(info, source.read(info)):
                target.writestr(entry, content)
    file.with_suffix(".new").replace(file)


# ---- damage


@pytest.mark.parametrize("rank", [0, 1])
def test_one_bit_of_any_tensor(rank: int, archive: Path) -> None:
    """The file and the tensor are named."""
    file, made = rank_file(archive, rank), archive.with_name("made")
    whole, chance = file.read_bytes(), random.Random(rank)
    for number, name in enumerate(rank_tensors(archive, rank)):
        start, size = entries(file)[f"data/{number}"]
        flip(file, start + chance.randrange(size), chance.randrange(8))
        with pytest.raises(CheckpointError, match=f"{file}: the bytes of {name} do not match their checksum"):
            sat_to_huggingface(archive, made)
        file.write_bytes(whole)
    assert not made.exists()


def test_any_bit_of_a_file(archive: Path) -> None:
    """Wherever it is: refused with the file's name, or without effect."""
    file, wanted = rank_file(archive, 1), values(archive)
    whole, chance = file.read_bytes(), random.Random(3)
    refused = passed = 0
    for _ in range(FLIPS):
        flip(file, chance.randrange(len(whole)), chance.randrange(8))
        try:
            found = values(archive)
        except CheckpointError as error:
            refused += str(file) in str(error)
        else:
            assert_equal(found, wanted)
            passed += 1
        file.write_bytes(whole)
    assert refused + passed == FLIPS
    assert refused > FLIPS // 2


def test_a_description_whose_tensors_are_exchanged(archive: Path) -> None:
    """It is still a sound pickle of the same tensors."""
    file = rank_file(archive)
    start, size = entries(file)["data.pkl"]
    content = file.read_bytes()
    pickle = content[start : start + size]
    first, second = (b"X\x01\x00\x00\x00" + key for key in (b"3", b"5"))
    assert pickle.count(first) == pickle.count(second) == 1
    changed = pickle.replace(first, b"in between").replace(second, first).replace(b"in between", second)
    file.write_bytes(content[:start] + changed + content[start + size :])
    with pytest.raises(CheckpointError, match=rf"{file} is truncated or damaged .*data\.pkl"):
        values(archive)


def test_an_archive_without_checksums(archive: Path) -> None:
    """As torch writes it if told so: nothing to compare with."""
    wanted = values(archive)
    content = {rank: rank_tensors(archive, rank) for rank in (0, 1)}
    torch.serialization.set_crc32_options(False)
    try:
        for rank, tensors in content.items():
            torch.save({"module": tensors}, rank_file(archive, rank))
    finally:
        torch.serialization.set_crc32_options(True)
    assert_equal(values(archive), wanted)


def test_files_of_torch_before_1_6(archive: Path) -> None:
    wanted = values(archive)
    for rank in (0, 1):
        module = {"module": rank_tensors(archive, rank)}
        torch.save(module, rank_file(archive, rank), _use_new_zipfile_serialization=False)
    assert_equal(values(archive), wanted)
    shutil.copyfile(rank_file(archive, 0), rank_file(archive, 1))
    with pytest.raises(CheckpointError, match="is a copy of"):
        values(archive)


@pytest.mark.parametrize("name", ["byteorder", "BYTEORDER"])
def test_numbers_with_their_most_significant_byte_first(name: str, archive: Path) -> None:
    """torch itself ends by a signal where it loads such an archive without values."""

    def change(info: zipfile.ZipInfo, content: bytes) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
        if info.filename.endswith("byteorder"):
            info.filename, content = info.filename.replace("byteorder", name), b"big"
        yield info, content

    repack(rank_file(archive, 1), change)
    with pytest.raises(CheckpointError, match=f"{rank_file(archive, 1)} was not written on a little-endian machine"):
        values(archive)


def test_tensors_that_are_parts_of_others(archive: Path) -> None:
    """As a tool saves that cuts a whole checkpoint into views; one storage is read a few times, not held."""
    wanted = values(archive)
    whole = rank_tensors(archive, 1)
    flat = torch.cat([tensor.flatten() for tensor in whole.values()] + [torch.zeros(3 << 20, dtype=torch.float16)])
    start, views = 0, {}
    for name, tensor in whole.items():
        views[name] = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    views[DENSE] = whole[DENSE].t().contiguous().t()
    torch.save({"module": views}, rank_file(archive, 1))
    assert_equal(values(archive), wanted)
    first, size = entries(rank_file(archive, 1))["data/0"]
    assert size == flat.nbytes
    flip(rank_file(archive, 1), first + size - 1)
    with pytest.raises(CheckpointError, match=f"{rank_file(archive, 1)}: the bytes of .* do not match their checksum"):
        values(archive)


def test_each_byte_is_read_once(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the first bytes of weights, by which copies are found, and the short tensors that all ranks have."""
    weights = drawn_weights(0, torch.float16, hidden_size=128, inner_hidden_size=256, vocab_size=256)
    sizes = {"hidden_size": 128, "inner_hidden_size": 256, "vocab_size": 256}
    source = write_archive(archive.with_name("larger"), weights, 2, **sizes)
    count, read = 0, os.preadv

    def counted(file: int, buffers: Any, offset: int) -> int:
        nonlocal count
        count += sum(map(len, buffers))
        return read(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    sat_to_huggingface(source, archive.with_name("made"))
    stored = sum(rank_file(source, rank).stat().st_size for rank in (0, 1))
    samples = 2 * sum("layernorm" not in name and name.endswith("weight") for name in weights) * 4096
    assert sum(tensor.nbytes for tensor in weights.values()) < count < 1.02 * stored + samples


# ---- archives of another program


def test_an_archive_that_was_compressed(archive: Path) -> None:
    def change(info: zipfile.ZipInfo, content: bytes) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
        info.compress_type = zipfile.ZIP_DEFLATED
        yield info, content

    repack(rank_file(archive, 1), change)
    with pytest.raises(
        CheckpointError, match=rf"{rank_file(archive, 1)} .*is compressed, .*save it again with torch.save"
    ):
        values(archive)


def test_an_archive_that_was_packed_again_without_compression(archive: Path) -> None:
    """torch says where a tensor is by a rule that holds for its own archives; earlier ones do not name that rule."""
    wanted = values(archive)
    repack(rank_file(archive, 0), lambda info, content: iter([(info, content)]))
    with pytest.raises(CheckpointError, match=rf"{rank_file(archive, 0)} .*packed again by another program"):
        values(archive)
    for rank in (0, 1):
        repack(
            rank_file(archive, rank),
            lambda info, content: iter([] if info.filename.endswith(".format_version") else [(info, content)]),
        )
    assert_equal(values(archive), wanted)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_is_there_twice(archive: Path) -> None:
    def change(info: zipfile.ZipInfo, content: bytes) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
        yield info, content
        if info.filename.endswith("/data/4"):
            yield zipfile.ZipInfo(info.filename), bytes(len(content))

    repack(rank_file(archive), change)
    with pytest.raises(CheckpointError, match=rf"{rank_file(archive)} is damaged: it holds two entries .*data/4"):
        values(archive)


@pytest.mark.parametrize(
    ("field", "content", "words"),
    [
        (8, b"\x09", "is encrypted"),
        (20, b"\x01\x00", "should have"),
        (24, b"\x01\x00", "but should have 1"),
        (42, b"\x01", "damaged"),
    ],
    ids=["encrypted", "stored size", "size", "offset"],
)
def test_an_entry_that_contradicts_itself(field: int, content: bytes, words: str, archive: Path) -> None:
    """By a field of the directory, of the last tensor."""
    file = rank_file(archive)
    whole = bytearray(file.read_bytes())
    name = b"mp_rank_00_model_states/data/9"
    place = whole.rindex(name) - 46
    assert whole[place : place + 4] == b"PK\x01\x02"
    whole[place + field : place + field + len(content)] = content
    file.write_bytes(whole)
    with pytest.raises(CheckpointError, match=f"{file} .*{words}"):
        values(archive)


def test_an_entry_that_is_shorter_than_its_tensor(archive: Path) -> None:
    def change(info: zipfile.ZipInfo, content: bytes) -> Iterator[tuple[zipfile.ZipInfo, bytes]]:
        yield info, content[:-2] if info.filename.endswith("/data/4") else content

    repack(rank_file(archive), change)
    with pytest.raises(CheckpointError, match=rf"{rank_file(archive)} is damaged.* no entry has the \d+ bytes"):
        values(archive)


# ---- values that are no numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [EMBEDDING, DENSE, FEED, NORM])
@pytest.mark.parametrize("rank", [0, 1])
def test_values_that_are_no_numbers(value: float, name: str, rank: int, archive: Path) -> None:
    """In any tensor that is converted, and in a copy that only stands for comparison."""
    tensor = rank_tensors(archive, rank)[name]
    tensor.view(-1)[-1] = value
    change_rank(archive, rank, **{name: tensor})
    for convert in (
        lambda target: sat_to_huggingface(archive, target),
        lambda target: to_sat(archive, target, 1),
    ):
        with pytest.raises(CheckpointError, match=f"{rank_file(archive, rank)}: {name} holds values that are NaN or"):
            convert(archive.with_name("made"))
        assert not archive.with_name("made").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_values_that_are_let_through(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = drawn_weights(0, dtype)
    weights[FEED][3], weights[DENSE][0, 0], weights[NORM][-1] = float("nan"), float("inf"), float("-inf")
    source = write_archive(tmp_path / "archive", weights, 2)
    assert main(["sat", str(source), str(tmp_path / "made"), "--allow-non-finite"]) == 0
    assert main(["sat", str(tmp_path / "made"), str(tmp_path / "back"), "--tensor-parallel", "2"]) == 1
    back = ["sat", str(tmp_path / "made"), str(tmp_path / "back"), "--tensor-parallel", "2", "--allow-non-finite"]
    assert main(back) == 0
    for rank in (0, 1):
        original = rank_tensors(source, rank)
        for name, value in rank_tensors(tmp_path / "back", rank).items():
            assert name.endswith("inv_freq") or torch.equal(value.nan_to_num(7.0), original[name].nan_to_num(7.0))


@pytest.mark.parametrize("bits", [8, 4])
def test_scales_that_are_no_numbers(bits: int, tmp_path: Path, capsys: Any) -> None:
    for name, ranks in ((f"{DENSE}_scale", 2), (f"{LAYER}attention.query_key_value.weight_scale", 1)):
        source = write_archive(tmp_path / f"archive{ranks}", drawn_weights(), ranks, bits)
        scale = rank_tensors(source, ranks - 1)[name]
        scale[2] = float("inf")
        change_rank(source, ranks - 1, **{name: scale})
        target = tmp_path / f"made{ranks}"
        assert main(["sat", str(source), str(target)]) == 1
        assert f"{rank_file(source, ranks - 1)}: {name} holds values that are NaN or inf" in capsys.readouterr().err
        assert main(["sat", str(source), str(target), "--allow-non-finite"]) == 0


@pytest.mark.parametrize("kind", ["safetensors", "zip", "pickle"])
def test_a_folder_with_values_that_are_no_numbers(kind: str, archive: Path, tmp_path: Path, capsys: Any) -> None:
    """Packed by the quantize command: in a tensor that is not packed."""
    folder = tmp_path / "folder"
    sat_to_huggingface(archive, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[NORM][0] = float("nan")
    (folder / "model.safetensors").unlink()
    file = folder / ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin")
    if kind == "safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file, _use_new_zipfile_serialization=kind == "zip")
    command = ["quantize", str(folder), str(tmp_path / "made"), "--quantize", "int8"]
    assert main(command) == 1
    assert f"{file}: {NORM} holds values that are NaN or infinite" in capsys.readouterr().err
    assert not list(tmp_path.glob("made*"))
    assert main([*command, "--allow-non-finite"]) == 0
    assert load_file(tmp_path / "made" / "model.safetensors")[NORM].isnan().sum() == 1


def refused_both_ways(place: Path, words: str) -> None:
    """Neither conversion of the folder in ``place`` is made, and both say why."""
    for convert in (
        lambda: quantize_checkpoint(place / "folder", place / "made", 8),
        lambda: to_sat(place / "folder", place / "made", 2),
    ):
        with pytest.raises(CheckpointError, match=words):
            convert()
        assert not list(place.glob("made*"))


def test_one_bit_of_a_bin_file(archive: Path, tmp_path: Path) -> None:
    """The archives of torch that a Hugging Face folder holds have checksums, too."""
    sat_to_huggingface(archive, tmp_path / "folder")
    tensors = load_file(tmp_path / "folder" / "model.safetensors")
    (tmp_path / "folder" / "model.safetensors").unlink()
    file = tmp_path / "folder" / "pytorch_model.bin"
    torch.save(tensors, file)
    number = list(tensors).index(DENSE)
    flip(file, entries(file)[f"data/{number}"][0] + 5)
    refused_both_ways(tmp_path, f"{file}: the bytes of {DENSE} do not match their checksum")


# ---- ranks that are not what their names say


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("bits", [0, 4])
def test_a_rank_that_is_a_copy(ranks: int, bits: int, tmp_path: Path) -> None:
    """Whichever, as a file or saved again under its own name."""
    source = write_archive(tmp_path / "archive", drawn_weights(inner_hidden_size=32), ranks, bits, inner_hidden_size=32)
    for first, second in ((0, ranks - 1), (ranks - 1, 0)):
        whole = rank_file(source, second).read_bytes()
        shutil.copyfile(rank_file(source, first), rank_file(source, second))
        for _ in range(2):
            with pytest.raises(CheckpointError, match="is a copy of") as raised:
                SatArchive(source)
            assert all(str(rank_file(source, rank)) in str(raised.value) for rank in (first, second))
            torch.save({"module": rank_tensors(source, first)}, rank_file(source, second))
        rank_file(source, second).write_bytes(whole)
    SatArchive(source)


@pytest.mark.parametrize("name", ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"])
def test_one_weight_that_is_a_copy(name: str, archive: Path) -> None:
    names = [key for key in rank_tensors(archive) if key.endswith(f".1.{_room(name)}.{name}.weight")]
    change_rank(archive, 1, **{key: rank_tensors(archive)[key] for key in names})
    with pytest.raises(CheckpointError, match=f"have the same part of {names[0]}"):
        SatArchive(archive)


def _room(layer: str) -> str:
    return "mlp" if "4h" in layer else "attention"


def test_parts_that_begin_alike_or_are_all_one_value(tmp_path: Path) -> None:
    """They are no copies: parts of a model that has not been trained, or whose first rows stand for padding."""
    weights = drawn_weights(hidden_size=64, inner_hidden_size=128, vocab_size=256)
    for start in (0, 128):
        weights[EMBEDDING][start : start + 100] = 0
    weights[DENSE].fill_(0.5)
    sizes = {"hidden_size": 64, "inner_hidden_size": 128, "vocab_size": 256}
    source = write_archive(tmp_path / "archive", weights, 2, **sizes)
    assert_equal(values(source), weights)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 3)])
def test_ranks_that_are_swapped(first: int, second: int, tmp_path: Path) -> None:
    source = write_archive(tmp_path / "archive", drawn_weights(inner_hidden_size=32), 4, inner_hidden_size=32)
    files = [rank_file(source, rank) for rank in (first, second)]
    whole = [file.read_bytes() for file in files]
    for file, content in zip(files, reversed(whole), strict=True):
        file.write_bytes(content)
    told = f"{files[0]} was saved as {files[1].name}: files of ranks were renamed or swapped"
    with pytest.raises(CheckpointError, match=told):
        SatArchive(source)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ([{"iteration": 300}, {"iteration": 400}], "is of iteration 400, but mp_rank_00_model_states.pt of 300"),
        ([{"global_steps": 3}, {}], "is of global_steps None, but .* of 3"),
        ([{"mp_world_size": 4}, {"mp_world_size": 4}], "is one of 4 ranks, but there are 2 files"),
    ],
)
def test_what_a_training_run_says_of_itself(facts: list[dict[str, int]], words: str, archive: Path) -> None:
    for rank, said in enumerate(facts):
        torch.save({"module": rank_tensors(archive, rank), **said}, rank_file(archive, rank))
    with pytest.raises(CheckpointError, match=words):
        SatArchive(archive)
    for rank in (0, 1):
        torch.save(
            {"module": rank_tensors(archive, rank), "iteration": 300, "mp_world_size": 2}, rank_file(archive, rank)
        )
    SatArchive(archive)


def test_a_step_of_many_digits(archive: Path) -> None:
    (archive / "latest").write_text("1" * 5000)
    with pytest.raises(CheckpointError, match=r"latest names step 1+, but there is no folder"):
        SatArchive(archive)


# ---- files that change while they are read


def saved(folder: Path, kind: str) -> Path:
    """A file with two tensors, in one of three formats."""
    tensors = {"a": torch.randn(64, 64), "b": torch.randn(64, 64)}
    file = folder / ("file.safetensors" if kind == "safetensors" else "file.bin")
    if kind == "safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file)
    return file


def rewrite(file: Path) -> None:
    """Write one byte, and put back the time of the last change."""
    status = file.stat()
    flip(file, status.st_size // 2)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(file: Path) -> None:
    other = file.with_suffix(".other")
    shutil.copy2(file, other)
    other.replace(file)


@pytest.mark.parametrize("kind", ["safetensors", "zip"])
@pytest.mark.parametrize("change", [rewrite, replace, lambda file: os.truncate(file, file.stat().st_size // 2)])
def test_a_file_that_changes_while_it_is_read(kind: str, change: Callable[[Path], None], tmp_path: Path) -> None:
    """Also one that is cut off, by which a mapped file would end the process."""
    file = saved(tmp_path, kind)
    weights = open_weights(file)
    weights.read("a")
    change(file)
    with pytest.raises(CheckpointError, match=f"{file} was changed while it was read"):
        weights.read("b")


def test_a_shard_that_changes_before_its_turn(archive: Path, tmp_path: Path, monkeypatch: Any) -> None:
    sat_to_huggingface(archive, tmp_path / "folder", shard_size="4KB")
    last = max((tmp_path / "folder").glob("*.safetensors"))
    opened = weight_file.open_weights

    def change_then_open(path: Path, **settings: Any) -> Any:
        if path == last:
            rewrite(path)
        return opened(path, **settings)

    monkeypatch.setattr(weight_file, "open_weights", change_then_open)
    refused_both_ways(tmp_path, f"{last} was changed while it was read")
