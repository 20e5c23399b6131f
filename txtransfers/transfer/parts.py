"""What a transfer is made of: the collaborators and limits that push and pull share."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import attrs
from zope.interface import Interface

from ..store.interfaces import IInstanceStore
from ..threads import IThreads
from .progress import Progress
from .retries import with_retries
from .slots import Slots

T = TypeVar("T")


@attrs.frozen
class Limits:
    """What the configuration allows a transfer.

    :ivar threads: its buckets in flight. :ivar bucket_size: bytes.
    :ivar retries: of a bucket. :ivar commit_timeout: seconds that a peer may take to commit.
    """

    threads: int
    bucket_size: int
    retries: int
    commit_timeout: float


@attrs.frozen
class Parts:
    """The collaborators of a transfer.

    :ivar originator: the uuid of this daemon's life.
    :ivar slots: buckets in flight of all transfers together.
    """

    reactor: Any
    store: IInstanceStore
    threads: IThreads
    slots: Slots
    limits: Limits
    originator: str

    async def retrying(self, progress: Progress, request: Callable[[], Awaitable[T]]) -> T:
        """Call ``request`` with as many retries as a bucket has; counts them."""

        def count() -> None:
            progress.retries += 1

        return await with_retries(self.reactor, self.limits.retries, request, count)


class ITransfer(Interface):
    """A transfer as the jobs see it."""

    # mypy: disable-error-code="misc,empty-body"

    async def run(progress: Progress) -> None:  # noqa: N805
        """Transfer all of it, and return when it is committed.

        Being cancelled is a pause: what has arrived is kept, and ``run`` can be called again.
        Raises :class:`TransfersError`, and can be called again then too, after :meth:`abandon`.
        """

    async def abandon() -> None:
        """Free what has arrived, here and at the peer as far as it can be reached. Never raises."""

    def stoppable() -> bool:
        """Whether cancelling :meth:`run` now leaves nothing undecided."""
