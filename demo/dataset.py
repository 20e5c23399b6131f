"""DICOM files for the demonstration and the benchmarks, the same bytes for the same seed.

Synthetic slices compress like anatomy: smooth shapes, the noise of a scanner, air outside the body.
A few images are drawn for a series and shifted for each slice: hundreds of megabytes take seconds.
"""

import argparse
import hashlib
import io
import shutil
import struct
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom.data
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    RLELossless,
)

KILOBYTE = 1024
MEGABYTE = 1024 * 1024
UID_ROOT = "2.25."
"""The root for UIDs made from a number: needs no registration."""
MAX_SIDE = 512
"""Rows and columns of a synthetic slice, at most."""
FRAME_SIDE = 1024
"""Rows and columns of a frame of a multi-frame instance: 2 MB each."""
MAX_PIXEL_DATA = 0xFFFFFFFE
"""Bytes that the explicit length of an element can tell."""
BODY_NOISE, AIR_NOISE, LOWEST = 11.0, 4.0, -1024
"""Hounsfield units: two standard deviations, the lowest value. gzip halves such slices."""
BASE_IMAGES = 4
"""Different images drawn for a series; every slice is one of them, shifted."""


def shipped(limit: int | None = None) -> list[Path]:
    """Return real DICOM files that pydicom brings along, each instance once, smallest first."""
    folder = Path(pydicom.data.__file__).parent / "test_files"
    paths = [each for each in folder.rglob("*") if each.is_file() and "truncated" not in each.name]
    found: dict[str, Path] = {}
    for path in sorted(paths, key=lambda each: (each.stat().st_size, each.name)):
        identifiers = _identifiers(path)
        if identifiers is not None:
            found.setdefault(identifiers, path)
    return list(found.values())[:limit]


def ct_series(
    folder: Path,
    count: int,
    kilobytes: int,
    seed: int,
    *,
    patient_id: str | None = None,
    study: int = 0,
    prefix: str = "ct",
) -> list[Path]:
    """Write ``count`` CT slices of ``kilobytes`` KB of pixels (512 at most); return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    side = min(MAX_SIDE, max(16, int((kilobytes * KILOBYTE // 2) ** 0.5)))
    random = np.random.default_rng([seed, kilobytes, study])
    images = [_anatomy(random, side) for _ in range(BASE_IMAGES)]
    patient = patient_id or f"DEMO{seed:04d}"
    header = _ct_header(patient, side, f"{prefix} {kilobytes} {seed} {study}")
    series = header.SeriesInstanceUID
    paths = []
    for number in range(1, count + 1):
        header.SOPInstanceUID = _uid(f"{series} {number}")
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        header.InstanceNumber = number
        header.SliceLocation = f"{number * 1.25:.2f}"
        header.ImagePositionPatient = [-180, -180, f"{number * 1.25:.2f}"]
        path = folder / f"{prefix}-{number:05d}.dcm"
        with path.open("wb") as file:
            file.write(_header_bytes(header))
            _write_pixels_head(file, side * side * 2)
            file.write(_slice(images, number).tobytes())
        paths.append(path)
    return paths


def multiframe(path: Path, megabytes: int, seed: int, *, patient_id: str | None = None) -> Path:
    """Write one multi-frame instance of ``megabytes`` MB, frame by frame; return its path."""
    frame_size = FRAME_SIDE * FRAME_SIDE * 2
    frames = max(1, megabytes * MEGABYTE // frame_size)
    if frames * frame_size > MAX_PIXEL_DATA:
        raise ValueError(f"{megabytes} MB of pixels do not fit one element: 4,095 MB do")
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([seed, megabytes])
    images = [_anatomy(random, FRAME_SIDE) for _ in range(BASE_IMAGES)]
    patient = patient_id or f"DEMO{seed:04d}"
    header = _header(patient, f"multiframe {megabytes} {seed}", FRAME_SIDE)
    header.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.Modality = "OT"
    header.SeriesDescription = "Synthetic multi-frame"
    header.PixelRepresentation = 0
    header.NumberOfFrames = frames
    with path.open("wb") as file:
        file.write(_header_bytes(header))
        _write_pixels_head(file, frames * frame_size)
        for number in range(1, frames + 1):
            file.write(_slice(images, number).tobytes())
    return path


def compressed(path: Path, seed: int, *, patient_id: str | None = None) -> Path:
    """Write one CT slice in a compressed transfer syntax, RLE Lossless; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([seed, 5])
    image = _anatomy(random, MAX_SIDE)
    header = _ct_header(patient_id or f"DEMO{seed:04d}", MAX_SIDE, f"rle {seed}")
    header.SeriesDescription = "Synthetic CT, RLE Lossless"
    header.compress(RLELossless, image, generate_instance_uid=False)
    header.save_as(path, enforce_file_format=True)
    return path


def jpeg2000(
    folder: Path, kilobytes: int, seed: int, *, patient_id: str | None = None
) -> list[Path]:
    """Write a study of ``kilobytes`` KB or little more: real images in JPEG 2000 Lossless.

    They are those that pydicom brings along, of several modalities and sizes, over and over again
    in turn, with UIDs of their own: their pixels do not get smaller.
    """
    folder.mkdir(parents=True, exist_ok=True)
    patient = patient_id or f"DEMO{seed:04d}"
    sources = _shipped_jpeg2000()
    study = f"{patient} jpeg 2000 {seed}"
    paths: list[Path] = []
    size = 0
    while size < kilobytes * KILOBYTE:
        number = len(paths)
        kind = number % len(sources)
        image = sources[kind]
        image.PatientID = patient
        image.StudyInstanceUID = _uid(study)
        image.SeriesInstanceUID = _uid(f"{study} {kind}")
        image.SOPInstanceUID = _uid(f"{study} {kind} {number}")
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        paths.append(folder / f"jpeg2000-{number + 1:05d}.dcm")
        image.save_as(paths[-1])
        size += paths[-1].stat().st_size
    return paths


def _shipped_jpeg2000() -> list[Dataset]:
    with warnings.catch_warnings(action="ignore"):
        samples = [dcmread(path) for path in shipped()]
    # Some of the samples have no meta information, which tells the transfer syntax.
    metas = [(each, getattr(each, "file_meta", {})) for each in samples]
    return [each for each, meta in metas if meta.get("TransferSyntaxUID") == JPEG2000Lossless]


def _identifiers(path: Path) -> str | None:
    """Return what makes this instance one and the only, or None where it can't be stored."""
    names = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    try:
        with warnings.catch_warnings(action="ignore"):
            dataset = dcmread(path, specific_tags=names)
    except Exception:  # pydicom's samples include damaged ones, and it raises what it likes
        return None
    uids = [dataset.get(name) for name in names]
    return "|".join(uids) if all(isinstance(uid, str) and uid for uid in uids) else None


def _uid(text: str) -> str:
    """Return the UID that stands for this text, always the same."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
    return f"{UID_ROOT}{number}"


def _anatomy(random: np.random.Generator, side: int) -> NDArray[np.int16]:
    """Draw a slice: a body of soft tissue with organs and bones, in air, with a scanner's noise."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    image = np.full((side, side), -1000.0)
    body = (x / 0.82) ** 2 + (y / 0.62) ** 2 < 1
    image[body] = 40
    for _ in range(12):
        centre_x, centre_y = random.uniform(-0.5, 0.5), random.uniform(-0.35, 0.35)
        radius_x, radius_y = random.uniform(0.04, 0.25, 2)
        organ = ((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 < 1
        image[organ & body] = random.choice([-750, -90, 55, 120, 700])
    image += random.normal(0, 1, (side, side)) * np.where(body, BODY_NOISE, AIR_NOISE)
    return np.maximum(np.round(image), LOWEST).astype("<i2")


def _slice(images: Sequence[NDArray[np.int16]], number: int) -> NDArray[np.int16]:
    """Return the image of a slice: unlike every other one, without drawing it anew."""
    image = np.roll(images[number % len(images)], number * 7, axis=0)
    image[0, :2] = number & 0x7FFF, number >> 15
    return image


def _header(patient: str, key: str, side: int) -> Dataset:
    """Return what every synthetic instance tells, without pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = _uid("txtransfers demo")
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPInstanceUID = _uid(f"{patient} {key} instance")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20240229"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "101500"
    dataset.AccessionNumber = f"ACC{int(_uid(key)[-6:]):06d}"
    dataset.Manufacturer = "txtransfers"
    dataset.InstitutionName = "Demonstration"
    dataset.ReferringPhysicianName = "Curie^Marie"
    dataset.StudyDescription = "Synthetic study"
    dataset.PatientName = f"Müster^{patient.title()}"
    dataset.PatientID = patient
    dataset.PatientBirthDate = "19700101"
    dataset.PatientSex = "O"
    dataset.StudyInstanceUID = _uid(f"{patient} {key} study")
    dataset.SeriesInstanceUID = _uid(f"{patient} {key} series")
    dataset.StudyID = "1"
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = 1
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = dataset.Columns = side
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    return dataset


def _ct_header(patient: str, side: int, key: str) -> Dataset:
    dataset = _header(patient, key, side)
    dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.Modality = "CT"
    dataset.SeriesDescription = "Synthetic CT"
    dataset.SliceThickness = "1.25"
    dataset.KVP = "120"
    dataset.FrameOfReferenceUID = _uid(f"{patient} {key} frame")
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-180, -180, 0]
    dataset.PixelSpacing = [f"{360 / side:.4f}"] * 2
    dataset.RescaleIntercept = "0"
    dataset.RescaleSlope = "1"
    return dataset


def _header_bytes(dataset: Dataset) -> bytes:
    """Return preamble, meta information and data set: all that stands before the pixels."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _write_pixels_head(file: io.BufferedWriter, length: int) -> None:
    """Write tag, VR and length of PixelData (explicit VR, little endian); the value follows."""
    file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, length))


def _series_argument(text: str) -> tuple[int, int]:
    count, _, kilobytes = text.partition("x")
    return int(count), int(kilobytes)


def _wanted(arguments: argparse.Namespace) -> Iterator[tuple[str, list[Path]]]:
    folder, seed = arguments.folder, arguments.seed
    if arguments.shipped:
        target = folder / "shipped"
        target.mkdir(parents=True, exist_ok=True)
        yield "shipped", [Path(shutil.copy(path, target)) for path in shipped()]
    for name in ("ct", "small"):
        if getattr(arguments, name):
            count, kilobytes = getattr(arguments, name)
            yield name, ct_series(folder / name, count, kilobytes, seed, prefix=name)
    if arguments.multiframe:
        path = folder / "multiframe.dcm"
        yield "multiframe", [multiframe(path, arguments.multiframe, seed)]
    if arguments.jpeg2000:
        kilobytes = arguments.jpeg2000 * KILOBYTE
        yield "jpeg2000", jpeg2000(folder / "jpeg2000", kilobytes, seed)
    if arguments.rle:
        yield "rle", [compressed(folder / "rle.dcm", seed)]


def main(argv: Sequence[str] | None = None) -> int:
    """Write what the command line asks for and tell what was written."""
    parser = argparse.ArgumentParser(prog="python -m demo.dataset", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--ct", type=_series_argument, metavar="COUNTxKB", help="a series, e.g. 500x512"
    )
    parser.add_argument("--small", type=_series_argument, metavar="COUNTxKB", help="e.g. 3000x19")
    parser.add_argument("--multiframe", type=int, metavar="MB", help="one instance of so many MB")
    parser.add_argument("--rle", action="store_true", help="one instance in RLE Lossless")
    parser.add_argument("--jpeg2000", type=int, metavar="MB", help="a study of so many MB")
    parser.add_argument("--shipped", action="store_true", help="copy pydicom's real sample files")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    for name, paths in _wanted(arguments):
        size = sum(path.stat().st_size for path in paths) / MEGABYTE
        seconds = time.perf_counter() - started
        print(f"{name}: {len(paths)} files, {size:.1f} MB, {seconds:.1f} s since the start")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
