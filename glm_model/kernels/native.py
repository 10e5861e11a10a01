"""The kernels in csrc/, called through ctypes: packed bytes in, as they lie in the file; nothing is repacked.

``fast`` rounds activations to 8 bits in groups of 16 columns, each with its scale, and multiplies integers. ``exact``
does so with one row and INT4, too, but three times: activations, what rounding left of them, and what it left of that,
which is as precise as float32; all else is multiplied in float32. Both sum in float32 and round once to the dtype of
the activations.
"""

import contextlib
import ctypes
import functools
import itertools
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import dispatch, library_cache, reference, structures, trial
from .build import BuildError, build, instruction_sets, try_in_a_process
from .choice import allowed, wanted_instructions
from .try_library import ARGUMENTS

logger = logging.getLogger(__name__)

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # as in csrc/numbers.h

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int


class Library(NamedTuple):
    """A compiled kernel, ready to call.

    Attributes:
        path: of the file.
        instructions: what it was compiled for, for people.
        shares_threads: whether it runs on torch's threads; otherwise on one.
        matmul: ``glm_matmul`` of csrc/kernels.cpp.
        decode: ``glm_decode`` of the same; :mod:`glm_model.model.native_step` calls it.
        attend: ``glm_attend`` of the same; :mod:`glm_model.model.native_rows` calls it.
    """

    path: Path
    instructions: str
    shares_threads: bool
    matmul: Callable[..., int]
    decode: Callable[..., int]
    attend: Callable[..., int]


def load(path: Path) -> Library:
    """Open a library that :func:`glm_model.kernels.build.build` made, and try it.

    Raises:
        BuildError: it cannot be loaded, takes other structures than this package hands over, or computes something else
            than the reference.
    """
    try:
        return _load(path, _open(path))
    except (OSError, AttributeError) as error:
        raise BuildError(f"{path} cannot be loaded: {error}") from error


def _open(path: Path) -> ctypes.CDLL:
    """Return the library, from a copy in memory where the system allows it.

    So what runs is what was checked, and a file that is cut while it is in use does not end the process by SIGBUS.
    """
    content = library_cache.content(path)
    if content is None:
        raise OSError("it is not as it was made")
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            # Never closed: the loader knows a library by its name, and the number would become that of another file.
            copy = os.memfd_create(path.name)
            with open(copy, "wb", closefd=False) as file:
                file.write(content)
            return ctypes.CDLL(f"/proc/self/fd/{copy}")
    return ctypes.CDLL(str(path))


def _load(path: Path, handle: ctypes.CDLL) -> Library:
    _require_same_layout(handle, path)
    handle.glm_matmul.argtypes = ARGUMENTS
    handle.glm_decode.argtypes = [_POINTER, _POINTER, _POINTER, _INT]
    handle.glm_attend.argtypes = [_POINTER, _POINTER, ctypes.c_int64, _POINTER, _POINTER, _INT]
    handle.glm_instructions.restype = ctypes.c_char_p
    handle.glm_use_threads_of.argtypes = [ctypes.c_void_p]
    threads = openmp_of_torch()
    handle.glm_use_threads_of(threads)
    instructions = handle.glm_instructions().decode()
    library = Library(path, instructions, threads is not None, handle.glm_matmul, handle.glm_decode, handle.glm_attend)
    if not _computes_as_it_should(library):
        raise BuildError(f"{path} computes something else than the reference; set CXX to another C++ compiler")
    return library


def _require_same_layout(handle: ctypes.CDLL, path: Path) -> None:
    try:
        handle.glm_layout.restype = ctypes.c_char_p
    except AttributeError as error:
        raise BuildError(f"{path} is no kernel of this package") from error
    if different := structures.differences(handle.glm_layout().decode(errors="replace")):
        raise BuildError(
            f"{path} takes other structures than glm_model/kernels/structures.py describes ({', '.join(different)}): "
            "files of two versions lie in this package; install it again"
        )


def openmp_of_torch() -> int | None:
    """Return the address of the function that starts a parallel region in torch's OpenMP runtime, or None.

    A symbol looked up in a library is searched in those that it is linked with, too.
    """
    for candidate in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        try:
            return ctypes.cast(ctypes.CDLL(str(candidate)).GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None


def _computes_as_it_should(library: Library) -> bool:
    """Return whether small products in both widths agree with the reference; takes some hundred microseconds."""
    for bits, rows in itertools.product((4, 8), (1, 3)):  # one row is multiplied in other ways
        operands = trial.operands(rows, 320, 5, bits)
        expected = reference.matmul(*operands)
        for quantize, bound in ((False, 1e-5), (True, 0.03)):
            error = product(library, *operands, None, quantize) - expected
            if not error.abs().max() <= bound * expected.abs().max():
                return False
    return True


@functools.cache
def find() -> Library | BuildError:
    """Return the library for this CPU, built if need be, or why there is none; decided and logged once in a process."""
    try:
        return _built()
    except BuildError as error:
        logger.warning("INT4 and INT8 products on the CPU run without the native kernel: %s", error)
        return error


def _built() -> Library:
    instructions = _best_instructions()
    is_new = False

    def try_out(library: Path) -> None:
        nonlocal is_new
        try_in_a_process(library, multiply=True)
        is_new = True

    path = build(instructions, try_out=try_out)
    try:
        return load(path)
    except BuildError as error:
        if is_new:
            raise
        logger.warning("%s; it is made again", error)
    return load(build(instructions, try_out=try_out, unfit=path))


def _best_instructions() -> str:
    found = wanted_instructions(instruction_sets())
    if not found:
        raise BuildError("this CPU has neither AVX2 nor NEON with the dot product extension")
    return found[0]


def supports(x: Tensor, weight: Tensor, scale: Tensor, bits: int) -> bool:
    """Return whether it takes them: on the CPU, with contiguous weights; the first call builds the library."""
    return x.device.type == "cpu" and x.dtype in TYPES and takes_weight(weight, scale) and is_usable()


def takes_weight(weight: Tensor, scale: Tensor) -> bool:
    """Return whether a weight and its scales are on the CPU, contiguous and of dtypes that the kernel reads."""
    return (
        weight.device.type == "cpu"
        and scale.device.type == "cpu"
        and scale.dtype in TYPES
        and weight.is_contiguous()
        and weight.numel() > 0
        and scale.is_contiguous()
    )


def is_usable() -> bool:
    """Return whether there is a library for this CPU, and the user lets it run; the first call builds it."""
    return allowed("native") and isinstance(find(), Library)


def is_loaded() -> bool:
    """Return whether the library has been found already and the user lets it run; nothing is built for the answer."""
    return find.cache_info().currsize > 0 and is_usable()


@functools.cache
def find_in_background() -> None:
    """Begin to find the library, once in this process: the attention of many rows uses it as soon as it is there."""
    threading.Thread(target=is_usable, name="glm-native", daemon=True).start()


def fast_matmul(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None = None) -> Tensor:
    """Return the :func:`product` of activations rounded to 8 bits."""
    return product(found(), x, weight, scale, bits, bias, True)


def exact_matmul(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None = None) -> Tensor:
    """Return the :func:`product` of activations as they are."""
    return product(found(), x, weight, scale, bits, bias, False)


def found() -> Library:
    """Return the library; only after :func:`is_usable` has returned True."""
    library = find()
    assert isinstance(library, Library), "called without asking `is_usable`"
    return library


def product(
    library: Library, x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None, quantize: bool
) -> Tensor:
    """Return ``x @ (integers * scale).T + bias``, [..., out], in the dtype of ``x``.

    Args:
        library: from :func:`load`.
        x: float32, float16 or bfloat16, [..., in].
        weight: int8 [out, in * bits / 8], contiguous, packed as published; may be mapped memory.
        scale: float32, float16 or bfloat16, [out], contiguous.
        bits: 4 or 8.
        bias: [out], or None.
        quantize: whether activations may be rounded to 8 bits in groups.

    Raises:
        MemoryError: not enough for the reordered activations.
    """
    states = x.contiguous()
    outputs, columns = len(weight), x.shape[-1]
    out = x.new_empty(*x.shape[:-1], outputs)
    rows = out.numel() // outputs if outputs else 0
    if bias is not None:
        bias = bias.to(x.dtype).contiguous()
    status = library.matmul(
        *(states.data_ptr(), TYPES[x.dtype], rows, columns),
        *(weight.data_ptr(), scale.data_ptr(), TYPES[scale.dtype], outputs, bits),
        *(None if bias is None else bias.data_ptr(), out.data_ptr(), quantize, torch.get_num_threads()),
    )
    if status:
        raise MemoryError(f"not enough memory to reorder activations {list(x.shape)}")
    return out


def problem(device: torch.device) -> str | None:
    """Return why there is no library for this CPU, or None if there is one; build it if that was not done yet."""
    library = find()
    return f"no native kernel: {library}" if isinstance(library, BuildError) else None


def describe(device: torch.device, precision: dispatch.Precision, why_not_better: str) -> str:
    """Return one line for people; see :class:`.dispatch.Backend`."""
    library = found()
    threads = torch.get_num_threads() if library.shares_threads else 1
    return f"native kernel for {library.instructions}, {threads} threads ({library.path}), {precision}"


dispatch.register(
    dispatch.Backend(
        "native",
        "cpu",
        (
            dispatch.Kernel("native", "fast", supports, fast_matmul),
            dispatch.Kernel("native", "exact", supports, exact_matmul),
        ),
        problem,
        describe,
        remedy="a C++ compiler",
    )
)
