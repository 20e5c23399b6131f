"""Staging areas on a disk, and with a log, that fail: nothing is said to be stored that is not."""

import errno
import hashlib
import os
from io import BytesIO
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.dicom_files import make
from tests.slow_threads import SlowThreads
from txtransfers import errors
from txtransfers.store import reception, showing, staging_log
from txtransfers.store.archive import EmbeddedArchive
from txtransfers.store.dicom import read_header
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.store.interfaces import Outcome, Piece
from txtransfers.store.places import Place
from txtransfers.wire.messages import Level
from txtransfers.wire.plan import Chunk, Instance

NAME = "push.one"


def declared(data: bytes) -> Instance:
    id_ = read_header(BytesIO(data), len(data)).ids.instance
    return Instance(id_, len(data), hashlib.md5(data).hexdigest())


class ReceptionCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.threads = SlowThreads()
        self.folder = os.path.abspath(self.mktemp())
        self.store = self.open()
        self.files = [make(n, series=n % 2, filler=500) for n in range(4)]
        self.instances = [declared(data) for data in self.files]
        self.plan = tuple((Chunk(i.id, 0, i.size),) for i in self.instances)

    def open(self, **more: Any) -> EmbeddedStore:
        store = EmbeddedStore(self.folder, self.threads, **more)
        store.start()
        self.addCleanup(store.stop)
        return store

    def now(self, result: Any) -> Any:
        return self.successResultOf(result)

    def fails(self, result: Any, error: type[Exception]) -> Any:
        return self.failureResultOf(result, error).value

    def receive(self, delta: bool = False) -> Any:
        return self.now(self.store.receive(self.instances, NAME, b"", delta))

    def put(self, incoming: Any, *numbers: int) -> None:
        for number in numbers:
            piece = Piece(self.instances[number].id, 0, self.files[number])
            self.now(incoming.write([piece]))

    def missing(self, incoming: Any) -> tuple[int, ...]:
        numbers: tuple[int, ...] = self.now(incoming.missing(self.plan))
        return numbers

    def assert_all_there(self) -> None:
        archive = EmbeddedArchive(self.store)
        ids = self.now(archive.list_ids(Level.INSTANCE, 0, 0))
        self.assertEqual(sorted(ids), sorted(i.id for i in self.instances))
        for one, data in zip(self.instances, self.files, strict=True):
            reader = self.store.open([Chunk(one.id, 0, one.size)])
            self.assertEqual(self.now(reader.read(one.size)), data)
            reader.close()
        kept = [name for _p, _f, names in os.walk(self.store.path("")) for name in names]
        self.assertEqual(len(kept), len(self.files))
        self.assertEqual(os.listdir(os.path.join(self.folder, "staging")), [])


class LogTests(ReceptionCase):
    def break_next_append(self) -> None:
        real, broken = staging_log.StagingLog._write, []

        def write(log: Any, data: bytes) -> None:
            if not broken:
                broken.append(None)
                raise errors.StorageFailure("the log's disk failed")
            real(log, data)

        self.patch(staging_log.StagingLog, "_write", write)

    def test_what_the_log_could_not_be_told_comes_again(self) -> None:
        for size in (500, 2):
            self.patch(showing, "BATCH_STEP", size)
            self.setUp()
            incoming = self.receive()
            self.put(incoming, 2)
            self.break_next_append()
            piece = Piece(self.instances[0].id, 0, self.files[0])
            self.fails(incoming.write([piece]), errors.StorageFailure)
            self.put(incoming, 0, 1, 3)
            report = self.now(incoming.commit())
            self.assertEqual(set(report.outcomes), {Outcome.STORED})
            self.assert_all_there()

    def test_or_is_told_at_the_commit(self) -> None:
        incoming = self.receive()
        self.break_next_append()
        piece = Piece(self.instances[0].id, 0, self.files[0])
        self.fails(incoming.write([piece]), errors.StorageFailure)
        self.put(incoming, 1, 2, 3)
        self.now(incoming.commit())
        self.assert_all_there()

    def test_a_log_that_is_damaged_before_the_commit(self) -> None:
        """What it does not tell any more must come again; never is it taken for stored."""
        for size in (500, 2):
            self.patch(showing, "BATCH_STEP", size)
            for place in (0.4, 0.7, 0.95):
                self.setUp()
                path = os.path.join(self.folder, "staging", NAME)
                incoming = self.receive()
                begin = os.path.getsize(path)
                self.put(incoming, 0, 1, 2, 3)
                with open(path, "r+b") as file:
                    file.seek(begin + int((os.path.getsize(path) - begin) * place))
                    byte = file.read(1)
                    file.seek(-1, os.SEEK_CUR)
                    file.write(bytes([byte[0] ^ 1]))
                error = self.fails(incoming.commit(), errors.CorruptedInstances)
                self.assertIn("damaged", str(error))
                self.assertEqual(
                    self.now(EmbeddedArchive(self.store).list_ids(Level.INSTANCE, 0, 0)), ()
                )
                missing = self.missing(incoming)
                self.assertEqual([self.instances[n].id for n in missing], list(error.instances))
                self.put(incoming, *missing)
                self.now(incoming.commit())
                self.assert_all_there()

    def test_a_log_that_cannot_be_removed_after_the_commit(self) -> None:
        incoming = self.receive()
        self.put(incoming, 0, 1, 2, 3)
        real = os.unlink

        def unlink(path: str) -> None:
            if path.endswith(NAME):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(path)

        self.patch(os, "unlink", unlink)
        for _ in range(2):
            self.assertEqual(set(self.now(incoming.commit()).outcomes), {Outcome.STORED})
        self.patch(os, "unlink", real)
        self.store.stop()
        self.store.start()
        self.assert_all_there()
        again = self.now(self.store.reopen(NAME))
        self.assertEqual(set(again.report.outcomes), {Outcome.STORED})


class SyncTests(ReceptionCase):
    def test_bytes_that_could_not_be_synced_come_again_also_after_a_reopening(self) -> None:
        real, failed = reception.sync_file, []

        def sync(path: str) -> None:
            if not failed:
                failed.append(path)
                raise errors.StorageFailure("could not be synced")
            real(path)

        for in_commit in (False, True):
            self.setUp()
            failed.clear()
            incoming = self.receive()
            self.patch(reception, "sync_file", real if in_commit else sync)
            self.put(incoming, 0, 1, 2, 3)
            if in_commit:
                incoming._synced[0] = 0
                self.patch(reception, "sync_file", sync)
            self.fails(incoming.commit(), errors.StorageFailure)
            self.now(incoming.close())
            incoming = self.now(self.store.reopen(NAME))
            self.assertEqual(len(self.missing(incoming)), 1)
            self.put(incoming, *self.missing(incoming))
            self.now(incoming.commit())
            self.assert_all_there()

    def test_several_that_could_not_be_synced_fail_one_commit(self) -> None:
        real, failed = reception.sync_file, []

        def sync(path: str) -> None:
            if len(failed) < 3:
                failed.append(path)
                raise errors.StorageFailure("could not be synced")
            real(path)

        self.patch(reception, "sync_file", sync)
        incoming = self.receive()
        self.put(incoming, 0, 1, 2, 3)
        self.fails(incoming.commit(), errors.StorageFailure)
        self.put(incoming, *self.missing(incoming))
        self.now(incoming.commit())
        self.assert_all_there()

    def slow_sync(self) -> Any:
        """An area whose background sync is under way, and will fail."""
        incoming = self.receive()
        self.put(incoming, 1, 2, 3)
        real, failed = reception.sync_file, []

        def sync(path: str) -> None:
            if not failed:
                failed.append(path)
                raise errors.StorageFailure("could not be synced")
            real(path)

        self.patch(reception, "sync_file", sync)
        piece = Piece(self.instances[0].id, 0, self.files[0])
        self.threads.is_slow = True
        writing = incoming.write([piece])
        self.threads.waiting.pop(0)()
        self.now(writing)
        self.assertEqual(len(self.threads.waiting), 1)
        return incoming

    def test_a_commit_waits_for_what_is_being_synced(self) -> None:
        incoming = self.slow_sync()
        committing = incoming.commit()
        self.assertNoResult(committing)
        self.threads.go_on()
        self.fails(committing, errors.StorageFailure)
        self.assertEqual(self.missing(incoming), (0,))
        self.put(incoming, 0)
        self.now(incoming.commit())
        self.assert_all_there()

    def test_so_does_who_closes_it(self) -> None:
        incoming = self.slow_sync()
        closing: list[Any] = []
        sync = reception.sync_file

        def close_meanwhile(path: str) -> None:
            closing.append(incoming.close())
            self.assertNoResult(closing[0])
            sync(path)

        self.patch(reception, "sync_file", close_meanwhile)
        self.threads.go_on()
        self.now(closing[0])
        incoming = self.now(self.store.reopen(NAME))
        self.assertEqual(self.missing(incoming), (0,))

    def test_who_closes_it_does_not_wait_for_what_has_not_begun(self) -> None:
        """On a slow disk each file may take seconds, and who asks how it stands waits meanwhile."""
        incoming = self.slow_sync()
        closing = incoming.close()
        synced: list[str] = []
        self.patch(reception, "sync_file", synced.append)
        self.threads.go_on()
        self.now(closing)
        self.assertEqual(synced, [])
        self.assertEqual(self.missing(self.now(self.store.reopen(NAME))), ())


class RecoveryTests(ReceptionCase):
    def count_reads(self) -> list[str]:
        reads: list[str] = []
        real = reception.md5_of

        def md5_of(place: Place, *more: Any) -> Any:
            reads.append(place.path)
            return real(place, *more)

        self.patch(reception, "md5_of", md5_of)
        return reads

    def reopen_slowly(self) -> Any:
        """The area is open again, and nothing has been read."""
        self.threads.is_slow = True
        reopening = self.store.reopen(NAME)
        self.threads.waiting.pop(0)()
        return self.now(reopening)

    def test_however_many_ask_it_is_read_once(self) -> None:
        incoming = self.receive()
        self.put(incoming, 0, 1, 2, 3)
        self.now(incoming.close())
        reads = self.count_reads()
        incoming = self.reopen_slowly()
        waiting = [incoming.missing(self.plan) for _ in range(20)]
        self.assertLessEqual(len(self.threads.waiting), self.store.commit_threads)
        self.threads.go_on()
        for one in waiting:
            self.assertEqual(self.now(one), ())
        self.assertEqual(len(reads), len(set(reads)))

    def test_bytes_for_what_is_not_looked_at_yet_wait_for_that_alone(self) -> None:
        incoming = self.receive()
        self.put(incoming, 0, 1)
        self.now(incoming.close())
        incoming = self.reopen_slowly()
        busy = len(self.threads.waiting)
        pieces = [[Piece(self.instances[n].id, 0, self.files[n])] for n in (0, 1)]
        writing = [incoming.write(piece) for piece in pieces]
        self.assertEqual(len(self.threads.waiting), busy + 2, "each looks at its own first")
        self.threads.go_on()
        for one in writing:
            self.now(one)
        self.put(incoming, 2, 3)
        self.now(incoming.commit())
        self.assert_all_there()

    def test_a_file_that_cannot_be_read_comes_again(self) -> None:
        incoming = self.receive()
        self.put(incoming, 0, 1, 2, 3)
        self.now(incoming.close())
        real = reception.md5_of

        def md5_of(place: Place, *more: Any) -> Any:
            if place.path.endswith("/2.dcm"):
                raise errors.StorageFailure("a bad sector")
            return real(place, *more)

        self.patch(reception, "md5_of", md5_of)
        incoming = self.now(self.store.reopen(NAME))
        self.assertEqual(self.missing(incoming), (2,))
        self.put(incoming, 2)
        self.now(incoming.commit())
        self.assert_all_there()

    def test_closed_it_reads_no_more(self) -> None:
        incoming = self.receive()
        self.put(incoming, 0, 1, 2, 3)
        self.now(incoming.close())
        reads = self.count_reads()
        incoming = self.reopen_slowly()
        closing = incoming.close()
        self.assertNoResult(closing)
        self.threads.go_on()
        self.now(closing)
        self.assertEqual(reads, [])
        incoming = self.now(self.store.reopen(NAME))
        self.now(incoming.commit())
        self.assert_all_there()

    def test_one_at_a_time_has_an_area(self) -> None:
        incoming = self.receive()
        self.fails(self.store.reopen(NAME), errors.BadState)
        self.fails(self.store.drop(NAME), errors.BadState)
        self.now(incoming.close())
        self.assertIsNone(self.now(self.store.drop(NAME)))
        self.fails(self.store.drop(NAME), errors.UnknownResource)
        self.assertEqual(os.listdir(self.store.path("")), [])

    def test_dropped_though_it_was_committed(self) -> None:
        incoming = self.receive()
        self.put(incoming, 0, 1, 2, 3)
        self.now(incoming.commit())
        self.assertEqual(set(self.now(self.store.drop(NAME)).outcomes), {Outcome.STORED})
        self.assert_all_there()

    def test_what_was_held_and_is_deleted_before_it_is_reopened(self) -> None:
        upload = EmbeddedArchive(self.store).upload()
        self.now(upload.write(self.files[1]))
        self.now(upload.finish())
        incoming = self.receive(delta=True)
        self.assertEqual(incoming.held, {self.instances[1].id})
        self.put(incoming, 0)
        self.now(incoming.close())
        self.store.delete(Level.INSTANCE, self.instances[1].id)
        incoming = self.now(self.store.reopen(NAME))
        self.assertEqual(incoming.held, frozenset())
        self.assertEqual(self.missing(incoming), (1, 2, 3))
        self.put(incoming, 1, 2, 3)
        self.now(incoming.commit())
        self.assert_all_there()


class RoomTests(ReceptionCase):
    def test_the_same_bytes_again_take_no_more_room(self) -> None:
        incoming = self.receive()
        self.put(incoming, 0, 0, 0)
        piece = Piece(self.instances[1].id, 0, self.files[1][:100])
        for _ in range(3):
            self.now(incoming.write([piece]))
        area = self.store.space._areas[NAME]
        self.assertEqual(area.written, self.instances[0].size + 100)

    def test_a_limit_holds_for_uploads_as_a_whole(self) -> None:
        self.store.stop()
        size = len(self.files[0])
        self.store = self.open(maximum_size=2 * size + 10)
        archive = EmbeddedArchive(self.store)
        first, second = archive.upload(), archive.upload()
        self.now(first.write(self.files[0]))
        self.now(second.write(self.files[1]))
        third = archive.upload()
        error = self.fails(third.write(self.files[2]), errors.StorageFull)
        self.assertIn("MaximumStorageSize", str(error))
        self.now(third.discard())
        self.now(first.finish())
        self.now(second.discard())
        third = archive.upload()
        self.now(third.write(self.files[2]))
        self.now(third.finish())
        self.assertEqual(self.store.space._uploads, 0)

    def test_room_is_freed_where_there_is_none(self) -> None:
        incoming = self.receive()
        self.put(incoming, 0)
        self.now(incoming.close())
        self.patch(self.store.space, "_on_disk", lambda: 0)
        self.fails(self.store.reopen(NAME), errors.StorageFull)
        self.now(self.store.drop(NAME))
        self.assertEqual(os.listdir(self.store.path("")), [])
