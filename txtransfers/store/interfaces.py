"""What a store of instances is to the rest of the house. The contract stands here, once.

:class:`IInstanceStore` is what transfers need, and every store provides it. A store that is also
the archive itself (the embedded one) provides :class:`IArchive` besides. One suite of tests runs
on every provider.
"""

# mypy: disable-error-code="misc,empty-body"
# ruff: noqa: N805

from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import groupby
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from ..wire.messages import Level, Resource
from ..wire.plan import Bucket, Chunk, Instance, Plan


@attrs.frozen
class Piece:
    """Bytes of one instance, to be staged at ``offset``."""

    id: str
    offset: int
    data: memoryview | bytes


class Outcome(Enum):
    """What a commit made of one instance; the value is how receipts write it."""

    STORED = "Stored"
    REPLACED = "Replaced"
    """It was there, and is replaced (``OverwriteInstances``)."""
    ALREADY_STORED = "AlreadyStored"
    DIFFERENT = "Different"
    """It was there with other content, and was left as it is."""


@attrs.frozen
class CommitReport:
    """What a commit did.

    :ivar outcomes: one for each instance, in the order in which they were declared. Of several
        files of one instance one counts, the others were there already.
    :ivar ids: the identifiers that the files themselves have, in the same order; none where the
        report was read back from the disk.
    """

    outcomes: tuple[Outcome, ...]
    ids: tuple[str, ...] = ()

    @property
    def stored(self) -> tuple[str, ...]:
        """Identifiers that were not there before, or were replaced."""
        return self._of(Outcome.STORED, Outcome.REPLACED)

    @property
    def already_stored(self) -> tuple[str, ...]:
        """Identifiers that were there and were left as they are."""
        return self._of(Outcome.ALREADY_STORED, Outcome.DIFFERENT)

    def _of(self, *wanted: Outcome) -> tuple[str, ...]:
        pairs = zip(self.ids, self.outcomes, strict=False)
        return tuple(id_ for id_, outcome in pairs if outcome in wanted)

    def to_text(self) -> str:
        """The outcomes, run-length encoded: ``Stored 3,Different 1``."""
        return ",".join(f"{o.value} {len(tuple(run))}" for o, run in groupby(self.outcomes))

    @classmethod
    def from_text(cls, text: str) -> "CommitReport":
        """Read what :meth:`to_text` wrote."""
        runs = (run.split(" ") for run in text.split(",") if run)
        return cls(tuple(Outcome(name) for name, count in runs for _ in range(int(count))))


class IInstanceReader(Interface):
    """Reads a sequence of chunks as one stream of bytes."""

    def read(limit: int) -> "Deferred[bytes]":
        """The next bytes: at most ``limit``, and none after the last.

        One call at a time. Fails with :class:`UnknownResource` when an instance is gone meanwhile,
        with :class:`StorageFailure` when a file is shorter than the index says.
        """

    def close() -> None:
        """Give back what is open; safe to call twice, and while a read is under way."""


class IIncoming(Interface):
    """A staging area, out of sight, for the instances of one transfer.

    It outlives the process: :meth:`IInstanceStore.reopen` finds again what was written.
    """

    name = Attribute("What :meth:`IInstanceStore.receive` called it.")
    instances = Attribute("The instances that were declared, a tuple.")
    note = Attribute("The bytes that were to be kept with it.")
    report = Attribute("The :class:`CommitReport`; None before the commit.")
    held = Attribute(
        """Identifiers of instances that need not be written: a frozenset.

        The store has them with the same MD5, and the commit makes sure that it still has them. One
        that it has not any more is not in this set after that commit.
        """
    )

    def write(pieces: Sequence[Piece]) -> "Deferred[None]":
        """Stage bytes, in any order; the same bytes twice are harmless. Does not keep ``pieces``.

        Several calls may be under way at once. Fails with :class:`StorageFull` or
        :class:`StorageFailure`; the other instances stay usable.
        """

    def missing(plan: Plan) -> "Deferred[tuple[int, ...]]":
        """The buckets of ``plan`` that have bytes which are neither held nor safely staged.

        Bytes that were staged before :meth:`IInstanceStore.reopen` count only if they are still
        what was written; it takes the time of reading them all.
        """

    def prefix(bucket: Bucket) -> int:
        """How many bytes at the beginning of ``bucket`` need not be written (again).

        Blocking, for a thread of the pool. What was staged before :meth:`IInstanceStore.reopen`
        counts only once :meth:`missing` has fired.
        """

    def commit() -> "Deferred[CommitReport]":
        """Verify all, then show all. Fires when everything is on disk and in the index.

        Fails with :class:`CorruptedInstances` (incomplete, another MD5, or held and gone) or
        :class:`BadDicom`, naming the instances; then nothing is shown, their bytes count as
        missing, and it can be called again once they were written anew. After a success it gives
        the same report again, after :meth:`discard` it fails with :class:`BadState`. Not while a
        write is under way.
        """

    def discard() -> "Deferred[bool]":
        """Free the space; tells whether it was committed before: then what it has shown stays.

        Safe to call twice, and during or after a commit, which it may undo as long as that has
        shown nothing.
        """

    def close() -> "Deferred[None]":
        """Free the memory only: what is staged waits for :meth:`IInstanceStore.reopen`.

        Safe to call twice. Not while a write or a commit is under way.
        """


@attrs.frozen
class Staged:
    """A staging area that nobody uses at the moment.

    :ivar size: bytes declared. :ivar last_written: seconds since the epoch.
    """

    name: str
    size: int
    last_written: float


class IInstanceStore(Interface):
    """Where instances live."""

    def lookup(resources: Sequence[Resource]) -> "Deferred[tuple[Instance, ...]]":
        """The instances below ``resources``, in order of ID, each once. Reads no file.

        Fails with :class:`UnknownResource`, naming the first that is not here at that level.
        """

    def find(ids: Sequence[str]) -> "Deferred[Mapping[str, Instance]]":
        """Those of ``ids`` that are instances here; the others are left out."""

    def open(chunks: Sequence[Chunk], md5s: Mapping[str, str] | None = None) -> IInstanceReader:
        """A reader of ``chunks`` laid end to end; nothing is opened before its first read.

        :param md5s: by ID, what the instances must be: one that was replaced meanwhile counts as
            gone. None: whatever they are.
        """

    def receive(
        instances: Sequence[Instance], name: str = "", note: bytes = b"", delta: bool = False
    ) -> "Deferred[IIncoming]":
        """A new staging area for ``instances`` (each ID once), that survives from then on.

        :param name: for :meth:`reopen`; letters, digits, dots and dashes. Empty: one that is new.
        :param note: bytes that are kept with it.
        :param delta: whether instances that are here with the same MD5 are held.

        Fails with :class:`StorageFull`, naming both numbers, where they cannot fit.
        """

    def reopen(name: str) -> "Deferred[IIncoming | None]":
        """The staging area of that name, or what its commit left behind (its report); else None.

        Not while it is open. Fails as :meth:`receive` does.
        """

    def staged() -> "Deferred[tuple[Staged, ...]]":
        """The staging areas that are on the disk and neither open nor committed."""

    def drop(name: str) -> "Deferred[CommitReport | None]":
        """Discard a staging area that is not open; gives the report if it was committed before.

        Fails with :class:`UnknownResource` where there is none, :class:`BadState` if it is open.
        """

    def forget_reports(older_than: float) -> "Deferred[None]":
        """Forget of commits that ended more than so many seconds ago that they did."""


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
    """One resource: its identifiers, main tags, parent and children.

    :ivar inherited: the main tags of all above it, where they were asked for, like all that follow.
    :ivar modalities: of a study's series, joined by backslashes.
    """

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
    inherited: Mapping[str, str] = {}
    modalities: str = ""
    statistics: ArchiveStatistics | None = None


MODALITIES = "ModalitiesInStudy"
"""A tag that can be asked for at the level of studies and below, though no file has it."""


class SortKey(Enum):
    """By what is sorted: a main tag, or what the archive knows; the value is how it is written."""

    TAG = "DicomTag"
    TAG_AS_INT = "DicomTagAsInt"
    TAG_AS_FLOAT = "DicomTagAsFloat"
    LAST_UPDATE = "LastUpdate"
    RECEPTION = "ReceptionDate"


@attrs.frozen
class Order:
    """One criterion of an order. :ivar tag: a keyword, or a group and element."""

    tag: str
    ascending: bool
    key: SortKey = SortKey.TAG


@attrs.frozen
class Find:
    """A question to the archive.

    :ivar query: main tags of the level, or of those above -> texts with wildcards ``*`` and ``?``,
        alternatives by backslash, ranges of dates; empty ones do not count.
    :ivar limit: 0 means all.
    :ivar order: the first criterion counts most; without one, as they came.
    :ivar parent: below which they must be.
    """

    level: Level
    query: Mapping[str, str] = {}
    case_sensitive: bool = False
    since: int = 0
    limit: int = 0
    order: tuple[Order, ...] = ()
    parent: tuple[Level, str] | None = None


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

    def studies_of(instances: Sequence[str]) -> "Deferred[tuple[str, ...]]":
        """The studies that these instances are in, each once; those that are not here count not."""

    def statistics(level: Level | None, id_: str) -> "Deferred[ArchiveStatistics]":
        """How much a resource holds; without ``level``, the whole archive."""

    def delete(level: Level, id_: str) -> "Deferred[tuple[Level, str] | None]":
        """Delete a resource and all below it; tells the closest ancestor that remains."""

    def all_tags(id_: str) -> "Deferred[dict[str, Any]]":
        """All tags of an instance but its pixels, by keyword, nested as sequences are."""

    def lookup_dicom(identifier: str) -> "Deferred[tuple[tuple[Level, str], ...]]":
        """The resources with that PatientID, Study, Series or SOP Instance UID."""

    def find(wanted: Find) -> "Deferred[tuple[str, ...]]":
        """Identifiers of what matches, in order. Fails with :class:`UnknownResource` (a parent)."""

    def count(wanted: Find) -> "Deferred[int]":
        """How many match, whatever ``since`` and ``limit`` say. Fails like :meth:`find`."""

    def describe(
        level: Level, ids: Sequence[str], more: bool = False
    ) -> "Deferred[tuple[ResourceDetails, ...]]":
        """Those of a level that are (still) there.

        :param more: with what is inherited, and how much each holds.
        """

    def changes(since: int, limit: int) -> "Deferred[tuple[tuple[Change, ...], bool, int]]":
        """The history after ``since``: the lines, whether they are the last, the last number."""
