"""Small DICOM files for tests, made with pydicom."""

from collections.abc import Callable
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ComprehensiveSRStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)

ROOT_UID = "1.2.826.0.1.3680043.10.1234"


def make(
    number: int = 1,
    series: int = 1,
    study: int = 1,
    patient: str = "P1",
    filler: int = 64,
    **tags: str,
) -> bytes:
    """One instance; ``filler`` bytes of pixels make it as large as a test needs."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = f"{ROOT_UID}.{study}.{series}.{number}"
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = f"{ROOT_UID}.{study}"
    dataset.SeriesInstanceUID = f"{ROOT_UID}.{study}.{series}"
    dataset.PatientID = patient
    dataset.PatientName = "Test^Patient"
    dataset.Modality = "OT"
    dataset.StudyDate = "20260101"
    dataset.InstanceNumber = str(number)
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = bytes((n * 7 + number) % 251 for n in range(filler + filler % 2))
    dataset["PixelData"].VR = "OW"
    out = BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def rewritten(data: bytes, syntax: str, preamble: bool = True) -> bytes:
    """The same instance in another transfer syntax, or without preamble."""
    source = pydicom.dcmread(BytesIO(data))
    copy = Dataset()  # what was read cannot be written in another byte order
    for element in source:
        copy.add(element)
    copy.file_meta = source.file_meta
    copy.file_meta.TransferSyntaxUID = syntax
    out = BytesIO()
    pydicom.dcmwrite(
        out,
        copy,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    return out.getvalue() if preamble else out.getvalue()[132:]


def with_elements(data: bytes, elements: bytes, before: bytes = b"\x08\x00\x16\x00UI") -> bytes:
    """The instance, in Explicit VR Little Endian, with raw elements put in before a tag."""
    position = data.index(before)
    return data[:position] + elements + data[position:]


def variety() -> dict[str, bytes]:
    """Files that are unlike each other where stores trip: by what they are, each its own study."""
    plain = {
        "Latin-1": make(1, 1, 21, "M\u00fcller\u00df", SpecificCharacterSet="ISO_IR 100"),
        "UTF-8": make(1, 1, 22, "\u0160tefan-\u6771", SpecificCharacterSet="ISO_IR 192"),
        "Cyrillic": make(1, 1, 23, "\u041b\u044e\u043a", SpecificCharacterSet="ISO_IR 144"),
        "Japanese": _japanese(make(1, 1, 24, "X" * 18)),
        "a private group": with_elements(make(1, 1, 25), _PRIVATE, b"\x10\x00\x10\x00PN"),
        "spaces around": make(1, 1, 26, "  P 26 "),
        "no patient": make(1, 1, 27, ""),
        "multi-frame": make(1, 1, 28, NumberOfFrames="3", filler=3 * 128),
        "a report": _of_class(make(1, 1, 29, Modality="SR"), ComprehensiveSRStorage, _content),
        "a PDF": _of_class(make(1, 1, 30, Modality="DOC"), EncapsulatedPDFStorage, _document),
        "implicit": rewritten(make(1, 1, 31), ImplicitVRLittleEndian),
        "big endian": rewritten(make(1, 1, 32), ExplicitVRBigEndian),
        "deflated": rewritten(make(1, 1, 33), DeflatedExplicitVRLittleEndian),
        "odd": make(1, 1, 34, filler=7),
    }
    return plain | {"RLE": _encapsulated(make(1, 1, 35), RLELossless)}


_PRIVATE = (
    b"\x09\x00\x10\x00LO\x0a\x00ACME 1.0  "
    b"\x09\x00\x01\x10UN\x00\x00\x06\x00\x00\x00\xff\xfe\x00\x01\x02\x03"
)
"""A private creator, and bytes of its that nobody can read."""


def _japanese(data: bytes) -> bytes:
    """A PatientID of kanji, in escape sequences, as Japanese modalities write them."""
    text = b"\x1b$B;3ED\x1b(J^B@O:12"
    text += b" " * (18 - len(text))
    changed = data.replace(b"X" * 18, text)
    assert changed != data
    names = b"ISO 2022 IR 13\\ISO 2022 IR 87 "
    character_set = b"\x08\x00\x05\x00CS" + len(names).to_bytes(2, "little") + names
    return with_elements(changed, character_set)


def _of_class(data: bytes, sop_class: str, change: Callable[[Dataset], None]) -> bytes:
    dataset = pydicom.dcmread(BytesIO(data))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    del dataset.PixelData
    change(dataset)
    return _written(dataset)


def _content(dataset: Dataset) -> None:
    """A report of one line, some levels deep."""
    item = Dataset()
    item.ValueType, item.TextValue, item.RelationshipType = "TEXT", "Nothing found.", "CONTAINS"
    for _ in range(5):
        outer = Dataset()
        outer.ValueType, outer.RelationshipType = "CONTAINER", "CONTAINS"
        outer.ContentSequence = [item]
        item = outer
    dataset.ValueType, dataset.ContentSequence = "CONTAINER", [item]


def _document(dataset: Dataset) -> None:
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocument = b"%PDF-1.4\n%%EOF\n" + bytes(1)


def _encapsulated(data: bytes, syntax: str) -> bytes:
    """Its pixels as one fragment, which nobody decodes."""
    dataset = pydicom.dcmread(BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([bytes(64) + dataset.PixelData])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return _written(dataset)


def _written(dataset: Dataset) -> bytes:
    out = BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()
