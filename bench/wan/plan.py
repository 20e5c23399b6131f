"""What is measured: the links, the files, and how many of them a link gets."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import attrs
from pydicom import dcmread

from bench.wan.link import Link
from demo import dataset

LINKS = (
    Link(1000, 1),
    Link(100, 20),
    Link(200, 100),
    Link(200, 100, 0.1),
    Link(200, 100, 1),
    Link(20, 200, 0.5),
    Link(5, 50),
)
PLOTTED = "ct"
"""The files whose runs are drawn over time."""
CT_COUNT, CT_KILOBYTES = 500, 512
SMALL_COUNT, SMALL_KILOBYTES = 3000, 19
LARGE_MEGABYTES = 1024
JPEG2000_KILOBYTES = 60 * 1024
SEED = 1

Write = Callable[[Path, int], list[Path]]
"""Writes files to a folder that are about so many bytes at the most; returns their paths."""


@attrs.frozen
class Files:
    """A kind of study, of which a slow link gets a share."""

    name: str
    title: str
    write: Write


@attrs.frozen
class Load:
    """The files of one study on the disk, alone in their folder."""

    name: str
    folder: Path
    paths: tuple[Path, ...]
    size: int
    """Bytes."""
    study: str
    """The identifier that Orthanc and its peers have for it."""


def _ct(folder: Path, budget: int) -> list[Path]:
    count = share(budget, CT_KILOBYTES * dataset.KILOBYTE, CT_COUNT)
    return dataset.ct_series(folder, count, CT_KILOBYTES, SEED)


def _small(folder: Path, budget: int) -> list[Path]:
    count = share(budget, SMALL_KILOBYTES * dataset.KILOBYTE, SMALL_COUNT)
    return dataset.ct_series(folder, count, SMALL_KILOBYTES, SEED, prefix="small")


def _large(folder: Path, budget: int) -> list[Path]:
    megabytes = share(budget, dataset.MEGABYTE, LARGE_MEGABYTES)
    return [dataset.multiframe(folder / "large.dcm", megabytes, SEED)]


def _jpeg2000(folder: Path, budget: int) -> list[Path]:
    kilobytes = share(budget, dataset.KILOBYTE, JPEG2000_KILOBYTES)
    return dataset.jpeg2000(folder, kilobytes, SEED)


FILES = (
    Files("ct", f"{CT_COUNT} x {CT_KILOBYTES} KB", _ct),
    Files("small", f"{SMALL_COUNT:,} x {SMALL_KILOBYTES} KB", _small),
    Files("large", "one of 1 GB", _large),
    Files("jpeg2000", "60 MB of JPEG 2000", _jpeg2000),
)


def share(budget: int, unit: int, most: int) -> int:
    """Return how many units the budget pays for: one at the least."""
    return max(1, min(most, budget // unit))


def load(files: Files, link: Link, seconds: float, folder: Path) -> Load:
    """Write what takes ``seconds`` on this link at the most, if nothing but the link counts."""
    paths = files.write(folder, int(link.goodput * seconds))
    size = sum(path.stat().st_size for path in paths)
    return Load(files.name, folder, tuple(paths), size, _study(paths[0]))


def _study(path: Path) -> str:
    """Return the identifier of a file's study: the SHA-1 of two of its elements."""
    header = dcmread(path, specific_tags=["PatientID", "StudyInstanceUID"])
    digest = hashlib.sha1(f"{header.PatientID}|{header.StudyInstanceUID}".encode()).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, len(digest), 8))


def limit(link: Link, size: int) -> float:
    """Return after how many seconds nobody waits any longer."""
    return 4 * link.seconds(size) + 60
