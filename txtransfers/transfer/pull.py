"""Receiving in pull mode, as a sequence: look up at the peer, plan, GET the buckets, commit."""

from collections.abc import Sequence

from twisted.logger import Logger
from zope.interface import implementer

from ..errors import PeerNonsense, PeerRefused, TransfersError, WrongLength, WrongOriginator
from ..store.interfaces import IIncoming
from ..wire.identifiers import is_identifier
from ..wire.messages import TransferRequest, new_transfer_id
from ..wire.plan import Instance, Plan, bucket_size, chunks_path, plan_buckets
from .parts import ITransfer, Parts
from .peers import Peer
from .progress import Progress
from .slots import run_all
from .streams import bucket_sink

_STOCK_LIMIT = 2**31

log = Logger()


@implementer(ITransfer)
class Pull:
    """One transfer from a peer; see :class:`ITransfer`."""

    def __init__(self, parts: Parts, peer: Peer, request: TransferRequest) -> None:
        self._parts = parts
        self._peer = peer
        self._request = request
        self._session = peer.session(request.sender_transfer_id or new_transfer_id())
        self._plan: Plan = ()
        self._incoming: IIncoming | None = None
        self._done: set[int] = set()
        self._committing = False

    async def run(self, progress: Progress) -> None:
        """See :meth:`ITransfer.run`."""
        if self._incoming is None:
            self._incoming = await self._open(progress)
        incoming = self._incoming
        missing = [n for n in range(len(self._plan)) if n not in self._done]
        await run_all(
            ((lambda n=n: self._fetch(n, incoming, progress)) for n in missing),  # type: ignore[misc]
            self._parts.limits.threads,
        )
        self._committing = True
        try:
            report = await incoming.commit()
        finally:
            self._committing = False
        progress.stored = len(report.stored)
        progress.already_stored = len(report.already_stored)
        self._incoming = None

    async def _open(self, progress: Progress) -> IIncoming:
        answer = await self._parts.retrying(
            progress, lambda: self._peer.lookup(self._request.resources, self._session)
        )
        wanted = self._request.originator
        if wanted is not None and wanted != answer.originator:
            raise WrongOriginator(
                f'Peer "{self._peer.name}" here is another daemon ({answer.originator}) than the'
                f" one that asked for this transfer ({wanted}): RemoteSelf, in its OrthancPeers,"
                " must be the name that it has in the OrthancPeers here"
            )
        self._plan = await self._parts.threads.run(self._make_plan, answer.instances)
        self._done.clear()
        progress.planned(answer.instances, self._plan)
        return await self._parts.store.receive(answer.instances)

    def _make_plan(self, instances: Sequence[Instance]) -> Plan:
        """Plan; refuses what would make a path, or a URL, of a peer's choosing."""
        ids = [instance.id for instance in instances]
        bad = next((id_ for id_ in ids if not is_identifier(id_)), None)
        if bad is not None or len(set(ids)) != len(ids):
            raise PeerNonsense(
                f'Peer "{self._peer.name}" answered the lookup with '
                + (f"the identifier {bad[:100]!r}" if bad else "an instance that is listed twice")
            )
        size = self._parts.limits.bucket_size
        return plan_buckets(instances, size, len(self._peer.base_url))

    async def _fetch(self, number: int, incoming: IIncoming, progress: Progress) -> None:
        bucket = self._plan[number]
        path = chunks_path(bucket, self._request.compression.value)
        parts = self._parts

        async def get() -> None:
            sink = bucket_sink(parts.threads, incoming, bucket, self._request.compression)
            try:
                await self._peer.get_bucket(path, sink, self._session)
            except WrongLength as error:
                raise WrongLength(
                    f'Peer "{self._peer.name}" answered a bucket of instance {bucket[0].id}'
                    f" with another length: {error}"
                ) from error
            finally:
                progress.network_size += sink.taken

        async with parts.slots.slot(self._request.priority):
            try:
                await self._parts.retrying(progress, get)
            except PeerRefused as error:
                if bucket[0].offset + bucket_size(bucket) < _STOCK_LIMIT or error.status != 400:
                    raise
                raise PeerRefused(
                    f"{error}. Instances over 2 GiB cannot be pulled from a stock Orthanc;"
                    " let it push them",
                    error.status,
                ) from error
        self._done.add(number)
        progress.bucket_done(bucket_size(bucket))

    async def abandon(self) -> None:
        """See :meth:`ITransfer.abandon`."""
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            return
        try:
            await incoming.discard()
        except TransfersError as error:
            log.warn("What an abandoned transfer staged is left behind: {error}", error=error)

    def stoppable(self) -> bool:
        """See :meth:`ITransfer.stoppable`: a commit is not interrupted, it is short."""
        return not self._committing
