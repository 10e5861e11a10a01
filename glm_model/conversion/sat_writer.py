"""Writes a source as an archive of SwissArmyTransformer, cut for any number of ranks."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..model.rotary import GLMRotaryEmbedding
from .files import copy_other_files
from .pack_weight import is_packable, pack
from .sat_config import MODEL_CONFIG, write_description
from .sources import Source
from .tensor_parallel import cut_of, split
from .torch_archive import TorchArchive

# An archive holds `inv_freq` in every layer, a source does not. This tensor comes directly before it.
_BEFORE_FREQUENCIES = ".input_layernorm.bias"
_FREQUENCIES = ".attention.rotary_emb.inv_freq"


class SatWriter:
    """A writer of archives. It writes the files of all ranks at the same time; memory holds one tensor of the source.

    Args:
        source: the checkpoint to write.
        ranks: number of tensor-parallel ranks.
        bits: 4 or 8 packs the linear layers of a float source, each rank's part with scales of its own, as GLM-130B's
            tools/convert_tp.py does; 0 leaves them as they are.
        step: name of the step's folder: a number, or "release".

    Attributes:
        total_bytes: bytes of the tensors to write, of all ranks together.

    Raises:
        CheckpointError: heads, rows or columns do not divide by the ranks, or a rank would need several scales for one
            row.
    """

    def __init__(self, source: Source, ranks: int, bits: int, step: str) -> None:
        self._source, self._ranks, self._bits, self._step = source, ranks, bits, step
        heads = source.config.num_attention_heads
        if heads % ranks:
            raise CheckpointError(f"{source.folder}: {heads} attention heads do not divide by {ranks} ranks.")
        self._frequencies = GLMRotaryEmbedding(source.config).inv_freq.half()
        self._headers = self._part_headers()
        self.total_bytes = ranks * sum(header.nbytes for header in self._headers.values())

    def finished_bytes(self, folder: Path) -> int:
        """Return 0: an archive is always written from the start."""
        return 0

    def write(self, folder: Path, bar: Any) -> None:
        """Write the archive into an empty folder, and add the bytes of each source tensor to the progress bar."""
        step = folder / self._step
        step.mkdir()
        with ExitStack() as stack:
            files = [step / f"mp_rank_{rank:02}_model_states.pt" for rank in range(self._ranks)]
            archives = [stack.enter_context(TorchArchive(file, self._headers)) for file in files]
            for name, tensor in self._source.read(list(self._source.headers)):
                for archive, part in zip(archives, self._parts(name, tensor), strict=True):
                    for stored_name, value in part.items():
                        archive.write(stored_name, value)
                bar.update(tensor.nbytes)
        copy_other_files(self._source.folder, folder)
        write_description(folder / MODEL_CONFIG, self._source.config, self._ranks)
        (folder / "latest").write_text(self._step, encoding="utf-8")

    def _part_headers(self) -> dict[str, Tensor]:
        """Return the tensors of one rank's file on the meta device. Raise CheckpointError if one cannot be cut."""
        # Scales are read, because their values decide whether they can be cut.
        scales = dict(self._source.read([name for name in self._source.headers if cut_of(name) == "scales"]))
        headers: dict[str, Tensor] = {}
        for name, header in self._source.headers.items():
            first = next(self._parts(name, scales.get(name, header)))
            headers |= {stored_name: value.to("meta") for stored_name, value in first.items()}
        return headers

    def _parts(self, name: str, tensor: Tensor) -> Iterator[dict[str, Tensor]]:
        """Yield for each rank the tensors, by name, that its file stores of one source tensor."""
        try:
            parts = split(tensor, cut_of(name), self._ranks)
        except ValueError as error:
            raise CheckpointError(f"{self._source.folder}: {name}: {error}.") from None
        for part in parts:
            if self._bits and is_packable(name):
                yield pack(self._source.folder, name, part, self._bits)
            elif name.endswith(_BEFORE_FREQUENCIES):
                yield {name: part, name.removesuffix(_BEFORE_FREQUENCIES) + _FREQUENCIES: self._frequencies}
            else:
                yield {name: part}
