"""Converting GLM-130B archives of growing size: is memory flat, and how fast is it next to copying the same files?

    python benchmarks/sat_conversion.py
    python benchmarks/sat_conversion.py --sizes 4 8 16 --hidden 4096 --ranks 8 --folder /data

Makes archives of random float16 weights, a layer more for every so many bytes. From each, every time in a process of
its own, with the files it reads out of the page cache: a copy, a Hugging Face folder, the same in INT4, and from the
former an archive of twice the ranks. Rates count the bytes read; what is written is on the disk when the clock stops.
Needs disk for three times the largest size, and leaves nothing there. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.quantized_matmul import cpu_name
from glm_model import GLM130BConfig
from glm_model.conversion.convert import sat_to_huggingface, to_sat
from glm_model.conversion.sat_config import write_description
from glm_model.conversion.shapes import part_shape, tensor_shapes
from glm_model.conversion.tensor_parallel import cut_of
from glm_model.conversion.torch_archive import TorchArchive

TOKENS = {
    "mask_token_id": 1,
    "gmask_token_id": 2,
    "smask_token_id": 3,
    "bos_token_id": 4,
    "eos_token_id": 5,
    "pad_token_id": 0,
}
COPIED_AT_ONCE = 16 << 20  # bytes
IMPORTS = "imports alone"
# What is done, from what to what, and whether the next step needs it.
STEPS = [
    (IMPORTS, "archive", "nothing", False),
    ("copy", "archive", "copied", False),
    ("to safetensors", "archive", "float", True),
    ("to safetensors, INT4", "archive", "packed", False),
    ("to SAT, twice the ranks", "float", "back", False),
]


def main() -> int:
    """Measure, print, return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1, 2, 4], help="of the archives, in GB")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--shard-size", default="200MB")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: that of temporary files)")
    parser.add_argument("--step", nargs=3, metavar=("WHAT", "FROM", "TO"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        what, source, target = arguments.step
        print(json.dumps(run_step(what, source, target, arguments)))
        return 0
    needed, free = 3e9 * max(arguments.sizes), shutil.disk_usage(arguments.folder or tempfile.gettempdir()).free
    if free < needed:
        parser.error(f"needs {needed / 1e9:.0f} GB of disk, {free / 1e9:.0f} GB are free")
    report([result for size in arguments.sizes for result in measure(size, arguments)], arguments)
    return 0


def measure(gigabytes: float, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Time and peak memory of every step for one size."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder, results = Path(name), []
        layers = write_archive(folder / "archive", gigabytes, arguments.hidden, arguments.ranks)
        for what, source, target, kept in STEPS:
            forget(folder / source)
            own = ["--ranks", str(arguments.ranks), "--shard-size", arguments.shard_size]
            command = [sys.executable, __file__, *own, "--step", what, str(folder / source), str(folder / target)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.append({"layers": layers, "step": what, **json.loads(done.stdout.splitlines()[-1])})
            if not kept:
                shutil.rmtree(folder / target, ignore_errors=True)
        return results


def write_archive(folder: Path, gigabytes: float, hidden: int, ranks: int) -> int:
    """An archive of about that size, in the proportions of GLM-130B but for its vocabulary; returns its layers."""
    layer_bytes = 2 * 12 * hidden * hidden  # attention 4 H^2, GeGLU 3 x 8/3 H^2, in float16
    sizes = {
        "vocab_size": 64 * ranks,
        "hidden_size": hidden,
        "num_layers": max(1, round(gigabytes * 1e9 / layer_bytes)),
        "inner_hidden_size": 8 * hidden // 3 // 128 * 128,
    }
    config = GLM130BConfig(**sizes, num_attention_heads=hidden // 64, **TOKENS)
    parts = {
        name: torch.empty(part_shape(name, shape, ranks), dtype=torch.float16, device="meta")
        for name, shape in tensor_shapes(sizes, 0)
    }
    random = torch.randn(ranks + max(part.numel() for part in parts.values())).mul_(0.02).half()
    (folder / "1").mkdir(parents=True)
    for rank in range(ranks):
        with TorchArchive(folder / "1" / f"mp_rank_{rank:02}_model_states.pt", parts) as archive:
            for name, part in parts.items():
                start = 0 if cut_of(name) == "whole" else rank  # equal parts of two ranks are refused as copies
                archive.write(name, random[start : start + part.numel()].view(part.shape))
    (folder / "latest").write_text("1")
    write_description(folder / "model_config.json", config, ranks)
    return config.num_layers


def files_in(folder: Path) -> list[Path]:
    """Return all files of a folder and of those in it."""
    return [file for file in folder.rglob("*") if file.is_file()]


def forget(folder: Path) -> None:
    """Drop files, which are on the disk already, from the page cache."""
    for file in files_in(folder):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_step(what: str, source: str, target: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: seconds, bytes read, and the most memory that it ever held, mapped files included."""
    start = time.perf_counter()
    if what == "copy":
        copy(Path(source), Path(target))
    elif what == "to safetensors":
        sat_to_huggingface(source, target, shard_size=arguments.shard_size)
    elif what == "to safetensors, INT4":
        sat_to_huggingface(source, target, shard_size=arguments.shard_size, bits=4)
    elif what == "to SAT, twice the ranks":
        to_sat(source, target, 2 * arguments.ranks)
    seconds = time.perf_counter() - start
    read = sum(file.stat().st_size for file in files_in(Path(source)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"read_gb": read / 1e9, "seconds": seconds, "mb_per_s": read / seconds / 1e6, "peak_mb": peak / 1e6}


def copy(source: Path, target: Path) -> None:
    """Every file, one after the other, onto the disk."""
    for file in files_in(source):
        copied = target / file.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as reader, copied.open("wb") as writer:
            shutil.copyfileobj(reader, writer, COPIED_AT_ONCE)
            writer.flush()
            os.fsync(writer.fileno())


def report(results: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Print the table, then the JSON line."""
    layer, shards = 24 * arguments.hidden**2 / 1e6, arguments.shard_size
    print(f"{cpu_name()}; {arguments.ranks} ranks, {layer:.0f} MB a layer over all ranks, shards of {shards}")
    print("peak: resident memory in MB, mapped files included; over: the same less that of the imports\n")
    print(f"{'GB':>5} {'layers':>6}  {'step':<24}{'s':>7}{'MB/s':>7}{'of copy':>9}{'peak':>7}{'over':>7}")
    for result in results:
        start = f"{result['read_gb']:5.2f} {result['layers']:6}  {result['step']:<24}"
        if result["step"] == IMPORTS:
            print(f"{start}{result['peak_mb']:30.0f}")
            continue
        same_size = {row["step"]: row for row in results if row["layers"] == result["layers"]}
        ratio = result["mb_per_s"] / same_size["copy"]["mb_per_s"]
        over = result["peak_mb"] - same_size[IMPORTS]["peak_mb"]
        speed = f"{result['seconds']:7.1f}{result['mb_per_s']:7.0f}{ratio:9.0%}"
        print(f"{start}{speed}{result['peak_mb']:7.0f}{over:7.0f}")
    print(json.dumps({"benchmark": "sat_conversion", "cpu": cpu_name(), "shard_size": shards, "results": results}))


if __name__ == "__main__":
    sys.exit(main())
