"""Where a conversion may write: links, mounted disks, folders of somebody else, disks that are full; and Ctrl-C."""

import os
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from glm_model.command_line import sentence
from glm_model.conversion import __main__ as command
from glm_model.conversion import files, quantize
from glm_model.conversion.__main__ import main
from glm_model.conversion.convert import sat_to_huggingface, to_sat
from glm_model.conversion.quantize import quantize_checkpoint
from tests.conversion.archives import drawn_weights, rank_tensors, write_archive


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "archive", drawn_weights(), 2)


@pytest.fixture
def folder(archive: Path, tmp_path: Path) -> Path:
    sat_to_huggingface(archive, tmp_path / "folder")
    return tmp_path / "folder"


Convert = Callable[[Path], object]


@pytest.fixture(params=["sat", "quantize"])
def convert(request: pytest.FixtureRequest, archive: Path, folder: Path) -> Convert:
    if request.param == "sat":
        return lambda target: sat_to_huggingface(archive, target)
    return lambda target: quantize_checkpoint(folder, target, 8)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_and_what_it_names_is_made(convert: Convert, is_there: bool, tmp_path: Path) -> None:
    link, place = tmp_path / "link", tmp_path / "elsewhere" / "model"
    place.parent.mkdir()
    if is_there:
        place.mkdir()
    link.symlink_to(place)
    convert(link)
    assert link.is_symlink()
    assert (place / "config.json").is_file()
    assert list(place.parent.iterdir()) == [place]


def test_an_empty_folder_from_inside(convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert(Path())
    assert (tmp_path / "here" / "config.json").is_file()


def test_a_mounted_disk_is_refused_at_once(convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "disk")
    with pytest.raises(ValueError, match=r"disk is where a disk begins and cannot be replaced: name a new folder in"):
        convert(tmp_path / "disk")


def refused(convert: Convert, target: Path) -> str:
    """The sentence with which a conversion to `target` is refused; a damaged place is no reason for anything else."""
    with pytest.raises((ValueError, OSError)) as raised:
        convert(target)
    return sentence(raised.value)


def test_links_that_lead_nowhere(convert: Convert, tmp_path: Path) -> None:
    """To itself, in a circle, through such a link."""
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    for target in ("itself", "one", "itself/made"):
        assert re.search("leads back to itself|Too many levels", refused(convert, tmp_path / target))
    assert (tmp_path / "itself").is_symlink()


def test_a_link_to_itself_as_a_command(archive: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "itself").symlink_to("itself")
    for extra in ([], ["--tensor-parallel", "2"]):
        assert main(["sat", str(archive), str(tmp_path / "itself"), *extra]) == 1
        assert capsys.readouterr().err == (
            f"conversion: {tmp_path / 'itself'} is a link that leads back to itself: remove it, or name another "
            "folder\n"
        )


def test_source_and_target_in_each_other(archive: Path, folder: Path, tmp_path: Path) -> None:
    """Also by a link; whatever is converted stays as it was."""
    link = tmp_path / "link"
    for source, convert in (
        (archive, lambda target: sat_to_huggingface(archive, target)),
        (archive, lambda target: to_sat(archive, target, 2)),
        (folder, lambda target: to_sat(folder, target, 2)),
        (folder, lambda target: quantize_checkpoint(folder, target, 8)),
    ):
        link.symlink_to(source)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        for target in (source / "made", source / "300" / "made", link / "made"):
            assert f"is inside {source}, which is to be converted" in refused(convert, target)
        for target in (source, link, source.parent):
            assert "is there already" in refused(convert, target)
        link.unlink()
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("place", ["made.partial", "made.partial/model", "made.partial/model/deeper"])
def test_a_source_that_the_conversion_would_remove(place: str, folder: Path, tmp_path: Path) -> None:
    """It is where an unfinished one of the same name grows."""
    (tmp_path / "made.partial" / "model").mkdir(parents=True)
    (tmp_path / "made.partial" / "conversion.json").write_text("{}")
    source = tmp_path / place
    shutil.copytree(folder, source, dirs_exist_ok=True)
    for convert in (
        lambda target: quantize_checkpoint(source, target, 8),
        lambda target: to_sat(source, target, 2),
    ):
        assert f"{source} is in {tmp_path / 'made.partial'}, which this conversion replaces" in refused(
            convert, tmp_path / "made"
        )
    assert (source / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_things_that_are_no_folders(convert: Convert, tmp_path: Path) -> None:
    """A file, a pipe, a link to either, below a file; and what stands where the folder is to grow."""
    (tmp_path / "file").write_text("precious")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "pipe"):
        (tmp_path / f"link to {name}").symlink_to(name)
        (tmp_path / f"made from {name}.partial").symlink_to(name)
        assert "is there already" in refused(convert, tmp_path / name)
        assert "is there already" in refused(convert, tmp_path / f"link to {name}")
        assert f"made from {name}.partial" in refused(convert, tmp_path / f"made from {name}")
    assert str(tmp_path / "file") in refused(convert, tmp_path / "file" / "made")
    assert "File name too long" in refused(convert, tmp_path / ("long" * 100))
    assert (tmp_path / "file").read_text() == "precious"
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["conversion.json", "conversion.json.tmp"])
def test_something_else_where_the_conversion_notes_its_plan(convert: Convert, name: str, tmp_path: Path) -> None:
    (tmp_path / "made.partial" / name).mkdir(parents=True)
    assert f"holds {name}, which is of no conversion" in refused(convert, tmp_path / "made")
    (tmp_path / "made.partial" / name).rmdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "made.partial" / name).symlink_to(tmp_path / "precious")
    assert f"holds {name}, which is of no conversion" in refused(convert, tmp_path / "made")
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_folder_of_somebody_else_behind_a_link(convert: Convert, tmp_path: Path) -> None:
    """Where an unfinished conversion would have its own."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes.txt").write_text("precious")
    (tmp_path / "made.partial").mkdir()
    (tmp_path / "made.partial" / "conversion.json").write_text("null")
    (tmp_path / "made.partial" / "model").symlink_to(tmp_path / "precious")
    assert "is of no conversion: move it away" in refused(convert, tmp_path / "made")
    assert (tmp_path / "precious" / "notes.txt").read_text() == "precious"


def test_names_that_a_terminal_would_obey(archive: Path, tmp_path: Path, capsys: Any) -> None:
    """They are files' names like others, but are not shown as they are."""
    target = tmp_path / "a\x1b]52;c;b\x07"
    assert main(["sat", str(archive), str(target)]) == 0
    assert main(["sat", str(archive), str(target)]) == 1
    shown = capsys.readouterr()
    assert (target / "config.json").is_file()
    assert "\x1b" not in shown.out + shown.err.splitlines()[-1]
    assert "a\u241b]52;c;b\u2407: float16" in shown.out


@pytest.mark.parametrize("name", ["model/notes.txt", "notes.txt"])
def test_what_is_of_no_conversion_is_left_alone(convert: Convert, name: str, tmp_path: Path) -> None:
    precious = tmp_path / "made.partial" / name
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    with pytest.raises(ValueError, match=r"made.partial .* of no conversion: move it away"):
        convert(tmp_path / "made")
    assert precious.read_text() == "precious"
    assert not (tmp_path / "made").exists()


def test_a_disk_that_fills_up(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(quantize, "save_file", full)
    assert main(["quantize", str(folder), str(tmp_path / "made"), "--quantize", "int4"]) == 1
    assert "cannot be written: Error while serializing: I/O error: No space left" in capsys.readouterr().err
    assert not list(tmp_path.glob("made*"))


@pytest.mark.parametrize("kind", ["folder", "ranks", "packed"])
def test_a_file_that_cannot_grow(kind: str, archive: Path, folder: Path, tmp_path: Path) -> None:
    """The system refuses to write on in the middle; the sentence names the place, and the same call makes the rest."""

    def convert(target: Path) -> None:
        if kind == "packed":
            quantize_checkpoint(folder, target, 8)
        elif kind == "folder":
            sat_to_huggingface(archive, target)
        else:
            to_sat(archive, target, 2)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        told = refused(convert, tmp_path / "made")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path / "made.partial") in told
    assert "File too large" in told
    assert not (tmp_path / "made").exists()
    convert(tmp_path / "made")
    convert(tmp_path / "whole")
    for file in (tmp_path / "whole").rglob("*"):
        assert (
            file.is_dir()
            or (tmp_path / "made" / file.relative_to(tmp_path / "whole")).read_bytes() == file.read_bytes()
        )


def test_room_is_counted_by_what_is_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed weights take less than those that they are made from."""
    needed: list[int] = []
    for module in ("quantize", "convert"):
        monkeypatch.setattr(f"glm_model.conversion.{module}.require_space", lambda _, count: needed.append(count))
    quantize_checkpoint(folder, tmp_path / "packed", 4)
    to_sat(folder, tmp_path / "ranks", 2, bits=4)
    packed = load_file(tmp_path / "packed" / "model.safetensors")
    ranks = [rank_tensors(tmp_path / "ranks", rank) for rank in (0, 1)]
    assert needed == [sum(tensor.nbytes for part in parts for tensor in part.values()) for parts in ([packed], ranks)]


def test_weights_of_any_name_stay_behind(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights-a.safetensors")
    tensors = load_file(folder / "weights-a.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "weights-a.safetensors")}
    files.write_json(folder / "model.safetensors.index.json", index)
    for name in ("optimizer.pt", "training_args.bin", "README.md"):
        (folder / name).write_text("beside")
    quantize_checkpoint(folder, tmp_path / "packed", 8)
    names = {file.name for file in (tmp_path / "packed").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors"}


def test_a_folder_without_linear_layers(folder: Path, tmp_path: Path, capsys: Any) -> None:
    save_file({"transformer.prefix_encoder.embedding.weight": torch.ones(4, 8)}, folder / "model.safetensors")
    assert main(["quantize", str(folder), str(tmp_path / "made"), "--quantize", "int4"]) == 1
    assert "holds no weight of a linear layer" in capsys.readouterr().err


def test_float64_has_no_place_in_an_archive(folder: Path, tmp_path: Path, capsys: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value.double() for name, value in tensors.items()}, folder / "model.safetensors")
    assert main(["sat", str(folder), str(tmp_path / "made"), "--tensor-parallel", "2"]) == 1
    assert "is torch.float64, which no archive holds" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0GB", "-5GB", "", "large"])
def test_sizes_of_shards_that_are_none(size: str, archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard_size must be a size above 0"):
        sat_to_huggingface(archive, tmp_path / "made", shard_size=size)


def test_ctrl_c(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "sat_to_huggingface", interrupted)
    assert main(["sat", str(archive), str(tmp_path / "made")]) == 130
    assert capsys.readouterr().err.startswith("conversion: stopped: the same command goes on where it was")


def test_a_folder_that_may_not_be_written(archive: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["sat", str(archive), str(tmp_path / "file" / "made")]) == 1
    assert f"conversion: {tmp_path / 'file'}" in capsys.readouterr().err
