"""An archive of 100,000 studies, as the page asks for it: ``python -m bench.archive``.

The index is made up: rows as uploads make them, without files. It is asked in this process, as the
daemon does in a thread. Printed are the milliseconds of each question, the median of some.
"""

import argparse
import hashlib
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from twisted.internet.defer import Deferred

from txtransfers.store import index
from txtransfers.store.archive import EmbeddedArchive
from txtransfers.store.dicom import Header
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.store.files import INDEX_FILE
from txtransfers.store.index import RowMaker
from txtransfers.store.interfaces import Find, Order
from txtransfers.threads import SynchronousThreads
from txtransfers.wire.identifiers import DicomIdentifiers, hash_identifiers
from txtransfers.wire.messages import Level

FAMILY = ["Müller", "Schmidt", "Garcia", "Chen", "Kowalski", "O'Brien", "Rossi", "Dubois", "Novák"]
GIVEN = ["Anna", "Bruno", "Chiara", "David", "Elif", "Frida", "Georg", "Hana", "Ivan", "Julia"]
WHAT = ["CT Abdomen", "MR Head", "Chest PA", "CT Thorax with contrast", "US Thyroid", "MR Knee"]
KINDS = ["CT", "MR", "DX", "US", "PT"]
_MS = 1000


def headers(studies: int) -> Iterator[Header]:
    """Two of three patients have one study; one or two series a study, two instances a series."""
    chance = random.Random(7)
    patient, number = 0, 0
    while number < studies:
        patient += 1
        name = f"{chance.choice(FAMILY)}^{chance.choice(GIVEN)}^{patient % 97}"
        birth = f"{chance.randint(1930, 2015)}{chance.randint(1, 12):02}{chance.randint(1, 28):02}"
        for _ in range(min(chance.choice([1, 1, 3]), studies - number)):
            number += 1
            yield from _study(chance, patient, name, birth, number)


def _study(
    chance: random.Random, patient: int, name: str, birth: str, number: int
) -> Iterator[Header]:
    uid = f"1.2.826.0.1.3680043.10.{number}"
    date = f"{chance.randint(2005, 2026)}{chance.randint(1, 12):02}{chance.randint(1, 28):02}"
    modality = chance.choice(KINDS)
    for series in range(1 + number % 2):
        for instance in range(2):
            dicom = DicomIdentifiers(
                f"PAT{patient:07}", uid, f"{uid}.{series}", f"{uid}.{series}.{instance}"
            )
            tags = {
                Level.PATIENT: {
                    "PatientName": name,
                    "PatientID": dicom.patient_id,
                    "PatientBirthDate": birth,
                    "PatientSex": chance.choice("FM"),
                },
                Level.STUDY: {
                    "StudyDate": date,
                    "StudyTime": "101500",
                    "AccessionNumber": f"ACC{number:08}",
                    "StudyDescription": chance.choice(WHAT),
                    "StudyInstanceUID": uid,
                },
                Level.SERIES: {"Modality": modality, "SeriesInstanceUID": dicom.series},
                Level.INSTANCE: {"SOPInstanceUID": dicom.instance, "InstanceNumber": "1"},
            }
            yield Header(dicom, hash_identifiers(dicom), tags, "1.2.840.10008.1.2.1", "1.2.840")


def fill(store: EmbeddedStore, studies: int) -> None:
    """Insert them all."""

    def write(db: sqlite3.Connection) -> None:
        folder, maker, rows = index.add_folder(db, "synthetic"), RowMaker(), []
        for n, header in enumerate(headers(studies)):
            md5 = hashlib.md5(header.ids.instance.encode()).hexdigest()
            rows.append(maker.row(header, folder, f"{n}.dcm", 524_288, md5))
            if len(rows) == 10_000:
                index.insert(db, rows, False)
                rows, maker = [], RowMaker()
        index.insert(db, rows, False)

    store.database.write(write)


def questions(archive: Any) -> dict[str, Callable[[], "Deferred[Any]"]]:
    """What the page asks."""
    newest = (Order("StudyDate", False),)
    by_name = (Order("PatientName", True),)

    def find(query: dict[str, str] | None = None, since: int = 0, **more: Any) -> Any:
        return lambda: archive.find(Find(Level.STUDY, query or {}, since=since, limit=50, **more))

    def count(**query: str) -> Any:
        return lambda: archive.count(Find(Level.STUDY, query))

    return {
        "studies, as they came": find(),
        "the last page of these": find(since=99_950),
        "newest first": find(order=newest),
        "the last page of these ": find(since=99_950, order=newest),
        "by name": find(order=by_name),
        "the middle of these": find(since=50_000, order=by_name),
        "name begins with Kow, newest first": find({"PatientName": "Kow*"}, order=newest),
        "name has müll in it, newest first": find({"PatientName": "*müll*"}, order=newest),
        "name has nobody in it": find({"PatientName": "*nobody*"}, order=newest),
        "description has thorax in it, by name": find(
            {"StudyDescription": "*thorax*"}, order=by_name
        ),
        "one accession number": find({"AccessionNumber": "ACC00077777"}, order=newest),
        "one patient": find({"PatientID": "PAT0031234"}, order=newest),
        "of one week": find({"StudyDate": "20250301-20250307"}, order=newest),
        "of one modality": find({"ModalitiesInStudy": "PT"}, order=newest),
        "how many in all": count(),
        "how many with müll in the name": count(PatientName="*müll*"),
        "how many of one modality": count(ModalitiesInStudy="PT"),
        "patients by name": lambda: archive.find(Find(Level.PATIENT, {}, limit=50, order=by_name)),
        "statistics of all, and how many instances": lambda: archive.statistics(
            None, ""
        ).addCallback(lambda numbers: numbers.instances),
    }


def main() -> None:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.archive", description=__doc__)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="keep the index there, or use the one there")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        is_new = not (folder / INDEX_FILE).exists()
        store = EmbeddedStore(str(folder), SynchronousThreads())
        store.start()
        if is_new:
            started = time.perf_counter()
            fill(store, arguments.studies)
            console.print(f"filled in {time.perf_counter() - started:.0f} s")
        table = Table("question", "ms", "found")
        for name, ask in questions(EmbeddedArchive(store)).items():
            took, found = [], 0
            for _ in range(arguments.rounds):
                started = time.perf_counter()
                answer = result_of(ask())
                took.append((time.perf_counter() - started) * _MS)
                found = len(answer) if isinstance(answer, tuple) else answer
            table.add_row(name.strip(), f"{median(took):.1f}", str(found))
        console.print(table)
        store.stop()


def result_of(deferred: "Deferred[Any]") -> Any:
    """What a Deferred has fired with."""
    found: list[Any] = []
    deferred.addCallback(found.append)
    return found[0]


if __name__ == "__main__":
    main()
