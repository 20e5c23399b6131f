"""Whether the daemon is alive, and whether it can be sent something: for whoever watches over it.

Asked without a password, and by anybody: so the answers are terse, and made at most once a second.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..errors import StorageFull, TransfersError
from ..orthanc.answers import Header
from ..threads import IThreads
from ..waiters import Waiters
from .gateway.upstream import Upstream
from .resource import JSON_UTF8, ApiResource, Reply
from .server import StreamingRequest

_KNOWN_S = 1.0
"""Seconds for which an answer is not looked for again."""

_PATIENCE_S = 3.0
"""Seconds that the disk, and Orthanc, may take."""

_LONGEST = 64 * 1024
_SERVER_ERROR = 500

log = Logger()


@attrs.define
class _Known:
    reasons: tuple[str, ...] = ()
    is_orthanc_up: bool = False
    at: float | None = None


class Readiness:
    """See the module."""

    def __init__(
        self,
        clock: IReactorTime,
        threads: IThreads,
        probe: Callable[[], None] | None,
        is_stopping: Callable[[], bool],
        upstream: Upstream | None,
    ) -> None:
        """:param probe: blocking; fails where the store is not open, or has no room."""
        self._clock = clock
        self._threads = threads
        self._probe = probe
        self._is_stopping = is_stopping
        self._upstream = upstream
        self._known = _Known()
        self._looking = False
        self._waiters = Waiters()

    async def reasons(self) -> Sequence[str]:
        """Why nothing should be sent here; none where it may."""
        if self._is_stopping():
            return ("stopping",)
        return (await self._look()).reasons

    async def is_orthanc_up(self) -> bool:
        """Whether it answers."""
        return (await self._look()).is_orthanc_up

    async def _look(self) -> _Known:
        at = self._known.at
        if at is not None and self._clock.seconds() - at < _KNOWN_S:
            return self._known
        decided = self._waiters.wait()
        if not self._looking:
            self._looking = True
            Deferred.fromCoroutine(self._find_out()).addBoth(self._has_looked)
        return await decided  # type: ignore[no-any-return]

    def _has_looked(self, result: Any) -> None:
        """However many ask meanwhile, one look answers all."""
        self._looking = False
        self._waiters.fire(result)

    async def _find_out(self) -> _Known:
        store, is_up = await self._of_store(), await self._of_orthanc()
        reasons = [store] if store else []
        if self._upstream is not None and not is_up:
            reasons.append("orthanc does not answer")
        self._known = _Known(tuple(reasons), is_up, self._clock.seconds())
        return self._known

    async def _of_store(self) -> str:
        if self._probe is None:
            return ""
        looking: Deferred[None] = self._threads.run(self._probe)
        looking.addTimeout(_PATIENCE_S, self._clock)
        try:
            await looking
        except StorageFull:
            return "no room in the storage"
        except DeferTimeoutError:
            return "the storage does not answer"
        except Exception as error:
            log.warn("Not ready: the store: {error}", error=error)
            return "the storage cannot be used"
        return ""

    async def _of_orthanc(self) -> bool:
        upstream = self._upstream
        if upstream is None:
            return False
        headers: list[Header] = [(b"Host", upstream.netloc)]
        asking = Deferred.fromCoroutine(
            upstream.fetch(b"/system", headers, _LONGEST, _PATIENCE_S)
        ).addTimeout(_PATIENCE_S, self._clock)
        waiting: Awaitable[Any] = asking
        try:
            return bool((await waiting).head.status < _SERVER_ERROR)
        except (TransfersError, DeferTimeoutError):
            return False


class Health(ApiResource):
    """Base: asked by anybody, whoever they are."""


class Alive(Health):
    """``/healthz``."""

    async def get(self, request: StreamingRequest) -> Any:
        """That there is an answer at all says it."""
        return _told({"Status": "alive"})


class Ready(Health):
    """``/readyz``."""

    def __init__(self, readiness: Readiness) -> None:
        super().__init__()
        self._readiness = readiness

    async def get(self, request: StreamingRequest) -> Any:
        """200 and nothing, or 503 and why."""
        reasons = await self._readiness.reasons()
        if reasons:
            return _told({"Status": "not ready", "Reasons": [*reasons]}, 503)
        return _told({"Status": "ready"})


def _told(value: Any, status: int = 200) -> Reply:
    body = json.dumps(value).encode() + b"\n"
    return Reply(body, JSON_UTF8, status, {"Cache-Control": "no-store"})
