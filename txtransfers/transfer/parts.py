"""What a transfer is made of: the collaborators, limits and memory that push and pull share."""

# mypy: disable-error-code="misc,empty-body"
# ruff: noqa: N805

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from zope.interface import Interface

from ..errors import PeerRefused, SourceChanged, TransfersError
from ..metrics import Measures
from ..store.interfaces import IInstanceStore, Outcome
from ..threads import IThreads
from ..waiters import Waiters
from ..wire.inflation import UNLIMITED, Inflation
from ..wire.messages import Compression, TransferRequest
from ..wire.plan import Instance
from .bandwidth import Bandwidth
from .codings import usable_cores
from .compression import CodecSpeeds
from .link import Link
from .progress import Progress
from .retries import is_worth_retrying, with_retries
from .slots import Slots, run_all

T = TypeVar("T")

ROUNDS = 4
"""How often a transfer is gone on with when its end shows that something is missing."""

_BEGUN = 4
"""Times as many buckets as may be in flight that are begun at once where answers take their time:
the small ones at the end share places, and each is under way for a round trip at least."""

STREAMED = 2 * 2**20
"""Bytes of memory that a bucket takes on its way through, either way: three slices, and what the
transport holds. So many that the default CacheSize is enough for the default MaxThreads."""

_COPIES = 3
"""Of a small bucket, that are in memory at once at the most."""

_FORBIDDEN = (401, 403)


@attrs.frozen
class Limits:
    """What the configuration allows a transfer.

    :ivar bucket_size: bytes; None where it follows the link.
    :ivar retries: of a bucket. :ivar commit_timeout: seconds that a peer may take to commit.
    :ivar delta: ``Transfers.Delta``; None: only where it costs no request of its own.
    :ivar inflation: how much a bucket that is pulled may become.
    """

    bucket_size: int | None
    retries: int
    commit_timeout: float
    delta: bool | None = None
    inflation: Inflation = UNLIMITED


@attrs.frozen
class Parts:
    """The collaborators of a transfer.

    :ivar originator: the uuid of this daemon's life.
    :ivar memory: bytes for buckets in flight, of all transfers together (``CacheSize``).
    :ivar bandwidth: how fast they may be.
    :ivar measures: are told of buckets and commits.
    :ivar speeds: of the codecs, as learned. :ivar cores: that may compress.
    """

    reactor: Any
    store: IInstanceStore
    threads: IThreads
    memory: Slots
    limits: Limits
    originator: str
    bandwidth: Bandwidth
    measures: Measures = attrs.Factory(Measures)
    speeds: CodecSpeeds = attrs.Factory(CodecSpeeds)
    cores: int = attrs.Factory(usable_cores)

    async def retrying(self, progress: Progress, request: Callable[[], Awaitable[T]]) -> T:
        """Call ``request`` with as many retries as a bucket has; counts them."""

        def count() -> None:
            progress.retries += 1

        return await with_retries(self.reactor, self.limits.retries, request, count)

    async def run_buckets(
        self, link: Link, buckets: Iterable[Callable[[], Coroutine[Any, Any, None]]]
    ) -> None:
        """Have all travel, in order; each is to be :meth:`in_flight`."""
        at_once = link.cap * (_BEGUN if link.is_far else 1)
        places = (link.requests, link.slots, self.memory)
        if not link.is_far:
            await run_all(buckets, at_once, places)
            return
        others = Waiters()
        moment = Deferred.fromCoroutine(self._a_moment())
        moment.addCallbacks(others.fire, lambda failure: failure.trap(CancelledError))
        try:
            await run_all(_after_the_first(buckets, moment, others), at_once, places)
        finally:
            moment.cancel()

    async def _a_moment(self) -> None:
        """Until what has been written has left: it does at the end of a turn of the reactor."""
        for _ in range(2):  # what the end of a thread's work calls runs before timers do
            await deferLater(self.reactor, 0)

    @asynccontextmanager
    async def in_flight(
        self,
        link: Link,
        memo: "Memo",
        request: TransferRequest,
        size: int,
        usual: int,
        is_fetched: bool = False,
    ) -> AsyncIterator[Callable[[], None]]:
        """Hold what a bucket takes of its link, and of the memory.

        It gives a function to call as soon as the link can carry another one: the wait for the
        answer is not to leave a gap.

        :param memo: that of the job, which shares the link with others.
        :param size: bytes of the bucket. :param usual: of the first buckets of its transfer.
        """
        priority, owner = memo.priority, memo.id
        # What is compressed may be in memory as a whole.
        whole = 0 if request.compression is Compression.NONE else size
        memory = min(STREAMED, _COPIES * size) + whole
        place = link.place(size if is_fetched else None)
        async with (
            link.requests.slot(priority, link.share(size, usual), owner),
            link.slots.slot(priority, place, owner) as is_free,
            self.memory.slot(priority, memory, owner),
        ):
            yield is_free


class Memo(Protocol):
    """What a transfer remembers over restarts.

    :ivar id: of the job. :ivar priority: its present one, which may change.
    :ivar state: what the transfer gave last, JSON values; empty at first.
    :ivar anew: whether it was resubmitted: what has changed at the source since is taken as it is.
    """

    anew: bool

    @property
    def id(self) -> str:
        """See above."""

    @property
    def priority(self) -> int:
        """See above."""

    @property
    def state(self) -> Mapping[str, Any]:
        """See above."""

    async def keep(self, state: Mapping[str, Any]) -> None:
        """Have ``state`` survive the daemon; of a power cut, the last minute may be lost."""

    async def instances(self) -> tuple[Instance, ...] | None:
        """What was kept by :meth:`keep_instances`."""

    async def keep_instances(self, instances: Sequence[Instance]) -> None:
        """Keep what is transferred: the source is compared with it later."""

    def say(self, text: str) -> None:
        """Add a line to the history that people read."""


class ITransfer(Interface):
    """A transfer as the jobs see it."""

    async def run(progress: Progress) -> None:
        """Transfer all of it, and return when it is committed.

        Being cancelled is a pause: what has arrived is kept, and ``run`` can be called again, in
        another life of the daemon too; it may go on for a while, to a success, where stopping would
        leave something undecided. Raises :class:`TransfersError`, and can be called again
        then too.
        """

    async def abandon() -> bool:
        """Free what has arrived, here and at the peer as far as it can be reached. Never raises.

        Tells whether it turned out that all is committed: then nothing is freed.
        """

    async def close() -> None:
        """Free the memory, and keep what has arrived for another :meth:`run`. Never raises."""

    def state() -> Mapping[str, Any]:
        """What another :meth:`run`, in another life, needs to know: for ``Memo.state``.

        It is asked for every second; of a daemon that was killed, the last second is missing.
        """

    def keeps(error: TransfersError) -> bool:
        """Whether, after that failure of :meth:`run`, what has arrived is worth keeping."""

    def figures() -> Mapping[str, Any]:
        """How it moves at this moment: what a job shows of its link, JSON values."""

    def outcomes() -> Sequence[Outcome | None]:
        """What became of each instance, in the order of ``Memo.instances``; None: not known."""


def _after_the_first(
    buckets: Iterable[Callable[[], Coroutine[Any, Any, None]]],
    moment: "Deferred[None]",
    others: Waiters,
) -> Iterator[Callable[[], Coroutine[Any, Any, None]]]:
    """The first request leaves before the others are made, which takes tens of milliseconds."""

    async def later(bucket: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await others.wait()
        await bucket()

    for number, bucket in enumerate(buckets):
        yield bucket if number == 0 or moment.called else partial(later, bucket)


def is_passing(error: TransfersError) -> bool:
    """Whether what has arrived is worth keeping after a failure: it may be gone on with."""
    forbidden = isinstance(error, PeerRefused) and error.status in _FORBIDDEN
    return forbidden or is_worth_retrying(error)


def check_source(instances: Sequence[Instance], found: Mapping[str, Instance], where: str) -> None:
    """Refuse to go on with instances that are not at their source any more, as they were.

    :raises SourceChanged: names the first.
    """
    for instance in instances:
        now = found.get(instance.id)
        if now is None:
            raise SourceChanged(
                f"Instance {instance.id} was deleted {where} since the transfer began; resubmit"
                " the job to transfer what is there now"
            )
        if (now.size, now.md5) != (instance.size, instance.md5):
            raise SourceChanged(
                f"Instance {instance.id} was replaced {where} since the transfer began (now"
                f" {now.size} bytes with MD5 {now.md5[:40]}, not {instance.size} bytes with MD5"
                f" {instance.md5[:40]}); resubmit the job to transfer what is there now"
            )
