"""Staging areas on our disk: made, found again, dropped. What the embedded store and the one in
front of an Orthanc share; how a staging area is shown is for them to say.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import attrs
from twisted.internet.defer import Deferred

from .. import errors
from ..disk import disk_error
from ..threads import IThreads
from ..wire.plan import Instance
from . import index
from .committed import CommittedIncoming
from .files import StoreFiles
from .interfaces import CommitReport, IIncoming, Staged
from .reception import StagedIncoming
from .staging_log import (
    SHARED_NAME,
    UNFINISHED,
    Contents,
    Head,
    StagingLog,
    create_log,
    open_log,
    read_head,
)
from .steps import Step, ignore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,200}\Z", re.ASCII)


class StagingStore(StoreFiles):
    """The part of a store that receives; see :class:`IInstanceStore`.

    :cvar keeps_files: whether the files that are staged are those that stay: then each instance has
        one, which is synced.
    """

    keeps_files = True

    def __init__(
        self,
        folder: str,
        threads: IThreads,
        overwrite_instances: bool,
        commit_threads: int,
        maximum_size: int,
        step: Callable[[Step], None] = ignore,
    ) -> None:
        """:param maximum_size: bytes that may be stored (``MaximumStorageSize``); 0 for any number.

        :param step: called, in the thread concerned, at the instants at which a crash matters.
        """
        super().__init__(folder, maximum_size, step)
        self.threads = threads
        self.overwrite_instances = overwrite_instances
        self.commit_threads = commit_threads
        self._open: set[str] = set()
        self._using = threading.Lock()

    # What differs

    async def find_held(self, instances: Sequence[Instance]) -> tuple[int, ...]:
        """The positions of those of ``instances`` that are here, with the same content."""
        raise NotImplementedError

    async def show_staged(self, incoming: StagedIncoming) -> CommitReport:
        """Show what is verified and synced, all or nothing, and free the rest.

        :raises CorruptedInstances: an instance that is held is not there any more.
        """
        raise NotImplementedError

    async def discard_staged(self, incoming: StagedIncoming) -> None:
        """Free a staging area of which nothing is shown."""
        await self.threads.run(self.remove_staged, incoming.name, *incoming.folder)

    # Start and stop: blocking, before and after the reactor's life.

    def make_folders(self) -> None:
        """Make the folders of the storage directory.

        :raises StorageFailure: it cannot be made or written.
        """
        try:
            os.makedirs(self.path(""), exist_ok=True)
            os.makedirs(self.log_path(""), exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.folder) from error

    def stop(self) -> None:
        """Close the index."""
        self.database.close()

    def closed(self, name: str) -> None:
        """Nobody uses a staging area any more; it may be there still, or not."""
        self.space.closed(name)
        self._open.discard(name)

    # IInstanceStore

    def receive(
        self, instances: Sequence[Instance], name: str = "", note: bytes = b"", delta: bool = False
    ) -> "Deferred[IIncoming]":
        """See :meth:`IInstanceStore.receive`; the space is freed where the caller is cancelled."""
        outcome: Deferred[IIncoming] = Deferred()

        def received(incoming: StagedIncoming) -> "Deferred[bool] | None":
            if outcome.called:
                return incoming.discard()
            outcome.callback(incoming)
            return None

        name = name or str(uuid4())
        Deferred.fromCoroutine(self._receive(tuple(instances), name, note, delta)).addCallback(
            received
        ).addErrback(outcome.errback)
        return outcome

    async def _receive(
        self, instances: tuple[Instance, ...], name: str, note: bytes, delta: bool
    ) -> StagedIncoming:
        held = await self.find_held(instances) if delta else ()
        made: StagedIncoming = await self.threads.run(self._make, instances, name, note, held)
        return made

    def _make(
        self, instances: tuple[Instance, ...], name: str, note: bytes, held: tuple[int, ...]
    ) -> StagedIncoming:
        assert _NAME.match(name), name
        skipped = frozenset(held)
        needed = sum(i.size for n, i in enumerate(instances) if n not in skipped)
        self.space.promise(name, needed)
        try:
            number, path = self.new_folder()
            self.step(Step.FOLDER_MADE)
            head = Head(number, path, needed, held, is_shared=not self.keeps_files)
            try:
                self._make_shared(head)
                staging_log = create_log(self.log_path(name), head, instances, note)
            except errors.TransfersError:
                self.remove_staged(name, number, path)
                raise
        except errors.TransfersError:
            self.space.gone(name)
            raise
        self.step(Step.LOG_MADE)
        self._open.add(name)
        return StagedIncoming(self, name, staging_log, Contents(head, instances, note, [], set()))

    def reopen(self, name: str) -> "Deferred[IIncoming | None]":
        """See :meth:`IInstanceStore.reopen`; it is closed where the caller is cancelled."""
        outcome: Deferred[IIncoming | None] = Deferred()

        def reopened(incoming: StagedIncoming | CommittedIncoming | None) -> Any:
            if outcome.called:
                return incoming.close() if incoming is not None else None
            if isinstance(incoming, StagedIncoming):
                incoming.recover()
            outcome.callback(incoming)
            return None

        Deferred.fromCoroutine(self._reopen(name)).addCallback(reopened).addErrback(outcome.errback)
        return outcome

    async def _reopen(self, name: str) -> StagedIncoming | CommittedIncoming | None:
        found: Any = await self.threads.run(self._open_again, name)
        if found is None or isinstance(found, CommittedIncoming):
            return found
        staging_log, contents = found
        if contents.head.held:
            try:
                contents.head = await self._still_held(contents)
                await self.threads.run(self.space.promise, name, contents.head.size)
            except BaseException:
                staging_log.close()
                self.closed(name)
                raise
        self.step(Step.REOPENED)
        return StagedIncoming(self, name, staging_log, contents)

    def find_report(self, name: str) -> CommitReport | None:
        """What a commit of that name did; blocking."""
        report = self.database.read(lambda db: index.find_report(db, name))
        return CommitReport.from_text(report) if report is not None else None

    def _open_again(self, name: str) -> tuple[StagingLog, Contents] | CommittedIncoming | None:
        report = self.find_report(name)
        if report is not None:
            return CommittedIncoming(name, report)
        path = self.log_path(name)
        if not _NAME.match(name) or not os.path.exists(path):
            return None
        self._use(name)
        opened = None
        try:
            opened = open_log(path)
            if opened is not None:
                self._make_shared(opened[1].head)
                self._promise_again(name, *opened)
        except BaseException:
            self._open.discard(name)
            raise
        if opened is None:
            self._open.discard(name)
        return opened

    def _make_shared(self, head: Head) -> None:
        """Make the file that all instances share, where it is not there."""
        if head.is_shared:
            path = self.path(os.path.join(head.path, SHARED_NAME))
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))
            except OSError as error:
                raise disk_error(error, path) from error

    def _promise_again(self, name: str, staging_log: StagingLog, contents: Contents) -> None:
        try:
            self.space.promise(name, contents.head.size)
        except errors.StorageFull:
            staging_log.close()
            raise

    def _use(self, name: str) -> None:
        """One at a time may have a staging area."""
        with self._using:
            if name in self._open:
                raise errors.BadState(f"{name} is in use already")
            self._open.add(name)

    async def _still_held(self, contents: Contents) -> Head:
        """The head, without instances that were held and have been deleted or replaced since."""
        head, instances = contents.head, contents.instances
        if not head.held:
            return head
        there = await self.find_held([instances[n] for n in head.held])
        held = tuple(head.held[n] for n in there)
        lost = set(head.held).difference(held)
        return attrs.evolve(head, held=held, size=head.size + sum(instances[n].size for n in lost))

    def staged(self) -> "Deferred[tuple[Staged, ...]]":
        """See :meth:`IInstanceStore.staged`."""
        return self.threads.run(self._staged)

    def _staged(self) -> tuple[Staged, ...]:
        found = []
        for name in os.listdir(self.log_path("")):
            if name in self._open or name.endswith(UNFINISHED):
                continue
            try:
                head = read_head(self.log_path(name))
                last_written = os.stat(self.log_path(name)).st_mtime
            except (errors.StorageFailure, FileNotFoundError):  # gone meanwhile
                continue
            if head is not None:
                found.append(Staged(name, head.size, last_written))
        return tuple(found)

    def drop(self, name: str) -> "Deferred[CommitReport | None]":
        """See :meth:`IInstanceStore.drop`."""
        return self.threads.run(self._drop, name)

    def _drop(self, name: str) -> CommitReport | None:
        report = self.find_report(name)
        if report is not None:
            return report
        path = self.log_path(name)
        head = read_head(path) if _NAME.match(name) and os.path.exists(path) else None
        if head is None:
            raise errors.UnknownResource(f"Nothing is staged as {name[:100]}")
        self._use(name)
        try:
            if self.is_open(name, head):  # it has not been committed at this moment
                self.remove_staged(name, head.folder, head.path)
        finally:
            self._open.discard(name)
        return None

    def forget_reports(self, older_than: float) -> "Deferred[None]":
        """See :meth:`IInstanceStore.forget_reports`."""
        before = time.time() - older_than
        return self.threads.run(
            self.database.write, lambda db: index.forget_reports(db, before), durable=False
        )
