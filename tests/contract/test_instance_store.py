"""One suite for every store: what IInstanceStore promises, and nothing of how it is kept."""

import hashlib
import itertools
import os
import queue
from collections.abc import Awaitable, Callable, Sequence
from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.dicom_files import make
from tests.orthanc.fake_orthanc import FakeOrthanc, settings
from txtransfers import errors
from txtransfers.orthanc import reader
from txtransfers.orthanc.connection import Agents
from txtransfers.orthanc.rest import OrthancRest
from txtransfers.orthanc.store import OrthancStore
from txtransfers.store import showing
from txtransfers.store.archive import EmbeddedArchive
from txtransfers.store.dicom import read_header
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.store.interfaces import (
    CommitReport,
    IIncoming,
    IInstanceReader,
    IInstanceStore,
    Outcome,
    Piece,
)
from txtransfers.store.memory import MemoryStore
from txtransfers.store.steps import Step
from txtransfers.threads import SynchronousThreads, Threads
from txtransfers.wire.identifiers import is_identifier
from txtransfers.wire.messages import Level, Resource
from txtransfers.wire.plan import Chunk, Instance

ZERO = "-".join(["00000000"] * 5)


def instance(data: bytes, id_: str = ZERO, md5: str | None = None) -> Instance:
    return Instance(id_, len(data), md5 or hashlib.md5(data).hexdigest())


class Suite:
    """Subclasses make the store."""

    store: Any

    def settle(self: Any, result: Any) -> None:
        """Have done whatever ``result`` waits for."""

    def delete(self: Any, id_: str) -> None:
        """Delete an instance."""
        raise NotImplementedError

    def now(self: Any, result: Awaitable[Any]) -> Any:
        """The result of what must be a Deferred, and must fire."""
        self.assertIsInstance(result, Deferred)
        self.settle(result)
        return self.successResultOf(result)

    def fails(self: Any, result: Any, *types: type[BaseException]) -> Any:
        self.assertIsInstance(result, Deferred)
        self.settle(result)
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
        self.assertTrue(all(len(part) <= limit for part in parts))
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

    def test_lookup_at_every_level(self: Any) -> None:
        files = [
            *(make(1), make(2), make(3, series=2), make(4, study=2), make(5, patient="P2")),
            make(6, study=9, patient="P2"),
        ]
        ids = self.put(*files)
        headers = [read_header(BytesIO(data), len(data)).ids for data in files]
        for level, name in (
            (Level.PATIENT, "patient"),
            (Level.STUDY, "study"),
            (Level.SERIES, "series"),
            (Level.INSTANCE, "instance"),
        ):
            for wanted in {getattr(header, name) for header in headers}:
                found = self.now(self.store.lookup([Resource(level, wanted)]))
                below = [
                    id_
                    for id_, header in zip(ids, headers, strict=True)
                    if getattr(header, name) == wanted
                ]
                self.assertEqual([one.id for one in found], sorted(below), name)

    def test_one_that_is_unknown_fails_the_whole_lookup(self: Any) -> None:
        (id_,) = self.put(make())
        resources = [Resource(Level.INSTANCE, id_), Resource(Level.STUDY, ZERO)]
        error = self.fails(self.store.lookup(resources), errors.UnknownResource)
        self.assertIn(ZERO, str(error))

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

    def test_reads_are_right_whatever_the_limit(self: Any) -> None:
        files = [make(n, filler=40 * n) for n in range(4)]
        ids = self.put(*files)
        chunks = [
            Chunk(id_, 1 + n, len(data) - 2 - n)
            for n, (id_, data) in enumerate(zip(ids, files, strict=True))
        ]
        whole = b"".join(
            data[chunk.offset : chunk.offset + chunk.size]
            for chunk, data in zip(chunks, files, strict=True)
        )
        for limit in (1, 7, chunks[0].size, len(whole) - 1, len(whole), len(whole) + 1):
            self.assertEqual(self.read(*chunks, limit=limit), whole, limit)

    def test_nothing_to_read(self: Any) -> None:
        self.assertEqual(self.read(), b"")

    def test_a_chunk_beyond_the_end_is_no_short_read(self: Any) -> None:
        data = make()
        (id_,) = self.put(data)
        reader = self.store.open([Chunk(id_, 10, len(data))])
        self.addCleanup(reader.close)
        self.fails(reader.read(2 * len(data)), errors.StorageFailure)

    def test_an_instance_that_is_deleted_before_its_turn(self: Any) -> None:
        files = [make(1), make(2)]
        a, b = self.put(*files)
        size = len(files[0])
        reader = self.store.open([Chunk(a, 0, size), Chunk(b, 0, len(files[1]))])
        self.addCleanup(reader.close)
        self.assertEqual(self.now(reader.read(size)), files[0])
        self.delete(b)
        error = self.fails(reader.read(10), errors.UnknownResource)
        self.assertIn(b, str(error))

    def test_reading_an_instance_that_is_another_one_meanwhile(self: Any) -> None:
        old, new = make(1), make(1, PatientSex="O")
        (id_,) = self.put(old)
        wanted = {id_: instance(old).md5}
        self.store.overwrite_instances = True
        reader = self.store.open([Chunk(id_, 0, 100)], wanted)
        self.addCleanup(reader.close)
        self.assertEqual(self.now(reader.read(100)), old[:100])
        late = self.store.open([Chunk(id_, 0, 100)], wanted)
        self.addCleanup(late.close)
        self.put(new)
        self.assertIn(id_, str(self.fails(late.read(100), errors.UnknownResource)))
        right = self.store.open([Chunk(id_, 0, 100)], {id_: instance(new).md5})
        self.addCleanup(right.close)
        self.assertEqual(self.now(right.read(100)), new[:100])

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

    def test_many_writes_under_way_at_once(self: Any) -> None:
        data = make(filler=20_000)
        incoming = self.now(self.store.receive([instance(data)]))
        writes = [
            incoming.write([Piece(ZERO, start, data[start : start + 333])])
            for start in [*range(0, len(data), 333), *range(0, len(data), 666)]
        ]
        for write in reversed(writes):
            self.now(write)
        (id_,) = self.now(incoming.commit()).stored
        self.assertEqual(self.read(Chunk(id_, 0, len(data)), limit=5000), data)

    def test_a_piece_is_not_kept(self: Any) -> None:
        data = make()
        buffer = bytearray(len(data) // 2)
        incoming = self.now(self.store.receive([instance(data)]))
        for start in (len(buffer), 0, 2 * len(buffer)):
            part = data[start : start + len(buffer)]
            buffer[: len(part)] = part
            self.now(incoming.write([Piece(ZERO, start, memoryview(buffer)[: len(part)])]))
            buffer[:] = bytes(len(buffer))
        (id_,) = self.now(incoming.commit()).stored
        self.assertEqual(self.read(Chunk(id_, 0, len(data))), data)

    def test_other_bytes_first_and_the_right_ones_over_them(self: Any) -> None:
        data = make(filler=500)
        incoming = self.now(self.store.receive([instance(data)]))
        self.now(incoming.write([Piece(ZERO, 0, data[:300] + bytes(100))]))
        self.now(incoming.write([Piece(ZERO, 400, data[400:])]))
        self.now(incoming.write([Piece(ZERO, 250, data[250:450])]))
        (id_,) = self.now(incoming.commit()).stored
        self.assertEqual(self.read(Chunk(id_, 0, len(data))), data)

    def test_a_gap_of_one_byte(self: Any) -> None:
        data = make()
        for gap in (0, 1, len(data) // 2, len(data) - 1):
            incoming = self.now(self.store.receive([instance(data)]))
            pieces = [Piece(ZERO, 0, data[:gap]), Piece(ZERO, gap + 1, data[gap + 1 :])]
            self.now(incoming.write(pieces))
            self.fails(incoming.commit(), errors.CorruptedInstances)
            self.assert_nothing()
            self.now(incoming.write([Piece(ZERO, gap, data[gap : gap + 1])]))
            (id_,) = self.now(incoming.commit()).stored
            self.delete(id_)

    def test_nothing_is_seen_before_the_commit(self: Any) -> None:
        data = make()
        incoming = self.now(self.store.receive([instance(data)]))
        self.now(incoming.write([Piece(ZERO, 0, data)]))
        self.assert_nothing()
        other = make(7, study=5, patient="P5")
        self.put(other)
        self.assert_nothing()
        self.assertEqual(len(self.now(incoming.commit()).stored), 1)

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

    def test_a_transfer_that_is_partly_there(self: Any) -> None:
        old, new = make(1), make(2)
        (id_,) = self.put(old)
        declared = [instance(old, "0" * 8 + ZERO[8:]), instance(new, "1" * 8 + ZERO[8:])]
        incoming = self.now(self.store.receive(declared))
        pieces = [Piece(declared[0].id, 0, old), Piece(declared[1].id, 0, new)]
        self.now(incoming.write(pieces))
        report = self.now(incoming.commit())
        self.assertEqual(report.already_stored, (id_,))
        (other,) = report.stored
        chunks = [Chunk(id_, 0, len(old)), Chunk(other, 0, len(new))]
        self.assertEqual(self.read(*chunks), old + new)

    def test_files_are_known_by_their_own_identifiers(self: Any) -> None:
        data = make()
        (id_,) = self.put(data)
        self.assertEqual(id_, read_header(BytesIO(data), len(data)).ids.instance)
        self.assertEqual(list(self.now(self.store.find([ZERO, id_]))), [id_])

    def test_of_two_files_of_one_instance_one_counts(self: Any) -> None:
        for overwrite, study in ((False, 1), (True, 2)):
            self.store.overwrite_instances = overwrite
            files = make(1, study=study), make(1, study=study, PatientSex="M")
            declared = [instance(f, str(n) * 8 + ZERO[8:]) for n, f in enumerate(files)]
            incoming = self.now(self.store.receive(declared))
            pieces = [Piece(declared[n].id, 0, files[n]) for n in (1, 0)]
            self.now(incoming.write(pieces))
            report = self.now(incoming.commit())
            (id_,) = report.stored
            self.assertEqual(set(report.outcomes), {Outcome.STORED, Outcome.DIFFERENT})
            winner = files[report.outcomes.index(Outcome.STORED)]
            self.assertEqual(self.read(Chunk(id_, 0, len(winner))), winner)

    def test_identifiers_of_two_levels_that_are_equal(self: Any) -> None:
        """A PatientID that spells out another instance hashes to the same identifier."""
        data = make()
        ids = read_header(BytesIO(data), len(data))
        dicom = ids.dicom
        spelled = "|".join((dicom.patient_id, dicom.study, dicom.series, dicom.instance))
        trap = make(8, study=8, PatientID=spelled)
        self.assertEqual(read_header(BytesIO(trap), len(trap)).ids.patient, ids.ids.instance)
        for first, second in ((trap, data), (data, trap)):
            (a,) = self.put(first)
            (b,) = self.put(second)
            chunks = [Chunk(a, 0, len(first)), Chunk(b, 0, len(second))]
            self.assertEqual(self.read(*chunks), first + second)
            for level, data_ in ((Level.INSTANCE, data), (Level.PATIENT, trap)):
                (found,) = self.now(self.store.lookup([Resource(level, ids.ids.instance)]))
                self.assertEqual(found.md5, hashlib.md5(data_).hexdigest())
            self.delete(a)
            self.delete(b)

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

    def test_a_second_commit_reports_the_same_and_changes_nothing(self: Any) -> None:
        data = make()
        incoming = self.now(self.store.receive([instance(data)]))
        self.now(incoming.write([Piece(ZERO, 0, data)]))
        report = self.now(incoming.commit())
        self.assertEqual(self.now(incoming.commit()), report)
        self.assertEqual(self.read(Chunk(report.stored[0], 0, len(data))), data)

    def test_what_is_discarded_cannot_be_committed(self: Any) -> None:
        data = make()
        incoming = self.now(self.store.receive([instance(data)]))
        self.now(incoming.write([Piece(ZERO, 0, data)]))
        self.now(incoming.discard())
        self.fails(incoming.commit(), errors.BadState)
        self.assert_nothing()

    def test_discard_during_a_commit_all_or_nothing(self: Any) -> None:
        for study in range(1, 12):
            data = [make(n, study=study) for n in range(3)]
            declared = [instance(one, f"{n:08x}-" + ZERO[9:]) for n, one in enumerate(data)]
            incoming = self.now(self.store.receive(declared))
            for one, bytes_ in zip(declared, data, strict=True):
                self.now(incoming.write([Piece(one.id, 0, bytes_)]))
            committing, discarding = incoming.commit(), incoming.discard()
            committing.addErrback(lambda failure: failure.trap(errors.TransfersError) and None)
            self.now(discarding)
            report = self.now(committing)
            if report is None:
                series = Resource(Level.SERIES, self.series_of(data[0]))
                self.fails(self.store.lookup([series]), errors.UnknownResource)
                continue
            chunks = [Chunk(i, 0, len(d)) for i, d in zip(report.stored, data, strict=True)]
            self.assertEqual(self.read(*chunks), b"".join(data))

    # Staging areas that wait

    def halves(self: Any, one: Instance) -> tuple[Any, ...]:
        half = one.size // 2
        return ((Chunk(one.id, 0, half),), (Chunk(one.id, half, one.size - half),))

    def test_what_is_missing(self: Any) -> None:
        files = [make(n, filler=2000) for n in (1, 2)]
        declared = [instance(f, f"{n:08x}-" + ZERO[9:]) for n, f in enumerate(files)]
        plan = (*self.halves(declared[0]), *self.halves(declared[1]))
        incoming = self.now(self.store.receive(declared))
        self.assertEqual(self.now(incoming.missing(plan)), (0, 1, 2, 3))
        half = plan[1][0].offset
        self.now(incoming.write([Piece(declared[0].id, half, files[0][half:])]))
        self.assertEqual(self.now(incoming.missing(plan)), (0, 2, 3))
        self.now(incoming.write([Piece(declared[1].id, 0, files[1][:half])]))
        self.now(incoming.write([Piece(declared[0].id, 0, files[0][:half])]))
        self.assertEqual(self.now(incoming.missing(plan)), (3,))
        both = ((*plan[0], *plan[3]),)
        self.assertEqual(self.now(incoming.missing(both)), (0,))
        half = plan[3][0].offset
        self.now(incoming.write([Piece(declared[1].id, half, files[1][half:])]))
        self.assertEqual(self.now(incoming.missing(plan)), ())

    def test_the_beginning_of_a_bucket_that_is_there(self: Any) -> None:
        files = [make(n, filler=2000) for n in (1, 2, 3)]
        (held,) = self.put(files[2])
        declared = [instance(f, f"{n:08x}-" + ZERO[9:]) for n, f in enumerate(files[:2])]
        declared.append(instance(files[2], held))
        size = declared[0].size
        bucket = (Chunk(held, 0, declared[2].size), *(Chunk(i.id, 100, 900) for i in declared[:2]))
        begin = declared[2].size
        incoming = self.now(self.store.receive(declared, "one", b"", True))
        self.assertEqual(incoming.prefix(bucket), begin)
        for start, end, there in ((200, 300, 0), (0, 150, 50), (150, 200, 200), (300, 1200, 900)):
            self.now(incoming.write([Piece(declared[0].id, start, files[0][start:end])]))
            self.assertEqual(incoming.prefix(bucket), begin + there)
        self.now(incoming.write([Piece(declared[1].id, 100, files[1][100:400])]))
        self.assertEqual(incoming.prefix(bucket), begin + 1200)
        self.now(incoming.close())
        incoming = self.now(self.store.reopen("one"))
        self.now(incoming.missing((bucket,)))
        self.assertEqual(incoming.prefix(bucket), begin + 1200)
        for start in (0, 1000):
            self.now(incoming.write([Piece(declared[0].id, start, files[0][start:size])]))
        self.assertEqual(incoming.prefix(bucket), begin + 1200)
        self.assertEqual(incoming.prefix(((Chunk(declared[0].id, 0, size)),)), size)

    def test_it_is_found_again(self: Any) -> None:
        data = make(1, filler=2000)
        one = instance(data)
        plan = self.halves(one)
        half = plan[1][0].offset
        incoming = self.now(self.store.receive([one], "the.name", b"a note"))
        self.now(incoming.write([Piece(ZERO, 0, data[:half])]))
        self.assertEqual(self.now(self.store.staged()), ())
        self.now(incoming.close())
        self.now(incoming.close())
        (staged,) = self.now(self.store.staged())
        self.assertEqual((staged.name, staged.size), ("the.name", len(data)))
        again = self.now(self.store.reopen("the.name"))
        verifyObject(IIncoming, again)
        self.assertEqual(
            (again.name, again.instances, again.note, again.held),
            ("the.name", (one,), b"a note", frozenset()),
        )
        self.assertEqual(self.now(again.missing(plan)), (1,))
        self.now(again.write([Piece(ZERO, half, data[half:])]))
        (id_,) = self.now(again.commit()).stored
        self.assertEqual(self.read(Chunk(id_, 0, len(data))), data)
        self.assertEqual(self.now(self.store.staged()), ())

    def test_what_is_complete_is_found_again(self: Any) -> None:
        data = make(1)
        incoming = self.now(self.store.receive([instance(data)], "one"))
        self.now(incoming.write([Piece(ZERO, 0, data)]))
        self.now(incoming.close())
        again = self.now(self.store.reopen("one"))
        self.assertEqual(self.now(again.missing(((Chunk(ZERO, 0, len(data)),),))), ())
        self.assertEqual(len(self.now(again.commit()).stored), 1)

    def test_discarded_it_is_not_found_again(self: Any) -> None:
        incoming = self.now(self.store.receive([instance(make())], "one"))
        self.assertFalse(self.now(incoming.discard()))
        self.assertIsNone(self.now(self.store.reopen("one")))
        self.assertIsNone(self.now(self.store.reopen("another")))
        self.assertEqual(self.now(self.store.staged()), ())

    def test_a_commit_is_remembered(self: Any) -> None:
        data = make()
        incoming = self.now(self.store.receive([instance(data)], "one"))
        self.now(incoming.write([Piece(ZERO, 0, data)]))
        report = self.now(incoming.commit())
        self.now(incoming.close())
        again = self.now(self.store.reopen("one"))
        verifyObject(IIncoming, again)
        self.assertEqual(self.now(again.missing(((Chunk(ZERO, 0, 1),),))), ())
        self.assertEqual(self.now(again.commit()).outcomes, report.outcomes)
        self.assertTrue(self.now(again.discard()))
        self.now(again.close())
        self.now(self.store.forget_reports(3600.0))
        self.assertIsNotNone(self.now(self.store.reopen("one")))
        self.now(self.store.forget_reports(-1.0))
        self.assertIsNone(self.now(self.store.reopen("one")))

    def test_a_wrong_md5_makes_the_bytes_missing(self: Any) -> None:
        data, other = make(1), make(2)
        wrong = b"x" * len(data)
        declared = [instance(data), instance(other, "1" + ZERO[1:])]
        plan = tuple((Chunk(one.id, 0, one.size),) for one in declared)
        incoming = self.now(self.store.receive(declared))
        self.now(incoming.write([Piece(ZERO, 0, wrong)]))
        self.now(incoming.write([Piece(declared[1].id, 0, other)]))
        self.fails(incoming.commit(), errors.CorruptedInstances)
        self.assertEqual(self.now(incoming.missing(plan)), (0,))

    # What is here already

    def test_held_instances_need_not_come(self: Any) -> None:
        files = [make(n) for n in (1, 2)]
        (id_,) = self.put(files[0])
        declared = [instance(files[0], id_), instance(files[1])]
        incoming = self.now(self.store.receive(declared, "one", b"", True))
        self.assertEqual(incoming.held, {id_})
        plan = tuple((Chunk(one.id, 0, one.size),) for one in declared)
        self.assertEqual(self.now(incoming.missing(plan)), (1,))
        self.now(incoming.close())
        incoming = self.now(self.store.reopen("one"))
        self.assertEqual(incoming.held, {id_})
        self.now(incoming.write([Piece(ZERO, 0, files[1])]))
        report = self.now(incoming.commit())
        self.assertEqual(report.outcomes, (Outcome.ALREADY_STORED, Outcome.STORED))

    def test_without_delta_nothing_is_held(self: Any) -> None:
        (id_,) = self.put(make())
        incoming = self.now(self.store.receive([instance(make(), id_)]))
        self.assertEqual(incoming.held, frozenset())
        other = instance(make(1, PatientSex="M"), id_)
        incoming = self.now(self.store.receive([other], "", b"", True))
        self.assertEqual(incoming.held, frozenset())

    def test_a_held_instance_that_is_gone_must_come(self: Any) -> None:
        data = make()
        (id_,) = self.put(data)
        one = instance(data, id_)
        incoming = self.now(self.store.receive([one], "", b"", True))
        self.delete(id_)
        error = self.fails(incoming.commit(), errors.CorruptedInstances)
        self.assertEqual(error.instances, (id_,))
        self.assertEqual(incoming.held, frozenset())
        self.assertEqual(self.now(incoming.missing(((Chunk(id_, 0, one.size),),))), (0,))
        self.now(incoming.write([Piece(id_, 0, data)]))
        self.assertEqual(self.now(incoming.commit()).outcomes, (Outcome.STORED,))
        self.assertEqual(self.read(Chunk(id_, 0, one.size)), data)

    def test_other_content_is_told(self: Any) -> None:
        self.put(make())
        changed = make(PatientSex="M")
        for overwrite, outcome in ((False, Outcome.DIFFERENT), (True, Outcome.REPLACED)):
            self.store.overwrite_instances = overwrite
            incoming = self.now(self.store.receive([instance(changed)]))
            self.now(incoming.write([Piece(ZERO, 0, changed)]))
            report = self.now(incoming.commit())
            self.assertEqual(report.outcomes, (outcome,))
            self.assertEqual(CommitReport.from_text(report.to_text()).outcomes, (outcome,))


class MemoryStoreTests(Suite, SynchronousTestCase):
    def setUp(self) -> None:
        self.store = MemoryStore()

    def delete(self, id_: str) -> None:
        del self.store.files[id_], self.store.headers[id_]


class EmbeddedStoreTests(Suite, SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())
        self.store = EmbeddedStore(self.folder, self.make_threads())
        self.store.start()
        self.addCleanup(self.store.stop)

    def make_threads(self) -> Any:
        return SynchronousThreads()

    def delete(self, id_: str) -> None:
        self.now(EmbeddedArchive(self.store).delete(Level.INSTANCE, id_))

    def folders(self) -> Sequence[str]:
        return os.listdir(os.path.join(self.folder, "instances"))

    def test_discard_frees_the_space(self) -> None:
        free = self.store.space.free()
        incoming = self.now(self.store.receive([Instance(ZERO, 10**7, "")]))
        self.assertLess(self.store.space.free(), free - 9 * 10**6)
        self.now(incoming.discard())
        self.assertEqual(self.folders(), [])
        self.assertFalse(self.store.space._areas)

    def test_files_that_are_not_shown_are_not_kept(self) -> None:
        self.put(make(1))
        self.put(make(1))
        self.assertEqual(len(self.folders()), 1)

    def test_a_transfer_of_nothing_leaves_no_folder(self) -> None:
        incoming = self.now(self.store.receive([]))
        report = self.now(incoming.commit())
        self.assertEqual((report.stored, report.already_stored), ((), ()))
        self.assertEqual(self.folders(), [])


class OrthancStoreTests(Suite, SynchronousTestCase):
    """In front of an Orthanc that is a fake; the real one is in ``tests/functional``."""

    def setUp(self) -> None:
        self.orthanc = FakeOrthanc()
        self.clock = Clock()
        threads = SynchronousThreads()
        agents = Agents(self.orthanc, self.orthanc)
        rest = OrthancRest(self.clock, threads, agents, settings(), 60.0)
        folder = os.path.abspath(self.mktemp())
        # Without reading ahead: what is deleted then is not found in a copy.
        self.store = OrthancStore(folder, rest, threads, self.clock, 2**30, ahead=0)
        self.store.start()
        self.addCleanup(self.store.stop)
        self.prepare()

    def prepare(self) -> None:
        """Make it another Orthanc."""

    def delete(self, id_: str) -> None:
        del self.orthanc.stored[id_]


class CopyingOrthancStoreTests(OrthancStoreTests):
    """The same where each instance is copied to the disk while it is read."""

    def prepare(self) -> None:
        self.patch(reader, "SMALL", 0)


class OldOrthancStoreTests(OrthancStoreTests):
    """One that can do less, and keeps no MD5s."""

    def prepare(self) -> None:
        self.orthanc.has_bulk = self.orthanc.has_md5s = False


class NewOrthancStoreTests(OrthancStoreTests):
    """One that gives parts of instances, and overwrites."""

    def prepare(self) -> None:
        self.orthanc.version = "1.12.6"
        self.orthanc.has_ranges = self.orthanc.overwrites = True
        self.patch(reader, "SMALL", 0)
        self.store.begin()


class LargeCommitTests(EmbeddedStoreTests):
    """The same where every commit is a large one, which is inserted in steps."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(showing, "BATCH_STEP", 0)
        self.patch(showing, "islice", lambda rows, _size: itertools.islice(rows, 2))

    def test_others_commit_between_the_steps(self) -> None:
        """What they show meanwhile is kept, and joined with what is in the batch."""
        for overwrite in (False, True):
            self.setUp()
            files = [make(n, series=n % 2) for n in range(6)]
            meanwhile = [make(3, series=1), make(9, series=0), make(5, series=1, PatientSex="O")]

            def step(passed: Step, meanwhile: list[bytes] = meanwhile) -> None:
                if passed is Step.BATCH_ADDED and meanwhile:
                    upload = EmbeddedArchive(self.store).upload()
                    self.now(upload.write(meanwhile.pop()))
                    self.now(upload.finish())

            self.store.overwrite_instances = overwrite
            self.store._showing._step = step
            declared = [instance(f, f"{n:08x}-" + ZERO[9:]) for n, f in enumerate(files)]
            incoming = self.now(self.store.receive(declared))
            for one, data in zip(declared, files, strict=True):
                self.now(incoming.write([Piece(one.id, 0, data)]))
            report = self.now(incoming.commit())
            self.assertEqual(meanwhile, [])
            other = Outcome.REPLACED if overwrite else Outcome.ALREADY_STORED
            different = Outcome.REPLACED if overwrite else Outcome.DIFFERENT
            self.assertEqual(
                report.outcomes,
                (*[Outcome.STORED] * 3, other, Outcome.STORED, different),
            )
            archive = EmbeddedArchive(self.store)
            statistics = self.now(archive.statistics(None, ""))
            self.assertEqual(
                (statistics.patients, statistics.studies, statistics.series, statistics.instances),
                (1, 1, 2, 7),
            )
            (patient,) = self.now(archive.list_ids(Level.PATIENT, 0, 0))
            whole = self.now(self.store.lookup([Resource(Level.PATIENT, patient)]))
            content = {data for data in files if data != files[5]} | {
                make(9, series=0),
                files[5] if overwrite else make(5, series=1, PatientSex="O"),
            }
            self.assertEqual({self.read(Chunk(i.id, 0, i.size)) for i in whole}, content)
            changes, _done, _last = self.now(archive.changes(0, 100))
            new = [change.id for change in changes if change.type.startswith("New")]
            self.assertEqual(len(new), len(set(new)))
            self.assertEqual(len(new), 1 + 1 + 2 + 7)
            self.assertEqual(
                sum(map(len, map(os.listdir, map(self.store.path, self.folders())))), 7
            )
            self.now(archive.delete(Level.PATIENT, patient))
            self.assertEqual(self.now(archive.list_ids(Level.PATIENT, 0, 0)), ())


class _Mailbox:
    """The part of a reactor that threads call; the test takes the calls out."""

    def __init__(self) -> None:
        self._calls: queue.Queue[Callable[[], Any]] = queue.Queue()

    def callFromThread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._calls.put(lambda: function(*args, **kwargs))

    def take(self) -> None:
        self._calls.get(timeout=30)()


class EmbeddedStoreInThreadsTests(EmbeddedStoreTests):
    """The same with real threads: what they bring is taken one by one, as a reactor would."""

    def make_threads(self) -> Any:
        self.mailbox = _Mailbox()
        threads = Threads(self.mailbox, 4)  # type: ignore[arg-type]
        threads.start()
        self.addCleanup(threads.stop)
        return threads

    def settle(self, result: Any) -> None:
        fired: list[None] = []
        result.addBoth(lambda value: fired.append(None) or value)
        while not fired:
            self.mailbox.take()
