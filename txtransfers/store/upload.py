"""What comes by ``POST /instances``: a DICOM file, or a ZIP of them, into the embedded store.

A file is written where it stays, in a folder that takes uploads until it is full; like the files of
a transfer it is seen only when the index names it.
"""

import hashlib
import os
import threading
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from .. import errors
from ..disk import disk_error, sync_file
from ..threads import run_in_parallel
from .dicom import Header, read_header
from .embedded import EmbeddedStore
from .index import Row, RowMaker
from .interfaces import IUpload, Outcome, StoredInstance

_FILES_PER_FOLDER = 4096
_SLICE = 2**20
_ENTRY = 128
"""Bytes of a file in the directory of a ZIP archive, with a name of usual length."""
_DIRECTORY = 2**20
_ZIP_MAGIC = b"PK\x03\x04"

log = Logger()


class UploadFolder:
    """The folder that takes uploads at the moment; thread-safe."""

    def __init__(self, store: EmbeddedStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._number = 0
        self._path = ""
        self._count = _FILES_PER_FOLDER

    def next_file(self) -> tuple[int, str, str]:
        """Where the next file goes: the folder's row and path in the index, the file's name."""
        with self._lock:
            if self._count >= _FILES_PER_FOLDER:
                self._number, self._path = self._store.new_folder()
                self._count = 0
            self._count += 1
            return self._number, self._path, f"{self._count}.dcm"


class UploadedFile:
    """One file that is written from its start to its end, and hashed on the way. Blocking."""

    def __init__(self, store: EmbeddedStore, folder: UploadFolder) -> None:
        self._store = store
        self.folder, self.folder_path, self.name = folder.next_file()
        self.path = os.path.join(store.path(self.folder_path), self.name)
        self.size = 0
        self._taken = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        try:
            self._file: BinaryIO = open(self.path, "x+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise disk_error(error, self.path) from error

    def write(self, data: bytes) -> None:
        """Append bytes.

        :raises StorageFull, StorageFailure: the disk refused.
        """
        what = f"After {self.size} bytes the next part of the upload"
        self._store.space.take(len(data), what)
        self._taken += len(data)
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise disk_error(error, self.path) from error
        self._md5.update(data)
        self.size += len(data)

    def start(self, count: int) -> bytes:
        """The first bytes of the file."""
        return os.pread(self._file.fileno(), count, 0)

    def reopen(self) -> BinaryIO:
        """The file, at its start."""
        self._file.seek(0)
        return self._file

    def header(self) -> Header:
        """The file's header.

        :raises BadDicom: it has none.
        """
        try:
            with open(self.path, "rb") as file:
                return read_header(file, self.size)
        except OSError as error:
            raise disk_error(error, self.path) from error

    def row(self, maker: RowMaker, header: Header) -> Row:
        """What the index is to keep."""
        return maker.row(header, self.folder, self.name, self.size, self._md5.hexdigest())

    def close(self) -> None:
        """No more bytes come: a ZIP archive can have more files than may be open at once."""
        self._file.close()

    def sync(self) -> None:
        """Bring the bytes to the disk, and close."""
        self.close()
        sync_file(self.path)

    def give_back(self) -> None:
        """Its room is not the upload's any more; safe to call twice."""
        taken, self._taken = self._taken, 0
        self._store.space.give_back(taken)

    def remove(self) -> None:
        """Close and unlink; safe to call twice."""
        self._file.close()
        if os.path.exists(self.path):
            os.unlink(self.path)


def _check_directory(file: BinaryIO, most: int) -> None:
    """Refuse a ZIP archive whose directory alone, all of which is read, is too much for memory."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end is not None and end[5] > max(_DIRECTORY, most * _ENTRY):
        raise _too_many(most)


def _too_many(most: int) -> errors.BadDicom:
    return errors.BadDicom(
        f"The ZIP archive has more files than {most} (MaxInstances in Limits here)"
    )


@implementer(IUpload)
class EmbeddedUpload:
    """See :class:`IUpload`."""

    def __init__(self, store: EmbeddedStore, folder: UploadFolder) -> None:
        self._store = store
        self._folder = folder
        self._file: UploadedFile | None = None
        self._entries: list[UploadedFile] = []
        self._shown = False

    def write(self, data: bytes) -> "Deferred[None]":
        """See :meth:`IUpload.write`."""
        return self._store.threads.run(self._write, data)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = UploadedFile(self._store, self._folder)
        self._file.write(data)

    def finish(self) -> "Deferred[tuple[bool, tuple[StoredInstance, ...]]]":
        """See :meth:`IUpload.finish`."""
        return Deferred.fromCoroutine(self._finish())

    async def _finish(self) -> tuple[bool, tuple[StoredInstance, ...]]:
        store = self._store
        if self._file is None:
            raise errors.BadDicom("Received an empty DICOM file")
        try:
            zipped, pairs = await store.threads.run(self._read, self._file)
            files = [file for file, _header in pairs]
            await run_in_parallel(store.threads, store.commit_threads, UploadedFile.sync, files)
            return zipped, await store.threads.run(self._show, pairs)
        finally:
            await self.discard()

    def _read(self, whole: UploadedFile) -> tuple[bool, list[tuple[UploadedFile, Header]]]:
        if whole.start(len(_ZIP_MAGIC)) != _ZIP_MAGIC:
            self._entries = [whole]
            return False, [(whole, whole.header())]
        pairs = []
        for entry in self._unzip(whole):
            try:
                pairs.append((entry, entry.header()))
            except errors.BadDicom as error:
                log.info("An entry of an uploaded ZIP archive is left out: {error}", error=error)
                self._entries.remove(entry)
                entry.remove()
                entry.give_back()
        return True, pairs

    def _unzip(self, whole: UploadedFile) -> Iterator[UploadedFile]:
        limits, made = self._store.unpacking, 0
        try:
            _check_directory(whole.reopen(), limits.files)
            with zipfile.ZipFile(whole.reopen()) as archive:
                for info in archive.infolist():
                    if info.is_dir():
                        continue
                    if len(self._entries) >= limits.files:
                        raise _too_many(limits.files)
                    entry = UploadedFile(self._store, self._folder)
                    self._entries.append(entry)
                    with archive.open(info) as source:
                        while data := source.read(_SLICE):
                            made += len(data)
                            limits.inflation.check(whole.size, made)
                            entry.write(data)
                    entry.close()
                    yield entry
        except errors.TransfersError:
            raise
        except Exception as error:  # zipfile raises whatever a broken archive leads it to
            raise errors.BadDicom(f"The ZIP archive cannot be read: {error}") from error

    def _show(self, pairs: list[tuple[UploadedFile, Header]]) -> tuple[StoredInstance, ...]:
        maker = RowMaker()
        for path in {file.folder_path for file, _header in pairs}:
            self._store.sync_folder(path)
        outcomes = self._store.show([file.row(maker, header) for file, header in pairs])
        self._shown = True
        return tuple(
            StoredInstance(
                header.ids.instance,
                header.ids.patient,
                header.ids.study,
                header.ids.series,
                already_stored=outcome in (Outcome.ALREADY_STORED, Outcome.DIFFERENT),
            )
            for (_file, header), outcome in zip(pairs, outcomes, strict=True)
        )

    def discard(self) -> "Deferred[None]":
        """See :meth:`IUpload.discard`."""
        return self._store.threads.run(self._discard)

    def _discard(self) -> None:
        shown = set(self._entries) if self._shown else set()
        for file in {*self._entries, *([self._file] if self._file else [])}:
            if file not in shown:
                file.remove()
            file.give_back()
        self._file = None
        self._entries = []
