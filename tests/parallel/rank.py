"""One of the processes of a test: loads its part of every model in every layout, asks it, and writes the answers down.

python -m tests.parallel.rank FOLDER RESULTS MODEL,... TENSORxPIPELINE ...     (with torchrun's environment variables)
"""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from glm_model.checkpoint.reading import shared_over
from glm_model.errors import UnsupportedError
from glm_model.parallel.distribute import finish_part, weight_bytes
from glm_model.parallel.world import World, join_world
from tests.parallel.models import PROMPTS, ask, read, ready


def main(models: list[Path], results: Path, layouts: list[str]) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # the libraries are no garbage; looking for some takes a second at the end
    for layout in layouts:
        tensor, pipeline = map(int, layout.split("x"))
        world = join_world(tensor, pipeline, "cpu")
        answers = {folder.name: _answers(folder, world) for folder in models}
        torch.save(answers, results / f"{layout}-{world.rank}.pt")
        if layout == "2x1":
            torch.save(dict(_by_transformers(models)), results / f"native-{world.rank}.pt")


def _answers(folder: Path, world: World) -> dict[str, Any]:
    with shared_over(world):
        model = read(folder)
    finish_part(model)
    model = ready(model, folder)
    return {**ask(model), "bytes": weight_bytes(model), "saving": _refusal(model)}


def _refusal(model: Any) -> str:
    try:
        model.save_pretrained("nowhere")
    except UnsupportedError as error:
        return str(error)
    return ""


def _by_transformers(models: list[Path]) -> Iterator[tuple[str, Any]]:
    """The same plan as transformers itself applies it while it reads."""
    from transformers.distributed import DistributedConfig

    for folder in models:
        if folder.name.endswith("+head"):
            continue
        config = DistributedConfig(tp_size=2)
        model = read(folder, distributed_config=config)
        yield folder.name, model.generate(torch.tensor(PROMPTS[:1]), max_new_tokens=3, do_sample=False).tolist()


if __name__ == "__main__":
    main([Path(sys.argv[1], name) for name in sys.argv[3].split(",")], Path(sys.argv[2]), sys.argv[4:])
