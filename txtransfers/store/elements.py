"""The elements of a DICOM file, one after the other, without trust in what the file says.

Runs in a thread of the pool. Never reads a value over :data:`LONGEST_VALUE`, nor more than
:data:`LONGEST_HEADER` in all, and keeps nothing of what is passed over: a hostile file costs
little.
Sources: DICOM PS3.10 (file format), PS3.5 (encodings).
"""

import io
import struct
import zlib
from collections.abc import Collection, Iterator
from typing import BinaryIO

import attrs
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from ..errors import BadDicom
from ..wire.identifiers import strip_padding

LONGEST_VALUE = 64 * 1024
"""Bytes of a value that is looked at; a longer one is passed over."""

LONGEST_HEADER = 8 * 2**20
"""Bytes that are read of a header; what is passed over does not count."""

_PREAMBLE = 128
_UNDEFINED_LENGTH = 0xFFFFFFFF
_MAGIC = b"DICM"

_IMPLICIT_LITTLE = "1.2.840.10008.1.2"
_EXPLICIT_BIG = "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"

_TRANSFER_SYNTAX = 0x00020010
_ITEM = 0xFFFEE000
_END_OF_ITEM = 0xFFFEE00D
_END_OF_SEQUENCE = 0xFFFEE0DD
_ITEMS = frozenset({_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE})
_HEAD = 8
_LITTLE, _BIG = (
    tuple(struct.Struct(order + form).unpack for form in ("HH2sH", "L", "HHL")) for order in "<>"
)
"""What reads a head that has a VR, its long length, and a head that has none."""

_LAST_OF_META = 0x0002FFFF
_LONG_VRS = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)


@attrs.frozen
class Element:
    """One element with its value; ``vr`` is None where the file does not tell it."""

    tag: int
    vr: str | None
    value: bytes


@attrs.frozen
class Encoding:
    """How the elements of a file are written."""

    transfer_syntax: str
    implicit: bool
    little: bool


def open_elements(file: BinaryIO, size: int) -> "tuple[Window, Encoding]":
    """Go past preamble and meta header, to the first element of the dataset; inflates.

    :raises BadDicom: it is no DICOM file.
    """
    head = file.read(_PREAMBLE + len(_MAGIC) + _HEAD)
    if head[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC:
        start = _PREAMBLE + len(_MAGIC)
    elif head[:4] in (b"\x02\x00\x00\x00", b"\x02\x00\x10\x00", b"\x08\x00\x00\x00") or (
        head[:2] == b"\x08\x00" and head[3:4] == b"\x00"
    ):
        start = 0
    else:
        raise BadDicom(f"Cannot parse an invalid DICOM file (size: {size} bytes)")
    file.seek(start)
    data = Window(file)
    syntax = ""
    for element in read_elements(data, False, True, {_TRANSFER_SYNTAX}, _LAST_OF_META):
        syntax = ascii_text(element.value)
    if syntax == _DEFLATED:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(
            data.read(LONGEST_HEADER), LONGEST_HEADER
        )
        data = Window(io.BytesIO(inflated))
    implicit = syntax == _IMPLICIT_LITTLE or (not syntax and _looks_implicit(data))
    return data, Encoding(syntax, implicit, syntax != _EXPLICIT_BIG)


class Window(io.RawIOBase):
    """A file of which so many bytes may be read, wherever: beyond, it seems to end."""

    def __init__(self, file: BinaryIO, room: int = LONGEST_HEADER) -> None:
        self._file = file
        self._room = room

    @property
    def exhausted(self) -> bool:
        """Whether nothing more can be read of it."""
        return self._room <= 0

    def read(self, size: int = -1) -> bytes:
        """Read ``size`` bytes, fewer at the end."""
        data = self._file.read(size if 0 <= size <= self._room else self._room)
        self._room -= len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move within the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The position within the file."""
        return self._file.tell()


def read_elements(
    data: Window, implicit: bool, little: bool, wanted: Collection[int], last: int
) -> Iterator[Element]:
    """The wanted elements up to tag ``last``; stays in front of the first one after it.

    Nothing is kept of what is passed over: memory does not grow with the header.
    """
    while True:
        head = _read_head(data, implicit, little)
        if head is None or head[0] == _END_OF_ITEM:
            return
        tag, vr, length, size = head
        if tag > last:
            data.seek(-size, io.SEEK_CUR)
            return
        if length == _UNDEFINED_LENGTH:
            _pass_over_items(data, implicit or vr == "UN", little)
        elif tag not in wanted or length > LONGEST_VALUE:
            data.seek(length, io.SEEK_CUR)
        else:
            value = data.read(length)
            if len(value) < length:  # it would be another value
                raise BadDicom(
                    "The DICOM file is cut in the middle of tag"
                    f" ({tag >> 16:04x},{tag & 0xFFFF:04x}), or its header is longer than"
                    f" {LONGEST_HEADER} bytes"
                )
            yield Element(tag, vr, value)


def _read_head(
    data: Window, implicit: bool, little: bool
) -> tuple[int, str | None, int, int] | None:
    """Tag, VR and length of the next element or item, and its own; None at the end of the file."""
    head = data.read(_HEAD)
    if len(head) < _HEAD:
        return None
    tag_and_short, long, tag_and_long = _LITTLE if little else _BIG
    group, number, vr, length = tag_and_short(head)
    tag = group << 16 | number
    if implicit or tag in _ITEMS or not b"AA" <= vr <= b"ZZ":
        # Writers are known that leave out VRs here and there.
        return tag, None, tag_and_long(head)[2], _HEAD
    if vr not in _LONG_VRS:
        return tag, vr.decode("latin-1"), length, _HEAD
    more = data.read(4)
    if len(more) < 4:
        return None
    return tag, vr.decode("latin-1"), long(more)[0], _HEAD + 4


def _pass_over_items(data: Window, implicit: bool, little: bool) -> None:
    """Go past the delimiter of a value of undefined length, however deep it is nested."""
    encodings = [implicit]
    while encodings:
        head = _read_head(data, encodings[-1], little)
        if head is None:
            return
        tag, vr, length, _size = head
        if tag in (_END_OF_ITEM, _END_OF_SEQUENCE):
            encodings.pop()
        elif length == _UNDEFINED_LENGTH:
            encodings.append(encodings[-1] or vr == "UN")
        else:
            data.seek(length, io.SEEK_CUR)


def _looks_implicit(data: Window) -> bool:
    position = data.tell()
    vr = data.read(6)[4:6]
    data.seek(position)
    return not (len(vr) == 2 and vr.isalpha() and vr.isupper())


def ascii_text(value: bytes) -> str:
    """The text of a value that has no character set, without padding."""
    return strip_padding(value.decode("latin-1"))
