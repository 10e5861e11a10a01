"""Every optional part of the package can be deleted: that costs its capability and nothing else.

Each case copies the package without some files and lets a fresh interpreter import the copy, load the demo model, pack
it and answer a message, alone and in a batch. To add a case, add a line to ``PARTS``.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import glm_model

PACKAGE = Path(glm_model.__file__).parent


class Part(NamedTuple):
    """Files that can be missing.

    Attributes:
        paths: of files or folders, relative to the package; patterns are allowed.
        capability: an expression over ``glm_model`` and ``kernels`` (names of the kernels, best first), true where the
            files are there and false where they are not.
    """

    paths: tuple[str, ...]
    capability: str


PARTS = {
    "Triton": Part(("kernels/triton*",), "'triton' in kernels"),
    "onnxruntime": Part(("kernels/onnx.py",), "'onnxruntime' in kernels"),
    "cpm_kernels": Part(("kernels/cpm.py",), "'cpm_kernels' in kernels"),
    "the native step": Part(("model/native_step.py", "model/native_rows.py"), "decoder._fast_step is not None"),
    "CUDA graphs": Part(
        ("generation/cuda_graphs.py", "generation/slot_rows.py"),
        "len(passes._step_makers) == 1 and len(row_passes._makers) == 1",
    ),
    "prompt lookup": Part(("generation/prompt_lookup.py",), "answer._guesser_maker is not None"),
    "published beams": Part(
        ("generation/published_beams.py",), "'_update_finished_beams' in dir(model) and 'PublishedBeamScores' in bases"
    ),
    "several processes": Part(("parallel",), "hasattr(model, 'share_out')"),
}

# Arguments: the folder of the demo model, a JSON list of expressions. Prints a JSON object.
PROGRAM = """
import json, sys
import glm_model
from glm_model.generation import answer, batch, passes, row_passes
from glm_model.generation.stream import TextChunk, write_text
from glm_model.kernels import dispatch
from glm_model.model import decoder

model, tokenizer = glm_model.load(sys.argv[1], quantize="int4", device="cpu")
prompt = tokenizer.apply_chat_template([{"role": "user", "content": "你好"}], add_generation_prompt=True)["input_ids"]
sampling = glm_model.SamplingOptions(temperature=0)
chunks = list(glm_model.stream_text(model, tokenizer, list(prompt), sampling))
company = batch.Batch(model)
member = company.insert(write_text(model, tokenizer, list(prompt), sampling))
in_batch = []
while len(company):
    in_batch += [item.text for _, item in company.turn() if isinstance(item, TextChunk)]
names = {
    "glm_model": glm_model,
    "kernels": [kernel.name for kernel in dispatch._KERNELS],
    "model": model, "bases": [base.__name__ for base in type(model).__mro__],
    "decoder": decoder, "passes": passes, "answer": answer, "row_passes": row_passes,
}
print(json.dumps({
    "package": glm_model.__file__,
    "answer": [chunk.text for chunk in chunks],
    "in a batch": in_batch,
    "products": dispatch.describe(),
    "capabilities": [bool(eval(expression, names)) for expression in json.loads(sys.argv[2])],
}))
"""


def run(root: Path, capabilities: list[str]) -> dict[str, Any]:
    """Return what the program says of the package that lies in a folder."""
    command = [sys.executable, "-c", PROGRAM, str(glm_model.DEMO_MODEL), json.dumps(capabilities)]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=240)
    assert not done.returncode, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert Path(said["package"]).parent == root / PACKAGE.name
    return said


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """What the whole package says, all capabilities among it."""
    return run(PACKAGE.parent, [part.capability for part in PARTS.values()])


@pytest.mark.parametrize("name", PARTS)
def test_a_part_can_be_missing(name: str, whole: dict[str, Any], tmp_path: Path) -> None:
    part = PARTS[name]
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in part.paths:
        missing = list((tmp_path / PACKAGE.name).glob(pattern))
        assert missing, f"nothing is called {pattern}"
        for path in missing:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = run(tmp_path, [part.capability for part in PARTS.values()])
    assert said["answer"] == whole["answer"] != []
    assert said["in a batch"] == whole["in a batch"] == whole["answer"]
    assert said["products"] == whole["products"]
    assert whole["capabilities"] == [True] * len(PARTS)
    assert said["capabilities"] == [other != name for other in PARTS]
