"""The daemon: its options, what it is made of, and its start and stop in order.

Whatever can be wrong at the start is found before twistd goes to the background
(:func:`makeService`), and ends it with a sentence: configuration, storage directory, port.
"""

import fcntl
import os
import random
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn
from urllib.parse import urlsplit
from uuid import uuid4

import attrs
from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.internet.interfaces import IAddress
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.usage import Options as UsageOptions

from . import __version__, audit, open_files
from .audit import AuditLog
from .config import PeerSettings, Settings, default, load
from .config_limits import push_limits, unpacking
from .errors import ConfigurationError, TransfersError, UnknownResource
from .jobs.announcements import Announcements
from .jobs.events import LONGEST_LIST, Events
from .jobs.journal import IJournal, MemoryJournal, SqliteJournal
from .jobs.model import ENDED, Direction, Job
from .jobs.runner import JobLimits, JobRunner
from .jobs.webhooks import Webhooks
from .metrics import PULL, PUSH, Measures
from .orthanc.connection import connect, endpoint
from .orthanc.rest import OrthancRest
from .orthanc.store import OrthancStore
from .reloading import Reloadable, Reloading
from .store.archive import EmbeddedArchive
from .store.embedded import EmbeddedStore
from .threads import Threads
from .tls import warning_of
from .transfer import trust
from .transfer.bandwidth import Bandwidth
from .transfer.concurrency import START, START_LOSS_BASED
from .transfer.congestion import PREFERRED, choose, current
from .transfer.directory import Directory
from .transfer.incoming import PushTransactions, is_push
from .transfer.link import Link
from .transfer.parts import STREAMED, ITransfer, Limits, Memo, Parts
from .transfer.peers import Peer
from .transfer.post import Poster
from .transfer.pull import Pull, staging_name
from .transfer.push import Push
from .transfer.remote_pull import RemotePull
from .transfer.slots import Slots
from .transfer.trust import PeerTls
from .web.auditing import Auditor
from .web.gateway.peers import OrthancPeers
from .web.gateway.tree import Gateway
from .web.gateway.upstream import Upstream
from .web.jobs import job_json
from .web.server import StreamingSite
from .web.site import SiteParts, make_site
from .web.tls import Door, ServerTls, files_of, is_local, server_context
from .wire.messages import TransferRequest

_BACKLOG = 128
_THREADS_BESIDE_COMMITS = 8
_COMMITS_AT_ONCE = 4
_JOURNAL_FILE = "jobs.sqlite"
_LOCK_FILE = "lock"

_CONNECT_S = 10.0
"""Seconds that a connection to the Orthanc behind us may take."""

_HOUSEKEEPING_S = 30.0
"""Seconds between two looks for what has expired; less where that may be sooner."""

_WATCHING_S = 5.0
"""Seconds between two looks whether a file of TLS has changed."""

_REMINDING_S = 24 * 3600.0
"""Seconds between two reminders of a certificate that expires."""

_JOBS_STOP_S = 1.5
"""Seconds that jobs may take to stop; half of what a stop may take in all."""

_TRANSACTIONS_STOP_S = 1.0
"""Seconds that commits may take to end. A longer one is done, or undone, at the next start."""

_DIRECTIONS = {Direction.PUSH: PUSH, Direction.PULL: PULL}

_TRANSFERS: Mapping[Direction, Callable[[Parts, Peer, TransferRequest, Memo], ITransfer]] = {
    Direction.PUSH: Push,
    Direction.PULL: Pull,
    Direction.REMOTE_PULL: RemotePull,
}

log = Logger()


class Options(UsageOptions):
    """The options of ``twistd txtransfers``."""

    synopsis = "[options]"
    longdesc = (
        "Moves DICOM studies between Orthanc-style peers over HTTP: fast, verified, all or nothing."
        " `txtransfers password` and `txtransfers token` print what the configuration keeps of one."
        " Without a configuration it listens on 127.0.0.1:8042 and stores in ./OrthancStorage."
    )
    optParameters = [["config", "c", None, "The configuration, a JSON file as Orthanc's."]]
    optFlags = [["no-jobs", None, "Forget the jobs of earlier runs instead of going on with them."]]

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        print(f"txtransfers {__version__}")  # noqa: T201
        sys.exit(0)


def makeService(options: Options) -> "Daemon":
    """The service of ``twistd txtransfers``. Ends the process with a sentence where it cannot."""
    try:
        path = options["config"]
        settings = load(path, os.environ) if path is not None else default(os.getcwd())
        lock = take_storage(settings.storage_directory)
        congestion = choose(settings.transfers.congestion_control)
        contexts = make_contexts(settings)
        audit.check(settings.audit_log)
        sockets = listen(settings)
        from twisted.internet import reactor  # noqa: PLC0415

        forget_jobs = bool(options["no-jobs"])
        return Daemon(reactor, settings, sockets, lock, forget_jobs, congestion, contexts)
    except TransfersError as error:
        raise SystemExit(f"txtransfers: {error}") from None


@attrs.frozen
class Contexts:
    """Of TLS: of the server, where it speaks it, and of each peer that is reached by it.

    :ivar others: for peers that only Orthanc's configuration has.
    """

    server: SSL.Context | None = None
    peers: Mapping[str, SSL.Context] = attrs.Factory(dict)
    others: SSL.Context | None = None


def make_contexts(settings: Settings) -> Contexts:
    """Read the certificates.

    :raises ConfigurationError: one cannot be used.
    """
    return Contexts(
        server_context(settings) if settings.ssl_enabled else None,
        {
            name: trust.peer_context(settings, name, peer)
            for name, peer in settings.peers.items()
            if peer.is_secure
        },
        trust.authorities_context(settings) if settings.store is not None else None,
    )


def take_storage(folder: str) -> int:
    """Make sure that the storage directory can be written, and that no other daemon uses it.

    Gives a file descriptor that holds the lock as long as it is open.

    :raises ConfigurationError: the directory cannot be used.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor = os.open(os.path.join(folder, _LOCK_FILE), os.O_RDWR | os.O_CREAT, 0o640)
    except OSError as error:
        raise ConfigurationError(
            f"StorageDirectory {folder} cannot be written: {error.strerror}. It must exist or be"
            " makeable, and belong to the user that runs the daemon"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigurationError(
            f"StorageDirectory {folder} is used by another daemon that is running"
        ) from None
    return descriptor


def listen(settings: Settings) -> list[socket.socket]:
    """Bind the HTTP port on each address.

    :raises ConfigurationError: it is taken, or not allowed, or the address is not this machine's.
    """
    sockets: list[socket.socket] = []
    for address in _addresses(settings):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((address, settings.http_port))
            bound.listen(_BACKLOG)
        except OSError as error:
            for other in [bound, *sockets]:
                other.close()
            raise ConfigurationError(
                f"Cannot listen on {address} port {settings.http_port} (HttpPort):"
                f" {error.strerror}. Is another Orthanc or txtransfers running there?"
            ) from None
        bound.setblocking(False)
        sockets.append(bound)
    return sockets


def _addresses(settings: Settings) -> Sequence[str]:
    if settings.http_bind_addresses:
        return settings.http_bind_addresses
    return ["0.0.0.0"] if settings.remote_access_allowed else ["127.0.0.1"]


class Daemon(Service):
    """All that runs, put together; started and stopped in order."""

    name = "txtransfers"

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        sockets: Sequence[socket.socket],
        lock: int,
        forget_jobs: bool = False,
        congestion: str | None = None,
        contexts: Contexts | None = None,
    ) -> None:
        """:param forget_jobs: those of earlier runs.

        :param congestion: see :func:`.congestion.choose`.
        """
        self._congestion = congestion
        self._contexts = contexts or Contexts()
        self._reactor = reactor
        self._forget_jobs = forget_jobs
        self._housekeeping: LoopingCall | None = None
        self._watching: LoopingCall | None = None
        self._reminding: LoopingCall | None = None
        self._settings = settings
        self._sockets = sockets
        self._lock = lock
        self._ports: list[Any] = []
        self._site: StreamingSite | None = None
        self._build()

    def _build(self) -> None:
        reactor, settings = self._reactor, self._settings
        transfers = settings.transfers
        self._measures = Measures(
            {*settings.peers, *settings.registered_users, *settings.bearer_tokens}
        )
        commits = min(_COMMITS_AT_ONCE, transfers.max_push_transactions)
        self._threads = Threads(
            reactor, _THREADS_BESIDE_COMMITS + transfers.commit_threads_count * commits
        )
        self._store = self._make_store()
        self._journal = self._make_journal()
        self._gateway = self._make_gateway()
        self._build_tls()
        self._peers = self._make_peers()
        self._webhooks = Webhooks(
            reactor,
            self._journal.outbox,
            transfers.webhooks,
            Poster(reactor),
            time.time,
            random.random,
        )
        self._build_transfers()
        self._jobs = JobRunner(
            reactor,
            self._threads,
            self._journal,
            self._make_transfer,
            JobLimits(
                settings.concurrent_jobs,
                settings.jobs_history_size,
                transfers.job_retry_delays,
                settings.save_jobs,
            ),
            time.time,
            self._describe_peer,
            Events(uuid4().hex[:8], lambda job: job_json(job, time.time(), LONGEST_LIST)),
            self._job_ended,
            self._job_moved,
        )

    def _build_tls(self) -> None:
        settings, contexts = self._settings, self._contexts
        self._tls = ServerTls(contexts.server) if contexts.server is not None else None
        self._peer_tls: dict[str, PeerTls] = {
            name: PeerTls(
                self._reactor,
                urlsplit(settings.peers[name].url).hostname or "",
                context,
                settings.https_verify_peers,
            )
            for name, context in contexts.peers.items()
        }
        items = [
            Reloadable(
                f"The TLS of peer {name}",
                trust.files_of(settings, settings.peers[name]),
                partial(trust.peer_context, settings, name, settings.peers[name]),
                tls.use,
            )
            for name, tls in self._peer_tls.items()
        ]
        if self._tls is not None:
            load = partial(server_context, settings)
            items.append(Reloadable("SslCertificate", files_of(settings), load, self._tls.use))
        self._reloading = Reloading(self._threads, items)

    def _build_transfers(self) -> None:
        reactor, transfers = self._reactor, self._settings.transfers
        self._memory = Slots(transfers.cache_size)
        self._transactions = PushTransactions(
            reactor,
            self._threads,
            self._store,
            transfers.max_push_transactions,
            Slots(max(1, transfers.cache_size // STREAMED)),
            push_limits(self._settings.limits),
        )
        self._parts = Parts(
            reactor,
            self._store,
            self._threads,
            self._memory,
            Limits(
                transfers.bucket_size,
                transfers.max_http_retries,
                transfers.peer_commit_timeout,
                transfers.delta,
                push_limits(self._settings.limits).inflation,
            ),
            str(uuid4()),
            Bandwidth(
                reactor,
                datetime.now,
                transfers.bandwidth,
                {name: peer.bandwidth for name, peer in self._settings.peers.items()},
            ),
            self._measures,
        )

    def _make_store(self) -> EmbeddedStore | OrthancStore:
        limits, store = self._settings.limits, self._open_store()
        store.space.limit(limits.staging_size, limits.free_disk)
        if isinstance(store, EmbeddedStore):
            store.unpacking = unpacking(limits)
        return store

    def _open_store(self) -> EmbeddedStore | OrthancStore:
        settings, count = self._settings, self._settings.transfers.commit_threads_count
        if settings.store is None:
            return EmbeddedStore(
                settings.storage_directory,
                self._threads,
                settings.overwrite_instances,
                count,
                settings.maximum_storage_size,
            )
        agents = connect(self._reactor, settings.store, settings.http_timeout, None)
        return OrthancStore(
            settings.storage_directory,
            OrthancRest(
                self._reactor, self._threads, agents, settings.store, settings.http_timeout
            ),
            self._threads,
            self._reactor,
            settings.store.cache_size,
            settings.overwrite_instances,
            count,
            settings.maximum_storage_size,
        )

    def _make_gateway(self) -> Gateway | None:
        """What hands requests on to the Orthanc that is the store."""
        store = self._settings.store
        if store is None:
            return None
        there = endpoint(self._reactor, store, _CONNECT_S, None)
        upstream = Upstream(self._reactor, there, store.url, store.proxy_timeout)
        return Gateway(upstream, store.explorer_root)

    def _make_peers(self) -> Directory:
        settings = self._settings
        ours = {name: self._make_peer(name, peer) for name, peer in settings.peers.items()}
        if settings.store is None or self._gateway is None:
            return Directory(ours)
        upstream = self._gateway.upstream
        return OrthancPeers(ours, upstream, settings.store, self._threads, self._make_peer)

    def _make_peer(self, name: str, peer: PeerSettings) -> Peer:
        reactor, transfers = self._reactor, self._settings.transfers
        is_loss_based = (self._congestion or current()) != PREFERRED
        start = START_LOSS_BASED if is_loss_based else START
        return Peer(
            reactor,
            self._threads,
            name,
            peer,
            self._settings.http_timeout,
            Link(reactor, transfers.threads, transfers.max_threads, start),
            self._congestion,
            self._tls_to(name, peer),
            self._settings.http_proxy,
        )

    def _tls_to(self, name: str, peer: PeerSettings) -> PeerTls | None:
        if name in self._peer_tls or not peer.is_secure or self._contexts.others is None:
            return self._peer_tls.get(name)
        host, verify = urlsplit(peer.url).hostname or "", self._settings.https_verify_peers
        return PeerTls(self._reactor, host, self._contexts.others, verify)

    def _make_journal(self) -> IJournal:
        urls = [webhook.url for webhook in self._settings.transfers.webhooks]
        announce = Announcements(urls, self._describe_peer, time.time).of
        if not self._settings.save_jobs:
            return MemoryJournal(announce)
        path = os.path.join(self._settings.storage_directory, _JOURNAL_FILE)
        return SqliteJournal(path, self._threads, announce)

    def _describe_peer(self, name: str) -> tuple[str, str]:
        peer = self._peers.get(name)
        return self._settings.name, peer.settings.url if peer is not None else ""

    def _job_ended(self, job: Job) -> None:
        self._auditor.job_ended(job)
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
            peer = self._peers.find(request.peer)
        except UnknownResource:
            raise ConfigurationError(
                f'The peer "{request.peer}" is not in OrthancPeers any more: put it there again,'
                " restart, and resubmit the job"
            ) from None
        return _TRANSFERS[direction](self._parts, peer, request, memo)

    def startService(self) -> None:
        """Open the store and the journal, then the door."""
        super().startService()
        # What pydicom thinks of somebody's files concerns no operator.
        warnings.filterwarnings("ignore", module=r"pydicom\.")
        for notice in self._settings.notices:
            log.info("{notice}", notice=notice)
        for warning in self._settings.warnings:
            log.warn("{warning}", warning=warning)
        shortage = open_files.allow(self._settings.limits.connections * (2 if self._gateway else 1))
        if shortage:
            log.warn("{shortage}", shortage=shortage)
        log.info("TCP congestion control: {name}", name=self._congestion or current())
        try:
            self._store.start()
            if isinstance(self._journal, SqliteJournal):
                self._journal.start()
        except TransfersError as error:
            log.critical("txtransfers cannot start: {error}", error=error)
            raise SystemExit(f"txtransfers: {error}") from None
        self._threads.start()
        self._archive = (
            EmbeddedArchive(self._store) if isinstance(self._store, EmbeddedStore) else None
        )
        audit = AuditLog(self._settings.audit_log, self._threads, time.time)
        self._auditor = Auditor(audit, self._reactor, self._settings, self._store, self._archive)
        self._site = self._make_site()
        self._site.congestion = self._congestion
        Deferred.fromCoroutine(self._open()).addErrback(
            lambda failure: log.failure("The start failed", failure)
        )

    def _make_site(self) -> StreamingSite:
        return make_site(
            SiteParts(
                self._settings,
                self._reactor,
                time.time,
                self._threads,
                self._store,
                self._archive,
                self._jobs,
                self._peers,
                self._transactions,
                self._parts.originator,
                lambda: int(self._memory.held),
                self._parts.bandwidth,
                self._gateway,
                self._auditor,
                self._measures,
                self._store,
                self._memory,
            )
        )

    async def _open(self) -> None:
        if self._forget_jobs:
            known = await self._journal.load()
            await self._journal.forget([job.id for job in known])
        await self._peers.refresh()
        await self._webhooks.start()
        await self._jobs.start()
        await self._drop_orphans()
        if isinstance(self._store, OrthancStore):
            self._store.begin()
        self._housekeeping = LoopingCall(self._keep_house)
        self._housekeeping.clock = self._reactor
        timeout = self._settings.transfers.push_transaction_timeout
        self._housekeeping.start(min(_HOUSEKEEPING_S, timeout), now=False)
        self._watching = LoopingCall(self._look_at_files)
        self._watching.clock = self._reactor
        self._watching.start(_WATCHING_S, now=False)
        self._reminding = LoopingCall(self._remind_of_certificates)
        self._reminding.clock = self._reactor
        self._reminding.start(_REMINDING_S)
        self._listen_to_signals()
        assert self._site is not None
        door = Door(self._reactor, self._site, self._may_come_in, self._tls)
        for bound in self._sockets:
            address = bound.getsockname()
            port = self._reactor.adoptStreamPort(bound.fileno(), bound.family, door)
            self._ports.append(port)
            bound.close()
            log.info(
                "{name} listens on {scheme}://{host}:{port}/, stores in {folder}",
                name=self._settings.name,
                scheme="http" if self._tls is None else "https",
                host=f"[{address[0]}]" if ":" in address[0] else address[0],
                port=address[1],
                folder=self._settings.storage_directory,
            )

    def _may_come_in(self, address: IAddress | None) -> bool:
        return self._settings.remote_access_allowed or is_local(address)

    def _remind_of_certificates(self) -> "Deferred[None]":
        settings = self._settings
        files = [("SslCertificate", settings.ssl_certificate)] if settings.ssl_enabled else []
        for name, peer in settings.peers.items():
            if peer.certificate_file:
                files.append((f"OrthancPeers.{name}.CertificateFile", peer.certificate_file))

        async def remind() -> None:
            for name, path in files:
                warning = await self._threads.run(warning_of, name, path, datetime.now(UTC))
                if warning:
                    log.warn("{warning}", warning=warning)

        return Deferred.fromCoroutine(remind()).addErrback(
            lambda failure: log.failure("Certificates could not be looked at", failure)
        )

    def _listen_to_signals(self) -> None:
        """SIGHUP has certificates read anew."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(
                signal.SIGHUP,
                lambda *_: self._reactor.callFromThread(self._look_at_files, everything=True),
            )

    def _look_at_files(self, everything: bool = False) -> "Deferred[None]":
        return Deferred.fromCoroutine(self._reloading.look(everything)).addErrback(
            lambda failure: log.failure("Certificates could not be read anew", failure)
        )

    async def _drop_orphans(self) -> None:
        """Remove what was staged for jobs that are not there any more."""
        names = {
            staging_name(job.id) for job in self._jobs.jobs() if job.state not in ENDED or job.kept
        }
        for staged in await self._store.staged():
            if not is_push(staged.name) and staged.name not in names:
                log.info(
                    "What was staged for {name} ({size} bytes declared) is removed",
                    name=staged.name,
                    size=staged.size,
                )
                await self._store.drop(staged.name)

    async def _expire(self) -> None:
        timeout = self._settings.transfers.push_transaction_timeout
        await self._transactions.expire(timeout, time.time())
        await self._jobs.expire(timeout)

    def _keep_house(self) -> "Deferred[None]":
        return Deferred.fromCoroutine(self._expire()).addErrback(
            lambda failure: log.failure("The housekeeping failed", failure)
        )

    def stopService(self) -> "Deferred[None]":
        """Close the door, stop jobs and transfers, then close the store."""
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        for port in self._ports:
            await port.stopListening()
        self._transactions.refuse_more()
        for loop in (self._housekeeping, self._watching, self._reminding):
            if loop is not None and loop.running:
                loop.stop()
        await self._within(_JOBS_STOP_S, self._jobs.stop(), "jobs")
        await self._within(_TRANSACTIONS_STOP_S, self._transactions.stop(), "receptions")
        await self._within(_TRANSACTIONS_STOP_S, self._webhooks.stop(), "webhooks")
        if self._site is not None:
            self._site.abort_connections()
        if self._gateway is not None:
            self._gateway.upstream.close()
        for peer in self._peers.values():
            await self._within(_TRANSACTIONS_STOP_S, peer.close(), "connections")
        if isinstance(self._store, OrthancStore):
            await self._within(_TRANSACTIONS_STOP_S, self._store.close(), "connections to Orthanc")
        await self._within(_TRANSACTIONS_STOP_S, self._auditor.settle(), "audit log")
        self._threads.stop()
        if isinstance(self._journal, SqliteJournal):
            self._journal.stop()
        self._store.stop()
        os.close(self._lock)
        log.info("{name} has stopped", name=self._settings.name)

    async def _within(self, seconds: float, stopping: Any, what: str) -> None:
        """Wait for a part to stop, but not forever: what is on disk is right at any instant."""
        waiting: Awaitable[None] = Deferred.fromCoroutine(stopping).addTimeout(
            seconds, self._reactor
        )
        try:
            await waiting
        except DeferTimeoutError:
            log.warn("The {what} did not stop within {seconds} s", what=what, seconds=seconds)
        except Exception:
            log.failure("The {what} did not stop well", what=what)
