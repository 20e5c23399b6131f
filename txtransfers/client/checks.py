"""What works between here and a daemon, step by step, and what to change where it does not."""

import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from .. import __version__
from ..errors import AccessDenied, DaemonRefused, TransfersError, UnknownResource
from ..threads import IThreads
from .daemon import Client
from .http import explained, policy_of
from .values import Peer

STEP_S = 5.0
"""Seconds for each step."""

MOST_SKEW_S = 5.0
"""Seconds that clocks may differ: what is signed, or has a timetable, wants them to agree."""

_EXPIRY_DAYS = 14
TLS = "TLS"


class Result(Enum):
    """Of a step; the value is how it is written."""

    PASSED = "Passed"
    WARNING = "Warning"
    FAILED = "Failed"
    LEFT_OUT = "LeftOut"


@attrs.frozen
class Step:
    """One step.

    :ivar details: what was found. :ivar advice: what to do, where that was not good.
    """

    name: str
    result: Result
    details: str
    advice: str = ""

    def to_json(self) -> Mapping[str, str]:
        """As the daemon tells its own steps."""
        value = {"Step": self.name, "Result": self.result.value, "Details": self.details}
        return value | ({"Advice": self.advice} if self.advice else {})


class StepFailed(Exception):
    """A step failed, or where ``result`` says so is left out or gives cause to worry."""

    def __init__(self, details: str, advice: str = "", result: Result = Result.FAILED) -> None:
        super().__init__(details)
        self.details = details
        self.advice = advice
        self.result = result


Run = Callable[[], Awaitable[str]]


async def take_steps(
    steps: Sequence[tuple[str, Run]], on_step: Callable[[Step], None], reactor: Any
) -> list[Step]:
    """Take steps in order; after one that failed, the others are left out.

    :param on_step: called with each as it is taken.
    """
    taken: list[Step] = []
    for name, run in steps:
        if any(each.result is Result.FAILED for each in taken):
            failed = next(each.name for each in taken if each.result is Result.FAILED)
            step = Step(name, Result.LEFT_OUT, f'"{failed}" comes first')
        else:
            step = await _take(name, run, reactor)
        taken.append(step)
        on_step(step)
    return taken


async def _take(name: str, run: Run, reactor: Any) -> Step:
    async def wait() -> str:
        return await run()

    try:
        details = await Deferred.fromCoroutine(wait()).addTimeout(STEP_S, reactor)
    except StepFailed as failed:
        return Step(name, failed.result, failed.details, failed.advice)
    except DeferTimeoutError:
        advice = _NO_TLS if name == TLS else _FIREWALL
        return Step(name, Result.FAILED, f"no answer within {STEP_S:g} s", advice)
    except TransfersError as error:
        return Step(name, Result.FAILED, str(error))
    return Step(name, Result.PASSED, details)


class DaemonChecks:
    """The steps to a daemon."""

    def __init__(
        self, reactor: Any, client: Client, threads: IThreads, authorities: bytes | None
    ) -> None:
        """:param authorities: as the client has them."""
        self._reactor = reactor
        self._client = client
        self._threads = threads
        self._authorities = authorities
        parts = urlsplit(client.url)
        self._host = parts.hostname or ""
        self._is_secure = parts.scheme == "https"
        self._port = parts.port or (443 if self._is_secure else 80)
        self._system: Mapping[str, Any] = {}

    def steps(self) -> Sequence[tuple[str, Run]]:
        """Names and what they do, in order."""
        return (
            ("Name resolved", self._resolve),
            ("Connected", self._connect),
            (TLS, self._shake_hands),
            ("Authenticated", self._authenticate),
            ("Transfers accelerator there", self._find_plugin),
            ("Answers lookup", self._look_up),
            ("Clocks agree", self._compare_clocks),
            ("Versions", self._compare_versions),
        )

    async def _resolve(self) -> str:
        try:
            found = await self._threads.run(
                socket.getaddrinfo, self._host, self._port, type=socket.SOCK_STREAM
            )
        except OSError as error:
            raise StepFailed(
                f"{self._host} has no address: {error.strerror or error}",
                "Check the name in the address, and the DNS or /etc/hosts of this machine",
            ) from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        return self._host if addresses == [self._host] else f"{self._host} is {addresses[0]}"

    async def _connect(self) -> str:
        started = time.monotonic()
        endpoint = HostnameEndpoint(self._reactor, self._host, self._port, timeout=STEP_S)
        try:
            protocol: Any = await endpoint.connect(Factory.forProtocol(Protocol))
        except Exception as error:  # each resolver and system has its own
            raise StepFailed(
                f"port {self._port} of {self._host}: {explained(error)}",
                f"Is the daemon running (systemctl status txtransfers)? {_FIREWALL}",
            ) from None
        protocol.transport.loseConnection()
        return f"port {self._port}, in {(time.monotonic() - started) * 1000:.1f} ms"

    async def _shake_hands(self) -> str:
        if not self._is_secure:
            raise StepFailed("the address says http", result=Result.LEFT_OUT)
        options = policy_of(self._authorities).creatorForNetloc(self._host.encode(), self._port)
        endpoint = wrapClientTLS(
            options, HostnameEndpoint(self._reactor, self._host, self._port, timeout=STEP_S)
        )
        protocol: Any = await endpoint.connect(Factory.forProtocol(_Handshake))
        try:
            certificate = await protocol.done
        except CancelledError:
            raise
        except Exception as error:  # OpenSSL's, or a lost connection
            raise StepFailed(
                explained(error), "Check the certificate there, and --authorities here"
            ) from None
        finally:
            protocol.transport.abortConnection()
        days = (certificate.not_valid_after_utc - datetime.now(UTC)).days
        details = f"vouched for; the certificate ends in {days} days"
        if days < _EXPIRY_DAYS:
            raise StepFailed(details, "Renew the certificate", Result.WARNING)
        return details

    async def _authenticate(self) -> str:
        try:
            self._system = await self._client.system()
        except AccessDenied as error:
            advice = (
                "Check TXTRANSFERS_USER and TXTRANSFERS_PASSWORD, or --credentials, against its"
                " RegisteredUsers"
                if error.status == 401
                else "Set RemoteAccessAllowed there, or run this on that machine"
            )
            raise StepFailed(str(error), advice) from None
        return f'it is "{self._system.get("Name", "")}"'

    async def _find_plugin(self) -> str:
        if "transfers" not in await self._client.plugins():
            raise StepFailed(
                "the daemon answers, but knows no transfers",
                "It is an Orthanc: load its transfers accelerator (Plugins), or put a txtransfers"
                " in front",
            )
        return "yes"

    async def _look_up(self) -> str:
        if not await self._client.answers_lookup():
            raise StepFailed("an answer of another form", "Is a proxy between that changes it?")
        return "an empty one, as it should be"

    async def _compare_clocks(self) -> str:
        started = time.time()
        told = await self._client.date()
        try:
            there = parsedate_to_datetime(told).timestamp()
        except ValueError:
            raise StepFailed("it does not tell the time", result=Result.LEFT_OUT) from None
        # It tells whole seconds, of some moment between the question and the answer.
        skew = max(0.0, there - time.time()) or min(0.0, there + 1 - started)
        if abs(skew) > MOST_SKEW_S:
            way = "ahead of" if skew > 0 else "behind"
            raise StepFailed(
                f"its clock is {abs(skew):.0f} s {way} this machine's",
                "Set the clocks by NTP on both machines",
                Result.WARNING,
            )
        return "to the second" if not skew else f"within {abs(skew) + 1:.0f} s"

    async def _compare_versions(self) -> str:
        theirs = self._system.get("TxtransfersVersion")
        if theirs is None:
            return f"Orthanc {self._system.get('Version', '?')}; this command {__version__}"
        details = f"txtransfers {theirs}; this command {__version__}"
        if theirs != __version__:
            raise StepFailed(details, "Use the same release on both sides", Result.WARNING)
        return details


@implementer(IHandshakeListener)
class _Handshake(Protocol):
    """Ends once the handshake is over; ``done`` gives the certificate."""

    def __init__(self) -> None:
        self.done: Deferred[Any] = Deferred()

    def handshakeCompleted(self) -> None:
        """See :class:`IHandshakeListener`."""
        transport: Any = self.transport
        self.done.callback(transport.getPeerCertificate().to_cryptography())

    def connectionLost(self, reason: Any = None) -> None:
        """It failed, unless it is over."""
        if not self.done.called:
            self.done.errback(reason)


async def check_peer(client: Client, name: str) -> list[Step]:
    """What works between the daemon and one of its peers; the daemon tries it.

    A daemon that cannot tell the steps tells whether it reaches the peer.

    :raises UnknownResource: it has no peer of that name.
    """
    known = {peer.name: peer for peer in await client.peers()}
    if name not in known:
        names = ", ".join(known) or "none"
        raise UnknownResource(f"Unknown peer: {name[:100]} (OrthancPeers has {names})")
    try:
        told = await client.test_peer(name)
    except (UnknownResource, DaemonRefused):
        return [_reached(known[name])]
    return [_read_step(each) for each in told]


def _read_step(told: Any) -> Step:
    value = told if isinstance(told, dict) else {}
    try:
        result = Result(value.get("Result"))
    except ValueError:
        result = Result.WARNING
    return Step(
        str(value.get("Step", "?")),
        result,
        str(value.get("Details", "")),
        str(value.get("Advice", "")),
    )


def _reached(peer: Peer) -> Step:
    name = "Reached by the daemon, with a transfers accelerator"
    if peer.is_usable:
        return Step(name, Result.PASSED, "pulls" if peer.pulls else "takes pushes")
    return Step(
        name,
        Result.FAILED,
        f"it is not, at {peer.url}",
        "On the daemon's machine: curl that address with plugins at its end. It should list"
        ' "transfers"; the log of a job with this peer says more',
    )


_FIREWALL = "Check the port in the address, and that no firewall is between"
_NO_TLS = "Does it speak TLS at all? If not, its address begins with http"
