"""The daemon: its options, and its start and stop in order.

Whatever can be wrong at the start is found before twistd goes to the background
(:func:`makeService`), and ends it with a sentence: configuration, storage directory, port.
"""

import gc
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Awaitable, Sequence
from typing import Any, NoReturn

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.usage import Options as UsageOptions

from . import __version__, audit, open_files
from .config import Settings, default, load
from .daemon.assembly import Assembly
from .daemon.certificates import Contexts, make_contexts
from .daemon.housekeeping import Housekeeping
from .daemon.place import listen, take_storage
from .daemon.supervision import Supervision
from .errors import TransfersError
from .orthanc.store import OrthancStore
from .systemd import Notifier, passed_sockets
from .transfer.acquaintance import Acquaintance
from .transfer.congestion import Congestion, choose
from .web.server import StreamingSite
from .web.tls import Door, is_local

_JOBS_STOP_S = 1.5
"""Seconds that jobs may take to stop; half of what a stop may take in all."""

_TRANSACTIONS_STOP_S = 1.0
"""Seconds that commits may take to end. A longer one is done, or undone, at the next start."""

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
        from twisted.internet import reactor  # noqa: PLC0415

        sockets = passed_sockets(reactor) or listen(settings)
        forget_jobs = bool(options["no-jobs"])
        notifier = Notifier.of(os.environ)
        return Daemon(reactor, settings, sockets, lock, forget_jobs, congestion, contexts, notifier)
    except TransfersError as error:
        raise SystemExit(f"txtransfers: {error}") from None


class Daemon(Service):
    """All that runs; started and stopped in order."""

    name = "txtransfers"

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        sockets: Sequence[socket.socket],
        lock: int,
        forget_jobs: bool = False,
        congestion: Congestion | None = None,
        contexts: Contexts | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        """:param forget_jobs: those of earlier runs.

        :param congestion: see :func:`.congestion.choose`; None leaves the system's own.
        """
        self._reactor = reactor
        self._settings = settings
        self._sockets = sockets
        self._lock = lock
        self._forget_jobs = forget_jobs
        self._congestion = congestion or Congestion()
        self._ports: list[Any] = []
        self._site: StreamingSite | None = None
        self._made = Assembly(reactor, settings, self._congestion, contexts or Contexts())
        self._housekeeping = Housekeeping(reactor, self._made)
        self._acquaintance = Acquaintance(reactor, self._made.peers)
        self._notifier = notifier or Notifier()
        self._supervision = Supervision(reactor, self._made, self._notifier)

    def startService(self) -> None:
        """Open the store and the journal, then the door."""
        super().startService()
        # What pydicom thinks of somebody's files concerns no operator.
        warnings.filterwarnings("ignore", module=r"pydicom\.")
        for notice in self._settings.notices:
            log.info("{notice}", notice=notice)
        for warning in self._settings.warnings:
            log.warn("{warning}", warning=warning)
        shortage = open_files.allow(
            self._settings.limits.connections * (2 if self._made.gateway else 1)
        )
        if shortage:
            log.warn("{shortage}", shortage=shortage)
        log.info("TCP congestion control: {name}", name=self._congestion)
        self._notifier.starting("Opens the store")
        try:
            self._made.open()
        except TransfersError as error:
            log.critical("txtransfers cannot start: {error}", error=error)
            raise SystemExit(f"txtransfers: {error}") from None
        self._site = self._made.make_site()
        self._site.congestion = self._congestion
        Deferred.fromCoroutine(self._open()).addErrback(self._give_up)

    def _give_up(self, failure: Any) -> None:
        """A daemon that listens nowhere is of no use: whoever watches it starts it anew."""
        log.failure("The start failed", failure)
        self._notifier.ailing(f"The start failed: {failure.value}")
        self._reactor.callWhenRunning(self._reactor.stop)

    async def _open(self) -> None:
        made = self._made
        if self._forget_jobs:
            known = await made.journal.load()
            await made.journal.forget([job.id for job in known])
        await made.peers.refresh()
        await made.webhooks.start()
        await made.jobs.start()
        await self._housekeeping.drop_orphans()
        if isinstance(made.store, OrthancStore):
            made.store.begin()
        self._housekeeping.start()
        made.certificates.start()
        self._listen_to_signals()
        self._supervision.start(self._open_the_door())
        self._acquaintance.start()
        gc.collect()
        gc.freeze()  # what is made by now stays: it need not be looked through again and again

    def _open_the_door(self) -> str:
        """Give the addresses."""
        places = []
        assert self._site is not None
        tls = self._made.certificates.door
        door = Door(self._reactor, self._site, self._may_come_in, tls)
        for bound in self._sockets:
            address = bound.getsockname()
            port = self._reactor.adoptStreamPort(bound.fileno(), bound.family, door)
            self._ports.append(port)
            bound.close()
            scheme = "http" if tls is None else "https"
            host = f"[{address[0]}]" if ":" in address[0] else address[0]
            places.append(f"{scheme}://{host}:{address[1]}/")
            log.info(
                "{name} listens on {place}, stores in {folder}",
                name=self._settings.name,
                place=places[-1],
                folder=self._settings.storage_directory,
            )
        return ", ".join(places)

    def _may_come_in(self, address: IAddress | None) -> bool:
        return self._settings.remote_access_allowed or is_local(address)

    def _listen_to_signals(self) -> None:
        """SIGHUP has certificates read anew."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(
                signal.SIGHUP,
                lambda *_: self._reactor.callFromThread(self._supervision.reload),
            )

    def stopService(self) -> "Deferred[None]":
        """Close the door, stop jobs and transfers, then close the store."""
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        made = self._made
        self._supervision.stop()
        for port in self._ports:
            await port.stopListening()
        made.transactions.refuse_more()
        self._acquaintance.stop()
        self._housekeeping.stop()
        made.certificates.stop()
        await self._within(_JOBS_STOP_S, made.jobs.stop(), "jobs")
        await self._within(_TRANSACTIONS_STOP_S, made.transactions.stop(), "receptions")
        await self._within(_TRANSACTIONS_STOP_S, made.webhooks.stop(), "webhooks")
        if self._site is not None:
            self._site.abort_connections()
        if made.gateway is not None:
            made.gateway.upstream.close()
        for peer in made.peers.values():
            await self._within(_TRANSACTIONS_STOP_S, peer.close(), "connections")
        if isinstance(made.store, OrthancStore):
            await self._within(_TRANSACTIONS_STOP_S, made.store.close(), "connections to Orthanc")
        await self._within(_TRANSACTIONS_STOP_S, made.auditor.settle(), "audit log")
        made.close()
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
