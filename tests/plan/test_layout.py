"""Which tensors lie where: cuts, stages and device maps."""

from collections import Counter
from typing import Any, get_args

import pytest
import torch
from transformers import AutoModelForCausalLM

from glm_model.errors import UnsupportedError
from glm_model.loading import DEVICE_MAPS
from glm_model.model.split import require_tensor_parallel, stage_layers
from glm_model.options import DeviceMap
from glm_model.plan.models import preset
from glm_model.plan.placement import Split, cut, cut_dimensions, default_split, meta_model, parts_of
from tests.plan.shapes import ARCHITECTURES, small

# The cuts of GLM-130B's checkpoint (SwissArmyTransformer), written apart from the source: R rows, C columns, - whole.
CUTS = {
    "model.embed_tokens.weight": "R",
    "model.embed_tokens.weight_scale": "R",
    "model.layers.0.input_layernorm.weight": "-",
    "model.layers.0.input_layernorm.bias": "-",
    "model.layers.0.self_attn.query_key_value.weight": "R",
    "model.layers.0.self_attn.query_key_value.weight_scale": "R",
    "model.layers.0.self_attn.query_key_value.bias": "R",
    "model.layers.0.self_attn.dense.weight": "C",
    "model.layers.0.self_attn.dense.weight_scale": "-",
    "model.layers.0.self_attn.dense.bias": "-",
    "model.layers.0.post_attention_layernorm.weight": "-",
    "model.layers.0.post_attention_layernorm.bias": "-",
    "model.layers.0.mlp.dense_h_to_4h.weight": "R",
    "model.layers.0.mlp.dense_h_to_4h.weight_scale": "R",
    "model.layers.0.mlp.dense_h_to_4h.bias": "R",
    "model.layers.0.mlp.dense_4h_to_h.weight": "C",
    "model.layers.0.mlp.dense_4h_to_h.weight_scale": "-",
    "model.layers.0.mlp.dense_4h_to_h.bias": "-",
    "model.norm.weight": "-",
    "model.norm.bias": "-",
    "lm_head.weight": "R",
    "lm_head.weight_scale": "R",
}
DIMENSION = {"R": 0, "C": 1}
ROOMY = 1 << 40


def meta(architecture: str, **overrides: Any) -> Any:
    return meta_model(small(architecture, **overrides), torch.float16)


def total(model: Any) -> int:
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def test_every_tensor_is_cut_as_in_the_original() -> None:
    packed = small("glm130b", quantization_bit=4, quantization_embeddings=True, tie_word_embeddings=False, num_layers=1)
    model = meta_model(packed, torch.float16)
    assert dict(model.named_parameters()).keys() == CUTS.keys()
    assert cut_dimensions(model) == {name: DIMENSION[kind] for name, kind in CUTS.items() if kind != "-"}


@pytest.mark.parametrize("packing", [{}, {"quantization_bit": 8}, {"quantization_bit": 4}])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_ranks_hold_the_model_together(ranks: int, architecture: str, packing: dict[str, int]) -> None:
    whole, rank = meta(architecture, **packing), meta(architecture, **packing)
    cut(rank, ranks)
    parts = dict(rank.named_parameters())
    for name, parameter in whole.named_parameters():
        share = ranks if name in cut_dimensions(whole) else 1
        assert parts[name].numel() * share == parameter.numel()
        assert parts[name].dtype == parameter.dtype
    (counted, *others), _ = parts_of(whole, Split(tensor=ranks), [ROOMY] * ranks)
    assert counted.weights == total(rank)
    assert others == [counted] * (ranks - 1)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stages_of_a_pipeline(architecture: str, tied: bool) -> None:
    """Each has its layers; the first one embedding and head, the last one the norm, all of them the rotation."""
    model = meta(architecture, tie_word_embeddings=tied)
    parts, unplaced = parts_of(model, Split(pipeline=3), [ROOMY] * 3)
    layers = stage_layers(model.config, 3)
    rotation = sum(buffer.nbytes for buffer in model.buffers())
    assert unplaced == 0
    assert [part.layers for part in parts] == [len(held) for held in layers]
    assert sum(part.weights for part in parts) == total(model) + 2 * rotation
    layer = sum(tensor.nbytes for tensor in model.model.layers[0].parameters())
    norm = sum(tensor.nbytes for tensor in model.model.norm.parameters())
    ends = model.model.embed_tokens.weight.nbytes * (1 if tied else 2)
    extra = [ends, 0, norm]
    assert [part.weights - layer * part.layers - rotation for part in parts] == extra


def test_every_stage_has_a_whole_prefix() -> None:
    model = meta("chatglm", pre_seq_len=6)
    prefix = sum(tensor.nbytes for tensor in model.model.prefix_encoder.parameters())
    rotation = sum(buffer.nbytes for buffer in model.buffers())
    assert next(model.model.prefix_encoder.parameters()).dtype == torch.float32
    parts, _ = parts_of(model, Split(pipeline=2), [ROOMY] * 2)
    assert sum(part.weights for part in parts) == total(model) + prefix + rotation


def test_ranks_of_a_stage_stand_together() -> None:
    parts, _ = parts_of(meta("glm130b"), Split(tensor=2, pipeline=2), [ROOMY] * 4)
    assert parts[0] == parts[1]
    assert parts[2] == parts[3]
    first, last = stage_layers(small("glm130b"), 2)
    assert [part.layers for part in parts] == [len(first), len(first), len(last), len(last)]


@pytest.mark.parametrize("rule", ["auto", "balanced", "balanced_low_0", "sequential"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_device_map_places_everything_once(architecture: str, rule: Any) -> None:
    model = meta(architecture)
    room = total(model) // 2
    parts, unplaced = parts_of(model, Split(device_map=rule), [room] * 4)
    assert sum(part.weights for part in parts) + unplaced == total(model)
    assert sum(part.layers for part in parts) == model.config.num_layers
    assert all(part.weights <= room for part in parts)
    if rule != "sequential":
        assert sum(1 for part in parts if part.layers) >= 3


def test_the_rules_are_those_that_loading_knows() -> None:
    assert get_args(DeviceMap) == DEVICE_MAPS


def test_a_device_map_on_one_large_gpu() -> None:
    model = meta("chatglm")
    assert parts_of(model, Split(device_map="auto"), [ROOMY]) == parts_of(model, Split(), [ROOMY])


def test_what_a_device_map_has_no_room_for() -> None:
    model = meta("chatglm")
    parts, unplaced = parts_of(model, Split(device_map="auto"), [total(model) // 3])
    assert 0 < parts[0].weights <= total(model) // 3
    assert parts[0].weights + unplaced == total(model)
    assert parts[0].layers < model.config.num_layers


def test_the_map_is_that_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned on the meta device, and made for a model in memory by what `from_pretrained` calls."""
    from transformers.integrations.accelerate import _get_device_map

    config = small("glm130b", num_layers=9)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    room = [total(model) // 3] * 4
    wanted = _get_device_map(model, "auto", dict(enumerate(room)), None)
    layers = Counter(device for name, device in wanted.items() if name.startswith("model.layers."))
    parts, _ = parts_of(meta_model(config, torch.float16), Split(device_map="auto"), room)
    assert [part.layers for part in parts] == [layers[gpu] for gpu in range(4)]


@pytest.mark.parametrize(
    ("ranks", "field"),
    [(3, "num_attention_heads 96"), (16, ""), (96, "inner_hidden_size 32768"), (64, "num_attention")],
)
def test_ranks_that_divide_the_model(ranks: int, field: str) -> None:
    config = preset("glm-130b", quantization_bit=4)
    if ranks == 16:
        require_tensor_parallel(config, ranks)
        assert default_split(config, ranks) == Split(tensor=16)
        return
    field = "inner_hidden_size 32768" if ranks == 3 else field
    with pytest.raises(UnsupportedError, match=f"tensor parallel {ranks}: {field}"):
        require_tensor_parallel(config, ranks)
    assert default_split(config, ranks) == Split(pipeline=ranks)


def test_two_integers_that_share_a_byte_stay_together() -> None:
    odd_share = {"num_attention_heads": 8, "inner_hidden_size": 1348}  # 1348 / 4 is odd
    require_tensor_parallel(small("chatglm", **odd_share), 4)
    require_tensor_parallel(small("chatglm", quantization_bit=8, **odd_share), 4)
    with pytest.raises(UnsupportedError, match="inner_hidden_size 1348 does not divide by 8"):
        require_tensor_parallel(small("chatglm", quantization_bit=4, **odd_share), 4)


def test_the_published_models_in_bytes() -> None:
    """By hand: parameters of every layer, times two bytes; packed, a byte or half of one and two for every row."""
    for name, hidden, inner_rows, inner, layers, vocab in (
        ("glm-130b", 12288, 65536, 32768, 70, 150528),
        ("chatglm-6b", 4096, 16384, 16384, 28, 130528),
    ):
        rows = 3 * hidden + hidden + inner_rows + hidden
        matrices = hidden * (3 * hidden + hidden + inner_rows) + hidden * inner
        small_ones = 2 * (rows + 4 * hidden)  # biases, and two LayerNorms
        outside = 2 * (vocab * hidden + 2 * hidden)
        for bits in (0, 8, 4):
            packed = matrices * bits // 8 + 2 * rows if bits else 2 * matrices
            model = meta_model(preset(name, quantization_bit=bits), torch.float16)
            table = sum(buffer.nbytes for buffer in model.buffers())
            assert total(model) - table == layers * (packed + small_ones) + outside
            assert table < 1000
