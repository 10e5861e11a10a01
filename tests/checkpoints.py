"""Folders in the published ChatGLM-6B layout: random weights, reduced width, both vocabularies.

For tests, and by hand:

    python -m tests.checkpoints DIR --vocab 130528 --format bin --shards 3
    python web_demo.py --model DIR

Token ids are the published ones. The vocabulary is that of the golden tokenizer, filled up to the published size with
words that occur in no text. The folder's Python files raise when they are run.
"""

import argparse
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2
from torch import Tensor

GOLDEN_TOKENIZER = Path(__file__).parent / "data" / "golden" / "tokenizer"
VOCABULARIES = (130528, 150528)
FILES = [("safetensors", 1), ("safetensors", 3), ("bin", 1), ("bin", 3)]  # format, number of shards
FIRST_CONTROL_PIECE = 130000  # [MASK] in the published ice_text.model

# config.json as published, sizes apart.
_CONFIG = {
    "architectures": ["ChatGLMModel"],
    "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
        "AutoModelForSeq2SeqLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
    },
    "layernorm_epsilon": 1e-05,
    "max_sequence_length": 2048,
    "model_type": "chatglm",
    "position_encoding_2d": True,
    "torch_dtype": "float16",
    "transformers_version": "4.23.1",
    "use_cache": True,
}
_REMOTE_CODE = ("configuration_chatglm.py", "modeling_chatglm.py", "tokenization_chatglm.py", "quantization.py")


def write_checkpoint(
    folder: Path,
    *,
    vocab: int = 130528,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 2,
    file_format: str = "bin",
    shards: int = 1,
    half_layer_norm: bool = False,
    seed: int = 0,
    **config: Any,
) -> dict[str, Tensor]:
    """Write a whole checkpoint and return its tensors by their published names.

    Args:
        vocab: one of ``VOCABULARIES``.
        file_format: "bin" or "safetensors".
        half_layer_norm: LayerNorm in half as everything else, not in float32 as published.
        config: further fields of config.json; pre_seq_len and prefix_projection bring their tensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"hidden_size": hidden, "num_layers": layers, "num_attention_heads": heads, "inner_hidden_size": 4 * hidden}
    fields = {**_CONFIG, **special_tokens(vocab), **sizes, "vocab_size": vocab, **config}
    write_json(folder / "config.json", fields)
    write_tokenizer(folder, vocab)
    for name in _REMOTE_CODE:
        (folder / name).write_text(f"raise RuntimeError('{name} of the checkpoint was run')\n", encoding="utf-8")
    tensors = random_tensors(fields, torch.float16 if half_layer_norm else torch.float32, seed)
    write_weights(folder, tensors, file_format, shards)
    return tensors


def special_tokens(vocab: int) -> dict[str, int]:
    """The published ids; config.json of the larger vocabulary leaves those of the masks to the class's defaults."""
    if vocab == 150528:
        return {"bos_token_id": 150004, "eos_token_id": 150005, "pad_token_id": 20003}
    ids = {"mask_token_id": 130000, "gmask_token_id": 130001, "bos_token_id": 130004, "eos_token_id": 130005}
    return {**ids, "pad_token_id": 3}


def write_tokenizer(folder: Path, vocab: int) -> None:
    """ice_text.model and tokenizer_config.json; the larger vocabulary is the smaller one behind the image tokens."""
    source = GOLDEN_TOKENIZER / ("v1.1" if vocab == 130528 else "v1.0")
    (folder / "tokenizer_config.json").write_bytes((source / "tokenizer_config.json").read_bytes())
    (folder / "ice_text.model").write_bytes(_filled_vocabulary())


@cache
def _filled_vocabulary() -> bytes:
    """The golden vocabulary with words put in before its control pieces, which so get their published ids."""
    model = sentencepiece_model_pb2.ModelProto.FromString((GOLDEN_TOKENIZER / "v1.1" / "ice_text.model").read_bytes())
    pieces = list(model.pieces)
    first_control = [piece.piece for piece in pieces].index("[MASK]")
    filling = [_word(number) for number in range(FIRST_CONTROL_PIECE - first_control)]
    del model.pieces[:]
    model.pieces.extend([*pieces[:first_control], *filling, *pieces[first_control:]])
    return bytes(model.SerializeToString())


def _word(number: int) -> Any:
    return sentencepiece_model_pb2.ModelProto.SentencePiece(piece=f"▁w{number:06}", score=-100.0)


def random_tensors(config: dict[str, Any], layer_norm: torch.dtype, seed: int) -> dict[str, Tensor]:
    """Weights by their published names: half but for LayerNorm, the head equal to the embedding."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in tensor_shapes(config):
        values = torch.randn(shape, generator=generator) * 0.02
        if "layernorm" in name:
            tensors[name] = (values + name.endswith("weight")).to(layer_norm)
        else:
            tensors[name] = values.to(torch.float32 if "prefix_encoder" in name else torch.float16)
    rotated = config["hidden_size"] // config["num_attention_heads"] // 2
    for layer in range(config["num_layers"]):
        frequencies = 1.0 / 10000 ** (torch.arange(0, rotated, 2) / rotated)
        tensors[f"transformer.layers.{layer}.attention.rotary_emb.inv_freq"] = frequencies.half()
    tensors["lm_head.weight"] = tensors["transformer.word_embeddings.weight"]
    return tensors


def tensor_shapes(config: dict[str, Any]) -> Iterable[tuple[str, tuple[int, ...]]]:
    hidden, inner = config["hidden_size"], config["inner_hidden_size"]
    yield "transformer.word_embeddings.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_layers"]):
        start = f"transformer.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield from _weight_and_bias(start + norm, (hidden,))
        yield from _weight_and_bias(f"{start}attention.query_key_value", (3 * hidden, hidden))
        yield from _weight_and_bias(f"{start}attention.dense", (hidden, hidden))
        yield from _weight_and_bias(f"{start}mlp.dense_h_to_4h", (inner, hidden))
        yield from _weight_and_bias(f"{start}mlp.dense_4h_to_h", (hidden, inner))
    yield from _weight_and_bias("transformer.final_layernorm", (hidden,))
    if config.get("pre_seq_len"):
        yield from _prefix_shapes(config)


def _weight_and_bias(name: str, shape: tuple[int, ...]) -> Iterable[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _prefix_shapes(config: dict[str, Any]) -> Iterable[tuple[str, tuple[int, ...]]]:
    hidden, start = config["hidden_size"], "transformer.prefix_encoder."
    width = 2 * config["num_layers"] * hidden
    projects = config.get("prefix_projection", False)
    yield f"{start}embedding.weight", (config["pre_seq_len"], hidden if projects else width)
    if projects:
        yield from _weight_and_bias(f"{start}trans.0", (hidden, hidden))
        yield from _weight_and_bias(f"{start}trans.2", (width, hidden))


def write_weights(folder: Path, tensors: dict[str, Tensor], file_format: str = "bin", shards: int = 1) -> None:
    """One file, or several and their index, named as published."""
    stem, index = ("pytorch_model", "pytorch_model.bin.index.json")
    if file_format == "safetensors":
        stem, index = ("model", "model.safetensors.index.json")
    if shards == 1:
        _save(folder / f"{stem}.{file_format}", tensors)
        return
    weight_map: dict[str, str] = {}
    names = list(tensors)
    for shard in range(shards):
        file = f"{stem}-{shard + 1:05}-of-{shards:05}.{file_format}"
        part = names[shard::shards]
        _save(folder / file, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / index, {"metadata": {"total_size": size}, "weight_map": weight_map})


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a ChatGLM-6B checkpoint of random weights and reduced width.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocab", type=int, choices=VOCABULARIES, default=130528)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--format", choices=["bin", "safetensors"], default="bin", dest="file_format")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = vars(parser.parse_args())
    write_checkpoint(arguments.pop("folder"), **arguments)


if __name__ == "__main__":
    main()
