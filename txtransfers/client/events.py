"""Server-sent events, as a daemon streams them (``GET /transfers/events``).

The form is that of the HTML standard; what is not needed of it (``retry``) is left out.
"""

from collections.abc import Callable

import attrs

from ..errors import DaemonNonsense
from ..transfer.streams import Sink

LONGEST_EVENT = 4 * 2**20
"""Bytes."""


@attrs.frozen
class Event:
    """One event.

    :ivar kind: ``job``, ``forgotten``, ``reset`` or ``ready``; others may come.
    :ivar data: mostly JSON.
    """

    kind: str
    data: str


class EventParser:
    """Bytes, cut anywhere, to events."""

    def __init__(self) -> None:
        self._rest = b""
        self._kind = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Event]:
        """The events that end within these bytes.

        :raises DaemonNonsense: one has no end.
        """
        self._rest += data
        self._size += len(data)
        *lines, self._rest = self._rest.replace(b"\r\n", b"\n").split(b"\n")
        events = [event for event in map(self._line, lines) if event is not None]
        if self._size > LONGEST_EVENT:
            raise DaemonNonsense(f"The daemon sent an event of more than {LONGEST_EVENT} bytes")
        return events

    def _line(self, line: bytes) -> Event | None:
        if line:
            name, _colon, value = line.decode("utf-8", "replace").partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._kind = value
            elif name == "data":
                self._data.append(value)
            return None
        event = Event(self._kind or "message", "\n".join(self._data)) if self._data else None
        self._kind, self._data, self._size = "", [], len(self._rest)
        return event


class EventSink(Sink):
    """Hands each event on as soon as it is there; other sinks collect."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        """:param on_event: what it raises, the sink raises when it is finished."""
        self._parser = EventParser()
        self._on_event = on_event
        super().__init__(self._parse, self._nothing)

    def write(self, data: bytes) -> None:
        """See :meth:`.Sink.write`."""
        super().write(data)
        self._work()

    async def _parse(self, data: bytes) -> None:
        for event in self._parser.feed(data):
            self._on_event(event)

    async def _nothing(self) -> None:
        pass
