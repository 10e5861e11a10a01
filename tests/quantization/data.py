"""The packed golden sets, and the FP16 weights that all of them were made from."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from tests.golden.data import GOLDEN


@dataclass(frozen=True)
class Packed:
    """One golden set of packed weights."""

    name: str
    bits: int
    embeddings: bool

    def __str__(self) -> str:
        return self.name

    @property
    def folder(self) -> Path:
        return GOLDEN / f"chatglm_tiny_{self.name}"

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """By published names; shared between tests, which must not write into them."""
        return load_file(self.folder / "model.safetensors")

    @property
    def scales(self) -> dict[str, Tensor]:
        """Of every packed weight, by its name."""
        return {
            name.removesuffix("_scale"): value for name, value in self.tensors.items() if name.endswith("weight_scale")
        }


INT8 = Packed("int8", 8, False)
INT4 = Packed("int4", 4, False)
INT4_QE = Packed("int4_qe", 4, True)
PACKED = [INT8, INT4, INT4_QE]
SOURCE = INT8.folder / "source_fp16.safetensors"
EMBEDDING, HEAD = "transformer.word_embeddings.weight", "lm_head.weight"
