"""What works with a peer, step by step, and what to change where it does not.

Each step says what it tried and what came of it; after one that failed, those that need it are left
out. Asked for by people (``POST /transfers/peers/NAME/test``), never by a transfer.
"""

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.internet.interfaces import IReactorTime

from ..errors import PeerError, PeerNonsense, PeerRefused, PeerUnreachable, TransfersError
from .peers import PLUGIN, Peer

_MS = 1000
_FORBIDDEN = (401, 403)
_PATIENCE = 5
"""Times the limit of a step that a peer has to ask its own peers, which may be slow."""


class Result(Enum):
    """Of a step; the value is how it is written."""

    PASSED = "Passed"
    FAILED = "Failed"
    LEFT_OUT = "LeftOut"


@attrs.frozen
class Step:
    """One step.

    :ivar details: what was found. :ivar advice: what to do, where it failed.
    """

    name: str
    result: Result
    details: str
    advice: str = ""
    milliseconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The value as it travels."""
        value: dict[str, Any] = {
            "Step": self.name,
            "Result": self.result.value,
            "Details": self.details,
        }
        if self.advice:
            value["Advice"] = self.advice
        if self.milliseconds is not None:
            value["Milliseconds"] = round(self.milliseconds, 1)
        return value


class _Failed(Exception):
    """A step failed."""

    def __init__(self, details: str, advice: str) -> None:
        super().__init__(details)
        self.details = details
        self.advice = advice


class Examination:
    """One examination of one peer."""

    def __init__(self, peer: Peer, clock: IReactorTime, timeout: float, here: str) -> None:
        """:param timeout: seconds for each step. :param here: the name of this daemon."""
        self._peer = peer
        self._clock = clock
        self._timeout = timeout
        self._here = here
        self._url = urlsplit(peer.base_url)
        self._steps: list[Step] = []
        self._plugins: Any = None
        self._refusal: TransfersError | None = None

    async def run(self) -> Sequence[Step]:
        """All steps, in order."""
        steps: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("Name resolved", self._resolve),
            ("Connected", self._connect),
            ("TLS", self._shake_hands),
            ("Authenticated", self._authenticate),
            ("Transfers accelerator there", self._find_plugin),
            ("Answers lookup", self._look_up),
            ("Can reach us", self._reach_us),
        ]
        for number, (name, step) in enumerate(steps):
            if not await self._take(name, step):
                reason = f'"{name}" comes first'
                self._steps += [Step(n, Result.LEFT_OUT, reason) for n, _ in steps[number + 1 :]]
                break
        return self._steps

    async def _take(self, name: str, step: Callable[[], Awaitable[str]]) -> bool:
        started = self._clock.seconds()
        result, details, advice = Result.PASSED, "", ""
        try:
            details = await step()
        except _LeftOut as reason:
            self._steps.append(Step(name, Result.LEFT_OUT, str(reason)))
            return True
        except _Failed as failed:
            result, details, advice = Result.FAILED, failed.details, failed.advice
        except TransfersError as error:
            result, details, advice = Result.FAILED, str(error), _advice_for(error)
        milliseconds = (self._clock.seconds() - started) * _MS
        self._steps.append(Step(name, result, details, advice, milliseconds))
        return result is Result.PASSED

    async def _within(self, waiting: Awaitable[Any], seconds: float, advice: str) -> Any:
        async def wait() -> Any:
            return await waiting

        deferred = Deferred.fromCoroutine(wait()).addTimeout(seconds, self._clock)
        try:
            return await deferred
        except DeferTimeoutError:
            raise _Failed(f"no answer within {seconds:g} s", advice) from None

    @property
    def _host(self) -> str:
        return self._url.hostname or ""

    async def _resolve(self) -> str:
        advice = (
            f"Check the host name in the Url of this peer ({self._peer.base_url}/), and the DNS or"
            " /etc/hosts of this machine"
        )
        found = await self._within(self._peer.resolve(), self._timeout, advice)
        if not found:
            raise _Failed(f"{self._host} has no address", advice)
        return f"{self._host} is {', '.join(found)}" if found != [self._host] else self._host

    async def _connect(self) -> str:
        try:
            where: str = await self._within(self._peer.knock(), self._timeout, _FIREWALL)
        except PeerUnreachable as error:
            raise _Failed(str(error), f"Is the peer running? {_FIREWALL}") from None
        return where

    async def _shake_hands(self) -> str:
        """The first request; what it says of more than TLS is for the steps that follow."""
        secure = self._url.scheme == "https"
        try:
            asking = self._peer.ask("GET", "/plugins")
            self._plugins = await self._within(asking, self._timeout, _SILENT)
        except (PeerRefused, PeerNonsense) as error:
            self._refusal = error
        except PeerError as error:
            if secure:
                advice = "Check the peer's certificate, and who is trusted here"
                raise _Failed(str(error), advice) from None
            self._refusal = error
        if not secure:
            raise _LeftOut("not encrypted: the Url says http")
        return "the peer is who the Url names, and the connection is encrypted"

    async def _authenticate(self) -> str:
        error = self._refusal
        if isinstance(error, PeerRefused) and error.status in _FORBIDDEN:
            raise _Failed(
                str(error),
                "Username and Password of this peer must be a user there (RegisteredUsers), and the"
                " peer must let other hosts in (RemoteAccessAllowed)",
            )
        if isinstance(error, PeerUnreachable):
            raise _Failed(str(error), "Does this port want https? Then the Url must begin so")
        if error is not None and not isinstance(error, PeerRefused):
            raise error
        user = self._peer.settings.username
        return f'as "{user}"' if user else "the peer asks for no user"

    async def _find_plugin(self) -> str:
        if self._refusal is not None:
            raise self._refusal
        if not isinstance(self._plugins, list) or PLUGIN not in self._plugins:
            raise _Failed(
                "the peer answers, but has no transfers accelerator",
                "Load the plugin OrthancTransfers there (Plugins in its configuration)",
            )
        greeting = await self._peer.greet(self._timeout)
        return greeting.text

    async def _look_up(self) -> str:
        session = self._peer.session("")
        await self._within(self._peer.lookup((), session), self._timeout, _SILENT)
        return "an empty one, as it should be"

    async def _reach_us(self) -> str:
        us = self._peer.settings.remote_self
        if us is None:
            raise _LeftOut(
                "not needed: this peer has no RemoteSelf here, so what goes to it is pushed"
            )
        seconds = self._timeout * _PATIENCE
        states = await self._within(self._peer.ask("GET", "/transfers/peers"), seconds, _SILENT)
        state = states.get(us) if isinstance(states, dict) else None
        if state is None:
            raise _Failed(
                f'the peer knows no peer "{us}", as RemoteSelf says that we are called there',
                f'Add "{us}" to OrthancPeers there, with the Url of this daemon; or set RemoteSelf'
                " of this peer here to the name that we have there",
            )
        if state == "disabled":
            raise _Failed(
                f'the peer cannot reach "{us}", which RemoteSelf says that we are',
                f'Check the Url, Username and Password of "{us}" in OrthancPeers there, that this'
                f" daemon ({self._here}) lets that host in (RemoteAccessAllowed), and firewalls",
            )
        return f'it reaches us as "{us}"'


class _LeftOut(Exception):
    """A step that is not needed."""


_SILENT = "Is the peer overloaded? Its log may tell more; PeerConnectivityTimeout is the limit"
_FIREWALL = "Check the port in its Url, and that no firewall is between"


def _advice_for(error: TransfersError) -> str:
    if isinstance(error, PeerNonsense):
        return "Check the Url of this peer: its port may be that of another program"
    if isinstance(error, PeerRefused):
        return "The peer's log tells why it refused"
    return _SILENT
