"""The staging area of one transfer in the embedded store: written, verified, synced, shown.

What is staged outlives the process: a log (``staging_log.py``) tells what was written, and what is
found again counts only once it was read and is right. In memory an instance that is verified is one
byte: its row waits in the log for the commit.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO

from isal import isal_zlib
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from .. import errors
from ..threads import run_in_parallel
from ..wire.plan import Chunk, Instance, Plan
from . import index
from .dicom import read_header
from .interfaces import CommitReport, IIncoming, Piece
from .recovery import claims_by_instance, md5_of, right_ranges
from .staging import StagedFile, sync_file
from .staging_log import Claim, Contents, Head, StagingLog, file_name
from .steps import Step

if TYPE_CHECKING:
    from .embedded import EmbeddedStore

_MOST_NAMED = 10
"""Instances that an error's text names; the error carries all."""

_BLOCK = 2**20

log = Logger()


@implementer(IIncoming)
class EmbeddedIncoming:
    """See :class:`IIncoming`: a folder that no row of the index names, and a log."""

    def __init__(
        self, store: "EmbeddedStore", name: str, staging_log: StagingLog, contents: Contents
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
        self._maker = index.RowMaker()
        self._lock = threading.Lock()
        self._deciding = threading.Lock()
        self._files: dict[int, StagedFile] = {}
        self._verified = bytearray(len(self.instances))
        self._synced = bytearray(len(self.instances))
        self._unsynced: deque[int] = deque()
        self._unsyncable: dict[int, errors.TransfersError] = {}
        self._syncing = 0
        self._found = claims_by_instance(contents)
        self._recovery: Deferred[None] | None = None
        self.report: CommitReport | None = None
        self._discarded = False
        self._closed = False

    # Writing

    def write(self, pieces: Sequence[Piece]) -> "Deferred[None]":
        """See :meth:`IIncoming.write`."""
        return self._store.threads.run(self._write, pieces).addCallback(self._sync_soon)

    def _write(self, pieces: Sequence[Piece]) -> None:
        size = sum(len(piece.data) for piece in pieces)
        self._store.space.check_disk(size)
        claims: list[Claim] = []
        verified: list[tuple[int, StagedFile]] = []
        for piece in pieces:
            position = self._positions[piece.id]
            self._check(position)
            file = self._file(position)
            if file is None:
                continue
            file.write(piece.offset, piece.data)
            if file.verified:
                verified.append((position, file))
            if not file.verified or len(piece.data) < file.instance.size:
                crc = isal_zlib.crc32(piece.data)
                claims.append(Claim(position, piece.offset, len(piece.data), crc))
        self._store.step(Step.BYTES_WRITTEN)
        self._log.append(claims, self._settle(verified))
        self._store.step(Step.BYTES_LOGGED)
        self._store.space.wrote(self.name, size)

    def _file(self, position: int) -> StagedFile | None:
        """The file of an instance that is not verified yet."""
        with self._lock:
            if self._verified[position]:
                return None
            file = self._files.get(position)
            if file is None:
                file = self._files[position] = self._new_file(position)
            return file

    def _path(self, position: int) -> str:
        return os.path.join(self._store.path(self._head.path), file_name(position))

    def _new_file(self, position: int) -> StagedFile:
        instance = self.instances[position]
        record = _record(self._maker, self._head.folder, file_name(position), instance)
        return StagedFile(self._path(position), instance, record)

    def _settle(self, verified: Iterable[tuple[int, StagedFile]]) -> list[tuple[int, index.Row]]:
        """Files that are complete and right: gives the rows that are to be kept in the log."""
        rows = []
        with self._lock:
            for position, file in verified:
                if not self._verified[position] and file.record is not None:
                    self._verified[position] = 1
                    self._files.pop(position, None)
                    self._unsynced.append(position)
                    rows.append((position, file.record))
        return rows

    def _sync_soon(self, _result: None) -> None:
        """Bring complete files to the disk while others arrive: less is left to the commit."""
        if self._unsynced and self._syncing < self._store.commit_threads:
            self._syncing += 1
            self._store.threads.run(self._sync_some).addBoth(self._some_synced)

    def _some_synced(self, _result: object) -> None:
        self._syncing -= 1
        self._sync_soon(None)

    def _sync_some(self) -> None:
        """Sync, ahead of the commit, which tells of what failed."""
        for _ in range(len(self._unsynced)):
            try:
                position = self._unsynced.popleft()
            except IndexError:
                return
            try:
                sync_file(self._path(position))
                self._synced[position] = 1
            except errors.TransfersError as error:
                self._unsyncable[position] = error

    # What was staged before a restart

    def recover(self) -> None:
        """Look in the background at what an old log claims."""
        self._recovery = self._store.threads.run(self._look_at, tuple(self._found))
        # Whoever needs what cannot be read looks again, and is told.
        self._recovery.addErrback(
            lambda failure: log.warn(
                "{name}: {error}", name=self.name, error=failure.getErrorMessage()
            )
        )

    async def _recover_all(self) -> None:
        count = self._store.commit_threads
        await run_in_parallel(self._store.threads, count, self._check, tuple(self._found))

    def _look_at(self, positions: Iterable[int]) -> None:
        for position in positions:
            if self._closed or self._discarded:
                return
            self._check(position)

    def _check(self, position: int) -> None:
        """Compare what is on the disk with what the log claims of an instance."""
        found = self._found.get(position)
        if found is None:
            return
        with found.lock:
            if found.checked:
                return
            if found.has_row and md5_of(self._path(position)) == self.instances[position].md5:
                with self._lock:
                    self._verified[position] = 1
            else:
                self._recover_file(position, found.claims)
            found.checked = True
        self._found.pop(position, None)
        self._store.step(Step.RECOVERED)

    def _recover_file(self, position: int, claims: Sequence[Claim]) -> None:
        ranges = right_ranges(self._path(position), claims)
        if not ranges:
            return
        file = self._new_file(position)
        file.recover(ranges)
        if file.complete() and not file.verified:
            return
        with self._lock:
            self._files[position] = file
        self._log.append((), self._settle([(position, file)] if file.verified else ()))

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
        threads, count = self._store.threads, self._store.commit_threads
        wanted = [n for n, i in enumerate(self.instances) if i.id not in self.held]
        open_files = [n for n in wanted if not self._verified[n]]
        await run_in_parallel(threads, count, self._complete, open_files)
        await threads.run(self._check_verified, open_files)
        self._store.step(Step.ALL_VERIFIED)
        await run_in_parallel(
            threads, count, self._sync, [n for n in wanted if not self._synced[n]]
        )
        report: CommitReport = await threads.run(self._show)
        return report

    def _complete(self, position: int) -> None:
        file = self._file(position)
        if file is not None and file.complete() and file.verified:
            self._log.append((), self._settle([(position, file)]))

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
        error = self._unsyncable.get(position)
        if error is not None:
            # The system tells once of bytes that it could not write: they must come again.
            raise error
        sync_file(self._path(position))
        self._synced[position] = 1

    def _show(self) -> CommitReport:
        with self._deciding:
            if self._discarded:
                raise errors.BadState("What was received is discarded: it cannot be committed")
            if self.report is None:
                self.report = self._store.show_staged(self)
                self._release()
            return self.report

    def lost_held(self, ids: Iterable[str]) -> None:
        """Instances are not held any more: somebody deleted or replaced them."""
        self.held -= frozenset(ids)

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
        return self._store.threads.run(self._discard)

    def _discard(self) -> bool:
        with self._deciding:
            if self.report is None and not self._discarded:
                self._discarded = True
                self._log.close()
                self._store.remove_staged(self.name, *self.folder)
                self._release()
            return self.report is not None

    def close(self) -> "Deferred[None]":
        """See :meth:`IIncoming.close`."""
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        self._closed = True
        recovery, self._recovery = self._recovery, None
        if recovery is not None:
            await recovery
        self._release()

    def _release(self) -> None:
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
