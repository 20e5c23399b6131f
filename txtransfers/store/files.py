"""The files of the embedded store: folders, logs, and what belongs to nobody. Blocking."""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from twisted.logger import Logger

from .. import errors
from ..disk import disk_error, sync_file
from ..sqlite import Database
from . import index
from .space import Space
from .staging_log import UNFINISHED, Head, read_head
from .steps import Step

INDEX_FILE = "index.sqlite"
INSTANCES = "instances"
STAGING = "staging"
UNKNOWN = "unknown"

log = Logger()


class StoreFiles:
    """The part of :class:`EmbeddedStore` that knows where files are."""

    def __init__(self, folder: str, maximum_size: int, step: Callable[[Step], None]) -> None:
        self.folder = folder
        self.step = step
        self.database = Database(os.path.join(folder, INDEX_FILE), index.MIGRATIONS)
        self.space = Space(folder, maximum_size, lambda: self.database.read(index.total_size))

    def probe(self) -> None:
        """Make sure that the index can be read, and that something can be received; blocking.

        :raises StorageFull: there is no room.
        """
        self.database.read(lambda db: db.execute("SELECT 1 FROM folder LIMIT 1").fetchone())
        self.space.check(1, "What comes next")

    def path(self, relative: str) -> str:
        """The file system's path of a path that the index has."""
        return os.path.join(self.folder, INSTANCES, relative)

    def log_path(self, name: str) -> str:
        """Where the log of a staging area is."""
        return os.path.join(self.folder, STAGING, name)

    def staged_folders(self) -> set[str]:
        """The folders that a log speaks for; logs that nobody can go on with are removed."""
        folders = set()
        with os.scandir(self.log_path("")) as entries:
            names = [entry.name for entry in entries if entry.is_file()]
        for name in names:
            head = None if name.endswith(UNFINISHED) else read_head(self.log_path(name))
            if head is None or not self.is_open(name, head):
                unlink(self.log_path(name))
                continue
            folders.add(head.path)
            self.space.found(name, _disk_usage(self.path(head.path)))
        return folders

    def is_open(self, name: str, head: Head) -> bool:
        """Whether somebody can go on with a staging area: its folder is there, no commit was."""

        def read(db: Any) -> bool:
            known = db.execute(
                "SELECT 1 FROM folder WHERE id = ? AND path = ? AND open", (head.folder, head.path)
            ).fetchone()
            return known is not None and index.find_report(db, name) is None

        return self.database.read(read)

    def remove_orphans(self, staged: set[str]) -> None:
        """Open folders belong to a life that ended: drop their files that no row names."""
        folders = self.database.read(
            lambda db: db.execute("SELECT id, path FROM folder WHERE open").fetchall()
        )
        count = size = 0
        for number, path in folders:
            if path not in staged:
                removed = self.sweep(number, path)
                count, size = count + removed[0], size + removed[1]
        if count:
            log.info(
                "{count} files ({size} bytes) of unfinished transactions removed",
                count=count,
                size=size,
            )
        for name in set(os.listdir(self.path(""))) - self._folders():
            self._put_aside(name)

    def sweep(self, number: int, path: str) -> tuple[int, int]:
        """Remove the files of a folder that no row names, and close it; blocking.

        Gives how many they were, and their bytes.
        """
        known = self.database.read(
            lambda db: {
                name for (name,) in db.execute("SELECT name FROM file WHERE folder = ?", (number,))
            }
        )
        count = size = 0
        if os.path.isdir(self.path(path)):
            with os.scandir(self.path(path)) as entries:
                doomed = [e for e in entries if e.name not in known and not e.is_dir()]
            for entry in doomed:
                with contextlib.suppress(FileNotFoundError):  # it was garbage, too
                    size += entry.stat(follow_symlinks=False).st_size
                    os.unlink(entry.path)
                    count += 1
                self.step(Step.START_ORPHAN_REMOVED)
            if not known:
                with contextlib.suppress(OSError):  # gone, or somebody put something there
                    os.rmdir(self.path(path))
        self.database.write(lambda db: index.close_folder(db, number), durable=False)
        return count, size

    def _put_aside(self, name: str) -> None:
        """Of a folder that the index does not know: empty after a crash, else the index is old."""
        if not os.listdir(self.path(name)):
            os.rmdir(self.path(name))
            return
        unknown = os.path.join(self.folder, UNKNOWN)
        os.makedirs(unknown, exist_ok=True)
        os.rename(self.path(name), os.path.join(unknown, name))
        log.warn(
            "The index does not know the folder {name}: its files are in {unknown} now; upload"
            " them again if they are missed, and delete them",
            name=name,
            unknown=unknown,
        )

    def _folders(self) -> set[str]:
        return self.database.read(
            lambda db: {path for (path,) in db.execute("SELECT path FROM folder")}
        )

    def new_folder(self) -> tuple[int, str]:
        """Make a folder for files that may not be shown yet: its row and its path in the index."""
        path = uuid4().hex
        number = self.database.write(lambda db: index.add_folder(db, path))
        try:
            os.mkdir(self.path(path))
        except OSError as error:
            raise disk_error(error, self.path(path)) from error
        return number, path

    def remove_staged(self, name: str, number: int, path: str) -> None:
        """Remove a staging area none of whose files is shown: first what would bring it back."""
        unlink(self.log_path(name))
        self.step(Step.DISCARD_BEGUN)
        shutil.rmtree(self.path(path), ignore_errors=True)
        self.step(Step.DISCARD_UNLINKED)
        self.database.write(lambda db: index.close_folder(db, number))
        self.space.gone(name)

    def sync_folder(self, path: str) -> None:
        """Bring the names of a folder's files, and its own, to the disk."""
        for folder in (self.path(path), self.path("")):
            sync_file(folder)

    def empty_garbage(self) -> None:
        """Unlink the files that no row names any more.

        Never fails: what it follows has been decided, and what is left is for the next time.
        """
        try:
            self._empty_garbage()
        except (errors.TransfersError, sqlite3.Error) as error:
            log.warn("Files that are not needed any more are kept for now: {error}", error=error)

    def _empty_garbage(self) -> None:
        paths = self.database.read(index.take_garbage)
        if not paths:
            return
        gone = []
        for path in paths:
            try:
                os.unlink(self.path(path))
            except FileNotFoundError:
                pass
            except OSError as error:
                log.warn("{error}", error=disk_error(error, self.path(path)))
                continue
            gone.append(path)
            self.step(Step.GARBAGE_UNLINKED)
        for folder in self.database.write(lambda db: index.forget_garbage(db, gone)):
            shutil.rmtree(self.path(folder), ignore_errors=True)


def unlink(path: str) -> None:
    """Unlink a file, if it is there.

    :raises StorageFailure: the disk refused.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise disk_error(error, path) from error


def _disk_usage(folder: str) -> int:
    """Bytes that the files of a folder take."""
    try:
        with os.scandir(folder) as entries:
            return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
    except FileNotFoundError:
        return 0
