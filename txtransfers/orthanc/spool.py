"""Copies of Orthanc's instances on our disk, while they are sent.

An instance is fetched once, however many buckets have parts of it, and can be read as far as it has
come. Copies that nobody uses are removed, the oldest first, where all would take more than
``CacheSize``. What has come is compared with the MD5 that Orthanc told.
"""

import hashlib
import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..disk import disk_error
from ..errors import (
    BodyTooLarge,
    SourceChanged,
    StorageFailure,
    TransfersError,
    UnknownResource,
)
from ..transfer.slots import Slots
from ..waiters import Waiters
from .catalogue import Known
from .files import Download, make_file, read_at
from .rest import OrthancRest

_TAG = re.compile(r'"\d+-([0-9a-f]{32})"\Z', re.ASCII)


@attrs.define(eq=False)
class Copy:
    """One instance's file, as far as it has come.

    :ivar md5: of all of it, once it is there.
    """

    known: Known
    path: str
    users: int = 0
    available: int = 0
    md5: str = ""
    failure: Failure | None = None
    waiters: Waiters = attrs.Factory(Waiters)

    @property
    def is_whole(self) -> bool:
        """Whether all of it is there, and right."""
        return bool(self.md5)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes."""
        return self.is_whole or self.failure is not None


class Spool:
    """See the module."""

    def __init__(
        self,
        rest: OrthancRest,
        folder: str,
        budget: int,
        check_disk: Callable[[int], None],
        fetching: Slots,
    ) -> None:
        """:param budget: ``CacheSize``, in bytes. :param fetching: who may fetch.

        :param check_disk: refuses so many bytes where the disk has no room; blocking.
        """
        self._rest = rest
        self._folder = folder
        self._budget = budget
        self._check_disk = check_disk
        self._fetching = fetching
        self._copies: OrderedDict[tuple[str, str], Copy] = OrderedDict()
        self._size = 0
        self._numbers = count()

    def start(self) -> None:
        """Make the folder, empty; blocking.

        :raises StorageFailure: it cannot be made.
        """
        try:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.makedirs(self._folder, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self._folder) from error

    def use(self, known: Known) -> Copy:
        """The copy of an instance, which begins to come; :meth:`release` must follow."""
        key = (known.id, known.uuid)
        copy = self._copies.get(key)
        if copy is None:
            path = os.path.join(self._folder, str(next(self._numbers)))
            copy = self._copies[key] = Copy(known, path)
            copy.users = 1
            self._size += known.size
            self._make_room()
            Deferred.fromCoroutine(self._fetch(copy)).addErrback(self._failed, copy)
        else:
            copy.users += 1
            self._copies.move_to_end(key)
        return copy

    def release(self, copy: Copy) -> None:
        """It is not used any more, by one of those who did."""
        copy.users -= 1
        self._make_room()

    async def read(self, copy: Copy, offset: int, size: int) -> bytes:
        """Bytes of a copy, as soon as they have come."""
        while copy.available < offset + size and not copy.has_ended:
            await copy.waiters.wait()
        if copy.failure is not None:
            copy.failure.raiseException()
        data: bytes = await self._rest.threads.run(read_at, copy.path, offset, size)
        if len(data) != size:
            raise StorageFailure(f"The copy {copy.path} was cut short by somebody else")
        return data

    async def read_md5(self, known: Known) -> str | None:
        """The MD5 of an instance, by reading it; None where it is gone."""
        copy = self.use(known)
        try:
            while not copy.has_ended:
                await copy.waiters.wait()
            if copy.failure is not None:
                copy.failure.raiseException()
            return copy.md5
        except UnknownResource:
            return None
        finally:
            self.release(copy)

    # What is behind

    def _make_room(self) -> None:
        """Remove the oldest that nobody uses, while there is too much."""
        if self._size <= self._budget:
            return
        for copy in list(self._copies.values()):
            if not copy.users and copy.has_ended:
                self._forget(copy)
            if self._size <= self._budget:
                return

    def _forget(self, copy: Copy) -> None:
        key = (copy.known.id, copy.known.uuid)
        if self._copies.get(key) is copy:
            del self._copies[key]
            self._size -= copy.known.size
            self._rest.threads.run(_unlink, copy.path).addErrback(lambda _failure: None)

    async def _fetch(self, copy: Copy) -> None:
        async with self._fetching.slot():
            await self._rest.threads.run(self._check_disk, copy.known.size)
            await self._rest.retrying(lambda: self._fetch_once(copy))
        copy.waiters.fire()
        self._make_room()

    async def _fetch_once(self, copy: Copy) -> None:
        known, threads = copy.known, self._rest.threads
        file = await threads.run(make_file, copy.path)

        def came(taken: int) -> None:
            if taken > known.size:
                raise changed(self._rest, known)
            copy.available = max(copy.available, taken)
            copy.waiters.fire()

        download = Download(threads, file, copy.path, came)
        try:
            await self._rest.fetch(f"/instances/{known.id}/file", download.sink)
        except UnknownResource:
            raise deleted(self._rest, known) from None
        finally:
            os.close(file)
        if download.taken != known.size or known.md5 not in ("", download.md5):
            raise changed(self._rest, known)
        copy.md5 = download.md5

    def _failed(self, failure: Failure, copy: Copy) -> None:
        copy.failure = failure
        self._forget(copy)
        copy.waiters.fire()
        if not failure.check(TransfersError):
            failure.raiseException()


async def fetch_small(rest: OrthancRest, fetching: Slots, together: Sequence[Known]) -> list[bytes]:
    """Instances that need no file here, whole, in that order."""
    async with fetching.slot():
        if len(together) > 1:
            # What is wrong with one of them is found out, and tried again, with each alone.
            with suppress(TransfersError):
                return await _fetch_small(rest, together)
        return [
            (await rest.retrying(partial(_fetch_small, rest, (known,))))[0] for known in together
        ]


async def _fetch_small(rest: OrthancRest, together: Sequence[Known]) -> list[bytes]:
    paths = [f"/instances/{known.id}/attachments/dicom/data" for known in together]
    try:
        answers = await rest.get_each(paths, limits=[known.size for known in together])
    except UnknownResource:
        raise deleted(rest, together[0]) from None
    except StorageFailure as error:
        if isinstance(error.__cause__, BodyTooLarge):
            raise changed(rest, together[0]) from None
        raise
    for known, answer in zip(together, answers, strict=True):
        told = md5_of_tag(answer.header("ETag"))
        if known.md5 and not told:
            told = await rest.threads.run(_md5, answer.body)
        if len(answer.body) != known.size or (known.md5 and told != known.md5):
            raise changed(rest, known)
    return [answer.body for answer in answers]


def md5_of_tag(tag: str) -> str:
    """What Orthanc says in an ETag, ``"revision-MD5"``, of what it gives; empty if it does not."""
    match = _TAG.match(tag)
    return match[1] if match is not None else ""


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def changed(rest: OrthancRest, known: Known) -> SourceChanged:
    """The error for an instance that is not what it was."""
    return SourceChanged(
        f"Instance {known.id} is not in {rest.who} any more as it was ({known.size} bytes with MD5"
        f" {known.md5 or 'not known'}): resubmit the job to transfer what is there now"
    )


def deleted(rest: OrthancRest, known: Known) -> UnknownResource:
    """The error for an instance that is gone."""
    return UnknownResource(f"Instance {known.id} was deleted in {rest.who} meanwhile")


def _unlink(path: str) -> None:
    os.unlink(path)
