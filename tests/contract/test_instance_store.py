"""One suite for every store: what IInstanceStore promises, and nothing of how it is kept."""

import hashlib
import os
from collections.abc import Awaitable, Sequence
from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.dicom_files import make
from txtransfers import errors
from txtransfers.store.dicom import read_header
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.store.interfaces import IIncoming, IInstanceReader, IInstanceStore, Piece
from txtransfers.store.memory import MemoryStore
from txtransfers.threads import SynchronousThreads
from txtransfers.wire.identifiers import is_identifier
from txtransfers.wire.messages import Level, Resource
from txtransfers.wire.plan import Chunk, Instance

ZERO = "-".join(["00000000"] * 5)


def instance(data: bytes, id_: str = ZERO, md5: str | None = None) -> Instance:
    return Instance(id_, len(data), md5 or hashlib.md5(data).hexdigest())


class _Suite:
    """Subclasses make the store."""

    store: Any

    def now(self: Any, result: Awaitable[Any]) -> Any:
        """The result of what must be a Deferred, and must have fired."""
        self.assertIsInstance(result, Deferred)
        return self.successResultOf(result)

    def fails(self: Any, result: Any, *types: type[BaseException]) -> Any:
        self.assertIsInstance(result, Deferred)
        return self.failureResultOf(result, *types).value

    def put(self: Any, *files: bytes) -> list[str]:
        """Store files by way of a transfer; gives their identifiers."""
        declared = [instance(f, f"{n:08x}-" + ZERO[9:]) for n, f in enumerate(files)]
        incoming = self.now(self.store.receive(declared))
        for one, data in zip(declared, files, strict=True):
            self.now(incoming.write([Piece(one.id, 0, data)]))
        report = self.now(incoming.commit())
        return [*report.stored, *report.already_stored]

    def read(self: Any, *chunks: Chunk, limit: int = 100) -> bytes:
        reader = self.store.open(chunks)
        verifyObject(IInstanceReader, reader)
        parts: list[bytes] = []
        while data := self.now(reader.read(limit)):
            parts.append(data)
        self.assertTrue(all(len(part) == limit for part in parts[:-1]))
        self.assertEqual(self.now(reader.read(limit)), b"")
        reader.close()
        reader.close()
        return b"".join(parts)

    def all_ids(self: Any, *patients: str) -> list[str]:
        resources = [Resource(Level.PATIENT, patient) for patient in patients]
        return [one.id for one in self.now(self.store.lookup(resources))]

    def test_interface(self: Any) -> None:
        verifyObject(IInstanceStore, self.store)
        verifyObject(IIncoming, self.now(self.store.receive([])))

    def test_lookup_gives_each_instance_once_in_order(self: Any) -> None:
        files = [make(n, series=n % 2) for n in range(6)]
        ids = self.put(*files)
        series = self.series_of(files[0])
        found = self.now(
            self.store.lookup(
                [Resource(Level.INSTANCE, ids[0]), *([Resource(Level.SERIES, series)] * 2)]
            )
        )
        self.assertEqual([one.id for one in found], sorted(ids[0::2]))
        by_id = dict(zip(ids, files, strict=True))
        for one in found:
            self.assertEqual(one, instance(by_id[one.id], one.id))
        self.assertEqual(self.now(self.store.lookup([])), ())

    def series_of(self: Any, data: bytes) -> str:
        return str(read_header(BytesIO(data), len(data)).ids.series)

    def test_unknown_resources(self: Any) -> None:
        (id_,) = self.put(make())
        for level, bad in (
            (Level.SERIES, id_),
            (Level.INSTANCE, ZERO),
            (Level.PATIENT, "../patients"),
            (Level.STUDY, ""),
        ):
            error = self.fails(self.store.lookup([Resource(level, bad)]), errors.UnknownResource)
            self.assertIn(bad, str(error))

    def test_find_leaves_out_the_unknown(self: Any) -> None:
        (id_,) = self.put(make())
        found = self.now(self.store.find([id_, ZERO]))
        self.assertEqual(list(found), [id_])
        self.assertEqual(found[id_].size, len(make()))

    def test_chunks_are_read_end_to_end(self: Any) -> None:
        files = [make(1, filler=500), make(2, filler=300)]
        a, b = self.put(*files)
        data = self.read(Chunk(a, 10, 400), Chunk(b, 0, 0), Chunk(b, 0, len(files[1])))
        self.assertEqual(data, files[0][10:410] + files[1])

    def test_reading_an_instance_that_is_not_here(self: Any) -> None:
        reader = self.store.open([Chunk(ZERO, 0, 10)])
        self.fails(reader.read(10), errors.UnknownResource)
        reader.close()

    def test_bytes_come_in_any_order_and_twice(self: Any) -> None:
        data = make(filler=1000)
        incoming = self.now(self.store.receive([instance(data)]))
        for start in (600, 0, 300, 0, 900, 600):
            piece = Piece(ZERO, start, memoryview(data)[start : start + 300])
            self.now(incoming.write([piece]))
        rest = Piece(ZERO, 1200, data[1200:])
        self.now(incoming.write([rest]))
        report = self.now(incoming.commit())
        (id_,) = report.stored
        self.assertTrue(is_identifier(id_))
        self.assertEqual(self.read(Chunk(id_, 0, len(data))), data)

    def test_all_or_nothing_and_again(self: Any) -> None:
        good, late = make(1), make(2)
        declared = [instance(good, "0" * 8 + ZERO[8:]), instance(late, "1" * 8 + ZERO[8:])]
        incoming = self.now(self.store.receive(declared))
        self.now(incoming.write([Piece(declared[0].id, 0, good)]))
        error = self.fails(incoming.commit(), errors.CorruptedInstances)
        self.assertEqual(error.instances, (declared[1].id,))
        self.assertIn(declared[1].id, str(error))
        self.assert_nothing()
        wrong = bytes(len(late))
        self.now(incoming.write([Piece(declared[1].id, 0, wrong)]))
        error = self.fails(incoming.commit(), errors.CorruptedInstances)
        self.assertIn(hashlib.md5(wrong).hexdigest(), str(error))
        self.assert_nothing()
        self.now(incoming.write([Piece(declared[1].id, 0, late)]))
        self.assertEqual(len(self.now(incoming.commit()).stored), 2)

    def assert_nothing(self: Any) -> None:
        patient = "ed7a8a5a-8db2b3ef-a1ea8e2c-0b7a1e5a-0b7a1e5a"
        for data in (make(1), make(2)):
            self.fails(
                self.store.lookup([Resource(Level.SERIES, self.series_of(data))]),
                errors.UnknownResource,
            )
        self.fails(self.store.lookup([Resource(Level.PATIENT, patient)]), errors.UnknownResource)

    def test_what_is_no_dicom_is_named_and_nothing_stored(self: Any) -> None:
        good, bad = make(1), b"not a dicom file" * 20
        declared = [instance(good, "0" * 8 + ZERO[8:]), instance(bad, "1" * 8 + ZERO[8:])]
        incoming = self.now(self.store.receive(declared))
        pieces = [Piece(declared[0].id, 0, good), Piece(declared[1].id, 0, bad)]
        self.now(incoming.write(pieces))
        error = self.fails(incoming.commit(), errors.BadDicom)
        self.assertIn(declared[1].id, str(error))
        self.assert_nothing()

    def test_an_instance_of_no_bytes(self: Any) -> None:
        incoming = self.now(self.store.receive([instance(b"")]))
        self.fails(incoming.commit(), errors.BadDicom)

    def test_an_md5_in_capitals_is_another(self: Any) -> None:
        data = make()
        one = instance(data, md5=hashlib.md5(data).hexdigest().upper())
        incoming = self.now(self.store.receive([one]))
        self.now(incoming.write([Piece(ZERO, 0, data)]))
        self.fails(incoming.commit(), errors.CorruptedInstances)

    def test_what_is_there_already_stays(self: Any) -> None:
        first, other = make(1, PatientSex="F"), make(1, PatientSex="M")
        (id_,) = self.put(first)
        declared = [instance(other)]
        incoming = self.now(self.store.receive(declared))
        self.now(incoming.write([Piece(ZERO, 0, other)]))
        report = self.now(incoming.commit())
        self.assertEqual((report.stored, report.already_stored), ((), (id_,)))
        self.assertEqual(self.read(Chunk(id_, 0, len(first))), first)

    def test_or_is_overwritten(self: Any) -> None:
        self.store.overwrite_instances = True
        first, other = make(1, PatientSex="F"), make(1, PatientSex="M")
        (id_,) = self.put(first)
        self.assertEqual(self.put(other), [id_])
        self.assertEqual(self.read(Chunk(id_, 0, len(other))), other)
        self.assertEqual(self.now(self.store.find([id_]))[id_], instance(other, id_))

    def test_nothing_is_accepted_that_cannot_fit(self: Any) -> None:
        error = self.fails(self.store.receive([Instance(ZERO, 2**60, "")]), errors.StorageFull)
        self.assertIn(str(2**60), str(error))
        self.assertRegex(str(error), r"room for \d+")

    def test_discard(self: Any) -> None:
        data = make()
        incoming = self.now(self.store.receive([instance(data)]))
        self.now(incoming.write([Piece(ZERO, 0, data)]))
        self.now(incoming.discard())
        self.now(incoming.discard())
        self.assert_nothing()

    def test_discard_after_commit_does_nothing(self: Any) -> None:
        data = make()
        incoming = self.now(self.store.receive([instance(data)]))
        self.now(incoming.write([Piece(ZERO, 0, data)]))
        (id_,) = self.now(incoming.commit()).stored
        self.now(incoming.discard())
        self.assertEqual(self.read(Chunk(id_, 0, len(data))), data)


class MemoryStoreTests(_Suite, SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore()


class EmbeddedStoreTests(_Suite, SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())
        self.store = EmbeddedStore(self.folder, SynchronousThreads())
        self.store.start()
        self.addCleanup(self.store.stop)

    def folders(self) -> Sequence[str]:
        return os.listdir(os.path.join(self.folder, "instances"))

    def test_discard_frees_the_space(self) -> None:
        free = self.store.free_space()
        incoming = self.now(self.store.receive([Instance(ZERO, 10**7, "")]))
        self.assertLess(self.store.free_space(), free - 9 * 10**6)
        self.now(incoming.discard())
        self.assertEqual(self.folders(), [])
        self.assertFalse(self.store._promised)

    def test_files_that_are_not_shown_are_not_kept(self) -> None:
        self.put(make(1))
        self.put(make(1))
        self.assertEqual(len(self.folders()), 1)
