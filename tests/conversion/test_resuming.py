"""A conversion that is killed: whatever is left of it is no model, and the next run makes the same bytes."""

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import torch

from glm_model import CheckpointError, GLM130BForCausalLM, load
from glm_model.checkpoint.unfinished import growing_folder
from glm_model.conversion import huggingface_writer
from glm_model.conversion.convert import sat_to_huggingface, to_sat
from glm_model.conversion.safetensors_file import SafetensorsFile
from glm_model.conversion.torch_archive import TorchArchive
from tests.conversion.archives import change_rank, drawn_weights, rank_file, rank_tensors, write_archive
from tests.forks import Program

ROOT = Path(__file__).parent.parent.parent
# At how many points each kind of conversion is killed, and as many times by the clock. "CONVERSION_KILLS=500 pytest
# tests/conversion/test_resuming.py -k killed" tries more, at other points.
KILLS = os.environ.get("CONVERSION_KILLS")
POINTS = int(KILLS or 12)
SEED = random.randrange(1 << 32) if KILLS else 0
WIDER = {"inner_hidden_size": 32}

# Each line asks for a conversion: how, from, to, and when it shall be killed: before which file operation, or after how
# many seconds (0: not so). A child of its own runs it. Answers how many file operations it has seen, or minus the
# signal that it died of.
WORKER = """
import json, os, signal, sys, time
import torch
from glm_model.conversion.convert import sat_to_huggingface, to_sat

CHANGES = ("os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.chmod", "shutil.rmtree", "shutil.copyfile")
torch.set_num_threads(1)

def run(kind, source, target, operation):
    seen = 0
    def watch(event, args):
        nonlocal seen
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in CHANGES):
            return
        seen += 1
        if seen == operation:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
    if kind == "folder":
        sat_to_huggingface(source, target, shard_size="4KB")
    else:
        to_sat(source, target, 4)
    return seen

for line in sys.stdin:
    kind, source, target, operation, seconds = json.loads(line)
    result, answer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(answer, str(run(kind, source, target, operation)).encode())
        os._exit(0)
    os.close(answer)
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)  # if it has ended it is still there to be waited for
    _, status = os.waitpid(child, 0)
    seen = os.read(result, 20)  # also of one that was killed just after it had answered
    os.close(result)
    print(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else int(seen), flush=True)
"""


class Worker:
    """A process that has imported what it needs, and does every conversion in a child that may be killed."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", WORKER]
        self.process = Program[str](command, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True, bufsize=1)

    def run(self, kind: str, source: Path, target: Path, operation: int = 0, seconds: float = 0) -> int:
        """Number of file operations, or minus the signal that it died of."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([kind, str(source), str(target), operation, seconds]) + "\n")
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.process.communicate()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_archive(tmp_path_factory.mktemp("source") / "archive", drawn_weights(**WIDER), 2, **WIDER)
    (folder / "LICENSE").write_text("a file that comes along")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def assert_no_model(target: Path) -> None:
    """Neither the target nor what grows beside it; nothing there has all that a model needs."""
    assert not target.exists()
    partial = target.with_name(f"{target.name}.partial")
    for place in filter(Path.is_dir, (partial, partial / "model")):
        with pytest.raises(CheckpointError, match=r"not finished|does not exist"):
            load(place)


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_killed_at_random_points(kind: str, worker: Worker, archive: Path, tmp_path: Path) -> None:
    """Before a random file operation, and again while it resumes; then it is left to finish."""
    total = worker.run(kind, archive, tmp_path / "whole")
    assert total > 15
    wanted = content(tmp_path / "whole")
    chance = random.Random(f"{kind}{SEED}")
    for point in range(POINTS):
        target = tmp_path / f"target{point}"
        assert worker.run(kind, archive, target, chance.randint(1, total - 4)) == -9
        if not target.exists():
            assert_no_model(target)
            worker.run(kind, archive, target, chance.randint(1, total))
        if not target.exists():
            assert worker.run(kind, archive, target) > 0
        assert content(target) == wanted, f"seed {SEED}, point {point}"
        shutil.rmtree(target)


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_killed_by_the_clock(kind: str, worker: Worker, archive: Path, tmp_path: Path) -> None:
    """At any moment, also in the middle of a file."""
    started = time.monotonic()
    assert worker.run(kind, archive, tmp_path / "whole") > 0
    duration = time.monotonic() - started
    wanted = content(tmp_path / "whole")
    chance = random.Random(f"{kind}{SEED}")
    for point in range(POINTS):
        target = tmp_path / f"target{point}"
        worker.run(kind, archive, target, seconds=chance.uniform(0.001, duration))
        if not target.exists():
            assert_no_model(target)
            assert worker.run(kind, archive, target) > 0
        assert content(target) == wanted, f"seed {SEED}, point {point}"
        shutil.rmtree(target)


class FullError(OSError):
    """No space left on the device."""


def stop_before(shard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk be full when the shard of this number (from 1) comes."""
    begun: list[Path] = []

    def begin(path: Path, headers: Any) -> SafetensorsFile:
        begun.append(path)
        if len(begun) == shard:
            raise FullError("no space left")
        return SafetensorsFile(path, headers)

    monkeypatch.setattr(huggingface_writer, "SafetensorsFile", begin)


def shards(folder: Path) -> dict[str, int]:
    """Name, and when it was written, of every whole shard."""
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("*.safetensors")}


@pytest.fixture
def stopped(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a conversion to `tmp_path / "made"` has left with three shards in it."""
    stop_before(4, monkeypatch)
    with pytest.raises(FullError):
        sat_to_huggingface(archive, tmp_path / "made", shard_size="4KB")
    monkeypatch.undo()
    folder = tmp_path / "made.partial" / "model"
    assert len(shards(folder)) == 3
    return folder


def test_it_goes_on_where_it_was(stopped: Path, archive: Path, tmp_path: Path) -> None:
    finished = shards(stopped)
    sat_to_huggingface(archive, tmp_path / "made", shard_size="4KB")
    assert finished.items() < shards(tmp_path / "made").items()
    sat_to_huggingface(archive, tmp_path / "whole", shard_size="4KB")
    assert content(tmp_path / "made") == content(tmp_path / "whole")


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: content[8:]])
def test_a_shard_that_is_not_whole_is_made_anew(
    damage: Callable[[bytes], bytes], stopped: Path, archive: Path, tmp_path: Path
) -> None:
    shard = min(stopped.glob("*.safetensors"))
    shard.write_bytes(damage(shard.read_bytes()))
    sat_to_huggingface(archive, tmp_path / "made", shard_size="4KB")
    sat_to_huggingface(archive, tmp_path / "whole", shard_size="4KB")
    assert content(tmp_path / "made") == content(tmp_path / "whole")


def test_what_a_kill_left_half_written_is_swept_away(stopped: Path, archive: Path, tmp_path: Path) -> None:
    (stopped / ".tmpLn2Lgh").touch()  # as the safetensors library calls what it has not finished
    (stopped / "model-00004-of-00004.safetensors.tmp").write_bytes(b"half a shard")
    sat_to_huggingface(archive, tmp_path / "made", shard_size="4KB")
    sat_to_huggingface(archive, tmp_path / "whole", shard_size="4KB")
    assert content(tmp_path / "made") == content(tmp_path / "whole")


@pytest.mark.parametrize("change", [{"shard_size": "6KB"}, {"bits": 8}])
def test_another_plan_starts_over(change: dict[str, Any], stopped: Path, archive: Path, tmp_path: Path) -> None:
    options = {"shard_size": "4KB", **change}
    sat_to_huggingface(archive, tmp_path / "made", **options)
    sat_to_huggingface(archive, tmp_path / "whole", **options)
    assert content(tmp_path / "made") == content(tmp_path / "whole")


def test_another_archive_starts_over(stopped: Path, tmp_path: Path) -> None:
    other = write_archive(tmp_path / "other", drawn_weights(1, **WIDER), 2, **WIDER)
    sat_to_huggingface(other, tmp_path / "made", shard_size="4KB")
    sat_to_huggingface(other, tmp_path / "whole", shard_size="4KB")
    assert content(tmp_path / "made") == content(tmp_path / "whole")


def write_alike(file: Path, tensors: dict[str, torch.Tensor], kind: str) -> None:
    """Replace a rank's file by one of the same size, times and names, but with these values."""
    status = file.stat()
    torch.serialization.set_crc32_options(kind != "zip without checksums")
    try:
        torch.save({"module": tensors}, file, _use_new_zipfile_serialization=kind != "pickle")
    finally:
        torch.serialization.set_crc32_options(True)
    if status.st_size == file.stat().st_size:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("kind", ["zip", "zip without checksums", "pickle"])
def test_another_archive_of_the_same_names_sizes_and_times_starts_over(
    kind: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    shutil.copytree(archive, source)
    file = rank_file(source, 1)
    write_alike(file, rank_tensors(source, 1), kind)
    before = file.stat()
    stop_before(4, monkeypatch)
    with pytest.raises(FullError):
        sat_to_huggingface(source, tmp_path / "made", shard_size="4KB")
    monkeypatch.undo()
    bias = "transformer.layers.0.attention.query_key_value.bias"  # in a shard that is finished
    tensors = rank_tensors(source, 1)
    write_alike(file, {**tensors, bias: tensors[bias] + 1}, kind)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    sat_to_huggingface(source, tmp_path / "made", shard_size="4KB")
    sat_to_huggingface(source, tmp_path / "whole", shard_size="4KB")
    assert content(tmp_path / "made") == content(tmp_path / "whole")


def test_the_same_archive_elsewhere_and_later_goes_on(stopped: Path, archive: Path, tmp_path: Path) -> None:
    """What counts is the content."""
    finished = shards(stopped)
    shutil.copytree(archive, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    sat_to_huggingface(tmp_path / "elsewhere", tmp_path / "made", shard_size="4KB")
    assert finished.items() < shards(tmp_path / "made").items()


def test_values_that_were_let_through_are_looked_at_again(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the shards of a run that was told to allow them."""
    source = tmp_path / "source"
    shutil.copytree(archive, source)
    bias = "transformer.layers.0.attention.query_key_value.bias"
    change_rank(source, 1, **{bias: torch.full_like(rank_tensors(source, 1)[bias], torch.nan)})
    stop_before(4, monkeypatch)
    with pytest.raises(FullError):
        sat_to_huggingface(source, tmp_path / "made", shard_size="4KB", allow_non_finite=True)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=f"{bias} holds values that are NaN"):
        sat_to_huggingface(source, tmp_path / "made", shard_size="4KB")


def test_what_cannot_be_removed_is_not_taken_for_finished(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_archive(tmp_path / "other", drawn_weights(1, **WIDER), 2, **WIDER)

    def refuse(path: Path, **_: Any) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "_rmtree_safe_fd", lambda *arguments, **_: refuse(arguments[1]))
        with pytest.raises(PermissionError):
            sat_to_huggingface(other, tmp_path / "made", shard_size="4KB")
    sat_to_huggingface(other, tmp_path / "made", shard_size="4KB")
    sat_to_huggingface(other, tmp_path / "whole", shard_size="4KB")
    assert content(tmp_path / "made") == content(tmp_path / "whole")


def test_two_at_once(archive: Path, tmp_path: Path) -> None:
    with (
        growing_folder(tmp_path / "made", {}),
        pytest.raises(ValueError, match=r"another process is writing .*made\.partial"),
    ):
        sat_to_huggingface(archive, tmp_path / "made")


@pytest.mark.parametrize("place", ["made.partial", "made.partial/model"])
def test_loading_says_that_it_is_unfinished(place: str, stopped: Path, tmp_path: Path) -> None:
    for read in (load, GLM130BForCausalLM.from_pretrained):
        with pytest.raises(CheckpointError, match=f"{place} is of a conversion that has not finished"):
            read(tmp_path / place)


def test_an_archive_that_fails_leaves_nothing(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would start over anyway."""

    def fail(*_: Any) -> None:
        raise FullError("no space left")

    monkeypatch.setattr(TorchArchive, "write", fail)
    with pytest.raises(FullError):
        to_sat(archive, tmp_path / "made", 2)
    assert not list(tmp_path.glob("made*"))
