"""Private names of the libraries below us: every one that is used stands in PRIVATE, with the reason.

A private name may change with any release, so whoever adds one says here why no public name will do, and whoever
moves to another release has a list to look through. Found are, in ``glm_model`` and ``app``:

- imports of private names, or from private modules;
- private attributes of an object, written out or as a string (``getattr``), unless they are our own;
- private methods and attributes of a library's class that a class of ours overrides.
"""

import ast
import importlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.quantizers import HfQuantizer

from tests.test_imports import ROOT, module_of, sources, top

LIBRARIES = {
    "torch",
    "transformers",
    "gradio",
    "huggingface_hub",
    "accelerate",
    "tokenizers",
    "safetensors",
    "starlette",
}

_MODEL = "PreTrainedModel asks a model class for it, as every model of transformers sets it: "
_GENERATE = "of generate(), which has no public place for it: "
_TOKENIZER = "a tokenizer in Python must define it, as transformers' own do: "
_PACKED = "integers and scales must keep their dtype, where nn.Module casts or copies all alike: "

PRIVATE: dict[str, str] = {
    # torch
    "torch.distributed.tensor.placement_types._StridedShard": "the cut of a GeGLU layer, half by half; transformers' "
    "packed_colwise uses it for the weight, but cuts the bias in one piece",
    "torch.nn.modules.module._has_any_global_hook": "a native step must not pass by a hook on all modules",
    "torch.utils._python_dispatch.TorchDispatchMode": "the plan counts the memory of a pass; torch documents it so",
    "torch.utils._pytree.tree_leaves": "the tensors among the results of an operation, in that count",
    "_apply": _PACKED + "half(), float() and to() all end in it",
    "_load_from_state_dict": _PACKED + "load_state_dict() would cast",
    "_cdata": "the identity of a storage, in the plan's count",
    "_forward_hooks": "a native step must not pass by hooks, and torch has no method that lists them",
    "_forward_pre_hooks": "as _forward_hooks",
    "_modules": "a native step sees by the dictionary, in a microsecond, that no module has been exchanged",
    "_parameters": "as _modules, for parameters",
    "_version": "how often a tensor was changed in place; what was computed of it is kept until then",
    "_checkpoint_offset": "where in an archive a tensor's bytes are, as torch says of one loaded without them",
    "_utils": "torch._utils, as a name in torch's archives",
    "_rebuild_tensor_v2": "as _utils: the function that every tensor of an archive names",
    # transformers: loading and saving
    "_load_pretrained_model": "what must happen between a model and its tensors has no public place; see "
    "glm_model.checkpoint.reading.CheckedLoading",
    "_keys_to_ignore_on_load_missing": _MODEL + "a P-Tuning prefix may be missing, and the warning is ours",
    "_keys_to_ignore_on_load_unexpected": _MODEL + "frequencies in published files, tensors of other pipeline stages",
    "_keep_in_fp32_modules_strict": _MODEL + "LayerNorm is float32 in the published files",
    "_tied_weights_keys": _MODEL + "head and embedding are one; with packed ones their scales too",
    "_init_weights": _MODEL + "how packed layers and rotary frequencies are initialized",
    "_is_hf_initialized": "how transformers marks a loaded parameter; its public initializers look at it too, but need "
    "the value at hand, and to pack a random one takes minutes",
    "_process_model_before_weight_loading": "the abstract method of HfQuantizer, for what a quantizer does then",
    "_process_model_after_weight_loading": "as _process_model_before_weight_loading",
    "_no_split_modules": _MODEL + "a device map must not tear a block apart",
    "_skip_keys_device_placement": _MODEL + "accelerate must not move the cache from device to device",
    "_tp_plan": _MODEL + "how the head is cut for tensor parallel ranks",
    # transformers: the forward pass
    "_attn_implementation": "which attention was chosen; the public argument attn_implementation only sets it",
    "_check_and_adjust_attn_implementation": "refuses flash attention, which cannot hold GLM's mask, whoever sets it",
    "_supports_sdpa": _MODEL + "which attention implementations it has",
    "_supports_flex_attn": "as _supports_sdpa",
    "_supports_attention_backend": "as _supports_sdpa",
    "_can_compile_fullgraph": _MODEL + "a static cache may be compiled",
    "_can_record_outputs": _MODEL + "where hidden states and attentions come from",
    "_active_collector": "whether hooks that transformers left on the layers do something in this call",
    # transformers: generate()
    "_beam_search": _GENERATE + "end tokens do not reach the place where beams are scored",
    "_check_early_stop_heuristic": _GENERATE + "scores of beams as in 4.27",
    "_update_finished_beams": _GENERATE + "scores of beams as in 4.27",
    "_eos_token_tensor": _GENERATE + "the end tokens that it has settled upon",
    "_prefill": _GENERATE + "refuses chunks of a bidirectional context, and starts a batch decoded step by step",
    "_prepare_attention_mask_for_generation": _GENERATE + "padding stands in front, elsewhere its id is text",
    "_prepare_cache_for_generation": _GENERATE + "a cache that grows in place",
    "_prepare_generated_length": _GENERATE + "a prompt as long as max_length gets one token, as in 4.27",
    "_prepare_position_ids_for_generation": _GENERATE + "positions are derived from all ids instead",
    "_update_model_kwargs_for_generation": _GENERATE + "batches with any cache, decoded step by step",
    # transformers: the tokenizer
    "_tokenize": _TOKENIZER + "text to pieces",
    "_convert_id_to_token": _TOKENIZER + "one id to its piece",
    "_convert_token_to_id": _TOKENIZER + "one piece to its id",
    "_decode": _TOKENIZER + "spaces of SentencePiece, as published",
    "_pad": _TOKENIZER + "pads masks and positions too, as published",
    "_add_tokens": _TOKENIZER + "its own would give a piece of the vocabulary a second id",
    "_added_tokens_decoder": _TOKENIZER + "added tokens by id; the public property makes a copy at every look",
    "_added_tokens_encoder": "as _added_tokens_decoder",
    "_update_total_vocab_size": _TOKENIZER + "its own counts pieces that were added again as new",
    "_encode_plus": _TOKENIZER + "its own ignores return_offsets_mapping, which is refused here",
    "_from_pretrained": _TOKENIZER + "the vocabulary's file has two names, and files of the folder must not replace it",
}

# Of a room that may be missing: its modules cannot be imported then, and none of them has a class of LIBRARIES.
OPTIONAL = {"triton", "lm_eval"}

_PRIVATE = re.compile(r"_[a-zA-Z]\w*(?<!_)")
# Documented in spite of the underscore.
_PUBLIC = {"_asdict", "_replace", "_make", "_fields"}
# What Python and torch put into every class with such a base.
_BY_METACLASS = {"_abc_impl", "_backward_cls"}
# Classes whose private attributes we might meet on an object.
_FOREIGN = (
    nn.Module(),
    nn.Parameter(torch.empty(0)),
    torch.empty(0).untyped_storage(),
    PreTrainedConfig(),
    GenerationConfig(),
    PreTrainedModel,
    GenerationMixin,
    HfQuantizer,
    transformers.PreTrainedTokenizer,
)


@cache
def foreign_names() -> frozenset[str]:
    """Private attributes of the classes above, and of what they are made of."""
    return frozenset(name for each in _FOREIGN for name in dir(each) if _PRIVATE.fullmatch(name))


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in (*sources("glm_model"), *sources("app")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


@cache
def own_names() -> frozenset[str]:
    """What our files define: functions, classes, variables, parameters, and attributes set on ``self`` or ``cls``."""
    found = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    found.add(node.name)
                case ast.Name(ctx=ast.Store()):
                    found.add(node.id)
                case ast.arg():
                    found.add(node.arg)
                case ast.Attribute(value=ast.Name(id="self" | "cls"), ctx=ast.Store()):
                    found.add(node.attr)
                case ast.alias(asname=str(name)):
                    found.add(name)
    return frozenset(found)


def private_imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if top(name) in LIBRARIES and any(_PRIVATE.fullmatch(part) for part in name.split(".")):
                yield name, node.lineno


def private_attributes(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Attributes by name; not those of a module of Python, and not those of ``self`` that we have set ourselves."""
    python = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if top(alias.name) in sys.stdlib_module_names
    }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=receiver)) if receiver in python:
                continue
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name) if name in own_names():
                continue
            case ast.Attribute(attr=name) if _PRIVATE.fullmatch(name) and name not in _PUBLIC:
                if name in foreign_names() or name not in own_names():
                    yield name, node.lineno
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(value=str(name)), *_]
            ):
                if _PRIVATE.fullmatch(name) and name not in own_names():
                    yield name, node.lineno
            case ast.Constant(value=str(name)) if name in foreign_names():
                yield name, node.lineno


def our_classes() -> Iterator[type]:
    for path in (*sources("glm_model"), *sources("app")):
        if path.stem != "__main__":
            try:
                module = importlib.import_module(module_of(path))
            except ModuleNotFoundError as error:
                if top(error.name or "") not in OPTIONAL:
                    raise
                continue
            yield from (
                each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__
            )


def overrides(ours: type) -> Iterator[str]:
    """Private names of a class of ours that a library's base has too."""
    bases = [base for base in ours.__mro__ if top(base.__module__) in LIBRARIES]
    for name in vars(ours):
        if _PRIVATE.fullmatch(name) and name not in _BY_METACLASS and any(name in vars(base) for base in bases):
            yield name


@cache
def found() -> dict[str, list[str]]:
    """Every private name that is used, and where."""
    places = defaultdict(list)
    for path, tree in trees():
        for name, line in (*private_imports(tree), *private_attributes(tree)):
            places[name].append(f"{path.relative_to(ROOT)}:{line}")
    for ours in our_classes():
        for name in overrides(ours):
            places[name].append(f"{ours.__module__}.{ours.__name__} overrides it")
    return dict(places)


def test_every_private_name_has_its_reason() -> None:
    unexplained = {name: places for name, places in found().items() if name not in PRIVATE}
    assert not unexplained


def test_no_reason_outlives_its_name() -> None:
    assert not PRIVATE.keys() - found().keys()


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("from torch.nn.modules.module import _has_any_global_hook", "torch.nn.modules.module._has_any_global_hook"),
        ("import torch._dynamo", "torch._dynamo"),
        ("from torch._dynamo import disable", "torch._dynamo.disable"),
    ],
)
def test_imports_are_seen(code: str, name: str) -> None:
    assert [each for each, _ in private_imports(ast.parse(code))] == [name]


@pytest.mark.parametrize("code", ["import torch", "from ._own import _name", "from os import _exit"])
def test_imports_that_are_nothing_to_explain(code: str) -> None:
    assert not list(private_imports(ast.parse(code)))


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("module._forward_hooks.clear()", "_forward_hooks"),
        ("getattr(weight, '_unknown_anywhere', False)", "_unknown_anywhere"),
        ("kinds = ('_forward_pre_hooks',)", "_forward_pre_hooks"),
        ("something._unknown_anywhere", "_unknown_anywhere"),
    ],
)
def test_attributes_are_seen(code: str, name: str) -> None:
    assert [each for each, _ in private_attributes(ast.parse(code))] == [name]


@pytest.mark.parametrize("code", ["import os\nos._exit(1)", "record._asdict()", "x.__dict__", "structure._fields_"])
def test_attributes_that_are_nothing_to_explain(code: str) -> None:
    assert not list(private_attributes(ast.parse(code)))


def test_overrides_are_seen() -> None:
    class Ours(nn.Module):
        def _apply(self, fn: object, recurse: bool = True) -> "Ours":
            return self

        def _our_own(self) -> None: ...

    assert list(overrides(Ours)) == ["_apply"]
