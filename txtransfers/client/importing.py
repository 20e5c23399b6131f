"""Folders of files into a daemon: in parallel, in bounded memory, what is not DICOM left out.

Files are looked at and read in threads. At any time there are as many slices in memory as files
are under way, and a few hundred paths, however many files a folder has.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO

import attrs
from twisted.internet.defer import DeferredLock
from twisted.internet.task import deferLater

from ..errors import DaemonRefused, DaemonUnreachable, TransfersError
from ..threads import IThreads
from ..transfer.streams import SLICE
from .daemon import Client
from .together import together

_BATCH = 256
"""Paths that are fetched from a folder in one hop to a thread."""

_PREAMBLE = 128
_MAGIC = b"DICM"
_ZIP = b"PK\x03\x04"
_DIRECTORY = "DICOMDIR"
_GROUPS = (b"\x02\x00", b"\x08\x00")
"""How a file without a preamble begins: with an element of one of these groups."""

_RETRIES = 4
"""Further attempts for a file whose upload broke off, or that the daemon had no place for."""

_LONGEST_LIST = 100


@attrs.frozen
class Candidate:
    """A file that may be DICOM. ``size`` in bytes."""

    path: str
    size: int


@attrs.define
class Imported:
    """What became of the files.

    :ivar files: that were dealt with. :ivar size: bytes of these, and of what is on its way.
    :ivar stored: instances that were not there before; ``already`` were.
    :ivar skipped: files that are not DICOM, or no DICOM that can be stored; ``failed`` could not be
        read or stored, for another reason.
    :ivar troubles: a line for each of the first that failed, or that the daemon refused.
    """

    files: int = 0
    size: int = 0
    stored: int = 0
    already: int = 0
    skipped: int = 0
    failed: int = 0
    studies: set[str] = attrs.Factory(set)
    troubles: list[str] = attrs.Factory(list)

    def trouble(self, path: str, reason: object) -> None:
        """Note one."""
        if len(self.troubles) < _LONGEST_LIST:
            self.troubles.append(f"{path}: {reason}")


class Importer:
    """Brings files into a daemon."""

    def __init__(
        self,
        reactor: Any,
        client: Client,
        threads: IThreads,
        parallel: int = 4,
        on_progress: Callable[[Imported], None] = lambda imported: None,
    ) -> None:
        """:param parallel: files that are under way at once.

        :param on_progress: called with what is done so far, again and again.
        """
        self._reactor = reactor
        self._client = client
        self._threads = threads
        self._parallel = parallel
        self._on_progress = on_progress
        self.imported = Imported()

    async def count_files(self, paths: Iterable[str], on_count: Callable[[int, int], None]) -> None:
        """Count files and bytes below ``paths``; calls ``on_count`` with both, again and again."""
        files = size = 0
        walking = walk(paths, lambda _path, _reason: None)
        while batch := await self._threads.run(lambda: list(islice(walking, _BATCH))):
            files += len(batch)
            size += sum(each.size for each in batch)
            on_count(files, size)

    async def run(self, paths: Iterable[str]) -> Imported:
        """Upload all that is DICOM below ``paths``.

        :raises DaemonUnreachable, AccessDenied: no use in going on; what was stored stays.
        """
        walking = _Walking(self._threads, walk(paths, self._cannot_read))
        await together(*(self._work(walking) for _number in range(self._parallel)))
        return self.imported

    def _cannot_read(self, path: str, reason: str) -> None:
        """Called in a thread; adding to lists and counters is safe there, one thread walks."""
        self.imported.failed += 1
        self.imported.trouble(path, reason)

    async def _work(self, walking: "_Walking") -> None:
        while (candidate := await walking.next()) is not None:
            await self._take(candidate)
            self.imported.files += 1
            self._on_progress(self.imported)

    async def _take(self, candidate: Candidate) -> None:
        imported, before = self.imported, _Sent(self.imported)
        try:
            if not await self._threads.run(may_be_dicom, candidate):
                imported.skipped += 1
                return
            stored = await self._upload(candidate, before)
        except OSError as error:
            self._cannot_read(candidate.path, error.strerror or str(error))
        except Unreadable as error:
            self._cannot_read(candidate.path, str(error))
        except DaemonRefused as error:
            if error.status in (401, 403):
                raise
            if error.status == 400:
                imported.skipped += 1
            else:
                imported.failed += 1
            imported.trouble(candidate.path, error)
        else:
            imported.already += sum(1 for each in stored if each.already_stored)
            imported.stored += sum(1 for each in stored if not each.already_stored)
            imported.studies.update(each.study for each in stored)
        finally:
            before.settle(candidate.size)

    async def _upload(self, candidate: Candidate, sent: "_Sent") -> Any:
        """An upload may be made twice: what is there is not stored again."""

        def on_sent(size: int) -> None:
            sent.add(size)
            self._on_progress(self.imported)

        number = 0
        while True:
            number += 1
            try:
                return await self._client.upload(
                    candidate.size, lambda: FileSlices(self._threads, candidate), on_sent
                )
            except (DaemonUnreachable, DaemonRefused) as error:
                is_passing = not isinstance(error, DaemonRefused) or error.status == 503
                if number > _RETRIES or not is_passing:
                    raise
            sent.settle(0)
            await deferLater(self._reactor, 0.25 * 2.0**number)


class _Sent:
    """The bytes of one file among those that were dealt with."""

    def __init__(self, imported: Imported) -> None:
        self._imported = imported
        self._size = 0

    def add(self, size: int) -> None:
        """So many more are on their way."""
        self._size += size
        self._imported.size += size

    def settle(self, size: int) -> None:
        """It is so many in all."""
        self.add(size - self._size)


class _Walking:
    """A walk that several take from."""

    def __init__(self, threads: IThreads, found: Iterator[Candidate]) -> None:
        self._threads = threads
        self._found = found
        self._batch: list[Candidate] = []
        self._lock = DeferredLock()

    async def next(self) -> Candidate | None:
        """The next one; None after the last."""
        async with self._lock:
            if not self._batch:
                self._batch = await self._threads.run(lambda: list(islice(self._found, _BATCH)))
                self._batch.reverse()
            return self._batch.pop() if self._batch else None


def walk(paths: Iterable[str], on_trouble: Callable[[str, str], None]) -> Iterator[Candidate]:
    """The regular files below ``paths``, in whatever order the disk has them. Blocking.

    A link to a file is followed, one to a folder is not: it might lead round in circles. What is
    named by ``paths`` is followed in any case. Pipes, sockets and devices are left out.

    :param on_trouble: called with the path that cannot be read, and why.
    """
    for path in paths:
        yield from _walk(path, on_trouble)


def _walk(path: str, on_trouble: Callable[[str, str], None]) -> Iterator[Candidate]:
    folders = [path]
    try:
        status = os.stat(path)
    except OSError as error:
        on_trouble(path, error.strerror or str(error))
        return
    if not stat.S_ISDIR(status.st_mode):
        if stat.S_ISREG(status.st_mode):
            yield Candidate(path, status.st_size)
        return
    while folders:
        folder = folders.pop()
        inner: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            inner.append(entry.path)
                        elif entry.is_file():
                            yield Candidate(entry.path, entry.stat().st_size)
                    except OSError as error:
                        on_trouble(entry.path, error.strerror or str(error))
        except OSError as error:
            on_trouble(folder, error.strerror or str(error))
        folders.extend(inner)


def may_be_dicom(candidate: Candidate) -> bool:
    """Whether it is worth to be sent: DICOM, or a ZIP archive. Blocking; reads a few bytes.

    The daemon decides in the end: this is to spare the way of what is clearly something else.
    """
    if os.path.basename(candidate.path).upper() == _DIRECTORY:
        return False  # it lists other files
    with open(candidate.path, "rb") as file:
        head = file.read(_PREAMBLE + len(_MAGIC))
    if head[_PREAMBLE:] == _MAGIC or head.startswith(_ZIP):
        return True
    return head[:2] in _GROUPS and head[3:4] == b"\0" and len(head) == _PREAMBLE + len(_MAGIC)


class Unreadable(TransfersError):
    """A file that cannot be read to its end; the text says why."""


class FileSlices:
    """A file, slice by slice; see :class:`.ISlices`."""

    def __init__(self, threads: IThreads, candidate: Candidate) -> None:
        self._threads = threads
        self._path = candidate.path
        self._left = candidate.size
        self._file: BinaryIO | None = None
        self._is_closed = False
        self._is_reading = False

    async def read(self) -> bytes:
        """See :meth:`.ISlices.read`."""
        if not self._left:
            return b""
        self._is_reading = True
        try:
            data: bytes = await self._threads.run(self._read)
        finally:
            self._is_reading = False
            if self._is_closed:
                self._close()
        self._left -= len(data)
        return data

    def _read(self) -> bytes:
        try:
            if self._file is None:
                self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115
            data = self._file.read(min(SLICE, self._left))
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from error
        if not data:
            raise Unreadable("it became shorter while it was sent")
        return data

    def close(self) -> None:
        """See :meth:`.ISlices.close`."""
        self._is_closed = True
        if not self._is_reading:
            self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
