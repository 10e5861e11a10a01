"""Read JSON files of a checkpoint: bounded in size, and with numbers that can be computed with."""

import json
import math
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, one_line
from .boundary import DAMAGED

_MOST_BYTES = 8 << 20  # the index of GLM-130B's shards has 0.2 MB
_TOO_LARGE = 2**63
_DEEPEST = 100  # objects and lists inside each other; configurations have five
# transformers writes int(1e30) for a tokenizer without a longest text.
_UNBOUNDED = frozenset({"model_max_length", "max_len"})
_MARKS = {
    b"\xef\xbb\xbf": "starts with a UTF-8 byte-order mark",
    b"\xff\xfe": "is text in UTF-16",
    b"\xfe\xff": "is text in UTF-16",
}


def parse_object(path: Path, stored: bytes) -> dict[str, Any]:
    """Return the object in the content of a JSON file; raise CheckpointError, naming the file and the field."""
    if mark := next((mark for start, mark in _MARKS.items() if stored.startswith(start)), None):
        raise CheckpointError(
            f"{path} is not valid JSON: it {mark}, which an editor has written. Save it as UTF-8 without a mark."
        )
    try:
        content = json.loads(stored.decode("utf-8"), object_pairs_hook=_object)
        if isinstance(content, dict):
            _require_sound(path, content, "", 0)
    except RecursionError:
        raise _too_deep(path) from None
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({one_line(str(error), 200)}). {DAMAGED}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__} where an object is needed. {DAMAGED}")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; raise ValueError if it has a name twice, with different values."""
    made = dict(pairs)
    if len(made) < len(pairs):
        for name, value in pairs:
            if repr(made[name]) != repr(value):  # 4 and 4.0 are equal
                raise ValueError(f"{name[:100]!r} is there twice, with different values")
    return made


def require_size(path: Path, most: int = _MOST_BYTES) -> None:
    """Raise CheckpointError if a file is larger than any file of its kind, before it is read."""
    if (size := path.stat().st_size) > most:
        raise CheckpointError(f"{path} has {size:,} bytes, and a file of this name at most {most:,}. {DAMAGED}")


def _too_deep(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is nested too deeply. {DAMAGED}")


def _require_sound(path: Path, value: Any, field: str, depth: int) -> None:
    """Raise CheckpointError if a number in a value is not finite or too large, a text no Unicode, or it is too deep."""
    if depth > _DEEPEST:  # what copies it later would end in a RecursionError
        raise _too_deep(path)
    if isinstance(value, dict):
        for name, part in value.items():
            _require_sound(path, name, f"a name in {field}" if field else "a name", depth)
            _require_sound(path, part, f"{field}.{name}" if field else name, depth + 1)
    elif isinstance(value, list):
        for part in value:
            _require_sound(path, part, field, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise CheckpointError(f"{path}: {one_line(field, 100)} is {value}, which is no number to compute with.")
    elif isinstance(value, int) and abs(value) >= _TOO_LARGE and field.rpartition(".")[2] not in _UNBOUNDED:
        raise CheckpointError(f"{path}: {one_line(field, 100)} is {value:.3g}, which is too large for any field.")
    elif isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise CheckpointError(f"{path}: {one_line(field, 100)} holds half a character ({value[:20]!a}). {DAMAGED}")
