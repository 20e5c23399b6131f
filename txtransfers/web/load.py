"""What is under way at once: bodies that come, files that go, and large messages in memory.

What is beyond is turned away with :class:`TooBusy`, or waits: nothing here grows with what clients
ask for.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ..config_limits import LimitsSettings
from ..errors import TooBusy
from ..transfer.slots import Slots
from .refusals import Refusals

RETRY_AFTER_S = 2
"""Seconds after which whoever was turned away may come again."""

_MESSAGE_S = 60.0
"""Seconds that a large message may take to come while others wait for its room."""

_AGAIN_S = 5.0
"""Seconds between two looks whether others wait."""

_SMALL = 64 * 1024
"""Bytes of a message that is too small to be counted."""


class Load:
    """See the module.

    :ivar uploads: bodies that are coming. :ivar downloads: what is being sent, of which each takes
        one. :ivar messages: bytes of large messages that are being handled.
    """

    def __init__(
        self, clock: IReactorTime, limits: LimitsSettings, refusals: Refusals, memory: int
    ) -> None:
        """:param memory: bytes for answers that are kept as a whole."""
        self._clock = clock
        self._whole = memory
        self._limits = limits
        self._refusals = refusals
        self.uploads = 0
        self.waiting_downloads = 0
        self.downloads = Slots(limits.downloads)
        self.messages = Slots(limits.message_size)

    def begin_upload(self, who: str) -> None:
        """A body comes; :meth:`end_upload` must follow.

        :raises TooBusy: too many are coming.
        """
        if self.uploads >= self._limits.uploads:
            raise self._too_busy("MaxUploads", f"{self.uploads} bodies are coming", who)
        self.uploads += 1

    def end_upload(self) -> None:
        """It has come, or never will."""
        self.uploads -= 1

    @asynccontextmanager
    async def download(self, who: str) -> AsyncIterator[None]:
        """Something is sent; waits for its turn.

        :raises TooBusy: too many wait already.
        """
        if self.waiting_downloads >= self._limits.downloads:
            what = f"{self.waiting_downloads} answers wait for their turn"
            raise self._too_busy("MaxDownloads", what, who)
        self.waiting_downloads += 1
        try:
            await self.downloads.acquire()
        finally:
            self.waiting_downloads -= 1
        try:
            yield
        finally:
            self.downloads.release()

    async def message(self, size: int, when_ended: Callable[[], "Deferred[None]"]) -> None:
        """A message of so many bytes is read, and handled; waits for room.

        :param when_ended: gives what fires once it has been.
        """
        if size <= _SMALL:
            return
        held = min(size, self._limits.message_size)
        ended = when_ended()
        await self.messages.acquire(cost=held)

        def release(result: object) -> None:
            self.messages.release(held)

        ended.addBoth(release)

    @contextmanager
    def in_time(self, size: int, who: str, cut: Callable[[], None]) -> Iterator[None]:
        """A message of so many bytes comes meanwhile: too slowly, where others wait.

        :param cut: called then; it ends the connection.
        """
        if size <= _SMALL:
            yield
            return

        call: IDelayedCall

        def look() -> None:
            nonlocal call
            if self.messages.waiting:
                self._refusals.note("MinimumBodyRate", who)
                cut()
            else:
                call = self._clock.callLater(_AGAIN_S, look)

        call = self._clock.callLater(_MESSAGE_S, look)
        try:
            yield
        finally:
            if call.active():
                call.cancel()

    def keep(self, size: int) -> bool:
        """Whether an answer of so many bytes may be kept as a whole; :meth:`drop` must follow."""
        if size > self._whole:
            return False
        self._whole -= size
        return True

    def drop(self, size: int) -> None:
        """It is not kept any more."""
        self._whole += size

    def _too_busy(self, limit: str, what: str, who: str) -> TooBusy:
        self._refusals.note(limit, who)
        return TooBusy(f"{what}, which is {limit} in Limits: try again later", RETRY_AFTER_S)
