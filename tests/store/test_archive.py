"""The archive: what is uploaded can be found, looked at and deleted."""

import gzip
import io
import os
import zipfile
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.dicom_files import ROOT_UID, make
from txtransfers import errors
from txtransfers.store.archive import EmbeddedArchive
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.store.interfaces import ArchiveStatistics, IArchive, IUpload
from txtransfers.threads import SynchronousThreads
from txtransfers.wire.messages import Level

NOBODY = "-".join(["00000000"] * 5)


class ArchiveCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())
        self.store = EmbeddedStore(self.folder, SynchronousThreads())
        self.store.start()
        self.addCleanup(self.store.stop)
        self.archive = EmbeddedArchive(self.store)

    def now(self, result: Any) -> Any:
        self.assertIsInstance(result, Deferred)
        return self.successResultOf(result)

    def fails(self, result: Any, error: type[BaseException]) -> str:
        return str(self.failureResultOf(result, error).value)

    def upload(self, data: bytes) -> Any:
        upload = self.archive.upload()
        self.now(upload.write(data[:100]))
        self.now(upload.write(data[100:]))
        return upload.finish()

    def add(self, *files: bytes) -> list[Any]:
        return [self.now(self.upload(data))[1][0] for data in files]

    def on_disk(self) -> int:
        return sum(len(names) for _path, _folders, names in os.walk(self.store.path("")))


class UploadTests(ArchiveCase):
    def test_one_file(self) -> None:
        verifyObject(IUpload, self.archive.upload())
        zipped, (stored,) = self.now(self.upload(make()))
        self.assertEqual((zipped, stored.already_stored), (False, False))
        _zipped, (again,) = self.now(self.upload(make()))
        self.assertTrue(again.already_stored)
        self.assertEqual(self.on_disk(), 1)

    def zipped(self, **files: bytes) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(f"../{name}", data)
        return out.getvalue()

    def test_a_zip_archive(self) -> None:
        data = self.zipped(a=make(1), readme=b"no DICOM", b=make(2), c=make(1))
        zipped, stored = self.now(self.upload(data))
        self.assertTrue(zipped)
        self.assertEqual([one.already_stored for one in stored], [False, False, True])
        self.assertEqual(self.on_disk(), 2)

    def test_nothing_is_left_of_what_is_refused(self) -> None:
        good = self.zipped(a=make(1))
        for data in (
            b"hello",
            gzip.compress(make()),
            good[: len(good) // 2],
            b"PK\3\4" + bytes(100),
        ):
            self.fails(self.upload(data), errors.BadDicom)
            self.assertEqual(self.on_disk(), 0)
        self.fails(self.archive.upload().finish(), errors.BadDicom)

    def test_a_bomb_in_a_zip_meets_the_end_of_the_disk(self) -> None:
        self.store.space._on_disk = lambda: 100_000  # type: ignore[method-assign]
        upload = self.archive.upload()
        self.now(upload.write(self.zipped(bomb=bytes(10**7))))
        self.assertIn("100000", self.fails(upload.finish(), errors.StorageFull))
        self.assertEqual(self.on_disk(), 0)

    def test_discard(self) -> None:
        upload = self.archive.upload()
        self.now(upload.write(make()))
        for _ in range(2):
            self.now(upload.discard())
        self.assertEqual(self.on_disk(), 0)


class TreeCase(ArchiveCase):
    """An archive that holds something."""

    def setUp(self) -> None:
        super().setUp()
        self.files = [
            make(1, AccessionNumber="A1", StudyDescription="Head CT"),
            make(2),
            make(1, series=2),
            make(1, study=2, StudyDate="20260301", AccessionNumber="B2"),
            make(1, study=3, patient="P2", PatientName="Other^One"),
        ]
        self.stored = self.add(*self.files)


class TreeTests(TreeCase):
    def test_interface(self) -> None:
        verifyObject(IArchive, self.archive)
        self.assertEqual(EmbeddedArchive(self.store).identifier, self.archive.identifier)

    def test_lists_are_paged(self) -> None:
        ids = self.now(self.archive.list_ids(Level.INSTANCE, 0, 0))
        self.assertEqual(ids, tuple(one.id for one in self.stored))
        self.assertEqual(self.now(self.archive.list_ids(Level.INSTANCE, 1, 2)), ids[1:3])
        self.assertEqual(len(self.now(self.archive.list_ids(Level.PATIENT, 0, 0))), 2)
        self.assertEqual(self.now(self.archive.list_ids(Level.INSTANCE, 4, 9)), ids[4:])
        self.assertEqual(self.now(self.archive.list_ids(Level.INSTANCE, 5, 0)), ())

    def test_descendants(self) -> None:
        one = self.stored[0]
        for level, id_, wanted, count in (
            (Level.PATIENT, one.patient, Level.STUDY, 2),
            (Level.PATIENT, one.patient, Level.SERIES, 3),
            (Level.PATIENT, one.patient, Level.INSTANCE, 4),
            (Level.STUDY, one.study, Level.INSTANCE, 3),
            (Level.SERIES, one.series, Level.SERIES, 1),
            (Level.INSTANCE, one.id, Level.INSTANCE, 1),
        ):
            found = self.now(self.archive.descendants(level, id_, wanted))
            self.assertEqual(len(set(found)), count, (level, wanted))
        unknown = self.archive.descendants(Level.STUDY, NOBODY, Level.SERIES)
        self.assertIn(NOBODY, self.fails(unknown, errors.UnknownResource))

    def test_details(self) -> None:
        one = self.stored[0]
        study = self.now(self.archive.details(Level.STUDY, one.study))
        self.assertEqual((study.parent, len(study.children)), (one.patient, 2))
        self.assertEqual(study.tags["StudyDescription"], "Head CT")
        self.assertEqual(study.parent_tags["PatientID"], "P1")
        instance = self.now(self.archive.details(Level.INSTANCE, one.id))
        self.assertEqual((instance.size, instance.index), (len(self.files[0]), 1))
        for level, id_ in ((Level.STUDY, one.id), (Level.INSTANCE, NOBODY)):
            self.assertIn(id_, self.fails(self.archive.details(level, id_), errors.UnknownResource))

    def test_statistics(self) -> None:
        size = sum(len(data) for data in self.files)
        whole = self.now(self.archive.statistics(None, ""))
        self.assertEqual(whole, ArchiveStatistics(2, 3, 4, 5, size))
        one = self.now(self.archive.statistics(Level.PATIENT, self.stored[4].patient))
        self.assertEqual((one.studies, one.instances, one.size), (1, 1, len(self.files[4])))
        self.fails(self.archive.statistics(Level.STUDY, NOBODY), errors.UnknownResource)

    def test_delete_tells_what_remains(self) -> None:
        first = self.stored[0]
        deleted = self.now(self.archive.delete(Level.INSTANCE, first.id))
        self.assertEqual(deleted, (Level.SERIES, first.series))
        deleted = self.now(self.archive.delete(Level.SERIES, first.series))
        self.assertEqual(deleted, (Level.STUDY, first.study))
        deleted = self.now(self.archive.delete(Level.STUDY, first.study))
        self.assertEqual(deleted, (Level.PATIENT, first.patient))
        self.assertIsNone(self.now(self.archive.delete(Level.PATIENT, first.patient)))
        self.assertEqual(self.on_disk(), 1)
        self.fails(self.archive.delete(Level.PATIENT, first.patient), errors.UnknownResource)
        self.assertEqual(self.now(self.archive.statistics(None, "")).instances, 1)

    def test_lookup(self) -> None:
        found = self.now(self.archive.lookup_dicom("P1"))
        self.assertEqual(found, ((Level.PATIENT, self.stored[0].patient),))
        found = self.now(self.archive.lookup_dicom(f"{ROOT_UID}.1"))
        self.assertEqual(found, ((Level.STUDY, self.stored[0].study),))
        self.assertEqual(self.now(self.archive.lookup_dicom("nobody")), ())

    def test_studies_of(self) -> None:
        ids = [stored.id for stored in self.stored]
        studies = {stored.study for stored in self.stored}
        found = self.now(self.archive.studies_of([*ids, "nobody", *ids]))
        self.assertEqual((len(studies), studies), (len(found), set(found)))
        self.assertEqual((), self.now(self.archive.studies_of([])))
        many = [f"nobody {number}" for number in range(1200)]
        found = self.now(self.archive.studies_of([*many, ids[0]]))
        self.assertEqual((self.stored[0].study,), found)

    def test_changes(self) -> None:
        lines, done, last = self.now(self.archive.changes(0, 4))
        self.assertEqual(
            [(line.type, line.level) for line in lines],
            [
                ("NewPatient", Level.PATIENT),
                ("NewStudy", Level.STUDY),
                ("NewSeries", Level.SERIES),
                ("NewInstance", Level.INSTANCE),
            ],
        )
        self.assertEqual((done, last), (False, lines[-1].seq))
        _rest, done, last = self.now(self.archive.changes(last, 100))
        self.assertTrue(done)
        self.assertEqual(self.now(self.archive.changes(last, 100)), ((), True, last))
        gone = self.stored[4]
        self.now(self.archive.delete(Level.STUDY, gone.study))
        lines, done, newest = self.now(self.archive.changes(last, 100))
        self.assertEqual(
            [(line.type, line.level, line.id) for line in lines],
            [
                ("Deleted", Level.INSTANCE, gone.id),
                ("Deleted", Level.SERIES, gone.series),
                ("Deleted", Level.STUDY, gone.study),
                ("Deleted", Level.PATIENT, gone.patient),
            ],
        )
        self.assertEqual((done, newest), (True, last + 4))
        _lines, done, exact = self.now(self.archive.changes(last, 4))
        self.assertEqual((done, exact), (True, newest))

    def test_all_tags(self) -> None:
        tags = self.now(self.archive.all_tags(self.stored[0].id))
        self.assertEqual((tags["PatientID"], tags["Modality"]), ("P1", "OT"))
        self.assertNotIn("PixelData", tags)
        self.fails(self.archive.all_tags(NOBODY), errors.UnknownResource)
