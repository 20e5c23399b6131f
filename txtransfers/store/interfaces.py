"""What a store of instances is to the rest of the house. The contract stands here, once.

:class:`IInstanceStore` is what transfers need, and every store provides it. A store that is also
the archive itself (the embedded one) provides :class:`IArchive` besides. One suite of tests runs
on every provider.
"""

# mypy: disable-error-code="misc,empty-body"
# ruff: noqa: N805

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from ..wire.messages import Level, Resource
from ..wire.plan import Chunk, Instance


@attrs.frozen
class Piece:
    """Bytes of one instance, to be staged at ``offset``."""

    id: str
    offset: int
    data: memoryview | bytes


@attrs.frozen
class CommitReport:
    """What a commit did; identifiers are those that the files themselves have.

    :ivar stored: identifiers that were not there before, or were replaced.
    :ivar already_stored: identifiers that were there and were left as they are; also of the second
        and later ones of several files of one instance: the first counts.
    """

    stored: tuple[str, ...]
    already_stored: tuple[str, ...]


class IInstanceReader(Interface):
    """Reads a sequence of chunks as one stream of bytes."""

    def read(limit: int) -> "Deferred[bytes]":
        """The next bytes: exactly ``limit``, fewer only at the end, none after it.

        One call at a time. Fails with :class:`UnknownResource` when an instance is gone meanwhile,
        with :class:`StorageFailure` when a file is shorter than the index says.
        """

    def close() -> None:
        """Give back what is open; safe to call twice, and while a read is under way."""


class IIncoming(Interface):
    """A staging area, out of sight, for the instances of one transfer."""

    def write(pieces: Sequence[Piece]) -> "Deferred[None]":
        """Stage bytes, in any order; the same bytes twice are harmless. Does not keep ``pieces``.

        Several calls may be under way at once. Fails with :class:`StorageFull` or
        :class:`StorageFailure`; the other instances stay usable.
        """

    def commit() -> "Deferred[CommitReport]":
        """Verify all, then show all. Fires when everything is on disk and in the index.

        Fails with :class:`CorruptedInstances` (incomplete, or another MD5) or :class:`BadDicom`,
        naming the instances; then nothing is shown, and it can be called again once the bytes of
        those instances were written anew. After a success it gives the same report again, after
        :meth:`discard` it fails with :class:`BadState`. Not while a write is under way.
        """

    def discard() -> "Deferred[None]":
        """Free the space. Safe to call twice, and during or after a commit.

        What a commit has shown by then stays.
        """


class IInstanceStore(Interface):
    """Where instances live."""

    def lookup(resources: Sequence[Resource]) -> "Deferred[tuple[Instance, ...]]":
        """The instances below ``resources``, in order of ID, each once. Reads no file.

        Fails with :class:`UnknownResource`, naming the first that is not here at that level.
        """

    def find(ids: Sequence[str]) -> "Deferred[Mapping[str, Instance]]":
        """Those of ``ids`` that are instances here; the others are left out."""

    def open(chunks: Sequence[Chunk]) -> IInstanceReader:
        """A reader of ``chunks`` laid end to end; nothing is opened before its first read."""

    def receive(instances: Sequence[Instance]) -> "Deferred[IIncoming]":
        """A new staging area for ``instances`` (each ID once).

        Fails with :class:`StorageFull`, naming both numbers, where they cannot fit.
        """


@attrs.frozen
class StoredInstance:
    """What became of an uploaded file."""

    id: str
    patient: str
    study: str
    series: str
    already_stored: bool


@attrs.frozen
class ArchiveStatistics:
    """How much the archive, or one resource in it, holds; ``size`` in bytes."""

    patients: int
    studies: int
    series: int
    instances: int
    size: int


@attrs.frozen
class ResourceDetails:
    """One resource: its identifiers, main tags, parent and children."""

    id: str
    level: Level
    tags: Mapping[str, str]
    parent: str | None
    parent_tags: Mapping[str, str]
    children: tuple[str, ...]
    last_update: str
    size: int = 0
    md5: str = ""
    uuid: str = ""
    index: int | None = None


@attrs.frozen
class Change:
    """One line of the history of the archive."""

    seq: int
    type: str
    level: Level
    id: str
    date: str


class IUpload(Interface):
    """A file, or a ZIP archive of files, that is being uploaded."""

    def write(data: bytes) -> "Deferred[None]":
        """Stage the next bytes. One call at a time. Fails with :class:`StorageFull`."""

    def finish() -> "Deferred[tuple[bool, tuple[StoredInstance, ...]]]":
        """Store what was written, all or nothing; tells whether it was a ZIP archive.

        Fails with :class:`BadDicom`; then nothing is left.
        """

    def discard() -> "Deferred[None]":
        """Free the space; safe to call twice, and after :meth:`finish`."""


class IArchive(Interface):
    """The archive of a store that has its own: what Orthanc's REST API shows and changes."""

    identifier = Attribute("A text that stays the same for the life of the archive.")

    def upload() -> IUpload:
        """A new upload."""

    def list_ids(level: Level, since: int, limit: int) -> "Deferred[tuple[str, ...]]":
        """Identifiers of a level, oldest first; ``limit`` 0 means all."""

    def details(level: Level, id_: str) -> "Deferred[ResourceDetails]":
        """One resource. Fails with :class:`UnknownResource`."""

    def descendants(level: Level, id_: str, wanted: Level) -> "Deferred[tuple[str, ...]]":
        """Identifiers of a lower (or the same) level below a resource.

        Fails with :class:`UnknownResource`.
        """

    def statistics(level: Level | None, id_: str) -> "Deferred[ArchiveStatistics]":
        """How much a resource holds; without ``level``, the whole archive."""

    def delete(level: Level, id_: str) -> "Deferred[tuple[Level, str] | None]":
        """Delete a resource and all below it; tells the closest ancestor that remains."""

    def all_tags(id_: str) -> "Deferred[dict[str, Any]]":
        """All tags of an instance but its pixels, by keyword, nested as sequences are."""

    def lookup_dicom(identifier: str) -> "Deferred[tuple[tuple[Level, str], ...]]":
        """The resources with that PatientID, Study, Series or SOP Instance UID."""

    def search(
        level: Level, query: Mapping[str, str], case_sensitive: bool, since: int, limit: int
    ) -> "Deferred[tuple[str, ...]]":
        """Identifiers of a level whose main tags, or their parents', match wildcards."""

    def changes(since: int, limit: int) -> "Deferred[tuple[tuple[Change, ...], bool, int]]":
        """The history after ``since``: the lines, whether they are the last, the last number."""
