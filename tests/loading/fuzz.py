"""Damage whole checkpoints in seeded ways, and see that each ends in a sentence or in the answer of the whole one.

    python -m tests.loading.fuzz --cases 5000

Every case is a copy of a folder or archive with one or two mutations, loaded in a forked child with limits of time and
memory. The outcomes that are allowed:

- "sentence": a GLMError of one line that names a file or a tensor of the folder;
- "same": the same logits as the undamaged folder;
- "value": other logits from a change that nobody can detect: a stored value, or a field that has another legal value.

All others are faults: an exception of another kind, a signal, more than 10 s of computing or a minute of waiting, or
more memory than twice the files and 500 MB.
"""

import argparse
import contextlib
import ctypes
import gc
import io
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from glm_model import CheckpointError, load
from glm_model.checkpoint.prefix import load_prefix
from glm_model.errors import GLMError
from glm_model.modeling_glm import ChatGLMForCausalLM, GLM130BForCausalLM
from tests.checkpoints import write_checkpoint, write_json, write_weights
from tests.golden.data import CHAT, FP16, FP32, GLM130B, GOLDEN, PACKED, TUNED
from tests.loading.damage import MUTATIONS

SECONDS = 10
EXTRA_BYTES = 500 << 20
ALLOWED = ("sentence", "same", "value")
_FOLDERS = [CHAT, FP16, *PACKED, *TUNED]
_ARCHIVES = [f"{GLM130B}/{name}" for name in ("tp1", "tp2", "tp2_int4", "tp2_int8")]
_ARCHIVE_TOKENS = {
    "bos_token_id": 507, "eos_token_id": 508, "mask_token_id": 500, "gmask_token_id": 501, "smask_token_id": 502,
    "pad_token_id": 0,
}  # fmt: skip
_IDS = torch.tensor([[5, 9, 11, 7]])


class Source(NamedTuple):
    """A whole checkpoint: its name, the files that are copied, and whether it is an archive."""

    name: str
    files: tuple[Path, ...]
    root: Path
    is_archive: bool


class Outcome(NamedTuple):
    """How a case ended, and what there is to tell of it."""

    kind: str
    told: str


# ---- what is damaged


def sources(folder: Path, published_sizes: bool) -> list[Source]:
    """Write the whole checkpoints below ``folder`` and return them: both formats, one file and shards, and archives.

    Args:
        folder: an empty folder.
        published_sizes: also make folders with the published vocabularies, which take a second to load.
    """
    made = []
    for name in _FOLDERS:
        for kind in ("safetensors", "bin"):
            root = folder / f"{name.replace('/', '-')}-{kind}"
            root.mkdir()
            for file in (GOLDEN / name).iterdir():
                if file.name in ("config.json", "ice_text.model", "tokenizer_config.json") or file.stem in (
                    {"safetensors": "model", "bin": "pytorch_model"}[kind],
                ):
                    shutil.copyfile(file, root / file.name)
            made.append(_source(root, is_archive=False))
    root = folder / "shards"
    _write_shards(root)
    made.append(_source(root, is_archive=False))
    if published_sizes:
        for kind, vocab in (("bin", 130528), ("safetensors", 150528)):
            root = folder / f"published-{vocab}"
            write_checkpoint(root, vocab=vocab, file_format=kind, shards=2, hidden=16)
            made.append(_source(root, is_archive=False))
    for name in _ARCHIVES:
        root = folder / name.replace("/", "-")
        shutil.copytree(GOLDEN / name, root)
        described = json.loads((GOLDEN / GLM130B / "model_config.json").read_text(encoding="utf-8"))
        write_json(root / "model_config.json", described | _ARCHIVE_TOKENS)
        made.append(_source(root, is_archive=True))
    return made


def _source(root: Path, is_archive: bool) -> Source:
    files = tuple(sorted(path for path in root.rglob("*") if path.is_file()))
    return Source(root.name, files, root, is_archive)


def _write_shards(root: Path) -> None:
    """The golden chat model in three shards, with a generation configuration and a map of special tokens."""
    root.mkdir()
    for name in ("config.json", "ice_text.model", "tokenizer_config.json"):
        shutil.copyfile(GOLDEN / CHAT / name, root / name)
    write_weights(root, load_file(GOLDEN / CHAT / "model.safetensors"), "safetensors", shards=3)
    write_json(
        root / "generation_config.json", {"eos_token_id": 766, "pad_token_id": 3, "top_p": 0.7, "do_sample": True}
    )
    write_json(root / "special_tokens_map.json", {"bos_token": "<sop>", "eos_token": "<eop>"})


# ---- running a case


def answer(source: Source, root: Path) -> bytes:
    """Return the logits of a checkpoint, and with a tokenizer also the ids of a text, as bytes."""
    model: Any
    made = io.BytesIO()
    if source.is_archive:
        from glm_model.conversion.sat import read_sat_checkpoint

        config, tensors = read_sat_checkpoint(root)
        model = GLM130BForCausalLM.from_pretrained(None, config=config, state_dict=tensors)
    elif any(file.name == "ice_text.model" for file in source.files):
        model, tokenizer = load(root, device="cpu")
        made.write(str(tokenizer("你好 hello")["input_ids"]).encode())
    elif "ptuning" in source.name:
        model = ChatGLMForCausalLM.from_pretrained(GOLDEN / FP32)
        load_prefix(model, root)
        model.eval()
    else:
        model = ChatGLMForCausalLM.from_pretrained(root)
    with torch.inference_mode():
        ids = torch.cat([_IDS, torch.tensor([[model.config.gmask_token_id, model.config.bos_token_id]])], dim=-1)
        made.write(model.float()(ids).logits.numpy().tobytes())
    return made.getvalue()


def _child(source: Source, root: Path, writing: int, wanted: bytes | None) -> None:
    """Try one case and write its outcome; the process ends here."""
    said: list[str] = []
    try:
        made = answer(source, root)
        outcome = "same" if made == wanted else "value"
        said.append(made.hex() if wanted is None else "")
    except GLMError as error:
        message = str(error)
        named = [str(root), "transformer.", "prefix_encoder.", *(file.name for file in source.files)]
        names_place = any(name in message for name in named)
        outcome = "sentence" if names_place and message.isprintable() and len(message) < 1200 else "bad sentence"
        said.append(message)
    except BaseException as error:
        outcome = f"bare {type(error).__name__}"
        frames = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)][
            -4:
        ]
        said.append(f"{str(error)[:200]!r} at {frames}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with os.fdopen(writing, "w", encoding="utf-8", errors="replace") as pipe:
        json.dump([outcome, said[0], peak], pipe)


def run_case(source: Source, root: Path, wanted: bytes | None = None) -> tuple[str, str]:
    """Load ``root`` in a child and return the kind of its outcome and what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            logging.disable(logging.CRITICAL)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(6 * SECONDS)  # of the clock, which other processes slow down
            spent = int(sum(os.times()[:2]))
            resource.setrlimit(resource.RLIMIT_CPU, (spent + SECONDS, spent + 2 * SECONDS))
            # Address space beyond what the parent has: a runaway allocation fails instead of taking the machine down.
            now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + (4 << 30), now + (4 << 30)))
            _reset_peak()
            with as_any_user():
                _child(source, root, writing, wanted)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        written = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status or not written:
        return f"signal {-status}", "too long" if status in (-signal.SIGALRM, -signal.SIGXCPU) else ""
    outcome, said, peak = json.loads(written)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    files = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    if peak > base + 2 * files + EXTRA_BYTES:
        return "memory", f"{(peak - base) >> 20} MB, {said[:200]}"
    return str(outcome), str(said)


@contextlib.contextmanager
def as_any_user() -> Iterator[None]:
    """Give up the superuser's right to read what nobody may read while the context is open (Linux)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, of 32 capabilities each
    libc = ctypes.CDLL(None)
    is_linux = hasattr(libc, "capget") and libc.capget(header, sets) == 0
    had = sets[0]
    if is_linux:
        sets[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.capset(header, sets)
    try:
        yield
    finally:
        if is_linux:
            sets[0] = had
            libc.capset(header, sets)


def _reset_peak() -> None:
    """Let the peak of memory start at what is in use now (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class Fuzzer:
    """Whole checkpoints, their answers, and the cases made of them.

    Args:
        folder: an empty folder for the checkpoints and their damaged copies.
        seed: cases are numbered; number and seed make a case.
        published_sizes: see :func:`sources`.
    """

    def __init__(self, folder: Path, seed: int = 0, published_sizes: bool = False) -> None:
        self.folder, self.seed = folder, seed
        (folder / "whole").mkdir()
        self.sources = sources(folder / "whole", published_sizes)
        gc.freeze()  # otherwise each child copies the pages of all libraries' objects
        self.wanted: dict[str, bytes] = {}
        for source in self.sources:
            kind, said = run_case(source, source.root)
            if kind != "value":
                raise CheckpointError(f"the undamaged {source.name} does not load: {kind} {said}")
            self.wanted[source.name] = bytes.fromhex(said)

    def run(self, number: int) -> tuple[Outcome, str]:
        """Run case ``number`` and return its outcome, and in words what was damaged."""
        rng = random.Random(f"{self.seed}-{number}")
        source = rng.choice(self.sources)
        root = self.folder / f"case-{number}"
        shutil.copytree(source.root, root)
        weights, mutations = zip(*MUTATIONS, strict=True)
        done = []
        try:
            for mutation in rng.choices(mutations, weights, k=rng.choice([1, 1, 1, 2])):
                try:
                    done.append(mutation(root, rng))
                except Exception as error:
                    done.append(f"{mutation.__name__} failed: {error!r:.80}")  # the first one left nothing to change
            kind, said = run_case(source, root, self.wanted[source.name])
        finally:
            shutil.rmtree(root, ignore_errors=True)
        return Outcome(kind, said), f"{number} {source.name}: {'; '.join(done)}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Damage checkpoints and load them.")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--verbose", action="store_true", help="print every case")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # A mutation that reads a file without end must not take the machine down.
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    counts: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), options.seed, published_sizes=True)
        for number in range(options.first, options.first + options.cases):
            outcome, damage = fuzzer.run(number)
            counts[outcome.kind] += 1
            if options.verbose or outcome.kind not in ALLOWED:
                print(f"{outcome.kind}: {damage} -> {outcome.told}"[:900], flush=True)
    print(
        f"{options.cases} cases, seed {options.seed}, {time.monotonic() - started:.0f} s: {dict(counts.most_common())}"
    )
    return 0 if set(counts) <= set(ALLOWED) else 1


if __name__ == "__main__":
    sys.exit(main())
