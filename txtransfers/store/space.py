"""How much may still be written: the disk's room, ``MaximumStorageSize``, and what was promised.

A transfer that was taken will not be short of room because another one came later. Thread-safe.
"""

import os
import threading
from collections.abc import Callable, Iterable

import attrs

from ..errors import StorageFull

FREE_RESERVE = 64 * 2**20
"""Bytes of the disk that are left free unless told otherwise: index, logs and jobs need some."""


@attrs.define
class _Area:
    """A staging area: bytes declared, bytes written, whether somebody writes at the moment."""

    needed: int
    written: int
    is_open: bool


class Space:
    """The room of one storage directory; all numbers are bytes."""

    def __init__(self, folder: str, maximum: int, stored: Callable[[], int]) -> None:
        """:param maximum: ``MaximumStorageSize``; 0 for none.

        :param stored: gives the bytes that the index knows; blocking.
        """
        self._folder = folder
        self._maximum = maximum
        self._count_stored = stored
        self._stored: int | None = None
        self._lock = threading.RLock()
        self._areas: dict[str, _Area] = {}
        self._uploads = 0
        self._most_staged = 0
        self._reserve = FREE_RESERVE

    def limit(self, most_staged: int, reserve: int) -> None:
        """Before anything is staged: ``MaxStagingSize`` (0 for none) and ``MinimumFreeDisk``."""
        self._most_staged, self._reserve = most_staged, reserve

    def staged(self) -> tuple[int, int, int]:
        """What is staged: areas, bytes that were written, bytes that are promised beside them."""
        with self._lock:
            areas = list(self._areas.values())
            written = self._uploads + sum(area.written for area in areas)
        return len(areas), written, _promised(areas)

    def free(self) -> int:
        """What can be promised; blocking."""
        return max(0, min(room for room, _limit in self._rooms()))

    def _rooms(self) -> list[tuple[int, str]]:
        """Each limit: the room that it leaves, and its name."""
        with self._lock:
            areas = list(self._areas.values())
            stored = self._stored_size() if self._maximum else 0
            uploads = self._uploads
        promised = _promised(areas)
        rooms = [(self._on_disk() - promised, f"the disk of {self._folder}")]
        staged = sum(area.written for area in areas) + promised + uploads
        if self._maximum:
            rooms.append((self._maximum - stored - staged, "MaximumStorageSize"))
        if self._most_staged:
            rooms.append((self._most_staged - staged, "MaxStagingSize in Limits"))
        return rooms

    def _stored_size(self) -> int:
        if self._stored is None:
            self._stored = self._count_stored()
        return self._stored

    def _on_disk(self) -> int:
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize - self._reserve

    def check_disk(self, size: int) -> None:
        """Refuse to write ``size`` bytes that others, outside of this daemon, took the room of.

        :raises StorageFull: with both numbers.
        """
        free = self._on_disk()
        if size > free:
            raise StorageFull(
                f"No room left on the disk of {self._folder}: {size} bytes are to be written, and"
                f" there is room for {max(0, free)}"
            )

    def check(self, size: int, what: str) -> None:
        """Refuse ``size`` bytes that have not been promised, and cannot be.

        :raises StorageFull: with both numbers.
        """
        room, limit = min(self._rooms())
        if size > room:
            raise StorageFull(
                f"{what} has {size} bytes, but {limit} has room for {max(0, room)} only"
            )

    def take(self, size: int, what: str) -> None:
        """Take room for the next bytes of an upload; :meth:`give_back` must follow.

        :raises StorageFull: with both numbers.
        """
        with self._lock:
            self.check(size, what)
            self._uploads += size

    def give_back(self, size: int) -> None:
        """What an upload took is gone, or the index knows of it."""
        with self._lock:
            self._uploads -= size

    def changed(self) -> None:
        """Instances were shown or deleted."""
        with self._lock:
            self._stored = None

    def found(self, name: str, written: int) -> None:
        """A staging area of an earlier life."""
        with self._lock:
            self._areas[name] = _Area(0, written, is_open=False)

    def promise(self, name: str, needed: int) -> None:
        """A staging area that is to have ``needed`` bytes in all is opened, anew or again.

        :raises StorageFull: they cannot fit, with both numbers.
        """
        with self._lock:
            area = self._areas.get(name)
            written = area.written if area is not None else 0
            self.check(max(0, needed - written), "The transfer")
            self._areas[name] = _Area(needed, written, is_open=True)

    def wrote(self, name: str, size: int) -> None:
        """Bytes of a staging area were written, or (a negative size) are gone."""
        with self._lock:
            if name in self._areas:
                self._areas[name].written += size

    def closed(self, name: str) -> None:
        """Nobody writes to a staging area any more: only what is there counts."""
        with self._lock:
            if name in self._areas:
                self._areas[name].is_open = False

    def gone(self, name: str) -> None:
        """A staging area is committed, or discarded."""
        with self._lock:
            self._areas.pop(name, None)


def _promised(areas: Iterable[_Area]) -> int:
    """What those that are open will have, beside what they have."""
    return sum(max(0, area.needed - area.written) for area in areas if area.is_open)
