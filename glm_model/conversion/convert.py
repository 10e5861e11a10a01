"""Whole conversions: an archive of SwissArmyTransformer into a Hugging Face folder, and either of them into an archive.

Both write into ``TARGET.partial`` (see :mod:`.unfinished`), which becomes TARGET when it is whole.
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
    progress: bool = False,
) -> str:
    """Write ``target``, a folder that ``from_pretrained`` and :func:`glm_model.load` take, from an archive.

    Killed, it goes on where it was when it is called again. Memory holds one layer of all ranks, and a tensor.

    Args:
        source: holds ``latest``.
        target: a folder that does not exist yet, or is empty.
        bits: 4 or 8 packs the linear layers of a float archive. A packed archive stays packed without it, if its ranks
            have the same scales; where each rank has made its own for the same rows, the weights become float32, which
            is exact.
        shard_size: largest size of a file of weights.
        config: a config.json or model_config.json that tells what the tensors cannot; see :class:`.sat.SatArchive`.
        progress: show a progress bar.

    Returns:
        What was made, in a few words.

    Raises:
        CheckpointError: what is wrong with the archive, or that it cannot be packed as asked for.
        ValueError: the target is there already, another process writes it, or an argument is not known.
    """
    if _is_huggingface(Path(source)):
        require_model_type(Path(source), {GLM130BConfig.model_type})
        raise ValueError(f"{source} is in the Hugging Face layout already; --tensor-parallel N makes an archive of it")
    archive = SatArchive(source, config)
    made = _choose_packing(archive, bits)
    writer = HuggingFaceWriter(made, shard_size)
    plan = {
        "files": _fingerprint(archive),
        "bits": bits,
        "shard_size": shard_size,
        "config": made.config.to_diff_dict(),
    }
    _write(writer, made, target, plan, progress)
    return _described(made)


def to_sat(
    source: str | Path,
    target: str | Path,
    ranks: int,
    *,
    bits: int = 0,
    config: str | Path | None = None,
    progress: bool = False,
) -> str:
    """Write ``target``, an archive for ``ranks`` tensor-parallel ranks, from another archive or a Hugging Face folder.

    Killed, it starts over when it is called again. Memory holds one layer of all ranks.

    Args:
        source: holds ``latest``, or config.json and weights.
        target: a folder that does not exist yet, or is empty.
        ranks: must divide the attention heads and what is cut.
        bits: 4 or 8 packs the linear layers of a float source, with scales of its own for each rank's part. Packed ones
            are cut as they are, and joined as long as a row needs no more than one scale.
        config: as in :func:`sat_to_huggingface`, of an archive.
        progress: show a progress bar.

    Returns:
        What was made, in a few words.

    Raises:
        CheckpointError: what is wrong with the source, or that it cannot be cut or packed as asked for.
        ValueError: the target is there already, another process writes it, or an argument is not known.
    """
    if ranks < 1:
        raise ValueError(f"tensor-parallel must be 1 or more, not {ranks}")
    _require_bits(bits)
    read, step = _open(Path(source), config)
    stored_bits = read.config.quantization_bit or 0
    if bits and stored_bits and bits != stored_bits:
        raise CheckpointError(_packed_already(read, bits))
    writer = SatWriter(read, ranks, 0 if stored_bits else bits, step)
    _write(writer, read, target, None, progress)
    files = "1 rank" if ranks == 1 else f"{ranks} ranks"
    return f"{files}, INT{bits or stored_bits}" if bits or stored_bits else f"{files}, {_described(read)}"


class _Writer(Protocol):
    total_bytes: int

    def finished_bytes(self, folder: Path) -> int: ...

    def write(self, folder: Path, bar: Any) -> None: ...


def _write(writer: _Writer, source: Source, target: str | Path, plan: dict[str, Any] | None, progress: bool) -> None:
    total = sum(header.nbytes for header in source.headers.values())
    with growing_folder(free_folder(target), plan) as folder:
        finished = writer.finished_bytes(folder)
        require_space(folder, writer.total_bytes - finished)
        with tqdm(total=total, initial=finished, unit="B", unit_scale=True, disable=not progress) as bar:
            writer.write(folder, bar)


def _open(folder: Path, config: str | Path | None) -> tuple[Source, str]:
    """A source of either kind, and the name for the step's folder of an archive made from it."""
    if _is_huggingface(folder):
        if config is not None:
            raise ValueError(f"{folder} has a {CONFIG} of its own: leave out --config, which is for archives")
        return HuggingFaceFolder(folder), "release"
    archive = SatArchive(folder, config)
    return archive, archive.step


def _is_huggingface(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and not (folder / "latest").is_file()


def _choose_packing(archive: SatArchive, bits: int) -> Source:
    """The archive, or what becomes of it so that every row has one scale or none."""
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


def _fingerprint(source: Source) -> list[list[Any]]:
    return [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in source.files]


def _described(source: Source) -> str:
    """INT4, float16, ..."""
    bits = source.config.quantization_bit
    return f"INT{bits}" if bits else str(source.config.dtype).removeprefix("torch.")
