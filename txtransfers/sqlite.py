"""One SQLite file: opened in WAL mode, brought to its version, written by one at a time.

Everything here blocks and is called in threads of the pool. Used by the embedded store's index and
by the journal of jobs. A durable write that returned is on disk (``synchronous=FULL``), and with it
all writes before it.
"""

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeVar

from .errors import StorageFailure, StorageFull
from .migrations import bring_up

T = TypeVar("T")

_BUSY_TIMEOUT_MS = 10_000


class FairLock:
    """A lock that is had in the order in which it was asked for.

    A plain lock may go to the same thread again and again: who writes a large transaction in many
    small steps would keep the others out.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._queue: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        mine = threading.Event()
        with self._guard:
            self._queue.append(mine)
            if self._queue[0] is mine:
                mine.set()
        mine.wait()

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        with self._guard:
            self._queue.popleft()
            if self._queue:
                self._queue[0].set()


class Database:
    """A SQLite file and its connections: one for writing, one a thread for reading."""

    def __init__(self, path: str, migrations: Sequence[str]) -> None:
        """:param migrations: see :func:`.migrations.bring_up`."""
        self._path = path
        self._migrations = migrations
        self._write_lock = FairLock()
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open or make the file, and bring it to the newest version.

        :raises StorageFailure: it cannot be opened, or a newer release made it.
        """
        self._local = threading.local()
        try:
            self._writer = self._connect()
            bring_up(self._writer, self._path, self._migrations)
        except sqlite3.Error as error:
            self.close()
            raise StorageFailure(f"The database {self._path} cannot be opened: {error}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections; safe to call twice."""
        for connection in self._all:
            connection.close()
        self._all.clear()
        self._writer = None

    def write(self, function: Callable[[sqlite3.Connection], T], durable: bool = True) -> T:
        """Run ``function`` in a transaction of its own: committed when it returns, else undone.

        :param durable: false for a step that may be lost in a power cut, as long as no later
            durable one is kept.
        """
        with self._write_lock:
            connection = self._writer
            if connection is None:
                raise StorageFailure(f"The database {self._path} is closed")
            try:
                connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                connection.execute("BEGIN IMMEDIATE")
                try:
                    result = function(connection)
                except BaseException:
                    if connection.in_transaction:  # a full disk has ended it
                        connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            except sqlite3.OperationalError as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if "full" in str(error):
                    raise StorageFull(f"No room left for the database {self._path}") from error
                raise StorageFailure(f"The database {self._path}: {error}") from error
            return result

    def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``function`` on a consistent view of the file; it must not write."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        connection.execute("BEGIN")
        try:
            return function(connection)
        finally:
            connection.execute("ROLLBACK")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._all.append(connection)
        connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        return connection
