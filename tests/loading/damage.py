"""Seeded damage to checkpoints: each function changes a folder in one way and returns in words what it did.

A folder may have been damaged before, so that a function may find less than it needs; it then does nothing, or raises
what reading the folder raises.
"""

import json
import os
import pickle
import random
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.golden.data import CHAT, FP16, GLM130B, GOLDEN, PACKED, TUNED

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
    found = sorted(path for path in root.rglob("*.json") if path.is_file()) or [root / "config.json"]
    preferred = [path for path in found if path.name in ("config.json", "model_config.json", "tokenizer_config.json")]
    return rng.choice(preferred if preferred and rng.random() < 0.7 else found)


def change_field(root: Path, rng: random.Random) -> str:
    file = _json_files(root, rng)
    if not file.is_file():
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
    content = file.read_bytes() if file.is_file() else b"{}"
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
    found = sorted(path for path in root.glob("*.index.json") if path.is_file())
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
    _save(tensors, file, rng)
    return f"{file.name}: {name} {kind}"


def _save(content: Any, file: Path, rng: random.Random) -> None:
    """Write what a file of weights is to hold: as safetensors if it is called so, else as either format of torch."""
    if file.suffix == ".safetensors":
        save_file(
            {name: value.contiguous().clone() for name, value in content.items()}, file, metadata={"format": "pt"}
        )
    else:
        torch.save(content, file, _use_new_zipfile_serialization=rng.random() < 0.8)


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


def _another(value: Any, rng: random.Random) -> Any:
    """Return a value like another one: of another type, sign or size, or inside something."""
    kinds: list[Callable[[], Any]] = [
        lambda: [value], lambda: {"content": value}, lambda: str(value), lambda: not value, lambda: None,
    ]  # fmt: skip
    if isinstance(value, int | float):
        kinds += [lambda: -value, lambda: value + 1, lambda: value * 2, lambda: float(value), lambda: value + 0.5]
        kinds += [lambda: value * 10**18, lambda: 10**400, lambda: -float("inf"), lambda: -0.0]
    elif isinstance(value, str):
        kinds += [lambda: value.upper(), lambda: f"{value}\n", lambda: value[:-1], lambda: value.encode().hex()]
        kinds += [lambda: f"\u202e{value}", lambda: value * 10_000, lambda: value + "\0"]
    elif isinstance(value, list | dict):
        kinds += [lambda: type(value)(), lambda: [value] * 50, lambda: list(value)]
    return rng.choice(kinds)()


def change_value(root: Path, rng: random.Random) -> str:
    """Change the value of a field that is there to one like it."""
    file = _json_files(root, rng)
    if not file.is_file():
        return "nothing"
    content = json.loads(file.read_text(encoding="utf-8"))
    place = rng.choice(_places(content))
    holder = content
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = _another(holder[place[-1]], rng)
    file.write_text(json.dumps(content), encoding="utf-8")
    return f"{file.name}: {place} = {holder[place[-1]]!r:.60}"


def change_json_text(root: Path, rng: random.Random) -> str:
    """Write a JSON file in another way: other words, marks, encodings, and names that are there twice."""
    file = _json_files(root, rng)
    if not file.is_file():
        return "nothing"
    text = file.read_text(encoding="utf-8")
    kind = rng.choice(
        ["twice the same", "twice another", "utf-32", "latin-1", "cr", "comment", "comma", "quotes", "exponent",
         "python", "zero", "surrogate", "bom inside", "long name", "nested names", "infinite"]
    )  # fmt: skip
    name, value = rng.choice(sorted(json.loads(text).items()))
    end = text.rstrip().removesuffix("}")
    text = {
        "twice the same": lambda: f"{end}, {json.dumps(name)}: {json.dumps(value)}}}",
        "twice another": lambda: f"{end}, {json.dumps(name)}: {json.dumps(_another(value, rng))}}}",
        "utf-32": lambda: text,
        "latin-1": lambda: f'{end}, "a": "\xe4"}}',
        "cr": lambda: text.replace("\n", "\r"),
        "comment": lambda: f"// a comment\n{text}",
        "comma": lambda: f"{end},}}",
        "quotes": lambda: text.replace('"', "'"),
        "exponent": lambda: f"{end}, {json.dumps(name)}: {rng.choice(['1e400', '-1e400', '1e5', '2e0', '1E-400'])}}}",
        "python": lambda: text.replace("true", "True").replace("null", "None"),
        "zero": lambda: text.replace(": 1", ": 01", 1),
        "surrogate": lambda: f'{end}, "\\ud800": 1}}',
        "bom inside": lambda: text.replace('"', '"\ufeff', 1),
        "long name": lambda: f'{end}, "{"n" * 300_000}": {{"\x7f\x9b": [1e999]}}}}',
        "nested names": lambda: end + ', "a": ' + '{"a":' * 900 + "1" + "}" * 900 + "}",
        "infinite": lambda: f"{end}, {json.dumps(name)}: {rng.choice(['Infinity', '-Infinity', 'NaN', '[NaN]'])}}}",
    }[kind]()
    encoding = {"utf-32": "utf-32", "latin-1": "latin-1"}.get(kind, "utf-8")
    file.write_bytes(text.encode(encoding, "replace"))
    return f"{file.name}: {kind} ({name})"


def mix_folders(root: Path, rng: random.Random) -> str:
    """Put a file of another checkpoint into the place of one of the same kind, or beside the others."""
    names = [CHAT, FP16, *PACKED, *TUNED, *(f"{GLM130B}/{part}" for part in ("tp1", "tp2", "tp2_int4", "tp2_int8"))]
    other = GOLDEN / rng.choice(names)
    found = sorted(path for path in other.rglob("*") if path.is_file() and "expected" not in path.name)
    taken = rng.choice(found)
    same = [path for path in root.rglob("*") if path.is_file() and path.suffix == taken.suffix]
    target = rng.choice(sorted(same)) if same and rng.random() < 0.7 else root / taken.name
    shutil.copyfile(taken, target)
    return f"{target.name}: {taken.relative_to(GOLDEN)}"


def link_file(root: Path, rng: random.Random) -> str:
    """Put a link, a device or a folder into the place of a file, or take away the right to read it."""
    file = _any_file(root, rng)
    kind = rng.choice(
        ["the folder", "above", "zeros", "random", "null", "pipe of a process", "far", "folder with files",
         "far folder", "unreadable", "unreadable folder", "socket"]
    )  # fmt: skip
    if kind.startswith("unreadable"):
        (file if kind == "unreadable" else file.parent).chmod(0)
        return f"{file.name}: {kind}"
    kept = file.rename(root.parent / f"{root.name}-{file.name}")
    try:
        if kind == "folder with files":
            file.mkdir()
            shutil.copyfile(kept, file / file.name)
        elif kind == "far":
            (root / "far").mkdir()
            shutil.copyfile(kept, root / "far" / "blob")
            file.symlink_to(root / "far" / "blob")  # as the cache of Hugging Face has them
        elif kind == "far folder":
            (root / "far").mkdir()
            file.symlink_to(root / "far", target_is_directory=True)
        elif kind == "socket":
            os.mknod(file, 0o140600)
        else:
            places = {"the folder": ".", "above": "..", "zeros": "/dev/zero", "random": "/dev/urandom"}
            file.symlink_to({**places, "null": "/dev/null", "pipe of a process": "/proc/self/mem"}[kind])
    finally:
        kept.unlink()
    return f"{file.name}: {kind}"


def grow_file(root: Path, rng: random.Random) -> str:
    """Put bytes before, into or behind a file, take some out, or let it end in a hole."""
    file = _any_file(root, rng)
    content = file.read_bytes()
    place, more = rng.randrange(len(content) + 1), rng.randbytes(rng.choice([1, 8, 64, 5000]))
    kind = rng.choice(["before", "inside", "behind", "out", "zeros", "hole", "twice", "page"])
    if kind == "hole":
        os.truncate(file, len(content) + (100 << 20))
        return f"{file.name}: a hole at its end"
    file.write_bytes(
        {
            "before": lambda: more + content,
            "inside": lambda: content[:place] + more + content[place:],
            "behind": lambda: content + more,
            "out": lambda: content[:place] + content[place + len(more) :],
            "zeros": lambda: content[:place] + bytes(len(content) - place),
            "twice": lambda: content + content,
            "page": lambda: b"<!DOCTYPE html><html><title>429 Too Many Requests</title></html>\n",
        }[kind]()
    )
    return f"{file.name}: {kind}"


def add_file(root: Path, rng: random.Random) -> str:
    """Add what other programs put into such folders, whole or not, or more than one format of the weights."""
    texts: dict[str, str] = {
        "generation_config.json": '{"max_length": "x", "eos_token_id": [1, "a"]}',
        "adapter_config.json": '{"peft_type": "LORA"}',
        "added_tokens.json": rng.choice(['{"<a>": -1}', '{"<a>": 3}', '{"<a>": 9999999}', "[]", '{"": 5}']),
        "special_tokens_map.json": rng.choice(['{"bos_token": 3}', '{"eos_token": "nothing"}', "[]", '{"a": NaN}']),
        "tokenizer.json": rng.choice(["{}", "x", '{"version": "1.0", "model": {"type": "BPE"}}']),
        "chat_template.jinja": rng.choice(["{{", "{% for %}", "{{ 10**10**10 }}", "{% include 'x' %}", "\0"]),
        "additional_chat_templates/a.jinja": "{{",
        "tokenizer.model": "x",
        "vocab.txt": "a\nb\n",
        "merges.txt": "#version\n",
        "modeling_chatglm.py": "raise SystemExit(3)",
        "configuration_chatglm.py": "raise SystemExit(3)",
        "custom_generate/generate.py": "raise SystemExit(3)",
        "preprocessor_config.json": "[",
        "processor_config.json": "[",
        "model.safetensors.index.json": '{"metadata": {}, "weight_map": {"a": "model.safetensors"}}',
        "pytorch_model.bin.index.json": "{",
        "pytorch_model.bin": "x",
        "model.safetensors": "x",
        "config.json.bak": "x",
        "latest": rng.choice(["1", "release", ""]),
        "quantize_config.json": '{"bits": 3}',
        "model_config.json": '{"num_attention_heads": 3}',
    }
    name = rng.choice(sorted(texts))
    file = root / name
    file.parent.mkdir(exist_ok=True)
    if rng.random() < 0.1:
        file.mkdir(exist_ok=True)
    else:
        file.write_text(texts[name], encoding="utf-8")
    return f"{name}: {texts[name]!r:.40}"


def change_shards(root: Path, rng: random.Random) -> str:
    """Let an index say another place of a tensor, or list tensors or shards that are not there."""
    found = sorted(path for path in root.glob("*.index.json") if path.is_file())
    if not found:
        return change_tensors(root, rng)
    content = json.loads(found[0].read_text(encoding="utf-8"))
    places = content["weight_map"]
    name, other = rng.choice(sorted(places)), rng.choice(sorted(places))
    kind = rng.choice(
        ["itself", "above", "same file", "folder", "other shard", "less", "more", "names", "no metadata", "total",
         "case", "all in one", "another format", "metadata"]
    )  # fmt: skip
    if kind in ("itself", "above", "same file", "folder", "another format"):
        (root / "folder.safetensors").mkdir(exist_ok=True)
        places[name] = {
            "itself": found[0].name, "above": f"../{root.name}/{places[name]}", "same file": f"./{places[name]}",
            "folder": "folder.safetensors", "another format": "ice_text.model",
        }[kind]  # fmt: skip
    elif kind == "other shard":
        places[name] = rng.choice(sorted(set(places.values())))
    elif kind == "less":
        del places[name]
    elif kind == "more":
        places[f"{name}_more"] = places[name]
    elif kind == "names":
        places[name], places[other] = places[other], places[name]
    elif kind == "no metadata":
        content["metadata"] = rng.choice([None, [], "x", 3])
    elif kind in ("total", "metadata"):
        content["metadata"] = {"total_size": rng.choice([0, -1, 10**30, "x", None]), "format": rng.choice(["tf", 3])}
    elif kind == "case":
        places[name] = places[name].upper()
    else:
        content["weight_map"] = dict.fromkeys(places, places[name])
    found[0].write_text(json.dumps(content), encoding="utf-8")
    return f"index: {name} {kind}"


def change_tensors(root: Path, rng: random.Random) -> str:
    """Change all tensors of a file: their names, dtypes or layouts, or how many files and names hold them."""
    file = _weights(root, rng)
    is_safe = file.suffix == ".safetensors"
    content: Any = load_file(file) if is_safe else torch.load(file, weights_only=True)
    holder = content.get("module", content)
    names = sorted(holder)
    kind = rng.choice(
        ["permuted", "upper", "half", "double", "bfloat16", "int8", "sparse", "requires grad", "shared", "strided",
         "negated", "parameters", "inside", "bytes", "numbers", "later layers", "no layers", "meta",
         "quantized", "reversed"]
    )  # fmt: skip
    if is_safe and kind in ("sparse", "requires grad", "negated", "parameters", "inside", "bytes", "meta", "quantized"):
        kind = "permuted"
    changes: dict[str, Callable[[Any], Any]] = {
        "half": torch.Tensor.half, "double": torch.Tensor.double, "bfloat16": torch.Tensor.bfloat16,
        "int8": torch.Tensor.char, "sparse": torch.Tensor.to_sparse, "negated": lambda value: torch._neg_view(-value),
        "requires grad": lambda value: value.requires_grad_() if value.is_floating_point() else value,
        "parameters": lambda value: torch.nn.Parameter(value, requires_grad=value.is_floating_point()),
        "meta": lambda value: value.to("meta"),
        "quantized": lambda value: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
        "strided": lambda value: torch.stack([value, value], dim=-1)[..., 0],
    }  # fmt: skip
    changed = dict(holder)
    if kind in changes:
        some = names if rng.random() < 0.7 else [rng.choice(names)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch will give up its quantized tensors
            changed.update({name: changes[kind](holder[name]) for name in some})
    elif kind == "permuted":
        changed = dict(zip(names, (holder[name] for name in rng.sample(names, len(names))), strict=True))
    elif kind == "upper":
        changed = {name.upper(): value for name, value in holder.items()}
    elif kind == "shared":
        changed = dict.fromkeys(names, holder[names[0]])
    elif kind == "inside":
        changed = {"state_dict": holder, "epoch": 3}
    elif kind == "bytes":
        changed = {name.encode(): value for name, value in holder.items()}
    elif kind == "numbers":
        changed = dict(enumerate(holder.values()))
    elif kind == "later layers":
        changed = {name.replace("layers.", "layers.1"): value for name, value in holder.items()}
    elif kind == "no layers":
        changed = {name: value for name, value in holder.items() if "layers." not in name}
    elif kind == "reversed":
        changed = {name: holder[name] for name in reversed(list(holder))}
    holder.clear()
    holder.update(changed)
    _save(content, file, rng)
    return f"{file.name}: {kind}"


def change_zip(root: Path, rng: random.Random) -> str:
    """Change the directory of an archive of torch: names, sizes, places and flags of its entries."""
    file = _weights(root, rng)
    if not zipfile.is_zipfile(file):
        return flip_header(root, rng)
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        entries = [(entry.filename, archive.read(entry)) for entry in infos]
    kind = rng.choice(
        ["byteorder", "name in capitals", "entry twice", "no folder", "other folder", "version", "torchscript",
         "short all", "longer entry", "swapped entries", "shuffled", "comment", "place", "size", "packed size", "crc",
         "flags", "method"]
    )  # fmt: skip
    fields = {"crc": (16, "I"), "packed size": (20, "I"), "size": (24, "I"), "place": (42, "I"), "flags": (8, "H"),
              "method": (10, "H")}  # fmt: skip
    if kind in fields:
        content = bytearray(file.read_bytes())
        places = [
            place for place in range(archive.start_dir, len(content) - 46) if content[place : place + 4] == b"PK\1\2"
        ]
        offset, form = fields[kind]
        place = rng.choice(places) + offset
        (old,) = struct.unpack_from(f"<{form}", content, place)
        (other,) = struct.unpack_from(f"<{form}", content, rng.choice(places) + offset)
        value = rng.choice([0, 1, 8, old + 1, max(0, old - 1), old // 2, other, 2**16 - 1])
        struct.pack_into(f"<{form}", content, place, value % (2 ** (8 * struct.calcsize(form))))
        file.write_bytes(content)
        return f"{file.name}: {kind} in the directory, {old} to {value}"
    number = rng.randrange(len(entries))
    name, content_ = entries[number]
    folder = name.split("/")[0]
    if kind == "byteorder":
        entries = [
            (entry, rng.choice([b"big", b"x", b""]) if entry.endswith(kind) else part) for entry, part in entries
        ]
    elif kind == "name in capitals":
        entries[number] = (name.upper(), content_)
    elif kind == "entry twice":
        entries.append((name.upper() if rng.random() < 0.5 else name, rng.randbytes(len(content_))))
    elif kind in ("no folder", "other folder"):
        start = "" if kind == "no folder" else "../other/"
        entries = [(start + entry.partition("/")[2], part) for entry, part in entries]
    elif kind == "version":
        entries = [(entry, b"99\n" if entry.endswith("version") else part) for entry, part in entries]
    elif kind == "torchscript":
        entries.append((f"{folder}/constants.pkl", b"\x80\x02)."))
    elif kind == "short all":
        entries = [(entry, part[:-4] if "/data/" in entry else part) for entry, part in entries]
    elif kind == "longer entry":
        entries[number] = (name, content_ + bytes(4))
    elif kind == "swapped entries":
        other_name, other_content = entries[rng.randrange(len(entries))]
        entries = [(entry, {name: other_content, other_name: content_}.get(entry, part)) for entry, part in entries]
    elif kind == "shuffled":
        rng.shuffle(entries)
    with zipfile.ZipFile(file, "w") as archive:
        for entry, part in entries:
            archive.writestr(entry, part)
        if kind == "comment":
            archive.comment = b"PK\5\6" + rng.randbytes(300)
    return f"{file.name}: {kind} ({name})"


_GLOBALS = [
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor", "torch FloatStorage",
    "torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter", "torch._utils _rebuild_qtensor",
    "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_meta_tensor_no_storage", "torch FloatTensor",
    "torch._utils _rebuild_nested_tensor", "torch._utils _rebuild_wrapper_subclass", "torch.storage UntypedStorage",
    "torch._utils _rebuild_device_tensor_from_numpy", "torch._tensor _rebuild_from_type_v2", "torch HalfStorage",
    "torch.nn.parameter Parameter", "torch Size", "torch device", "torch float32", "collections Counter",
    "builtins set", "builtins complex", "_codecs encode", "torch.storage TypedStorage", "torch.sparse FloatTensor",
    "os system", "builtins eval", "torch Tensor", "torch._utils _rebuild_device_tensor_from_cpu_tensor",
]  # fmt: skip


def _pickle(rng: random.Random) -> bytes:
    """Return a pickle of operations that torch allows, in an order that nobody has written."""
    made = bytearray(b"\x80\x02}")
    parts: list[Callable[[], bytes]] = [
        lambda: b"c" + rng.choice(_GLOBALS).replace(" ", "\n").encode() + b"\n",
        lambda: rng.choice([b"N", b"\x88", b"\x89", b")", b"]", b"}", b"\x8f"]),
        lambda: b"J" + struct.pack("<i", rng.choice([0, 1, -1, 5, 10**6, 2**31 - 1, -(2**31)])),
        lambda: b"K" + bytes([rng.randrange(256)]),
        lambda: b"\x8a\x08" + struct.pack("<q", rng.choice([2**40, 2**62, -(2**62)])),
        lambda: b"G" + struct.pack(">d", rng.choice([0.5, float("nan"), 1e308])),
        lambda: b"X" + struct.pack("<I", 7) + rng.choice([b"storage", b"cpu\0abc", b"cuda:99", b"meta\0\0\0"]),
        lambda: b"X\x01\0\0\0" + rng.choice([b"0", b"1", b"a", b"."]),
        lambda: b"X\x03\0\0\0cpu",
        lambda: rng.choice([b"(", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u"]),
        lambda: rng.choice([b"R", b"b", b"\x81", b"Q"]),
        lambda: rng.choice([b"q", b"h"]) + bytes([rng.randrange(4)]),
        lambda: b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x10tQ",
    ]  # fmt: skip
    for _ in range(rng.choice([3, 10, 40])):
        made += rng.choice(parts)()
    return bytes(made) + b"."


def _tensor_in_pickle(rng: random.Random) -> bytes:
    """Return the pickle of a dictionary of one tensor with odd arguments."""
    number = lambda: rng.choice([0, 1, 2, 16, 1000, -1, 2**31, 2**62, -(2**63)])  # noqa: E731
    sizes = lambda: tuple(number() for _ in range(rng.choice([0, 1, 2, 64, 1000])))  # noqa: E731
    integer = lambda value: b"\x8a\x08" + struct.pack("<q", value)  # noqa: E731
    together = lambda values: b"(" + b"".join(map(integer, values)) + b"t"  # noqa: E731
    text = lambda value: b"X" + struct.pack("<I", len(value)) + value  # noqa: E731
    kind = b"c" + rng.choice([b"torch\nFloatStorage\n", b"torch\nHalfStorage\n", b"torch.storage\nUntypedStorage\n"])
    key, where = rng.choice([b"0", b"1", b"../0", b"9" * 300, b""]), rng.choice([b"cpu", b"cuda:0", b"meta", b"x"])
    storage = b"(" + text(b"storage") + kind + text(key) + text(where) + integer(number()) + b"tQ"
    arguments = storage + integer(number()) + together(sizes()) + together(sizes()) + b"\x89)"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"
    return b"\x80\x02}" + text(b"transformer.word_embeddings.weight") + tensor + b"s."


def change_pickle(root: Path, rng: random.Random) -> str:
    """Put another pickle into an archive of torch, or take a byte of it for another operation."""
    file = _weights(root, rng)
    if not zipfile.is_zipfile(file):
        if rng.random() < 0.3:
            file.write_bytes(_pickle(rng))
        return flip_header(root, rng)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(entry for entry in entries if entry.endswith("data.pkl"))
    kind = rng.choice(["operations", "tensor", "bytes", "bytes", "numbers"])
    if kind in ("operations", "tensor"):
        entries[name] = (_pickle if kind == "operations" else _tensor_in_pickle)(rng)
    else:
        content = bytearray(entries[name])
        for _ in range(rng.choice([1, 1, 3])):
            if kind == "bytes":
                content[rng.randrange(len(content))] = rng.choice(b"(t.RbQq)}]NKJMXh\x85\x86\x87\x88\x89\x8a\x81se")
            else:
                places = [place for place, byte in enumerate(content[:-1]) if byte in (75, 77, 104)]
                content[rng.choice(places) + 1] = rng.randrange(256)
        entries[name] = bytes(content)
    with zipfile.ZipFile(file, "w") as archive:  # with the right checksums
        for entry, part in entries.items():
            archive.writestr(entry, part)
    return f"{file.name}: pickle, {kind}"


def change_name(root: Path, rng: random.Random) -> str:
    """Rename a file of weights to another format, number or case, or a tokenizer's file to that of another model."""
    file = _any_file(root, rng)
    names = ["model.safetensors", "pytorch_model.bin", "model.fp16.safetensors", "tokenizer.model", "spiece.model",
             file.name.upper(), f"{file.name} (1)", f"{file.name}.part", "model-00001-of-00002.safetensors",
             "adapter_model.bin", "mp_rank_01_model_states.pt", "mp_rank_000_model_states.pt"]  # fmt: skip
    name = rng.choice(names)
    file.rename(file.with_name(name))
    return f"{file.name} renamed to {name}"


MUTATIONS: list[tuple[int, Callable[[Path, random.Random], str]]] = [
    (10, change_field), (3, change_json_file), (2, cut_file), (4, flip_header), (2, flip_value), (1, swap_files),
    (2, lose_file), (2, change_index), (5, change_tensor), (2, change_archive), (3, change_safetensors),
    (1, change_archive_folder), (1, change_vocabulary), (6, change_value), (3, change_json_text), (2, mix_folders),
    (2, link_file), (3, grow_file), (2, add_file), (2, change_shards), (4, change_tensors), (4, change_zip),
    (4, change_pickle), (1, change_name),
]  # fmt: skip
