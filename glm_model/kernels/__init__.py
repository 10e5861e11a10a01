"""Products with packed weights: how they are packed, and the kernels that multiply with them. Knows tensors only."""

from ..optional_parts import import_present

# Each registers itself with `dispatch`, which knows none of them.
import_present(__name__, ("native", "onnx", "triton_backend", "cpm"))
