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
import gc
import io
import json
import logging
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from glm_model import CheckpointError, load
from glm_model.checkpoint.prefix import load_prefix
from glm_model.errors import GLMError
from glm_model.modeling_glm import ChatGLMForCausalLM, GLM130BForCausalLM
from tests.checkpoints import write_checkpoint, write_json, write_weights
from tests.golden.data import CHAT, FP16, FP32, GLM130B, GOLDEN, PACKED, TUNED

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


# ---- mutations: each changes the folder and returns what it did

_STRANGE: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 1000, 100_000, 2**31, 2**63, 10**40, -(2**70), 0.5, 1e-300, 1e300,
    float("nan"), float("inf"), float("-inf"), "", "x", "4", "\x1b]52;c;AAAA\x07", "\ud800",
    "x" * 5000, "../../etc/passwd", [], [[]],
    [1, "a", None], {}, {"a": {"b": [1]}}, [None] * 100, {"content": 3}, {"content": "<sop>"},
]  # fmt: skip


def _places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a JSON document, at most 400 of them."""
    found = [path] if path else []
    if isinstance(content, dict):
        for name in list(content)[:100]:
            found += _places(content[name], (*path, name))
    elif isinstance(content, list):
        for number in range(min(5, len(content))):
            found += _places(content[number], (*path, number))
    return found[:400]


_OTHER_FIELDS = [
    "eos_token_id", "temperature", "top_k", "top_p", "max_length", "num_beams", "do_sample", "auto_map",
    "architectures", "torch_dtype", "dtype", "quantization_config", "quantization_bit",
    "quantization_embeddings", "pre_seq_len",
    "prefix_projection", "num_layers", "hidden_size", "inner_hidden_size", "num_attention_heads", "vocab_size",
    "max_sequence_length", "layernorm_epsilon", "deepnorm_alpha", "rotary_dtype", "tie_word_embeddings", "model_type",
    "initializer_range", "id2label", "num_labels", "is_encoder_decoder", "attn_implementation", "pad_token_id",
    "model_max_length", "padding_side", "chat_template", "added_tokens_decoder", "extra_special_tokens", "bos_token",
    "num_image_tokens", "truncation_side", "stop_strings", "problem_type", "use_cache", "cache_implementation",
    "model_parallel_size", "is_demo", "gated_mlp", "position_encoding_2d", "smask_token_id", "_name_or_path",
    "transformers_version", "output_attentions", "return_dict", "torchscript", "pruned_heads", "generation_config",
    "sub_configs", "base_model_tp_plan", "attribute_map", "chunk_size_feed_forward", "layer_types", "rope_parameters",
    "_attn_implementation", "_commit_hash", "init_inputs", "vocab_file", "do_lower_case", "special", "backend",
]  # fmt: skip


def _json_files(root: Path, rng: random.Random) -> Path:
    found = sorted(root.rglob("*.json")) or [root / "config.json"]
    preferred = [path for path in found if path.name in ("config.json", "model_config.json", "tokenizer_config.json")]
    return rng.choice(preferred if preferred and rng.random() < 0.7 else found)


def change_field(root: Path, rng: random.Random) -> str:
    file = _json_files(root, rng)
    if not file.exists():
        return "nothing"
    content = json.loads(file.read_text(encoding="utf-8"))
    value = rng.choice(_STRANGE)
    if rng.random() < 0.5:
        place: tuple[Any, ...] = (rng.choice(_OTHER_FIELDS),)
    else:
        place = rng.choice(_places(content) or [("a",)])
    holder = content
    for step in place[:-1]:
        holder = holder[step]
    if rng.random() < 0.15 and place[-1] in (holder if isinstance(holder, dict) else ()):
        del holder[place[-1]]
        file.write_text(json.dumps(content), encoding="utf-8")
        return f"{file.name}: {place} left out"
    if isinstance(holder, dict) and rng.random() < 0.1:
        holder[rng.choice(["\x1b[31m", "x" * 10**5, "\ud800", "auto_map"])] = value
    holder[place[-1]] = value
    file.write_text(json.dumps(content), encoding="utf-8")
    return f"{file.name}: {place} = {value!r:.60}"


def change_json_file(root: Path, rng: random.Random) -> str:
    file = _json_files(root, rng)
    content = file.read_bytes() if file.exists() else b"{}"
    kind = rng.choice(
        ["bom", "utf16", "deep", "deep object", "list", "cut", "empty", "digits", "huge", "twice", "nul", "lfs"]
    )
    file.write_bytes(
        {
            "bom": lambda: b"\xef\xbb\xbf" + content,
            "utf16": lambda: content.decode("utf-8", "replace").encode("utf-16"),
            "deep": lambda: b'{"model_type": "chatglm", "a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
            "deep object": lambda: b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
            "list": lambda: b"[" + content + b"]",
            "cut": lambda: content[: rng.randrange(max(1, len(content)))],
            "empty": lambda: b"",
            "digits": lambda: content.replace(b"3", b"3" * 5000, 1),
            "huge": lambda: content + b" " * (9 << 20),
            "twice": lambda: content + content,
            "nul": lambda: bytes(len(content)),
            "lfs": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        }[kind]()
    )
    return f"{file.name}: {kind}"


def _any_file(root: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()))


def _weights(root: Path, rng: random.Random) -> Path:
    found = [path for path in root.rglob("*") if path.suffix in (".bin", ".pt", ".safetensors") and path.is_file()]
    return rng.choice(sorted(found)) if found else _any_file(root, rng)


def cut_file(root: Path, rng: random.Random) -> str:
    file = _any_file(root, rng)
    content = file.read_bytes()
    size = rng.choice([0, 1, 8, 100, len(content) // 2, max(0, len(content) - 1), rng.randrange(len(content) + 1)])
    file.write_bytes(content[:size])
    return f"{file.name}: cut to {size}"


def flip_header(root: Path, rng: random.Random) -> str:
    """Change bytes where there is structure: the start of safetensors, the pickle and directory of an archive."""
    file = _weights(root, rng)
    content = bytearray(file.read_bytes())
    if not content:
        return "nothing"
    if file.suffix == ".safetensors":
        places = range(min(len(content), 8 + int.from_bytes(content[:8], "little") % (1 << 20)))
    else:
        start = max(0, content.find(b"data.pkl"))
        places = rng.choice(
            [range(start, min(len(content), start + 30_000)), range(max(0, len(content) - 9000), len(content))]
        )
    for _ in range(rng.choice([1, 1, 3, 20])):
        content[rng.choice(places)] = rng.randrange(256)
    file.write_bytes(content)
    return f"{file.name}: header bytes"


def flip_value(root: Path, rng: random.Random) -> str:
    file = _any_file(root, rng)
    content = bytearray(file.read_bytes())
    if not content:
        return "nothing"
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    return f"{file.name}: one bit"


def swap_files(root: Path, rng: random.Random) -> str:
    first, second = _any_file(root, rng), _any_file(root, rng)
    content = first.read_bytes()
    if rng.random() < 0.5:
        first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    return f"{first.name} swapped with {second.name}"


def lose_file(root: Path, rng: random.Random) -> str:
    file = _any_file(root, rng)
    kind = rng.choice(["gone", "renamed", "folder", "loop", "dangling", "fifo"])
    file.unlink()
    if kind == "renamed":
        (file.parent / f"x{file.name}").write_bytes(b"abc")
    elif kind == "folder":
        file.mkdir()
    elif kind == "loop":
        file.symlink_to(file.name)
    elif kind == "dangling":
        file.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(file)
    return f"{file.name}: {kind}"


def change_index(root: Path, rng: random.Random) -> str:
    found = sorted(root.glob("*.index.json"))
    if not found:
        return change_field(root, rng)
    content = json.loads(found[0].read_text(encoding="utf-8"))
    names = list(content["weight_map"])
    value = rng.choice(["x" * 5000, "a\0b", "", ".", "..", "config.json", "/etc/passwd", 3, None, "\ud800", "\x1b[2J"])
    content["weight_map"][rng.choice(names)] = value
    found[0].write_text(json.dumps(content), encoding="utf-8")
    return f"index: {value!r:.40}"


def change_tensor(root: Path, rng: random.Random) -> str:
    """Change dtype, shape, name or number of the tensors in a file."""
    file = _weights(root, rng)
    try:
        tensors: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    except Exception:
        return "nothing"
    holder = tensors["module"] if isinstance(tensors, dict) and "module" in tensors else tensors
    if not holder or not all(isinstance(value, torch.Tensor) for value in holder.values()):
        return "nothing"
    name = rng.choice(sorted(holder))
    value = holder[name]
    kind = rng.choice(
        ["uint8", "bool", "int8", "int64", "float8", "double", "complex", "shape", "empty", "scalar", "rename", "drop",
         "prefix", "escape", "long", "nan", "huge", "more", "transpose", "expand", "swap", "non-finite"]
    )  # fmt: skip
    dtypes = {
        "uint8": torch.uint8, "bool": torch.bool, "int8": torch.int8, "int64": torch.int64,
        "float8": torch.float8_e4m3fn, "double": torch.float64, "complex": torch.complex64,
    }  # fmt: skip
    if kind in dtypes:
        holder[name] = value.to(dtypes[kind])
    elif kind == "shape":
        holder[name] = value[:-1].clone() if value.ndim and len(value) > 1 else value.reshape(1, -1).clone()
    elif kind == "empty":
        holder[name] = value.new_empty(0)
    elif kind == "scalar":
        holder[name] = value.reshape(-1)[0].clone()
    elif kind in ("rename", "escape", "long"):
        holder[{"rename": f"{name}x", "escape": f"{name}\x1b]52;c;AA\x07", "long": "y" * 10**6}[kind]] = holder.pop(
            name
        )
    elif kind == "drop":
        del holder[name]
    elif kind == "prefix":
        start = rng.choice(["module.", "base_model.model.", "_orig_mod.", "glm.", "model."])
        renamed = {start + other: holder[other] for other in holder}
        holder.clear()
        holder.update(renamed)
    elif kind in ("nan", "huge", "non-finite") and value.is_floating_point():
        holder[name] = value.clone().fill_({"nan": float("nan"), "huge": 6e4, "non-finite": float("inf")}[kind])
    elif kind == "more":
        holder[f"{name}.more"] = value.clone()
    elif kind == "transpose":
        holder[name] = value.t().contiguous() if value.ndim == 2 else value.flip(0)
    elif kind == "expand" and file.suffix != ".safetensors":
        holder[name] = value.reshape(-1)[:1].clone().expand(10 ** rng.randrange(3, 12))
    elif kind == "swap":
        other = rng.choice(sorted(holder))
        holder[name], holder[other] = holder[other], value
    if file.suffix == ".safetensors":
        save_file({key: part.contiguous().clone() for key, part in holder.items()}, file, metadata={"format": "pt"})
    else:
        torch.save(tensors, file, _use_new_zipfile_serialization=rng.random() < 0.8)
    return f"{file.name}: {name} {kind}"


def change_archive(root: Path, rng: random.Random) -> str:
    """Write an archive of torch anew with another pickle, compressed, or with entries missing."""
    file = _weights(root, rng)
    if not zipfile.is_zipfile(file):
        return flip_header(root, rng)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    kind = rng.choice(["compressed", "marks", "lost", "short", "bytearray", "int", "deep", "strings"])
    name = next(entry for entry in entries if entry.endswith("data.pkl"))
    if kind == "lost":
        del entries[rng.choice(sorted(entries))]
    elif kind == "short":
        other = rng.choice(sorted(entries))
        entries[other] = entries[other][: len(entries[other]) // 2]
    elif kind != "compressed":
        entries[name] = {
            "marks": b"\x80\x02" + b"(" * rng.choice([10**4, 3 * 10**6, 10**7]) + b".",
            "bytearray": pickle.dumps({"a": bytearray(5)}, protocol=2).replace(b"latin1", b"latin1"),
            "int": pickle.dumps({"a": 1}),
            "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
            "strings": b"\x80\x02X" + struct.pack("<I", 2**31) + b"abc.",
        }[kind]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return f"{file.name}: {kind}"


def change_safetensors(root: Path, rng: random.Random) -> str:
    """Write another header in front of the values of a safetensors file."""
    found = sorted(path for path in root.rglob("*.safetensors") if path.is_file())
    if not found:
        return change_archive(root, rng)
    file = rng.choice(found)
    content = file.read_bytes()
    if len(content) < 8:
        return "nothing"
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + size])
    except ValueError:
        return "nothing"
    name = rng.choice(sorted(header))
    kind = rng.choice(["length", "offsets", "dtype", "shape", "metadata", "deep"])
    if kind == "length":
        file.write_bytes(struct.pack("<Q", rng.choice([0, 1, 2**40, 2**63, size + 8])) + content[8:])
        return f"{file.name}: length of the header"
    if kind == "metadata":
        header["__metadata__"] = rng.choice([{}, {"format": "tf"}, {"format": "\x1b"}, {"a": "b" * 10**5}])
    elif kind == "deep":
        header["__metadata__"] = {"format": "pt", "deep": "[" * 1000}
    elif name != "__metadata__":
        header[name] = dict(header[name])
        if kind == "offsets":
            header[name]["data_offsets"] = [0, rng.choice([0, 1, 2**62])]
        elif kind == "dtype":
            header[name]["dtype"] = rng.choice(
                ["F64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "X", "BF16", "F16", "I16", "U16"]
            )
        else:
            header[name]["shape"] = rng.choice([[], [0], [2**40, 2**40], [-1], header[name]["shape"][::-1]])
    written = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(written)) + written + content[8 + size :])
    return f"{file.name}: {name} {kind}"


def change_archive_folder(root: Path, rng: random.Random) -> str:
    """Change what belongs to an archive: ``latest``, the names of steps and ranks."""
    latest = root / "latest"
    if not latest.is_file():
        return change_field(root, rng)
    kind = rng.choice(["text", "bytes", "long", "other", "up", "rank", "more ranks", "step"])
    if kind == "rank":
        _weights(root, rng).unlink()
    elif kind == "more ranks":
        file = _weights(root, rng)
        shutil.copyfile(file, file.with_name("mp_rank_02_model_states.pt"))
    elif kind == "step":
        step = latest.read_text(encoding="utf-8").strip()
        if (root / step).is_dir():
            (root / step).rename(root / f"{step}0")
    else:
        latest.write_bytes(
            {"text": b"abc", "bytes": b"\xff\x00\xfe", "long": b"1" * 10**5, "other": b"7", "up": b"../x"}[kind]
        )
    return f"latest: {kind}"


def change_vocabulary(root: Path, rng: random.Random) -> str:
    file = root / "ice_text.model"
    if not file.is_file():
        return flip_value(root, rng)
    content = bytearray(file.read_bytes())
    if not content:
        return "nothing"
    for _ in range(rng.choice([1, 5, 100])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    file.write_bytes(content)
    return "ice_text.model: bytes"


MUTATIONS: list[tuple[int, Callable[[Path, random.Random], str]]] = [
    (10, change_field), (3, change_json_file), (2, cut_file), (4, flip_header), (2, flip_value), (1, swap_files),
    (2, lose_file), (2, change_index), (5, change_tensor), (2, change_archive), (3, change_safetensors),
    (1, change_archive_folder), (1, change_vocabulary),
]  # fmt: skip


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
                except (
                    ValueError,
                    OSError,
                    RuntimeError,
                    KeyError,
                    TypeError,
                    StopIteration,
                    zipfile.BadZipFile,
                ) as error:
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
