"""The staging area of one transfer on our disk: written, verified, synced, then shown by its store.

What is staged outlives the process: a log (``staging_log.py``) tells what was written, and what is
found again counts only once it was read and is right. In memory an instance that is verified is one
byte: its row waits in the log for the commit.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, BinaryIO

from isal import isal_zlib
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from .. import errors
from ..disk import sync_file
from ..threads import run_in_parallel
from ..waiters import Waiters
from ..wire.plan import Bucket, Chunk, Instance, Plan
from . import index
from .dicom import read_header
from .interfaces import CommitReport, IIncoming, Piece
from .places import Place
from .recovery import Found, StoppedError, claims_by_instance, md5_of, right_ranges
from .staging import StagedFile
from .staging_log import SHARED_NAME, Claim, Contents, Head, StagingLog, file_name
from .steps import Step

if TYPE_CHECKING:
    from .staging_store import StagingStore

_MOST_NAMED = 10
"""Instances that an error's text names; the error carries all."""

log = Logger()


@implementer(IIncoming)
class StagedIncoming:
    """See :class:`IIncoming`: a folder that nobody sees, and a log."""

    def __init__(
        self, store: "StagingStore", name: str, staging_log: StagingLog, contents: Contents
    ) -> None:
        """:param contents: what the log says; of an old one, :meth:`recover` must follow."""
        self.name = name
        self.instances = contents.instances
        self.note = contents.note
        self.held = frozenset(self.instances[n].id for n in contents.head.held)
        self._store = store
        self._head: Head = contents.head
        self._log = staging_log
        self._positions = {instance.id: n for n, instance in enumerate(self.instances)}
        self._starts: Sequence[int] = ()
        if self._head.is_shared:
            self._starts = tuple(accumulate((i.size for i in self.instances), initial=0))
        self._maker = index.RowMaker()
        self._lock = threading.Lock()
        self._deciding = False
        self._decided = Waiters()
        self._files: dict[int, StagedFile] = {}
        self._verified = bytearray(len(self.instances))
        self._synced = bytearray(len(self.instances))
        self._unsynced: deque[int] = deque()
        self._unsyncable: dict[int, errors.TransfersError] = {}
        self._syncing = 0
        self._found = claims_by_instance(contents)
        self._sync_waiters = Waiters()
        self._recovering = False
        self._recovery_waiters = Waiters()
        self.report: CommitReport | None = None
        self._discarded = False
        self._closed = self._released = False

    # Writing

    def write(self, pieces: Sequence[Piece]) -> "Deferred[None]":
        """See :meth:`IIncoming.write`; bytes of what is not looked at yet wait until it is."""
        if self._found and any(self._positions[piece.id] in self._found for piece in pieces):
            return Deferred.fromCoroutine(self._write_later(pieces))
        return self._store.threads.run(self._write, pieces).addCallback(self._sync_soon)

    async def _write_later(self, pieces: Sequence[Piece]) -> None:
        positions = sorted({self._positions[piece.id] for piece in pieces})
        await run_in_parallel(self._store.threads, 1, self._check, positions)
        await self._store.threads.run(self._write, pieces)
        self._sync_soon(None)

    def _write(self, pieces: Sequence[Piece]) -> None:
        self._store.space.check_disk(sum(len(piece.data) for piece in pieces))
        claims: list[Claim] = []
        verified: list[tuple[int, StagedFile]] = []
        new = 0
        for piece in pieces:
            position = self._positions[piece.id]
            file = self._file(position)
            if file is None:
                continue
            new += file.write(piece.offset, piece.data)
            if file.verified:
                verified.append((position, file))
            if not file.verified or len(piece.data) < file.instance.size:
                crc = isal_zlib.crc32(piece.data)
                claims.append(Claim(position, piece.offset, len(piece.data), crc))
        self._store.space.wrote(self.name, new)
        self._store.step(Step.BYTES_WRITTEN)
        self._note(claims, verified)
        self._store.step(Step.BYTES_LOGGED)

    def _file(self, position: int) -> StagedFile | None:
        """The file of an instance that is not verified yet."""
        with self._lock:
            if self._verified[position]:
                return None
            file = self._files.get(position)
            if file is None:
                file = self._files[position] = self._new_file(position)
            return file

    def place(self, position: int) -> Place:
        """Where the bytes of an instance are."""
        folder = self._store.path(self._head.path)
        if self._head.is_shared:
            path = os.path.join(folder, SHARED_NAME)
            return Place(path, self._starts[position], is_shared=True)
        return Place(os.path.join(folder, file_name(position)))

    def _new_file(self, position: int) -> StagedFile:
        instance = self.instances[position]
        record = _record(self._maker, self._head.folder, file_name(position), instance)
        return StagedFile(self.place(position), instance, record)

    def _note(self, claims: Sequence[Claim], verified: Sequence[tuple[int, StagedFile]]) -> None:
        """Tell the log; only what it knows of counts as verified."""
        rows = [(n, file.record) for n, file in verified if file.record is not None]
        self._log.append(claims, rows)
        with self._lock:
            for position, _row in rows:
                if not self._verified[position]:
                    self._verified[position] = 1
                    self._files.pop(position, None)
                    self._unsyncable.pop(position, None)
                    if self._store.keeps_files:
                        self._unsynced.append(position)

    def _lose(self, position: int) -> None:
        """What is staged of an instance cannot be trusted: it must come again."""
        if self._released:  # the files are somebody else's
            return
        with self._lock:
            written = self.instances[position].size if self._verified[position] else 0
            self._verified[position] = self._synced[position] = 0
            file = self._files.pop(position, None)
        place = self.place(position)
        if place.is_shared:  # what comes again is written over it
            written = file.written if file is not None else written
            self._store.space.wrote(self.name, -written)
            return
        with contextlib.suppress(OSError):
            size = os.stat(place.path).st_size
            os.unlink(place.path)
            self._store.space.wrote(self.name, -size)

    def _sync_soon(self, _result: None) -> None:
        """Bring complete files to the disk while others arrive: less is left to the commit."""
        is_wanted = self._unsynced and not self._is_stopped()
        if is_wanted and self._syncing < self._store.commit_threads:
            self._syncing += 1
            self._store.threads.run(self._sync_some).addBoth(self._some_synced)

    def _some_synced(self, _result: object) -> None:
        self._syncing -= 1
        self._sync_soon(None)
        if not self._syncing:
            self._sync_waiters.fire()

    async def _end_of_syncing(self) -> None:
        while self._syncing:
            await self._sync_waiters.wait()

    def _sync_some(self) -> None:
        """Sync, ahead of the commit, which tells of what failed; the end is not kept waiting."""
        for _ in range(len(self._unsynced)):
            if self._is_stopped():
                return
            try:
                position = self._unsynced.popleft()
            except IndexError:
                return
            try:
                sync_file(self.place(position).path)
                self._synced[position] = 1
            except errors.TransfersError as error:
                # The system tells once of bytes that it could not write.
                self._lose(position)
                self._unsyncable[position] = error

    # What was staged before a restart

    def recover(self) -> None:
        """Look in the background at what an old log claims."""
        # Whoever needs what cannot be read looks again, and is told.
        Deferred.fromCoroutine(self._recover_all()).addErrback(
            lambda failure: log.warn(
                "{name}: {error}", name=self.name, error=failure.getErrorMessage()
            )
        )

    async def _recover_all(self) -> None:
        """Look at all that the log claims; however many wait for that, it is done once."""
        while self._found and not self._is_stopped():
            ended = self._recovery_waiters.wait()
            if not self._recovering:
                self._recovering = True
                threads, count = self._store.threads, self._store.commit_threads
                looking = run_in_parallel(threads, count, self._check, tuple(self._found))
                Deferred.fromCoroutine(looking).addBoth(self._recovery_ended)
            await ended

    def _recovery_ended(self, result: Any) -> None:
        self._recovering = False
        self._recovery_waiters.fire(result)

    def _is_stopped(self) -> bool:
        return self._closed or self._discarded

    def _check(self, position: int) -> None:
        """Compare what is on the disk with what the log claims of an instance."""
        found = self._found.get(position)
        if found is None or self._is_stopped():
            return
        with found.lock:
            if found.checked:
                return
            try:
                self._compare(position, found)
            except StoppedError:
                return
            except errors.StorageFailure as error:
                log.warn("{error}: it must come again", error=error)
                self._lose(position)
            found.checked = True
        self._found.pop(position, None)
        self._store.step(Step.RECOVERED)

    def _compare(self, position: int, found: Found) -> None:
        instance, place = self.instances[position], self.place(position)
        if found.has_row and md5_of(place, instance.size, self._is_stopped) == instance.md5:
            with self._lock:
                self._verified[position] = 1
            return
        ranges = right_ranges(place, found.claims, self._is_stopped)
        if not ranges:
            return
        file = self._new_file(position)
        file.recover(ranges)
        if file.complete() and not file.verified:
            return
        with self._lock:
            self._files[position] = file
        if file.verified:
            self._note((), [(position, file)])

    def missing(self, plan: Plan) -> "Deferred[tuple[int, ...]]":
        """See :meth:`IIncoming.missing`."""
        return Deferred.fromCoroutine(self._missing(plan))

    async def _missing(self, plan: Plan) -> tuple[int, ...]:
        await self._recover_all()
        numbers: tuple[int, ...] = await self._store.threads.run(
            lambda: tuple(n for n, bucket in enumerate(plan) if any(map(self._lacks, bucket)))
        )
        return numbers

    def _lacks(self, chunk: Chunk) -> bool:
        position = self._positions[chunk.id]
        if chunk.size == 0 or chunk.id in self.held or self._verified[position]:
            return False
        file = self._files.get(position)
        return file is None or file.lacks(chunk.offset, chunk.offset + chunk.size)

    def prefix(self, bucket: Bucket) -> int:
        """See :meth:`IIncoming.prefix`."""
        size = 0
        for chunk in bucket:
            there = self._reach(chunk) - chunk.offset
            size += there
            if there < chunk.size:
                break
        return size

    def _reach(self, chunk: Chunk) -> int:
        """The first byte of a chunk that must come, or its end."""
        if not self._lacks(chunk):
            return chunk.offset + chunk.size
        file = self._files.get(self._positions[chunk.id])
        return file.reach(chunk.offset) if file is not None else chunk.offset

    # The end

    def commit(self) -> "Deferred[CommitReport]":
        """See :meth:`IIncoming.commit`."""
        return Deferred.fromCoroutine(self._commit())

    async def _commit(self) -> CommitReport:
        if self.report is not None:
            return self.report
        if self._discarded:
            raise errors.BadState("What was received is discarded: it cannot be committed")
        await self._recover_all()
        await self._end_of_syncing()
        if self._unsyncable:
            _position, error = self._unsyncable.popitem()
            self._unsyncable.clear()
            raise error
        threads, count = self._store.threads, self._store.commit_threads
        wanted = [n for n, i in enumerate(self.instances) if i.id not in self.held]
        open_files = [n for n in wanted if not self._verified[n]]
        await run_in_parallel(threads, count, self._complete, open_files)
        await threads.run(self._check_verified, open_files)
        self._store.step(Step.ALL_VERIFIED)
        await run_in_parallel(
            threads, count, self._sync, [n for n in wanted if not self._synced[n]]
        )
        return await self._show()

    async def _show(self) -> CommitReport:
        """Have all shown; one at a time, and not while it is being discarded."""
        while self._deciding:
            await self._decided.wait()
        if self._discarded:
            raise errors.BadState("What was received is discarded: it cannot be committed")
        if self.report is None:
            await self._show_now()
        assert self.report is not None
        return self.report

    def _show_now(self) -> "Deferred[None]":
        """It goes on to its end where the caller is cancelled."""
        outcome: Deferred[None] = Deferred()
        self._deciding = True
        Deferred.fromCoroutine(self._show_all()).addBoth(outcome.callback)
        return outcome

    async def _show_all(self) -> None:
        try:
            self.report = await self._store.show_staged(self)
            self._release()
        finally:
            self._settled()

    def _settled(self) -> None:
        self._deciding = False
        self._decided.fire()

    def _complete(self, position: int) -> None:
        file = self._file(position)
        if file is not None and file.complete() and file.verified:
            self._note((), [(position, file)])

    def _check_verified(self, positions: Sequence[int]) -> None:
        files = [file for n in positions if (file := self._file(n)) is not None]
        try:
            check_verified(files)
        except errors.CorruptedInstances:
            for position in positions:
                file = self._files.get(position)
                if file is not None and file.digest is not None and not file.verified:
                    self._files.pop(position)  # nobody knows which of its bytes are wrong
            raise

    def _sync(self, position: int) -> None:
        if self._store.keeps_files:
            try:
                sync_file(self.place(position).path)
            except errors.TransfersError:
                self._lose(position)
                raise
        self._synced[position] = 1

    def check_synced(self) -> None:
        """The last look before all is shown: nothing was taken back meanwhile.

        :raises CorruptedInstances: names what was.
        """
        lost = [
            instance.id
            for n, instance in enumerate(self.instances)
            if instance.id not in self.held and not (self._verified[n] and self._synced[n])
        ]
        if lost:
            raise errors.CorruptedInstances(
                f"{len(lost)} instances must come again, the first is {lost[0]}", tuple(lost)
            )

    def lost_held(self, ids: Iterable[str]) -> None:
        """Instances are not held any more: somebody deleted or replaced them."""
        self.held -= frozenset(ids)

    def check_rows(self, positions: Iterable[int]) -> None:
        """Refuse a commit for which the log has not the rows of all instances.

        :raises CorruptedInstances: they count as missing; the log can be appended to again.
        """
        wanted = {n for n, i in enumerate(self.instances) if i.id not in self.held}
        lost = sorted(wanted.difference(positions))
        if lost:
            self._log.repair()
            for position in lost:
                self._lose(position)
            raise errors.CorruptedInstances(
                f"The log {self._log.path} was damaged: {len(lost)} instances must come again",
                tuple(self.instances[n].id for n in lost),
            )

    def rows(self) -> Iterable[index.Row]:
        """The rows of all instances that are not held, in the order of the log."""
        return self._log.rows(self._head, self.instances)

    def position(self, row: index.Row) -> int:
        """Which instance a row is of."""
        return int(row.name.partition(".")[0])

    @property
    def folder(self) -> tuple[int, str]:
        """The row and the path of the folder."""
        return self._head.folder, self._head.path

    def discard(self) -> "Deferred[bool]":
        """See :meth:`IIncoming.discard`."""
        return Deferred.fromCoroutine(self._discard())

    async def _discard(self) -> bool:
        while self._deciding:
            await self._decided.wait()
        if self.report is None and not self._discarded:
            self._discarded = self._deciding = True
            self._log.close()
            try:
                await self._store.discard_staged(self)
            finally:
                self._settled()
            self._release()
        return self.report is not None

    def close(self) -> "Deferred[None]":
        """See :meth:`IIncoming.close`."""
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        self._closed = True
        while self._recovering:
            with contextlib.suppress(Exception):  # whoever needs what it looked at is told
                await self._recovery_waiters.wait()
        await self._end_of_syncing()
        self._release()

    def _release(self) -> None:
        self._released = True
        self._log.close()
        self._store.closed(self.name)


def _record(
    maker: index.RowMaker, folder: int, name: str, instance: Instance
) -> Callable[[BinaryIO, int], index.Row]:
    def record(file: BinaryIO, size: int) -> index.Row:
        return maker.row(read_header(file, size), folder, name, size, instance.md5)

    return record


def check_verified(files: Iterable[StagedFile]) -> None:
    """Refuse a commit of files that are not all there, right and DICOM.

    :raises CorruptedInstances, BadDicom: names the instances.
    """
    bad = {}
    for file in files:
        if file.digest is None:
            bad[file.instance.id] = "is incomplete"
        elif not file.verified:
            bad[file.instance.id] = f"has MD5 {file.digest}, not {file.instance.md5[:40]}"
    if bad:
        named = "; ".join(f"{id_} {what}" for id_, what in list(bad.items())[:_MOST_NAMED])
        more = f"; and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
        raise errors.CorruptedInstances(
            f"{len(bad)} instances cannot be verified: {named}{more}", tuple(bad)
        )
    for file in files:
        if file.bad_dicom is not None:
            raise errors.BadDicom(f"Instance {file.instance.id}: {file.bad_dicom}")
