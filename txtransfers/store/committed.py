"""What a commit has left of its staging area: the report."""

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from ..wire.plan import Bucket, Instance, Plan, bucket_size
from .interfaces import CommitReport, IIncoming, Piece


@implementer(IIncoming)
class CommittedIncoming:
    """What a commit has left: its report. See :class:`IIncoming`."""

    instances: tuple[Instance, ...] = ()
    note = b""
    held: frozenset[str] = frozenset()

    def __init__(self, name: str, report: CommitReport) -> None:
        self.name = name
        self.report = report

    def write(self, pieces: Sequence[Piece]) -> "Deferred[None]":
        """See :meth:`IIncoming.write`: it comes too late, and is not needed."""
        return succeed(None)

    def missing(self, plan: Plan) -> "Deferred[tuple[int, ...]]":
        """See :meth:`IIncoming.missing`: nothing."""
        return succeed(())

    def prefix(self, bucket: Bucket) -> int:
        """See :meth:`IIncoming.prefix`: all."""
        return bucket_size(bucket)

    def commit(self) -> "Deferred[CommitReport]":
        """See :meth:`IIncoming.commit`: it has been."""
        return succeed(self.report)

    def discard(self) -> "Deferred[bool]":
        """See :meth:`IIncoming.discard`: what is committed stays."""
        return succeed(True)

    def close(self) -> "Deferred[None]":
        """See :meth:`IIncoming.close`."""
        return succeed(None)
