"""Small DICOM files for tests, made with pydicom."""

from io import BytesIO

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
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
