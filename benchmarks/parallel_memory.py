"""Peak memory of every rank that loads its part of a model and runs it, against its share of the weights.

    python benchmarks/parallel_memory.py
    python benchmarks/parallel_memory.py --bits 4 --layouts 2x1 4x1 2x2 --layers 28      # tensor x pipeline

Checkpoints of random weights, layers as wide as ChatGLM-6B's, are written to a temporary folder and loaded in float32
on the CPU, one process per rank. Counted is how far a process's resident memory rises at its highest over what it was
before loading (Linux). Some 30 MB of it are the program's own, whatever the model, so that a small one is no measure.
Takes 2 minutes, 6 GB of memory and 3 GB of disk. Prints a table for each kind of weights, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import AutoModelForCausalLM

from glm_model import ChatGLMConfig, ChatGLMForCausalLM
from glm_model.checkpoint.reading import shared_over
from glm_model.parallel.distribute import finish_part, weight_bytes
from glm_model.parallel.world import join_world

SIZES = {"vocab_size": 32768, "hidden_size": 4096, "num_attention_heads": 32, "inner_hidden_size": 16384}
LAYERS = {0: 3, 4: 10, 8: 6}  # by bits: 1.5 to 3 GB of weights
IDS = {"bos_token_id": 32004, "eos_token_id": 32005, "mask_token_id": 32000, "gmask_token_id": 32001}


def main() -> int:
    """Measure, print, return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, choices=(0, 4, 8), nargs="+", default=[0, 4], help="0: float32")
    parser.add_argument("--layers", type=int, help="default: 3 of float, 6 of INT8, 10 of INT4")
    parser.add_argument("--layouts", nargs="+", default=["2x1", "1x2", "4x1", "2x2"])
    parser.add_argument("--rank-of", nargs=2, metavar=("LAYOUT", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank_of:
        print(json.dumps(measure(*arguments.rank_of)))
        return 0
    results = [measure_all(bits, arguments.layers or LAYERS[bits], arguments.layouts) for bits in arguments.bits]
    print(json.dumps({"benchmark": "parallel_memory", "results": results}))
    return 0


def measure_all(bits: int, layers: int, layouts: list[str]) -> dict[str, Any]:
    """Every rank of every layout of one model, printed as a table too."""
    with tempfile.TemporaryDirectory() as folder:
        whole = write_model(Path(folder), bits, layers)
        rows = [row for layout in layouts for row in ranks_of(layout, folder, whole)]
    print(f"{f'INT{bits}' if bits else 'float32'}, {layers} layers, {whole / 1e6:.0f} MB of weights")
    print("layout  rank  weights  of its share     peak  of its share")
    for row in rows:
        print(
            f"{row['layout']:>6} {row['rank']:>5} {row['weights'] / 1e6:>5.0f} MB {row['weights_of_share']:>13.1%}"
            f" {row['peak'] / 1e6:>5.0f} MB {row['peak_of_share']:>13.1%}"
        )
    return {"bits": bits, "layers": layers, "weights": whole, "ranks": rows}


def write_model(folder: Path, bits: int, layers: int) -> int:
    """Write the checkpoint; returns the bytes of its weights once loaded."""
    model = ChatGLMForCausalLM(ChatGLMConfig(**SIZES, **IDS, num_layers=layers, quantization_bit=bits))
    model.save_pretrained(folder)
    return weight_bytes(model)


def ranks_of(layout: str, folder: str, whole: int) -> list[dict[str, Any]]:
    """Run every rank of a layout in a process of its own."""
    size = processes_of(layout)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    environment |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    command = [sys.executable, __file__, "--rank-of", layout, folder]
    processes = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=-1, text=True)
        for rank in range(size)
    ]
    measured = [json.loads(process.communicate()[0]) for process in processes]
    share = whole / size
    return [
        {"layout": layout, "rank": rank, **row, **{f"{name}_of_share": value / share for name, value in row.items()}}
        for rank, row in enumerate(measured)
    ]


def processes_of(layout: str) -> int:
    """Processes of a layout such as 2x2."""
    tensor, pipeline = map(int, layout.split("x"))
    return tensor * pipeline


def measure(layout: str, folder: str) -> dict[str, int]:
    """In a rank: bytes of its weights, and by how much its memory peaked over what it was before loading."""
    tensor, pipeline = map(int, layout.split("x"))
    world = join_world(tensor, pipeline, "cpu")
    before = resident("VmRSS")
    with shared_over(world):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    finish_part(model)
    prompt = torch.tensor([[*range(10, 40), IDS["gmask_token_id"], IDS["bos_token_id"]]])
    model.generate(prompt, max_new_tokens=4, do_sample=False)
    return {"weights": weight_bytes(model), "peak": resident("VmHWM") - before}


def resident(field: str) -> int:
    """VmRSS, the resident memory now, or VmHWM, its highest so far, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
