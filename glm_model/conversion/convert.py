"""Converts an archive of SwissArmyTransformer into a Hugging Face folder, and either of them into an archive.

Both conversions write into ``TARGET.partial`` (see :mod:`glm_model.checkpoint.unfinished`), which is renamed to TARGET
once complete.
"""

from pathlib import Path
from typing import Any, Protocol

from tqdm.auto import tqdm

from ..checkpoint.configuration import require_model_type
from ..checkpoint.files import CONFIG
from ..checkpoint.unfinished import growing_folder
from ..errors import CheckpointError
from ..kernels.packing import BITS
from ..model.configuration import GLM130BConfig
from .files import free_folder, require_space
from .huggingface_writer import HuggingFaceWriter
from .sat import SatArchive
from .sat_writer import SatWriter
from .sources import Dequantized, HuggingFaceFolder, Packed, Source


def sat_to_huggingface(
    source: str | Path,
    target: str | Path,
    *,
    bits: int = 0,
    shard_size: str = "5GB",
    config: str | Path | None = None,
    allow_non_finite: bool = False,
    progress: bool = False,
) -> str:
    """Write ``target``, a folder that ``from_pretrained`` and :func:`glm_model.load` take, from an archive.

    After an interruption the same call continues with the first shard that is missing, if the content of the archive
    is the same. Memory holds one tensor of all ranks, in parts and joined.

    Args:
        source: holds ``latest``.
        target: a folder that does not exist yet, or is empty.
        bits: 4 or 8 packs the linear layers of a float archive. With 0, a packed archive stays packed if all its ranks
            have the same scales; if they have different scales for the same rows, the weights become float32, which is
            exact.
        shard_size: largest size of a file of weights, such as "5GB".
        config: a config.json or model_config.json with the fields that do not follow from the tensors; see
            :class:`.sat.SatArchive`.
        allow_non_finite: convert values that are NaN or infinite, too, instead of raising an error.
        progress: show a progress bar.

    Returns:
        The kind of weights written: "INT4", "INT8", or a dtype such as "float16".

    Raises:
        CheckpointError: the archive is damaged or incomplete, or cannot be packed to ``bits``.
        ValueError: ``target`` exists and is not empty, another process writes it, or an argument is invalid.
    """
    if _is_huggingface(Path(source)):
        require_model_type(Path(source), {GLM130BConfig.model_type})
        raise ValueError(f"{source} is in the Hugging Face layout already; --tensor-parallel N makes an archive of it")
    place = free_folder(target, source)
    archive = SatArchive(source, config, allow_non_finite=allow_non_finite)
    made = _choose_packing(archive, bits)
    writer = HuggingFaceWriter(made, shard_size)
    plan = {
        "content": archive.fingerprint(),
        "allow_non_finite": allow_non_finite,
        "bits": bits,
        "shard_size": shard_size,
        "config": made.config.to_diff_dict(),
    }
    _write(writer, made, place, plan, progress)
    return _weights_name(made)


def to_sat(
    source: str | Path,
    target: str | Path,
    ranks: int,
    *,
    bits: int = 0,
    config: str | Path | None = None,
    allow_non_finite: bool = False,
    progress: bool = False,
) -> str:
    """Write ``target``, an archive for ``ranks`` tensor-parallel ranks, from another archive or a Hugging Face folder.

    After an interruption the same call starts from the beginning. Memory holds one tensor of all ranks, in
    parts and joined.

    Args:
        source: holds ``latest``, or config.json and weights.
        target: a folder that does not exist yet, or is empty.
        ranks: number of ranks; it must divide the attention heads, and the rows or columns of each tensor that is cut.
        bits: 4 or 8 packs the linear layers of a float source, each rank's part with scales of its own. Packed layers
            are cut without repacking, and joined only if no rank needs more than one scale per row.
        config: as in :func:`sat_to_huggingface`; for an archive only.
        allow_non_finite: as in :func:`sat_to_huggingface`.
        progress: show a progress bar.

    Returns:
        The number of ranks and the kind of weights written, such as "4 ranks, INT4".

    Raises:
        CheckpointError: the source is damaged or incomplete, or cannot be cut into ``ranks`` or packed to ``bits``.
        ValueError: ``target`` exists and is not empty, another process writes it, or an argument is invalid.
    """
    if ranks < 1:
        raise ValueError(f"tensor-parallel must be 1 or more, not {ranks}")
    _require_bits(bits)
    place = free_folder(target, source)
    read, step = _open(Path(source), config, allow_non_finite)
    stored_bits = read.config.quantization_bit or 0
    if bits and stored_bits and bits != stored_bits:
        raise CheckpointError(_packed_already(read, bits))
    writer = SatWriter(read, ranks, 0 if stored_bits else bits, step)
    _write(writer, read, place, None, progress)
    files = "1 rank" if ranks == 1 else f"{ranks} ranks"
    return f"{files}, INT{bits or stored_bits}" if bits or stored_bits else f"{files}, {_weights_name(read)}"


class _Writer(Protocol):
    """A writer of one of the two formats; see :class:`HuggingFaceWriter` and :class:`SatWriter`."""

    total_bytes: int

    def finished_bytes(self, folder: Path) -> int: ...

    def write(self, folder: Path, bar: Any) -> None: ...


def _write(writer: _Writer, source: Source, target: Path, plan: dict[str, Any] | None, progress: bool) -> None:
    total = sum(header.nbytes for header in source.headers.values())
    with growing_folder(target, plan) as folder:
        finished = writer.finished_bytes(folder)
        require_space(folder, writer.total_bytes - finished)
        with tqdm(total=total, initial=finished, unit="B", unit_scale=True, disable=not progress) as bar:
            writer.write(folder, bar)


def _open(folder: Path, config: str | Path | None, allow_non_finite: bool) -> tuple[Source, str]:
    """Return the source in a folder of either format, and the name of the step's folder of an archive made from it."""
    if _is_huggingface(folder):
        if config is not None:
            raise ValueError(f"{folder} has a {CONFIG} of its own: leave out --config, which is for archives")
        return HuggingFaceFolder(folder, allow_non_finite), "release"
    archive = SatArchive(folder, config, allow_non_finite=allow_non_finite)
    return archive, archive.step


def _is_huggingface(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and not (folder / "latest").is_file()


def _choose_packing(archive: SatArchive, bits: int) -> Source:
    """Return the archive, packed or dequantized if need be so that every row of a weight has at most one scale.

    Raises:
        CheckpointError: the archive is packed to other bits, or cannot stay packed because its ranks' scales differ.
    """
    _require_bits(bits)
    stored_bits = archive.config.quantization_bit or 0
    if not stored_bits:
        return Packed(archive, bits) if bits else archive
    if bits and bits != stored_bits:
        raise CheckpointError(_packed_already(archive, bits))
    if not archive.scales_differ:
        return archive
    if bits:
        raise CheckpointError(
            f"{archive.folder} cannot stay INT{bits} in one piece: its {len(archive.files)} ranks have each made "
            "scales of their own for the same rows of attention.dense and mlp.dense_4h_to_h. Leave out --quantize for "
            "float32 weights, which are exact, and round those anew, if you want that, with "
            "'python -m glm_model.conversion quantize'."
        )
    return Dequantized(archive)


def _require_bits(bits: int) -> None:
    if bits not in (0, *BITS):
        raise ValueError(f"bits must be 4 or 8, not {bits!r}")


def _packed_already(source: Source, bits: int) -> str:
    return (
        f"{source.folder} is INT{source.config.quantization_bit} already and cannot become INT{bits}: convert the "
        "float checkpoint it was made from."
    )


def _weights_name(source: Source) -> str:
    """Return the kind of weights: "INT4", "INT8", or the dtype, such as "float16"."""
    bits = source.config.quantization_bit
    return f"INT{bits}" if bits else str(source.config.dtype).removeprefix("torch.")
