"""One instance on its way into a store: a file that is written in any order and hashed as it grows.

Blocking and thread-safe; called in threads of the pool. Bytes count as verified only if they were
hashed after they were last written: writing below the hashed prefix starts the hash again, then
at the end only (:meth:`StagedFile.complete`), so that bytes that come twice cost one more hash.
"""

import hashlib
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any, BinaryIO

import attrs

from ..disk import begin_sync, disk_error
from ..errors import BadDicom, StorageFailure
from ..wire.plan import Instance
from .places import Place

_HASH_SLICE = 2**20

_UNSYNCED = 16 * 2**20
"""Bytes of one file, after which the disk begins to take them: a commit does not wait for all."""


class Ranges:
    """A set of byte positions, as sorted, disjoint, non-adjacent ranges."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> int:
        """Add the positions from ``start`` up to, without, ``end``; tells how many are new."""
        if start >= end:
            return 0
        low = bisect_left(self._ends, start)
        high = low
        while high < len(self._starts) and self._starts[high] <= end:
            high += 1
        known = sum(self._ends[n] - self._starts[n] for n in range(low, high))
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]
        return end - start - known

    def covers(self, start: int, end: int) -> bool:
        """Whether all positions from ``start`` up to, without, ``end`` are in the set."""
        place = bisect_left(self._ends, end)
        return place < len(self._starts) and self._starts[place] <= start

    def reach(self, start: int) -> int:
        """The first position from ``start`` on that is not in the set."""
        place = bisect_right(self._ends, start)
        is_in = place < len(self._starts) and self._starts[place] <= start
        return self._ends[place] if is_in else start

    def count(self) -> int:
        """How many positions are in the set."""
        return sum(self._ends) - sum(self._starts)

    def prefix(self) -> int:
        """How many positions from 0 on are in the set without a gap."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0


@attrs.frozen
class _Claim:
    """Bytes that one thread hashes; ``block`` where they are still in memory."""

    generation: int
    hasher: Any
    start: int
    end: int
    block: memoryview | bytes | None


class StagedFile:
    """The staged bytes of one instance."""

    __slots__ = (
        "_claimed",
        "_generation",
        "_hashed",
        "_hasher",
        "_hashing",
        "_lazy",
        "_lock",
        "_on_verified",
        "_present",
        "_ranges",
        "_unsynced",
        "bad_dicom",
        "digest",
        "instance",
        "place",
        "record",
    )

    def __init__(
        self, place: Place, instance: Instance, on_verified: Callable[[BinaryIO, int], Any]
    ) -> None:
        """:param on_verified: called once with the verified file; what it returns is kept."""
        self.place = place
        self.instance = instance
        self.record: Any = None
        self.bad_dicom: BadDicom | None = None
        self.digest: str | None = None
        self._on_verified = on_verified
        self._lock = threading.Lock()
        self._ranges: Ranges | None = Ranges()
        self._present = place.is_shared
        self._unsynced = 0
        self._generation = 0
        self._restart_hash()
        self._hashing = False
        self._lazy = False

    def recover(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Take the bytes from one place up to another, each pair, as written before.

        They are hashed when the file is completed. Before the first write only.
        """
        assert self._ranges is not None
        for start, end in ranges:
            self._ranges.add(start, end)
        self._present = True
        self._lazy = True

    def lacks(self, start: int, end: int) -> bool:
        """Whether a byte from ``start`` up to ``end`` was not written."""
        with self._lock:
            return self._ranges is not None and not self._ranges.covers(start, end)

    def reach(self, start: int) -> int:
        """The first byte from ``start`` on that was not written."""
        with self._lock:
            return self.instance.size if self._ranges is None else self._ranges.reach(start)

    @property
    def written(self) -> int:
        """How many of its bytes are there."""
        with self._lock:
            return self.instance.size if self._ranges is None else self._ranges.count()

    @property
    def verified(self) -> bool:
        """Whether all bytes are there with the right MD5."""
        return self.digest == self.instance.md5

    def write(self, offset: int, data: memoryview | bytes) -> int:
        """Write bytes at ``offset``, within the instance's size; tells how many are new.

        :raises StorageFull, StorageFailure: the disk refused.
        """
        with self._lock:
            if self.verified:
                return 0
            self._write_bytes(offset, data)
            if offset < self._claimed:
                self._restart_hash()
                self._lazy = True
            assert self._ranges is not None
            new = self._ranges.add(offset, offset + len(data))
            claim = None if self._lazy else self._claim(offset, data)
            self._unsynced += new
            is_much = self._unsynced >= _UNSYNCED and not self.place.is_shared
            if is_much:
                self._unsynced = 0
        if is_much:
            begin_sync(self.place.path)
        self._hash(claim)
        return new

    def complete(self) -> bool:
        """Hash whatever is left to be hashed; tells whether all bytes are there.

        Not while a write is under way.
        """
        with self._lock:
            if self.instance.size == 0 and self.digest is None:
                self._write_bytes(0, b"")
                self._settle(b"")
            claim = self._claim(0, b"")
        self._hash(claim, finish=True)
        return self.digest is not None

    def _write_bytes(self, offset: int, data: memoryview | bytes) -> None:
        try:
            self.place.write(offset, data, is_new=not self._present)
        except OSError as error:
            raise disk_error(error, self.place.path) from error
        self._present = True

    def _restart_hash(self) -> None:
        self._generation += 1
        self._hasher = hashlib.md5(usedforsecurity=False)
        self._hashed = 0
        self._claimed = 0
        self.digest = None

    def _claim(self, offset: int, data: memoryview | bytes) -> _Claim | None:
        """The next bytes to hash, if there are some and nobody is at it; the lock is held."""
        if self._hashing or self.digest is not None or self._ranges is None:
            return None
        start, available = self._hashed, self._ranges.prefix()
        if available <= start:
            return None
        in_memory = offset == start and len(data) > 0
        end = start + len(data) if in_memory else min(available, start + _HASH_SLICE)
        self._hashing = True
        self._claimed = end
        return _Claim(self._generation, self._hasher, start, end, data if in_memory else None)

    def _hash(self, claim: _Claim | None, finish: bool = False) -> None:
        while claim is not None:
            try:
                block = claim.block
                if block is None:
                    block = self._read(claim.start, claim.end - claim.start)
                claim.hasher.update(block)
            except BaseException:
                with self._lock:
                    self._hashing = False
                raise
            with self._lock:
                self._hashing = False
                if claim.generation == self._generation:
                    self._hashed = claim.end
                    if claim.end == self.instance.size:
                        self._settle(block if claim.start == 0 else None)
                claim = self._claim(0, b"") if finish or not self._lazy else None

    def _read(self, offset: int, size: int) -> bytes:
        try:
            block = self.place.read(offset, size)
        except OSError as error:
            raise disk_error(error, self.place.path) from error
        if len(block) != size:
            raise StorageFailure(f"{self.place.path} was cut short by somebody else")
        return block

    def _settle(self, whole: memoryview | bytes | None) -> None:
        """All bytes are hashed; where the MD5 is right, look at what they are."""
        digest = self._hasher.hexdigest()
        if digest == self.instance.md5:
            self._look(whole)
            self._ranges = None
        self.digest = digest

    def _look(self, whole: memoryview | bytes | None) -> None:
        try:
            if whole is not None:
                self.record = self._on_verified(BytesIO(whole), self.instance.size)
            else:
                with self.place.open(self.instance.size) as file:
                    self.record = self._on_verified(file, self.instance.size)
        except BadDicom as error:
            self.bad_dicom = error
        except OSError as error:
            # The commit hashes and looks once more.
            self._restart_hash()
            self._lazy = True
            raise disk_error(error, self.place.path) from error
