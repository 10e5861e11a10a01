"""GLM-130B and ChatGLM-6B for transformers 5.

Importing this package registers both architectures, so that ``AutoModel`` and ``AutoTokenizer`` load their
checkpoints without running any code of the checkpoint's folder.
"""

from .process.beginning import begin

with begin():  # of a program, of which these imports are the slow part
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.conversion_mapping import register_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    from .blank_filling import FillOptions, FillResult, fill_blanks
    from .checkpoint import other_readers
    from .checkpoint.keys import RENAMED_KEYS
    from .checkpoint.prefix import load_prefix
    from .errors import CheckpointError, GLMError, TokenizerError, UnsupportedError
    from .generation.stream import TextChunk, stream_text
    from .loading import DEMO_MODEL, load
    from .model.configuration import ChatGLMConfig, GLM130BConfig
    from .modeling_glm import ChatGLMForCausalLM, ChatGLMModel, GLM130BForCausalLM, GLM130BModel
    from .options import SamplingOptions
    from .quantization.quantizer import GLMQuantizationConfig
    from .text import tokenizer as tokenization_glm
    from .text.tokenizer import ChatGLMTokenizer

__version__ = "0.2.0"

__all__ = [
    "DEMO_MODEL",
    "ChatGLMConfig",
    "ChatGLMForCausalLM",
    "ChatGLMModel",
    "ChatGLMTokenizer",
    "CheckpointError",
    "FillOptions",
    "FillResult",
    "GLM130BConfig",
    "GLM130BForCausalLM",
    "GLM130BModel",
    "GLMError",
    "GLMQuantizationConfig",
    "SamplingOptions",
    "TextChunk",
    "TokenizerError",
    "UnsupportedError",
    "fill_blanks",
    "load",
    "load_prefix",
    "stream_text",
]


def _register() -> None:
    for config, model in ((ChatGLMConfig, ChatGLMForCausalLM), (GLM130BConfig, GLM130BForCausalLM)):
        AutoConfig.register(config.model_type, config)
        # The published auto_map names the model with its head for AutoModel, because `chat` lives there.
        for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM):
            auto_class.register(config, model)
        renamings = [WeightRenaming(published, ours) for published, ours in RENAMED_KEYS]
        register_checkpoint_conversion_mapping(config.model_type, renamings)
    tokenization_glm.register()
    other_readers.register()


_register()
