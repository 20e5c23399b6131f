"""The staging area of one transfer in the embedded store: written, verified, synced, shown."""

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO

from twisted.internet.defer import Deferred
from zope.interface import implementer

from .. import errors
from ..threads import run_in_parallel
from ..wire.plan import Instance
from . import index
from .dicom import read_header
from .interfaces import CommitReport, IIncoming, Piece
from .staging import StagedFile

if TYPE_CHECKING:
    from .embedded import EmbeddedStore

_MOST_NAMED = 10
"""Instances that an error's text names; the error carries all."""


@implementer(IIncoming)
class EmbeddedIncoming:
    """See :class:`IIncoming`: a folder that no row of the index names."""

    def __init__(
        self, store: "EmbeddedStore", number: int, path: str, instances: Sequence[Instance]
    ) -> None:
        self._store = store
        self._number = number
        self._path = path
        self._deciding = threading.Lock()
        self._report: CommitReport | None = None
        self._discarded = False
        self._unsynced: list[StagedFile] = []
        self._syncing = 0
        maker = index.RowMaker()
        self._files = {
            instance.id: StagedFile(
                os.path.join(store.path(path), f"{position}.dcm"),
                instance,
                _record(maker, number, f"{position}.dcm", instance),
            )
            for position, instance in enumerate(instances)
        }

    def write(self, pieces: Sequence[Piece]) -> "Deferred[None]":
        """See :meth:`IIncoming.write`."""
        return self._store.threads.run(self._write, pieces).addCallback(self._sync_soon)

    def _write(self, pieces: Sequence[Piece]) -> list[StagedFile]:
        """Write; gives the files that are complete now."""
        files = [self._files[piece.id] for piece in pieces]
        for piece, file in zip(pieces, files, strict=True):
            file.write(piece.offset, piece.data)
        self._store.promise_over(self, sum(len(piece.data) for piece in pieces))
        return [file for file in files if file.verified]

    def _sync_soon(self, verified: list[StagedFile]) -> None:
        """Bring complete files to the disk while others arrive: less is left to the commit."""
        self._unsynced.extend(verified)
        if self._unsynced and self._syncing < self._store.commit_threads:
            batch, self._unsynced = self._unsynced, []
            self._syncing += 1
            self._store.threads.run(_sync_quietly, batch).addCallback(self._synced)

    def _synced(self, _result: None) -> None:
        self._syncing -= 1
        self._sync_soon([])

    def commit(self) -> "Deferred[CommitReport]":
        """See :meth:`IIncoming.commit`."""
        return Deferred.fromCoroutine(self._commit())

    async def _commit(self) -> CommitReport:
        if self._report is not None:
            return self._report
        if self._discarded:
            raise errors.BadState("What was received is discarded: it cannot be committed")
        files = list(self._files.values())
        store = self._store
        await run_in_parallel(store.threads, store.commit_threads, StagedFile.complete, files)
        check_verified(files)
        await run_in_parallel(store.threads, store.commit_threads, StagedFile.sync, files)
        report: CommitReport = await store.threads.run(self._show, files)
        return report

    def _show(self, files: list[StagedFile]) -> CommitReport:
        with self._deciding:
            if self._discarded:
                raise errors.BadState("What was received is discarded: it cannot be committed")
            if self._report is None:
                self._store.sync_folder(self._path)
                self._report = self._store.show([file.record for file in files], self._number)
                self._store.promise_over(self)
                if not self._report.stored:
                    shutil.rmtree(self._store.path(self._path), ignore_errors=True)
            return self._report

    def discard(self) -> "Deferred[None]":
        """See :meth:`IIncoming.discard`."""
        return self._store.threads.run(self._discard)

    def _discard(self) -> None:
        with self._deciding:
            if self._report is None and not self._discarded:
                self._discarded = True
                self._store.remove_folder(self._number, self._path)
                self._store.promise_over(self)


def _record(
    maker: index.RowMaker, folder: int, name: str, instance: Instance
) -> Callable[[BinaryIO, int], index.Row]:
    def record(file: BinaryIO, size: int) -> index.Row:
        return maker.row(read_header(file, size), folder, name, size, instance.md5)

    return record


def _sync_quietly(files: list[StagedFile]) -> None:
    """Sync, ahead of the commit, which tells of what failed."""
    for file in files:
        try:
            file.sync()
        except errors.TransfersError:
            return


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
