"""The structures of csrc/ as ctypes has them, and the text that says how they lie in memory.

A structure that has a field on one side only would let the library read addresses where there are none. So the library
says how large its structures are and where their fields lie, in :func:`layout`'s words, and :mod:`.native` does not use
one that says anything else. Shapes and meanings are written beside the fields in csrc/.
"""

from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p, sizeof

ABI = 2
"""As ``kAbi`` in csrc/layout.h: raised there and here when a function takes other arguments."""


class Linear(Structure):
    """A packed linear layer; csrc/decoder.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("weight", "scale", "bias")),
        *(("outputs", c_int64), ("columns", c_int64), ("scale_type", c_int), ("bits", c_int)),
    )


class Norm(Structure):
    """A LayerNorm; csrc/decoder.h."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class Layer(Structure):
    """A layer of the decoder; csrc/decoder.h."""

    _fields_ = (
        *((name, Norm) for name in ("input_norm", "output_norm")),
        *((name, Linear) for name in ("query_key_value", "dense", "up", "down")),
    )


class Heads(Structure):
    """The shape of the attention; csrc/attention.h."""

    _fields_ = (("heads", c_int64), ("head_dim", c_int64), ("position_rows", c_int64))


class Decoder(Structure):
    """All layers; csrc/decoder.h."""

    _fields_ = (
        *(("layers", POINTER(Layer)), ("count", c_int64), ("hidden", c_int64), ("heads", Heads)),
        *(("alpha", c_float), ("epsilon", c_float), ("gated", c_int), ("quantize", c_int)),
    )


class KeysAndValues(Structure):
    """The place of one sequence's keys and values in one layer; csrc/attention.h."""

    _fields_ = (("keys", c_void_p), ("values", c_void_p), ("head_stride", c_int64))


class Sequence(Structure):
    """A sequence of a step; csrc/attention.h."""

    _fields_ = (("cached", c_int64), ("visible", c_void_p))


class Step(Structure):
    """What is the same in every layer of a step; csrc/attention.h."""

    _fields_ = (
        *(("batch", c_int64), ("cos", c_void_p), ("sin", c_void_p), ("sequences", POINTER(Sequence))),
        *(("caches", POINTER(KeysAndValues)), ("type", c_int)),
    )


STRUCTURES: tuple[type[Structure], ...] = (Linear, Norm, Layer, Heads, Decoder, KeysAndValues, Sequence, Step)


def layout() -> str:
    """Return the ABI number, and of each structure a line with its size and its fields' names, offsets and sizes."""
    return "\n".join([f"abi {ABI}", *map(_line, STRUCTURES)])


def _line(structure: type[Structure]) -> str:
    places = [(field[0], getattr(structure, field[0])) for field in structure._fields_]
    fields = ", ".join(f"{name} {place.offset}+{place.size}" for name, place in places)
    return f"{structure.__name__} {sizeof(structure)}: {fields}"


def differences(text: str) -> list[str]:
    """Return the first words of the lines (names of structures, or "abi") in which a library's layout is another."""
    ours, theirs = set(layout().splitlines()), set(text.splitlines())
    return sorted({line.partition(" ")[0] for line in ours ^ theirs})
