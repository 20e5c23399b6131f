"""All parts of the daemon, put together from the settings. Nothing runs yet when it is made.

:mod:`..service` starts and stops them in order.
"""

import os
import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import uuid4

from ..audit import AuditLog
from ..config import Settings
from ..config_limits import push_limits, unpacking
from ..errors import ConfigurationError, UnknownResource
from ..jobs.announcements import Announcements
from ..jobs.events import LONGEST_LIST, Events
from ..jobs.journal import IJournal, MemoryJournal, SqliteJournal
from ..jobs.model import Direction, Job
from ..jobs.runner import JobLimits, JobRunner
from ..jobs.webhooks import Webhooks
from ..metrics import PULL, PUSH, Measures
from ..orthanc.connection import connect
from ..orthanc.rest import OrthancRest
from ..orthanc.store import OrthancStore
from ..store.archive import EmbeddedArchive
from ..store.embedded import EmbeddedStore
from ..threads import Threads
from ..transfer.bandwidth import Bandwidth
from ..transfer.congestion import Congestion
from ..transfer.incoming import PushTransactions
from ..transfer.parts import STREAMED, ITransfer, Limits, Memo, Parts
from ..transfer.peers import Peer
from ..transfer.post import Poster
from ..transfer.pull import Pull
from ..transfer.push import Push
from ..transfer.remote_pull import RemotePull
from ..transfer.slots import Slots
from ..web.auditing import Auditor
from ..web.jobs import job_json
from ..web.server import StreamingSite
from ..web.site import SiteParts, make_site
from ..wire.messages import TransferRequest
from .certificates import Certificates, Contexts
from .peers import make_gateway, make_peers

_THREADS_BESIDE_COMMITS = 8
_COMMITS_AT_ONCE = 4
_THREADS_AT_ORTHANC = 32
"""Those that may wait for an Orthanc: they are no others', which are never to wait for it."""
_JOURNAL_FILE = "jobs.sqlite"

_DIRECTIONS = {Direction.PUSH: PUSH, Direction.PULL: PULL}

_TRANSFERS: Mapping[Direction, Callable[[Parts, Peer, TransferRequest, Memo], ITransfer]] = {
    Direction.PUSH: Push,
    Direction.PULL: Pull,
    Direction.REMOTE_PULL: RemotePull,
}


class Assembly:
    """The parts, as attributes."""

    def __init__(
        self, reactor: Any, settings: Settings, congestion: Congestion, contexts: Contexts
    ) -> None:
        """:param congestion: see :func:`..transfer.congestion.choose`."""
        self._reactor = reactor
        self.settings = settings
        self.time = time.time
        transfers = settings.transfers
        self._measures = Measures(
            {*settings.peers, *settings.registered_users, *settings.bearer_tokens}
        )
        commits = min(_COMMITS_AT_ONCE, transfers.max_push_transactions)
        self.threads = Threads(
            reactor, _THREADS_BESIDE_COMMITS + transfers.commit_threads_count * commits
        )
        self._waiting_threads = Threads(reactor, _THREADS_AT_ORTHANC)
        self.certificates = Certificates(reactor, settings, contexts, self.threads)
        self.store = self._make_store()
        self.journal = self._make_journal()
        self.gateway = make_gateway(reactor, settings, self.certificates)
        self.peers = make_peers(
            reactor, settings, self.threads, self.certificates, congestion, self.gateway
        )
        self.webhooks = Webhooks(
            reactor,
            self.journal.outbox,
            transfers.webhooks,
            Poster(reactor),
            self.time,
            random.random,
        )
        self._memory = Slots(transfers.cache_size)
        self.transactions = PushTransactions(
            reactor,
            self.threads,
            self.store,
            transfers.max_push_transactions,
            Slots(max(1, transfers.cache_size // STREAMED)),
            push_limits(settings.limits),
        )
        self._parts = self._make_parts()
        self.jobs = self._make_jobs()

    def _make_parts(self) -> Parts:
        reactor, transfers = self._reactor, self.settings.transfers
        return Parts(
            reactor,
            self.store,
            self.threads,
            self._memory,
            Limits(
                transfers.bucket_size,
                transfers.max_http_retries,
                transfers.peer_commit_timeout,
                transfers.delta,
                push_limits(self.settings.limits).inflation,
            ),
            str(uuid4()),
            Bandwidth(
                reactor,
                datetime.now,
                transfers.bandwidth,
                {name: peer.bandwidth for name, peer in self.settings.peers.items()},
            ),
            self._measures,
        )

    def _make_jobs(self) -> JobRunner:
        settings = self.settings
        return JobRunner(
            self._reactor,
            self.threads,
            self.journal,
            self._make_transfer,
            JobLimits(
                settings.concurrent_jobs,
                settings.jobs_history_size,
                settings.transfers.job_retry_delays,
                settings.save_jobs,
            ),
            self.time,
            self._describe_peer,
            Events(uuid4().hex[:8], lambda job: job_json(job, self.time(), LONGEST_LIST)),
            self._job_ended,
            self._job_moved,
        )

    def _make_store(self) -> EmbeddedStore | OrthancStore:
        limits, store = self.settings.limits, self._open_store()
        store.space.limit(limits.staging_size, limits.free_disk)
        if isinstance(store, EmbeddedStore):
            store.unpacking = unpacking(limits)
        return store

    def _open_store(self) -> EmbeddedStore | OrthancStore:
        settings, count = self.settings, self.settings.transfers.commit_threads_count
        if settings.store is None:
            return EmbeddedStore(
                settings.storage_directory,
                self.threads,
                settings.overwrite_instances,
                count,
                settings.maximum_storage_size,
            )
        agents = connect(self._reactor, settings.http_timeout, self.certificates.store)
        return OrthancStore(
            settings.storage_directory,
            OrthancRest(
                self._reactor,
                self.threads,
                agents,
                settings.store,
                settings.http_timeout,
                self._waiting_threads,
            ),
            self.threads,
            self._reactor,
            settings.store.cache_size,
            settings.overwrite_instances,
            count,
            settings.maximum_storage_size,
        )

    def _make_journal(self) -> IJournal:
        urls = [webhook.url for webhook in self.settings.transfers.webhooks]
        announce = Announcements(urls, self._describe_peer, self.time).of
        if not self.settings.save_jobs:
            return MemoryJournal(announce)
        path = os.path.join(self.settings.storage_directory, _JOURNAL_FILE)
        return SqliteJournal(path, self.threads, announce)

    def _describe_peer(self, name: str) -> tuple[str, str]:
        peer = self.peers.get(name)
        return self.settings.name, peer.settings.url if peer is not None else ""

    def _job_ended(self, job: Job) -> None:
        self.auditor.job_ended(job)
        direction = _DIRECTIONS.get(job.direction)
        if direction is not None:
            runtime = job.progress.seconds
            self._measures.job_ended(job.request.peer, direction, job.state.value, runtime)

    def _job_moved(self, job: Job, size: int, retries: int) -> None:
        direction = _DIRECTIONS.get(job.direction)
        if direction is not None:
            self._measures.travelled(job.request.peer, direction, size)
            self._measures.tried_again(job.request.peer, direction, retries)

    def _make_transfer(
        self, direction: Direction, request: TransferRequest, memo: Memo
    ) -> ITransfer:
        try:
            peer = self.peers.find(request.peer)
        except UnknownResource:
            raise ConfigurationError(
                f'The peer "{request.peer}" is not in OrthancPeers any more: put it there again,'
                " restart, and resubmit the job"
            ) from None
        return _TRANSFERS[direction](self._parts, peer, request, memo)

    def open(self) -> None:
        """Open the store and the journal, and start the threads; blocking.

        :raises TransfersError: it cannot be opened.
        """
        self.store.start()
        if isinstance(self.journal, SqliteJournal):
            self.journal.start()
        self.threads.start()
        self._waiting_threads.start()

    def close(self) -> None:
        """The opposite, when nothing uses them any more; blocking."""
        self._waiting_threads.stop()
        self.threads.stop()
        if isinstance(self.journal, SqliteJournal):
            self.journal.stop()
        self.store.stop()

    def make_site(self) -> StreamingSite:
        """The tree of URLs, on what is open."""
        settings = self.settings
        archive = EmbeddedArchive(self.store) if isinstance(self.store, EmbeddedStore) else None
        audit = AuditLog(settings.audit_log, self.threads, self.time)
        self.auditor = Auditor(audit, self._reactor, settings, self.store, archive)
        return make_site(
            SiteParts(
                settings,
                self._reactor,
                self.time,
                self.threads,
                self.store,
                archive,
                self.jobs,
                self.peers,
                self.transactions,
                self._parts.originator,
                lambda: int(self._memory.held),
                self._parts.bandwidth,
                self.gateway,
                self.auditor,
                self._measures,
                self.store,
                self._memory,
            )
        )
