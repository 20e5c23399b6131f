"""Who may come in through the gateway.

What is ours is guarded by our own ``AuthenticationEnabled``. What is Orthanc's is guarded by
Orthanc, with the client's own credentials. An Orthanc that asks nobody for a password was meant for
its own machine, and sees all our clients as its own machine: there, ours are asked for as well.
"""

from twisted.internet.interfaces import IReactorTime

from ...errors import TransfersError
from ...orthanc.answers import Header
from .upstream import Upstream

_KNOWN_S = 10.0
"""Seconds for which it is not asked again."""
_ENOUGH = 64 * 1024
_PATIENCE_S = 10.0
_REFUSALS = (401, 403)


class Door:
    """Whether Orthanc asks who comes."""

    def __init__(self, upstream: Upstream, clock: IReactorTime) -> None:
        self._upstream = upstream
        self._clock = clock
        self._guards_itself = False
        self._asked: float | None = None

    async def guards_itself(self) -> bool:
        """Whether a request without credentials is refused there; when in doubt, no."""
        now = self._clock.seconds()
        if self._asked is None or now - self._asked > _KNOWN_S:
            headers: list[Header] = [(b"Host", self._upstream.netloc)]
            try:
                answer = await self._upstream.fetch(b"/system", headers, _ENOUGH, _PATIENCE_S)
            except TransfersError:
                return False
            self._guards_itself = answer.head.status in _REFUSALS
            self._asked = now
        return self._guards_itself
