"""One POST to somebody who is no peer: a receiver of webhooks.

The address is the configuration's; where its answer wants to lead us is not gone to, and what the
answer holds is not looked at.
"""

import contextlib
from collections.abc import Mapping
from typing import Any, NoReturn

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers

from ..errors import BodyTooLarge, PeerRefused, PeerUnreachable, TransfersError
from .client import PlainAgent, Stall, Stalled, deliver, innermost
from .streams import collecting_sink

TIMEOUT_S = 15.0
"""Seconds until the receiver has answered, connecting included."""

_ANSWER_SIZE = 16 * 1024


class Poster:
    """Makes the requests; a connection each."""

    def __init__(self, reactor: Any, timeout: float = TIMEOUT_S) -> None:
        self._reactor = reactor
        self._timeout = timeout
        pool = HTTPConnectionPool(reactor, persistent=False)
        agent = Agent(reactor, connectTimeout=timeout, pool=pool)
        self._client = HTTPClient(PlainAgent(agent))

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """POST; returns when the receiver has answered 2xx, within the timeout.

        :raises PeerRefused: it answered something else, a redirection among that.
        :raises PeerUnreachable: it did not answer.
        """
        asking = Deferred.fromCoroutine(self._ask(url, headers, body))
        try:
            status = await Stall(self._reactor, self._timeout).watch(asking)  # nothing touches it
        except Exception as error:
            _explain(error)
        if not 200 <= status < 300:
            where = "; redirections are not followed" if 300 <= status < 400 else ""
            raise PeerRefused(f"it answered {status}{where}", status)

    async def _ask(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        response: Any = await self._client.request(
            "POST",
            url,
            headers=Headers({name: [value] for name, value in headers.items()}),
            data=body,
            allow_redirects=False,
            unbuffered=True,
        )
        sink, _parts = collecting_sink(_ANSWER_SIZE)
        with contextlib.suppress(BodyTooLarge):  # it said what counts; the connection is cut
            await deliver(response, sink, Stall(self._reactor, self._timeout), lambda _left: None)
        return int(response.code)


def _explain(error: Exception) -> NoReturn:
    if isinstance(error, TransfersError | CancelledError):
        raise error
    inner = innermost(error)
    if isinstance(inner, Stalled):
        raise PeerUnreachable(f"no answer within {inner.seconds:g} s") from error
    said = str(inner).rstrip(".") or type(inner).__name__
    raise PeerUnreachable(f"it cannot be reached: {said}") from error
