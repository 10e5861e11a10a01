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

DONE = "multiplied"
"""The last line of the output if nothing went wrong: what is loaded may end the process with status 0, too."""

_TYPES = (0, 1, 2)  # of numbers, as in csrc/numbers.h


def multiply(library: ctypes.CDLL) -> None:
    """Multiply in all types, widths and precisions, one row and more, on one thread."""
    library.glm_matmul.argtypes = ARGUMENTS
    columns, outputs = 320, 5
    cases = itertools.product(_TYPES, _TYPES, (4, 8), (1, 3, 20), (False, True))
    for x_type, scale_type, bits, rows, quantize in cases:
        # Bytes that are small positive numbers in all types; each array is large enough for the largest type.
        x = ctypes.create_string_buffer(b"\x3c" * (4 * rows * columns))
        scale = ctypes.create_string_buffer(b"\x3c" * (4 * outputs))
        weight = ctypes.create_string_buffer(b"\x5a" * (outputs * columns * bits // 8))
        out = ctypes.create_string_buffer(4 * rows * outputs)
        if library.glm_matmul(
            x, x_type, rows, columns, weight, scale, scale_type, outputs, bits, None, out, quantize, 1
        ):
            sys.exit("not enough memory")


if __name__ == "__main__":
    loaded = ctypes.CDLL(sys.argv[1])
    if "multiply" in sys.argv[2:]:
        multiply(loaded)
    print(f"\n{DONE}")
