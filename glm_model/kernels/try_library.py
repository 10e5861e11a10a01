"""Load a compiled library and multiply with it, as a program: ``python -I -S try_library.py LIBRARY [multiply]``.

A library that a compiler got wrong may end the process that loads it, by a signal or by itself. This is that process.
Whether the products are right is seen later, where the reference is; so it needs the standard library alone.
"""

import ctypes
import itertools
import sys

_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
ARGUMENTS = (
    *(_POINTER, _INT, _SIZE, _SIZE),  # x, its type, rows, columns
    *(_POINTER, _POINTER, _INT, _SIZE, _INT),  # weight, scale, its type, outputs, bits
    *(_POINTER, _POINTER, _INT, _INT),  # bias, out, whether to quantize activations, threads
)
"""The types of the arguments of ``glm_matmul`` of csrc/kernels.cpp."""

_FLOAT32 = 0  # as in csrc/numbers.h


def multiply(library: ctypes.CDLL) -> None:
    """Multiply zeros in both widths and precisions, one row and more, on one thread."""
    library.glm_matmul.argtypes = ARGUMENTS
    columns, outputs = 320, 5
    scale = (ctypes.c_float * outputs)()
    for bits, rows, quantize in itertools.product((4, 8), (1, 3), (False, True)):
        x, out = (ctypes.c_float * (rows * columns))(), (ctypes.c_float * (rows * outputs))()
        weight = (ctypes.c_int8 * (outputs * columns * bits // 8))()
        if library.glm_matmul(
            x, _FLOAT32, rows, columns, weight, scale, _FLOAT32, outputs, bits, None, out, quantize, 1
        ):
            sys.exit("not enough memory")


if __name__ == "__main__":
    loaded = ctypes.CDLL(sys.argv[1])
    if "multiply" in sys.argv[2:]:
        multiply(loaded)
