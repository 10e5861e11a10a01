"""Reads the directory of a zip archive that ``torch.save`` wrote (torch 1.6 and later).

Each tensor's bytes are one uncompressed entry with a CRC-32, which ``torch.load`` does not check. An archive that was
saved with ``torch.serialization.set_crc32_options(False)`` has 0 in place of every CRC-32, that is, no checksums.
"""

import hashlib
import struct
import sys
from bisect import bisect_right
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from ..errors import CheckpointError

_IS_ENCRYPTED = 1  # bit of a zip entry's flags
_LENGTHS = 26  # offset, in the local header of an entry, of the lengths of its name and of its extra field
_BLOCK_BYTES = 1 << 20
_SAVE_AGAIN = "load it with torch.load, and save it again with torch.save"
_SHOWN = 80  # characters of an entry's name in a message


class _Entry(NamedTuple):
    start: int
    """Offset of the entry's local header, which precedes its content."""
    end: int
    """Offset of what follows the entry: the next local header, or the directory."""
    size: int
    crc: int


class TorchZip:
    """The directory of an archive, compared with the names before the entries' contents.

    Its description, ``data.pkl``, is checked against its CRC-32.

    Attributes:
        root: the folder of all entries: the name that the file had when ``torch.save`` wrote it, without its suffix.
        has_checksums: whether the entries have a CRC-32.

    Raises:
        CheckpointError: the archive is damaged, another program than torch packed it, or its numbers are in the other
            byte order than this machine's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with ZipFile(path) as archive:
                listed = archive.infolist()
                infos = sorted(listed, key=lambda info: info.header_offset)
                self._require_plain(infos)
                self.has_checksums = any(info.CRC for info in infos)
                self.root = listed[0].filename.split("/")[0] if listed else ""
                self._check(archive, "data.pkl")
                for info in infos:
                    archive.open(info).close()  # compares the name that stands before the content
                    self._require_byte_order(archive, info)
                starts = [*(info.header_offset for info in infos), archive.start_dir]
        except CheckpointError:
            raise
        except Exception as error:  # a damaged archive may make the reader raise anything
            raise CheckpointError(f"{path} is truncated or damaged ({error}). Download it again.") from None
        places = zip(pairwise(starts), infos, strict=True)
        self._entries = [_Entry(start, end, info.file_size, info.CRC) for (start, end), info in places]
        self._described = [(info.filename, info.file_size, info.CRC) for info in infos]

    def checksum(self, offset: int, size: int) -> int | None:
        """Return the CRC-32 of the entry whose content begins at ``offset``; None if the archive has no checksums.

        Raises:
            CheckpointError: there is no entry with exactly these bytes.
        """
        number = bisect_right(self._entries, offset, key=lambda entry: entry.start) - 1
        entry = self._entries[number] if number >= 0 else None
        if entry is None or entry.size != size or offset + size > entry.end:
            raise CheckpointError(
                f"{self._path} is damaged, or was packed again by another program: no entry has the {size} bytes at "
                f"{offset}, where torch.save puts a tensor. Download it again. If torch can read it: {_SAVE_AGAIN}."
            )
        return entry.crc if self.has_checksums else None

    def fingerprint(self) -> str:
        """Return a digest of names, sizes and checksums of all entries: of the content, if there are checksums."""
        return hashlib.sha256(repr(self._described).encode()).hexdigest()

    def _require_plain(self, infos: list[ZipInfo]) -> None:
        """Raise CheckpointError unless every entry is there once, neither compressed nor encrypted, with one size."""
        names: set[str] = set()
        for info in infos:
            entry = repr(info.filename[:_SHOWN])
            name = info.filename.lower()  # torch does not tell capital letters apart
            if name in names:
                raise CheckpointError(f"{self._path} is damaged: it holds two entries {entry}. Download it again.")
            names.add(name)
            if info.flag_bits & _IS_ENCRYPTED or info.compress_type != ZIP_STORED:
                raise CheckpointError(
                    f"{self._path} was packed again by another program: its entry {entry} is "
                    f"{'encrypted' if info.flag_bits & _IS_ENCRYPTED else 'compressed'}, which torch.save does not "
                    f"do. Get the original, or {_SAVE_AGAIN}."
                )
            if info.file_size != info.compress_size:
                raise CheckpointError(
                    f"{self._path} is damaged: its entry {entry} has {info.compress_size} bytes, "
                    f"but should have {info.file_size}. Download it again."
                )

    def _check(self, archive: ZipFile, name: str) -> None:
        """Raise BadZipFile if an entry is there and does not match its checksum."""
        full_name = f"{self.root}/{name}"
        if self.has_checksums and full_name in archive.namelist():
            with archive.open(full_name) as stream:
                while stream.read(_BLOCK_BYTES):  # zipfile compares the checksum at the end
                    pass

    def _require_byte_order(self, archive: ZipFile, info: ZipInfo) -> None:
        """Raise CheckpointError if an entry says that the archive's numbers are in the other byte order.

        torch would swap the bytes of tensors that it loads without values, which ends the process by a signal.
        """
        says_order = info.filename.lower().endswith("/byteorder")  # torch does not tell capital letters apart
        if says_order and self._content(archive, info) != sys.byteorder.encode():
            raise CheckpointError(
                f"{self._path} was not written on a {sys.byteorder}-endian machine, as this one is: {_SAVE_AGAIN}."
            )

    @staticmethod
    def _content(archive: ZipFile, info: ZipInfo) -> bytes:
        """Return the first bytes of an entry, which zipfile would compare with a checksum that may not be there."""
        assert archive.fp is not None
        archive.fp.seek(info.header_offset + _LENGTHS)
        name, extra = struct.unpack("<HH", archive.fp.read(4))
        archive.fp.seek(info.header_offset + _LENGTHS + 4 + name + extra)
        return archive.fp.read(min(info.file_size, _SHOWN))
