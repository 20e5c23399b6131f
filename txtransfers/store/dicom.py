"""A DICOM file's header -> identifiers and main tags, with pydicom; for any store.

Runs in a thread of the pool. Reads only up to the last tag that is wanted, never pixels, never a
value over :data:`_LONGEST_VALUE`, and never beyond :data:`_LONGEST_HEADER`: a hostile file costs
little. Sources: DICOM PS3.10 (file format), PS3.5 (encodings), PS3.3 (what the tags mean); the
tags of each level are those that Orthanc keeps.
"""

import io
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import attrs
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import keyword_for_tag
from pydicom.filereader import data_element_generator
from pydicom.tag import Tag
from pydicom.valuerep import TEXT_VR_DELIMS

from ..errors import BadDicom
from ..wire.identifiers import (
    DicomIdentifiers,
    ResourceIdentifiers,
    hash_identifiers,
    strip_padding,
)
from ..wire.messages import Level

_LONGEST_VALUE = 64 * 1024
_LONGEST_HEADER = 8 * 2**20
_PREAMBLE = 128
_UNDEFINED_LENGTH = 0xFFFFFFFF
_MAGIC = b"DICM"

_IMPLICIT_LITTLE = "1.2.840.10008.1.2"
_EXPLICIT_BIG = "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"

_CHARACTER_SET = 0x00080005
_SOP_CLASS = 0x00080016
_TRANSFER_SYNTAX = 0x00020010

MAIN_TAGS: Mapping[Level, tuple[int, ...]] = {
    Level.PATIENT: (0x00100010, 0x00100020, 0x00100030, 0x00100040, 0x00101000),
    Level.STUDY: (
        *(0x00080020, 0x00080030, 0x00080050, 0x00080080, 0x00080090, 0x00081030),
        *(0x0020000D, 0x00200010, 0x00321032, 0x00321060),
    ),
    Level.SERIES: (
        *(0x00080021, 0x00080031, 0x00080060, 0x00080070, 0x00081010, 0x0008103E, 0x00081070),
        *(0x00180010, 0x00180015, 0x00180024, 0x00181030, 0x00181090, 0x00181400),
        *(0x0020000E, 0x00200011, 0x00200037, 0x00200105, 0x00201002),
        *(0x00400254, 0x00400275, 0x00540081, 0x00540101, 0x00541000),
    ),
    Level.INSTANCE: (
        *(0x00080012, 0x00080013, 0x00080018, 0x00200012, 0x00200013, 0x00200032, 0x00200037),
        *(0x00200100, 0x00204000, 0x00280008, 0x00541330),
    ),
}
"""Tags by level, as ``0xGGGGEEEE``."""

_WANTED = sorted(
    {_CHARACTER_SET, _SOP_CLASS, *(tag for tags in MAIN_TAGS.values() for tag in tags)}
)
_LAST = _WANTED[-1]
_SPECIFIC = [Tag(tag) for tag in _WANTED]
_KEYWORDS = {tag: keyword_for_tag(tag) for tag in _WANTED}
_TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_IMPLICIT_TEXT = frozenset(
    {0x00100010, 0x00100020, 0x00101000, 0x00080080, 0x00080090, 0x00081030, 0x00200010}
    | {0x00321032, 0x00321060, 0x00080070, 0x00081010, 0x0008103E, 0x00081070, 0x00181030}
    | {0x00181400, 0x00400254, 0x00204000, 0x00080050, 0x00180024}
)
"""Wanted tags of a text VR: in the implicit encoding the file does not tell the VR."""


@attrs.frozen
class Header:
    """What a store keeps of an instance's header.

    :ivar tags: by level, keyword -> text; a sequence or an empty value is left out.
    :ivar transfer_syntax: its UID; empty where the file has no meta header.
    """

    dicom: DicomIdentifiers
    ids: ResourceIdentifiers
    tags: Mapping[Level, Mapping[str, str]]
    transfer_syntax: str
    sop_class: str


def read_header(file: BinaryIO, size: int) -> Header:
    """Read the header of the DICOM file of ``size`` bytes that ``file`` is at the start of.

    :raises BadDicom: empty, not DICOM, broken, or without one of the three mandatory UIDs.
    """
    if size == 0:
        raise BadDicom("Received an empty DICOM file")
    try:
        transfer_syntax, values = _read_values(file, size)
    except BadDicom:
        raise
    except Exception as error:  # pydicom raises whatever a broken file leads it to
        raise BadDicom(
            f"Cannot parse an invalid DICOM file (size: {size} bytes): {error}"
        ) from error
    return _to_header(transfer_syntax, values, size)


def _read_values(file: BinaryIO, size: int) -> tuple[str, dict[int, Any]]:
    head = file.read(_PREAMBLE + len(_MAGIC) + 8)
    if head[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC:
        start = _PREAMBLE + len(_MAGIC)
    elif head[:4] in (b"\x02\x00\x00\x00", b"\x02\x00\x10\x00", b"\x08\x00\x00\x00") or (
        head[:2] == b"\x08\x00" and head[3:4] == b"\x00"
    ):
        start = 0
    else:
        raise BadDicom(f"Cannot parse an invalid DICOM file (size: {size} bytes)")
    file.seek(start)
    data = _Window(file)
    meta = {int(e.tag): e for e in data_element_generator(data, False, True, _after_meta)}
    syntax = _ascii(meta[_TRANSFER_SYNTAX].value) if _TRANSFER_SYNTAX in meta else ""
    if syntax == _DEFLATED:
        raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(
            data.read(_LONGEST_HEADER), _LONGEST_HEADER
        )
        data = io.BytesIO(raw)  # type: ignore[assignment]
    implicit = syntax == _IMPLICIT_LITTLE or (not syntax and _looks_implicit(data))
    little = syntax != _EXPLICIT_BIG
    elements = data_element_generator(
        data, implicit, little, _after_wanted, _LONGEST_VALUE, None, _SPECIFIC
    )
    values = {}
    for element in elements:
        _check_whole(element, size)
        values[int(element.tag)] = element
    return syntax, values


def _check_whole(element: Any, size: int) -> None:
    """Refuse a value that the end of the file cuts: it would be another value."""
    value = element.value
    if isinstance(value, bytes) and len(value) < element.length != _UNDEFINED_LENGTH:
        raise BadDicom(
            f"The DICOM file (size: {size} bytes) is cut in the middle of tag {element.tag}"
        )


class _Window(io.RawIOBase):
    """The start of a file, as far as a header may reach: reading beyond finds the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Read ``size`` bytes, fewer at the end of the window."""
        left = max(0, _LONGEST_HEADER - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move within the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The position within the file."""
        return self._file.tell()


def _after_meta(tag: int, _vr: str | None, _length: int) -> bool:
    return int(tag) >> 16 != 2


def _after_wanted(tag: int, _vr: str | None, _length: int) -> bool:
    return int.__gt__(tag, _LAST)


def _looks_implicit(data: Any) -> bool:
    position = data.tell()
    vr = data.read(6)[4:6]
    data.seek(position)
    return not (len(vr) == 2 and vr.isalpha() and vr.isupper())


def _to_header(syntax: str, elements: dict[int, Any], size: int) -> Header:
    encodings = _encodings(elements.get(_CHARACTER_SET))
    texts = {}
    for tag, element in elements.items():
        text = _text(element, encodings)
        if text:
            texts[tag] = text
    missing = [_KEYWORDS[tag] for tag in (0x0020000D, 0x0020000E, 0x00080018) if not texts.get(tag)]
    if missing:
        raise BadDicom(f"The DICOM file (size: {size} bytes) has no {' and no '.join(missing)}")
    dicom = DicomIdentifiers(
        texts.get(0x00100020, ""), texts[0x0020000D], texts[0x0020000E], texts[0x00080018]
    )
    tags = {
        level: {_KEYWORDS[tag]: texts[tag] for tag in wanted if tag in texts}
        for level, wanted in MAIN_TAGS.items()
    }
    return Header(dicom, hash_identifiers(dicom), tags, syntax, texts.get(_SOP_CLASS, ""))


def _encodings(element: Any) -> list[str]:
    if element is None or not isinstance(element.value, bytes):
        return ["iso8859"]
    names = _ascii(element.value).split("\\")
    try:
        return list(convert_encodings(names))
    except LookupError:
        return ["iso8859"]


def _text(element: Any, encodings: list[str]) -> str:
    value = element.value
    if not isinstance(value, bytes):
        return ""
    vr = element.VR
    if vr in _TEXT_VRS or (vr in (None, "UN") and int(element.tag) in _IMPLICIT_TEXT):
        if value.isascii() and b"\x1b" not in value:
            return strip_padding(value.decode("ascii"))
        return strip_padding(decode_bytes(value, encodings, TEXT_VR_DELIMS))
    if vr in ("US", "SQ", "OB", "OW"):
        return ""
    return _ascii(value)


def _ascii(value: bytes) -> str:
    return strip_padding(value.decode("latin-1"))
