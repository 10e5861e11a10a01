"""Who gets what: the layers of stages, and models that do not divide."""

import itertools

import pytest

from glm_model import ChatGLMConfig, GLM130BConfig, UnsupportedError
from glm_model.loading import load
from glm_model.model.configuration import GLMConfig
from glm_model.model.split import require_tensor_parallel, stage_layers

CONFIGS = [
    ChatGLMConfig.preset("chatglm-6b"),
    ChatGLMConfig.preset("chatglm-6b", quantization_bit=4),
    ChatGLMConfig.preset("demo", tie_word_embeddings=False),
    GLM130BConfig.preset("glm-130b", num_layers=9),
]


def heaviest(config: GLMConfig, counts: tuple[int, ...]) -> float:
    """Bytes in half precision of the largest stage that has so many layers; written out once more."""
    h, inner = config.hidden_size, config.inner_hidden_size
    mlp = 3 * h * inner if config.gated_mlp else 2 * h * inner
    layer = (4 * h * h + mlp) * (config.quantization_bit or 16) / 8
    embeddings = 2 * config.vocab_size * h * (1 if config.tie_word_embeddings else 2)
    return max(layer * count + (0 if stage else embeddings) for stage, count in enumerate(counts))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.model_type}-{config.num_layers}")
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_no_other_split_has_a_smaller_largest_stage(config: GLMConfig, stages: int) -> None:
    split = stage_layers(config, stages)
    assert [layer for held in split for layer in held] == list(range(config.num_layers))
    every = itertools.product(range(1, config.num_layers + 1), repeat=stages - 1)
    counts = [(*first, config.num_layers - sum(first)) for first in every if sum(first) < config.num_layers]
    assert heaviest(config, tuple(map(len, split))) == min(heaviest(config, each) for each in counts)


def test_every_stage_has_a_layer() -> None:
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "inner_hidden_size": 256, "num_layers": 3}
    wide = ChatGLMConfig.preset("chatglm-6b", **sizes)
    assert list(map(len, stage_layers(wide, 3))) == [1, 1, 1]
    with pytest.raises(UnsupportedError, match="pipeline parallel 4: the model has 3 layers"):
        stage_layers(wide, 4)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("num_attention_heads", {"num_attention_heads": 6, "hidden_size": 96}),
        ("inner_hidden_size", {"inner_hidden_size": 1028, "quantization_bit": 4}),
        ("vocab_size", {"vocab_size": 3742}),
    ],
)
def test_what_does_not_divide_is_named(field: str, change: dict[str, int]) -> None:
    config = ChatGLMConfig.preset("demo", **change)
    require_tensor_parallel(config, 2)
    with pytest.raises(UnsupportedError, match=f"tensor parallel 4: {field} {change[field]} does not divide by"):
        require_tensor_parallel(config, 4)


@pytest.mark.parametrize("preset", [ChatGLMConfig.preset("chatglm-6b"), GLM130BConfig.preset("glm-130b")])
def test_the_published_models_divide_by_eight(preset: GLMConfig) -> None:
    require_tensor_parallel(preset, 8)


def test_processes_that_were_not_started_are_asked_for() -> None:
    with pytest.raises(
        ValueError, match=r"2 x pipeline_parallel 2 needs 4 .* there are 1.*torchrun --nproc-per-node 4"
    ):
        load(tensor_parallel=2, pipeline_parallel=2)
    with pytest.raises(ValueError, match="pipeline_parallel must be at least 1, not 0"):
        load(pipeline_parallel=0)


def test_a_device_map_is_for_one_process() -> None:
    with pytest.raises(ValueError, match="use one or the other"):
        load(tensor_parallel=2, device_map="auto")
    with pytest.raises(ValueError, match=r"device_map must be one of auto, balanced, .*not 'best'"):
        load(device_map="best")
