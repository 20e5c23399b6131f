"""All tags of a DICOM file but its pixels, nested as sequences are, as texts; for the archive.

Runs in a thread of the pool, and reads no more than a header may have: neither pixels nor other
large values, and nothing that inflates without end.
"""

from typing import Any, BinaryIO

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue

from .. import errors
from .elements import LONGEST_HEADER, LONGEST_VALUE, open_elements

_PIXELS = 0x7FE0
"""The group of pixel data."""


def read_tags(file: BinaryIO, size: int) -> dict[str, Any]:
    """All but the pixels, by keyword; a value that is binary, or too long, is None.

    :raises Exception: whatever pydicom raises of a broken file.
    """
    data, encoding = open_elements(file, size)
    dataset = read_dataset(
        data,
        encoding.implicit,
        encoding.little,
        stop_when=lambda tag, _vr, _length: int(tag) >> 16 == _PIXELS,
        defer_size=LONGEST_VALUE,
    )
    passed_over = []
    for tag, element in list(dataset.items()):
        if isinstance(element, RawDataElement) and element.value is None and element.length:
            if _is_sequence(element):
                data.seek(element.value_tell)
                dataset[tag] = element._replace(value=data.read(element.length))
            else:
                passed_over.append(tag)
                dataset[tag] = element._replace(value=b"", length=0)
    if data.exhausted:
        raise errors.BadDicom(f"its header is longer than {LONGEST_HEADER} bytes")
    result = _simplify(dataset)
    return result | {_name(dataset[tag]): None for tag in passed_over}


def _is_sequence(element: RawDataElement) -> bool:
    if element.VR in (None, "UN"):
        return bool(dictionary_has_tag(element.tag) and dictionary_VR(element.tag) == "SQ")
    return bool(element.VR == "SQ")


def _simplify(dataset: Dataset) -> dict[str, Any]:
    return {_name(element): _simplify_value(element) for element in dataset}


def _name(element: Any) -> str:
    if element.keyword:
        return str(element.keyword)
    return f"{element.tag}" if element.tag.is_private else "Unknown Tag & Data"


def _simplify_value(element: Any) -> Any:
    if element.VR == "SQ":
        return [_simplify(item) for item in element.value]
    if element.value is None or isinstance(element.value, bytes):
        return None if element.value else ""
    if isinstance(element.value, MultiValue):
        return "\\".join(str(value) for value in element.value)
    return str(element.value)
