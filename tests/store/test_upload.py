"""Uploads: a file or a ZIP archive of files, whatever somebody puts in it; all or nothing."""

import io
import os
import random
import resource
import struct
import zipfile

from tests.dicom_files import make
from tests.store.test_archive import ArchiveCase
from txtransfers import errors
from txtransfers.store import index, upload
from txtransfers.store.archive import EmbeddedArchive
from txtransfers.wire import inflation
from txtransfers.wire.inflation import Unpacking
from txtransfers.wire.messages import Level

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


class UploadCase(ArchiveCase):
    def stored(self) -> list[bytes]:
        """The files that the index names; there is no other on the disk."""
        ids = self.now(self.archive.list_ids(Level.INSTANCE, 0, 0))
        found = self.store.database.read(lambda db: index.find_files(db, ids))
        self.assertEqual(self.on_disk(), len(found))
        result = []
        for id_ in ids:
            with open(self.store.path(found[id_][1]), "rb") as file:
                result.append(file.read())
        return result

    def assert_refused(self, data: bytes, *words: str) -> None:
        text = self.fails(self.upload(data), errors.BadDicom)
        for word in words:
            self.assertIn(word, text)
        self.assertEqual(self.stored(), [])


class OneFileTests(UploadCase):
    def test_byte_by_byte(self) -> None:
        data = make()
        one = self.archive.upload()
        for byte in data:
            self.now(one.write(bytes([byte])))
        zipped, (stored,) = self.now(one.finish())
        self.assertFalse(zipped)
        self.assertFalse(stored.already_stored)
        self.assertEqual(self.stored(), [data])
        details = self.now(self.archive.details(Level.INSTANCE, stored.id))
        self.assertEqual((details.size, details.parent), (len(data), stored.series))

    def test_another_file_of_an_instance_that_is_there(self) -> None:
        first, other = make(), make(PatientSex="M")
        self.add(first)
        (again,) = self.add(other)
        self.assertTrue(again.already_stored)
        self.assertEqual(self.stored(), [first])
        self.store.overwrite_instances = True
        (again,) = self.add(other)
        self.assertFalse(again.already_stored)
        self.assertEqual(self.stored(), [other])

    def test_an_empty_body(self) -> None:
        self.assertIn("empty", self.fails(self.archive.upload().finish(), errors.BadDicom))
        self.assert_refused(b"", "empty")

    def test_a_header_that_is_broken(self) -> None:
        data = make()
        self.assert_refused(data[:200], "StudyInstanceUID")
        self.assert_refused(b"\0" * len(data), str(len(data)))
        self.assert_refused(make(SeriesInstanceUID=""), "SeriesInstanceUID")

    def test_no_room(self) -> None:
        self.store.space._on_disk = lambda: 50  # type: ignore[method-assign]
        one = self.archive.upload()
        text = self.fails(one.write(make()), errors.StorageFull)
        self.assertIn("50", text)
        self.now(one.discard())
        self.assertEqual(self.stored(), [])

    def test_a_folder_that_is_full_is_followed_by_another(self) -> None:
        self.patch(upload, "_FILES_PER_FOLDER", 3)
        self.archive = EmbeddedArchive(self.store)
        files = [make(n) for n in range(8)]
        self.add(*files)
        self.assertEqual(self.stored(), files)
        self.assertEqual(len(os.listdir(self.store.path(""))), 3)


class ZipTests(UploadCase):
    def test_folders_within_and_what_is_not_dicom(self) -> None:
        files = {
            "DICOMDIR": b"no instance" * 30,
            "a/b/c/1.dcm": make(1),
            "a/2": make(2, study=2),
            "a/readme.txt": b"hello",
            "empty": b"",
            "a/b/": b"",
        }
        zip_, stored = self.now(self.upload(zipped(files)))
        self.assertTrue(zip_)
        self.assertEqual(len(stored), 2)
        self.assertEqual(self.stored(), [make(1), make(2, study=2)])

    def test_every_method(self) -> None:
        for number, method in enumerate(METHODS):
            self.now(self.upload(zipped({"a": make(number, filler=5000)}, method)))
        self.assertEqual(self.stored(), [make(n, filler=5000) for n in range(len(METHODS))])

    def test_entries_that_are_left_out_take_no_room(self) -> None:
        self.now(self.upload(zipped({"a": make(1), "b": bytes(5000), "c": b"text"})))
        self.assertEqual(self.store.space._uploads, 0)

    def test_names_lead_nowhere(self) -> None:
        names = ["../../../x", "/etc/x", "..\\..\\x", "a/../../x", "C:\\x", "\n", "x" * 5000, "é\t"]
        files = [make(n) for n in range(len(names))]
        self.now(self.upload(zipped(dict(zip(names, files, strict=True)))))
        self.assertEqual(self.stored(), files)
        for path in (self.folder, os.path.dirname(self.folder)):
            self.assertNotIn("x", os.listdir(path))

    def test_an_archive_of_nothing(self) -> None:
        self.assertEqual(self.now(self.upload(zipped({"a": b"text"}))), (True, ()))
        self.assertEqual(self.stored(), [])
        self.assert_refused(zipped({}))

    def test_encrypted(self) -> None:
        data = bytearray(zipped({"a": make(1), "b": make(2)}))
        for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            data[data.rindex(mark) + flags] |= 1
        self.assert_refused(bytes(data), "encrypted")

    def test_truncated(self) -> None:
        data = zipped({"a": make(1), "b": make(2)})
        for size in range(4, len(data), 97):
            self.assert_refused(data[:size], "ZIP")

    def test_damaged(self) -> None:
        noise = random.Random(3)
        for method in METHODS:
            good = zipped({"a": make(1, filler=3000), "bé": make(2)}, method)
            for _ in range(60):
                data = bytearray(good)
                for _ in range(3):
                    data[noise.randrange(4, len(data))] = noise.randrange(256)
                result = self.upload(bytes(data))
                result.addErrback(lambda failure: failure.trap(errors.BadDicom))
                self.now(result)
                for stored in self.stored():
                    self.assertIn(stored, (make(1, filler=3000), make(2)))

    def test_a_bomb_leaves_nothing(self) -> None:
        def free() -> int:
            return 500_000 - sum(
                os.path.getsize(os.path.join(path, name))
                for path, _folders, names in os.walk(self.store.path(""))
                for name in names
            )

        self.store.space._on_disk = free  # type: ignore[method-assign]
        data = zipped({"a": make(1), "bomb": bytes(50 * 2**20)})
        self.assertLess(len(data), 100_000)
        self.fails(self.upload(data), errors.StorageFull)
        self.assertEqual(self.stored(), [])

    def test_sizes_that_lie(self) -> None:
        data = bytearray(zipped({"a": make(1)}))
        struct.pack_into("<L", data, data.rindex(b"PK\1\2") + 24, 10)
        self.assert_refused(bytes(data), "ZIP")

    def test_more_files_than_may_be_open(self) -> None:
        data = zipped({str(n): make(n, filler=4) for n in range(60)})
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        open_now = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 20, hard))
        try:
            _zip, stored = self.now(self.upload(data))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.assertEqual(len(stored), 60)
        self.assertEqual(len(self.stored()), 60)

    def test_one_that_is_there_already(self) -> None:
        self.add(make(1))
        _zip, stored = self.now(self.upload(zipped({"a": make(1), "b": make(2)})))
        self.assertEqual([one.already_stored for one in stored], [True, False])
        self.assertEqual(self.stored(), [make(1), make(2)])


class LimitTests(UploadCase):
    """What is more than ``Limits`` says; :meth:`assert_refused` looks that nothing is left."""

    def test_what_it_unpacks_to(self) -> None:
        self.patch(inflation, "FREE", 10_000)
        data = zipped({"a": make(), "b": bytes(100_000), "c": make(SOPInstanceUID="1.9")})
        self.store.unpacking = Unpacking(inflation=inflation.Inflation(ratio=20))
        refused = self.fails(self.upload(data), errors.BadCompression)
        self.assertIn("MaxInflationRatio", refused)
        self.store.unpacking = Unpacking(inflation=inflation.Inflation(size=50_000))
        self.assertIn("MaxInflatedSize", self.fails(self.upload(data), errors.BodyTooLarge))
        self.assertEqual([], self.stored())
        self.store.unpacking = Unpacking(inflation=inflation.Inflation(200, 200_000))
        self.add(data)
        self.assertEqual(2, len(self.stored()))

    def test_how_many_files(self) -> None:
        data = zipped({f"{n}": make(SOPInstanceUID=f"1.{n + 1}") for n in range(4)})
        self.store.unpacking = Unpacking(3)
        self.assert_refused(data, "MaxInstances", "3")
        self.store.unpacking = Unpacking(4)
        self.add(data)
        self.assertEqual(4, len(self.stored()))

    def test_a_directory_that_is_too_large_is_not_read(self) -> None:
        self.patch(upload, "_DIRECTORY", 1000)
        data = zipped({f"{n:050}": b"" for n in range(20)})
        self.store.unpacking = Unpacking(3)
        read: list[int] = []
        self.patch(zipfile.ZipFile, "infolist", lambda _self: read.append(1) or [])
        self.assert_refused(data, "MaxInstances")
        self.assertEqual([], read)
