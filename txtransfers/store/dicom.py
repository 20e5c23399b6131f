"""A DICOM file's header -> identifiers and main tags, with pydicom; for any store.

Runs in a thread of the pool. Reads only up to the last tag that is wanted, never pixels. Sources:
DICOM PS3.5 (character sets), PS3.3 (what the tags mean); the tags of each level are those that
Orthanc keeps.
"""

import re
import warnings
from collections.abc import Mapping
from typing import BinaryIO

import attrs
from pydicom.charset import convert_encodings, decode_bytes, python_encoding
from pydicom.datadict import keyword_for_tag
from pydicom.valuerep import TEXT_VR_DELIMS

from ..errors import BadDicom
from ..wire.identifiers import (
    DicomIdentifiers,
    ResourceIdentifiers,
    hash_identifiers,
    strip_padding,
)
from ..wire.messages import Level
from .elements import Element, ascii_text, open_elements, read_elements

_CHARACTER_SET = 0x00080005
_SOP_CLASS = 0x00080016
_PATIENT_ID = 0x00100020
_ASCII = ("ISO_IR 6", "ISO 2022 IR 6")
_EXTENDED = {
    f"ISO 2022 IR {number}": codec
    for number, codec in (
        *((13, "shift_jis"), (58, "gbk"), (149, "euc_kr"), (100, "iso8859-1"), (101, "iso8859-2")),
        *((109, "iso8859-3"), (110, "iso8859-4"), (144, "iso8859-5"), (127, "iso8859-6")),
        *((126, "iso8859-7"), (138, "iso8859-8"), (148, "iso8859-9"), (166, "tis-620")),
    )
}
"""By the character set: what a text is read as once its escape sequences are gone."""
_MISSPELT = re.compile(r"ISO[^_]IR.{0,5}\Z|ISO.2022.IR.{0,5}\Z")
"""Character sets that pydicom puts right."""
_ESCAPE = re.compile(rb"\x1b[\x20-\x2f]+[\x30-\x7e]")

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

_WANTED = frozenset(
    {_CHARACTER_SET, _SOP_CLASS, *(tag for tags in MAIN_TAGS.values() for tag in tags)}
)
_LAST = max(_WANTED)
_KEYWORDS = {tag: keyword_for_tag(tag) for tag in _WANTED}
_TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_IMPLICIT_TEXT = frozenset(
    {0x00100010, 0x00100020, 0x00101000, 0x00080080, 0x00080090, 0x00081030, 0x00200010}
    | {0x00321032, 0x00321060, 0x00080070, 0x00081010, 0x0008103E, 0x00081070, 0x00181030}
    | {0x00181400, 0x00400254, 0x00204000, 0x00080050, 0x00180024}
)
"""Wanted tags of a text VR: in the implicit encoding the file does not tell the VR."""


def ignore_warnings() -> None:
    """Have Python drop what pydicom warns of: each odd text, in words that hold it.

    They are kept, so that each is said once: a hostile sender's would fill the memory, and the log.
    """
    warnings.filterwarnings(
        "ignore", category=UserWarning, module=r"(pydicom|txtransfers\.store)\b"
    )


ignore_warnings()


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
        data, encoding = open_elements(file, size)
        elements = {
            element.tag: element
            for element in read_elements(data, encoding.implicit, encoding.little, _WANTED, _LAST)
        }
        return _to_header(encoding.transfer_syntax, elements, size)
    except BadDicom:
        raise
    except Exception as error:  # pydicom and zlib raise whatever a broken file leads them to
        raise BadDicom(
            f"Cannot parse an invalid DICOM file (size: {size} bytes): {error}"
        ) from error


def _to_header(syntax: str, elements: dict[int, Element], size: int) -> Header:
    names = _character_sets(elements.get(_CHARACTER_SET))
    encodings = _encodings(names)
    texts = {}
    for tag, element in elements.items():
        text = _text(element, encodings)
        if text:
            texts[tag] = text
    if _PATIENT_ID in elements:
        texts[_PATIENT_ID] = _patient_id(elements[_PATIENT_ID], names, texts.get(_PATIENT_ID, ""))
    missing = [_KEYWORDS[tag] for tag in (0x0020000D, 0x0020000E, 0x00080018) if not texts.get(tag)]
    if missing:
        raise BadDicom(f"The DICOM file (size: {size} bytes) has no {' and no '.join(missing)}")
    dicom = DicomIdentifiers(
        texts.get(0x00100020, ""), texts[0x0020000D], texts[0x0020000E], texts[0x00080018]
    )
    tags = {
        level: {_KEYWORDS[tag]: texts[tag] for tag in wanted if texts.get(tag)}
        for level, wanted in MAIN_TAGS.items()
    }
    return Header(dicom, hash_identifiers(dicom), tags, syntax, texts.get(_SOP_CLASS, ""))


def _character_sets(element: Element | None) -> list[str]:
    return ascii_text(element.value).split("\\") if element is not None else []


def _encodings(names: list[str]) -> list[str]:
    if not names:
        return ["iso8859"]
    try:
        return list(convert_encodings([_known(name) for name in names]))
    except LookupError:
        return ["iso8859"]


def _known(name: str) -> str:
    """A character set that DICOM has, well spelt or not; what is none counts as not named.

    pydicom would try it as the name of a codec of Python's. Python remembers each name that it
    did not find for ever; and what is found (punycode) is nothing for texts of strangers.
    """
    return name if name in python_encoding or _MISSPELT.match(name) else ""


def _patient_id(element: Element, names: list[str], text: str) -> str:
    """A PatientID as Orthanc reads it, which its identifiers are made of, right or wrong.

    Of several character sets Orthanc goes by the first that is named, and drops the escape
    sequences of the others: as Debian's 1.10.1 was seen to do.

    :param text: what it really says.
    """
    value, first = element.value, next((name.strip() for name in names if name.strip()), "")
    if value.isascii() and b"\x1b" not in value:
        return text
    if first in _ASCII:
        kept = bytes(byte for byte in value if 0x20 <= byte < 0x7F)
        return strip_padding(kept.decode("ascii"))
    codec = _EXTENDED.get(first)
    if len(names) < 2 or codec is None:
        return text
    return strip_padding(_ESCAPE.sub(b"", value).decode(codec, "replace"))


def _text(element: Element, encodings: list[str]) -> str:
    value, vr = element.value, element.vr
    if vr in _TEXT_VRS or (vr in (None, "UN") and element.tag in _IMPLICIT_TEXT):
        if value.isascii() and b"\x1b" not in value:
            return strip_padding(value.decode("ascii"))
        return strip_padding(decode_bytes(value, encodings, TEXT_VR_DELIMS))
    if vr in ("US", "SQ", "OB", "OW"):
        return ""
    return ascii_text(value)
