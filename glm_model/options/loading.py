"""Defines the settings of loading a model."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from .settings import Choice, Instance, PathName, Switch, Whole, check_settings, setting

QUANTIZATION_BITS = {"int8": 8, "int4": 4}
"""The bits of a packed weight, by the name of the quantization."""
DTYPE_NAMES = ("float32", "float16", "bfloat16")
DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"]
DEVICE_MAPS: tuple[str, ...] = get_args(DeviceMap)


DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla", "meta")
"""The device types of PyTorch that are accepted; any other word is an error."""


@dataclass(frozen=True)
class _Device:
    """PyTorch's names of devices; whether this machine has the device is checked when a model is loaded."""

    pattern = re.compile(rf"auto|({'|'.join(DEVICE_TYPES)})(:\d+)?")

    def parse(self, text: str) -> object:
        """Return the text itself."""
        return text

    def expected(self, value: object) -> str | None:
        """Return what the value must be instead; None if it is allowed."""
        return None if self.pattern.fullmatch(str(value)) else "auto, cpu, cuda, cuda:N or mps"


_SOME_DTYPE = Choice(("auto", *DTYPE_NAMES))


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a model is loaded; each field's meaning is the ``help`` of its metadata, which command lines show.

    In Python code, ``device_map`` may also be a dictionary of modules and devices, as for accelerate, and
    ``max_memory`` is a dictionary such as ``{0: "20GiB", "cpu": "60GiB"}``. A checkpoint that is packed already needs
    no ``quantize`` and allows no other one. In half precision the LayerNorms are rounded too, as by the published
    ``.half()``. With ``tensor_parallel`` or ``pipeline_parallel`` above 1, as many processes as their product, started
    by torchrun, load the model together.

    Raises:
        ValueError: a value is not allowed, or two values exclude each other.
    """

    device: str = setting(
        "auto", "auto (a GPU if there is one), cpu, cuda, cuda:1, mps ...", _Device(), metavar="DEVICE"
    )
    dtype: str = setting(
        "auto",
        "numbers to compute with: auto (float16 on a GPU, float32 on a CPU), float32, float16, bfloat16",
        _SOME_DTYPE,
        metavar="TYPE",
    )
    quantize: str | None = setting(
        None,
        "shrink the weights to whole numbers of 8 or 4 bits: int8, int4",
        Choice(tuple(QUANTIZATION_BITS)),
        metavar="BITS",
    )
    quantize_head: bool = setting(
        False, "shrink the embedding and the head, too, as chatglm-6b-int4-qe has them", Switch()
    )
    precision: str = setting(
        "exact",
        "of shrunk weights on a CPU: exact, or fast, which also rounds what they are multiplied with to 8 bits",
        Choice(("exact", "fast")),
        metavar="NAME",
    )
    cache_dtype: str | None = setting(
        None,
        "numbers to remember the text in: auto (as --dtype auto), float32, float16, bfloat16; two bytes each take half "
        "the memory of float32; as --dtype if not given",
        _SOME_DTYPE,
        metavar="TYPE",
    )
    prefix: str | Path | None = setting(
        None, "file or folder of a P-Tuning prefix to put on the model", PathName(), metavar="PATH"
    )
    device_map: str | dict[str, Any] | None = setting(
        None,
        "spread the model over the GPUs, then the CPU and the disk, from one process: " + ", ".join(DEVICE_MAPS),
        Choice(DEVICE_MAPS, or_dictionary=True),
        metavar="MAP",
    )
    max_memory: dict[int | str, int | str] | None = setting(
        None, "of each device that the device map may use", Instance(dict, "a dictionary"), in_programs=False
    )
    offload_folder: str | Path | None = setting(
        None,
        "for weights on the disk that are not in the checkpoint as they are; a temporary one if None",
        PathName(),
        in_programs=False,
    )
    tensor_parallel: int = setting(
        1, "processes that share every layer; start as many with torchrun", Whole(1), metavar="N"
    )
    pipeline_parallel: int = setting(
        1, "stages of processes that hold some of the layers each; start as many with torchrun", Whole(1), metavar="N"
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.device_map is not None and (self.tensor_parallel > 1 or self.pipeline_parallel > 1):
            raise ValueError(
                "device_map spreads a model from one process, tensor_parallel and pipeline_parallel over several: "
                "use one or the other"
            )


class LoadSettings(TypedDict, total=False):
    """The fields of :class:`LoadOptions` as keyword arguments, for type checkers."""

    device: str
    dtype: str
    quantize: str | None
    quantize_head: bool
    precision: str
    cache_dtype: str | None
    prefix: str | Path | None
    device_map: str | dict[str, Any] | None
    max_memory: dict[int | str, int | str] | None
    offload_folder: str | Path | None
    tensor_parallel: int
    pipeline_parallel: int
