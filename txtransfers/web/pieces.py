"""Messages in pieces, at the server: put together, or made once for all that ask for a piece.

See :mod:`..wire.pieces`. What is begun and not ended is forgotten after a short time.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from ..errors import BadParameter, BadState, TooBusy
from ..waiters import Waiters
from ..wire.pieces import Piece

T = TypeVar("T")

PATIENCE_S = 2.0
"""Seconds within which all pieces must come: they are sent at the same moment."""

_MOST = 8
"""Messages at a time, of each kind; one has 16 MB at the most."""

_MOST_BYTES = 16 * 2**20
"""Of all that come."""

_RETRY_S = 1


@attrs.define(eq=False)
class _Message(Generic[T]):
    """One that is under way.

    :ivar known: the numbers that have come, or were taken; with what came.
    :ivar whole: None before it is there. :ivar failure: why it never will be.
    """

    count: int
    timer: IDelayedCall
    known: dict[int, bytes] = attrs.Factory(dict)
    whole: T | None = None
    failure: Failure | None = None
    waiters: Waiters = attrs.Factory(Waiters)

    def end(self, result: T | Failure) -> None:
        """It is there, or never will be."""
        if isinstance(result, Failure):
            self.failure = result
        else:
            self.whole = result
        self.waiters.fire()

    async def wait(self) -> T:
        """The whole."""
        if self.whole is None and self.failure is None:
            await self.waiters.wait()
        if self.failure is not None:
            self.failure.raiseException()
        assert self.whole is not None
        return self.whole


class Pieces:
    """All that are under way."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._incoming: dict[str, _Message[bytes]] = {}
        self._outgoing: dict[str, _Message[Any]] = {}

    async def collect(self, piece: Piece, data: bytes) -> bytes | None:
        """Take a piece. The first is answered with the whole, once that is there; others with None.

        :raises BadState: some did not come. :raises TooBusy: too much is under way.
        """
        message = self._begun(self._incoming, piece)
        held = sum(len(part) for each in self._incoming.values() for part in each.known.values())
        if held + len(data) > _MOST_BYTES:
            raise TooBusy("Too many messages come in pieces", _RETRY_S)
        message.known[piece.number] = data
        if len(message.known) == piece.count:
            self._forget(self._incoming, piece.of)
            message.end(b"".join(message.known[number] for number in range(piece.count)))
        return None if piece.number else await message.wait()

    async def deal(self, piece: Piece, make: Callable[[], Awaitable[T]]) -> T:
        """What is to be cut; made by who comes first, for all others.

        :raises TooBusy: too much is under way. What ``make`` raises is for all.
        """
        is_new = piece.of not in self._outgoing
        message = self._begun(self._outgoing, piece)
        if is_new:  # and goes on where who has asked goes away
            Deferred.fromCoroutine(_await(make())).addBoth(message.end)
        whole: T = await message.wait()
        message.known[piece.number] = b""
        if len(message.known) == piece.count and self._outgoing.get(piece.of) is message:
            self._forget(self._outgoing, piece.of)
        return whole

    def _begun(self, messages: dict[str, _Message[Any]], piece: Piece) -> _Message[Any]:
        message = messages.get(piece.of)
        if message is None:
            if len(messages) >= _MOST:
                raise TooBusy("Too many messages are under way in pieces", _RETRY_S)
            timer = self._clock.callLater(PATIENCE_S, self._lose, messages, piece.of)
            message = messages[piece.of] = _Message(piece.count, timer)
        if message.count != piece.count:
            raise BadParameter(f"pieces: there are {message.count} of this message")
        return message

    def _lose(self, messages: dict[str, _Message[Any]], of: str) -> None:
        message = self._forget(messages, of)
        if messages is self._incoming:
            text = f"Of {message.count} pieces {len(message.known)} came within {PATIENCE_S:g} s"
            message.end(Failure(BadState(text)))

    def _forget(self, messages: dict[str, _Message[Any]], of: str) -> _Message[Any]:
        message = messages.pop(of)
        if message.timer.active():
            message.timer.cancel()
        return message


async def _await(made: Awaitable[T]) -> T:
    return await made
