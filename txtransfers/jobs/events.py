"""What happens to jobs, told to whoever listens: pages, scripts, webhooks. Pure.

There is one history for all, bounded in bytes; a listener has a place in it and no queue of its
own, so that one that is slow costs nothing. What is passing, such as how far a job is, gives way to
the next that is told of the same job: who comes late is told the newest only. The runner tells,
``web/events.py`` streams (``GET /transfers/events``).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import attrs
import msgspec

from .model import Job, State

HISTORY_SIZE = 2**20
"""Bytes of events that are kept: some hundred changes of state."""

LONGEST_LIST = 20
LONGEST_TEXT = 1000
"""What an event has of a longer list, or text: a request may name 100,000 resources."""

_LEFT_OUT = "History"


class Kind(Enum):
    """What an event tells; the value is how the stream names it."""

    JOB = "job"
    """A job is new, or has changed: as it is now."""

    FORGOTTEN = "forgotten"
    """A job is not known any more."""


@attrs.frozen
class Told:
    """One event.

    :ivar number: grows with each.
    :ivar data: JSON in one line: of a job what ``GET /jobs/ID`` gives, shortened.
    :ivar state: of the job at that moment; None once it is forgotten.
    :ivar is_passing: whether the state is as it was, and the figures are new.
    """

    number: int
    kind: Kind
    job: str
    data: bytes
    state: State | None
    is_passing: bool


class Events:
    """The history, and who listens.

    :ivar life: tells this life of the daemon from others; the identifier of an event has it.
    """

    def __init__(
        self, life: str, describe: Callable[[Job], Mapping[str, Any]], limit: int = HISTORY_SIZE
    ) -> None:
        """:param describe: a job as ``GET /jobs/ID`` gives it.

        :param limit: bytes of the history.
        """
        self.life = life
        self._describe = describe
        self._limit = limit
        self._told: list[Told] = []
        self._size = 0
        self._last = 0
        self._gone = 0
        """The newest that does not fit any more."""
        self._passing: dict[str, int] = {}
        self._listeners: dict[object, Callable[[], None]] = {}

    @property
    def last(self) -> int:
        """The number of the newest event; 0 before the first."""
        return self._last

    # Who tells

    def job(self, job: Job, is_passing: bool = False) -> None:
        """A job is new, or has changed.

        :param is_passing: whether only its figures have.
        """
        self._tell(Kind.JOB, job.id, self.shown(job), job.state, is_passing)

    def forgotten(self, id_: str) -> None:
        """A job is not known any more."""
        self._tell(Kind.FORGOTTEN, id_, msgspec.json.encode({"ID": id_}), None, False)

    def shown(self, job: Job) -> bytes:
        """A job as an event has it."""
        value = {k: v for k, v in self._describe(job).items() if k != _LEFT_OUT}
        return msgspec.json.encode(_shorten(value))

    def _tell(
        self, kind: Kind, job: str, data: bytes, state: State | None, is_passing: bool
    ) -> None:
        self._last += 1
        superseded = self._passing.pop(job, None)
        if superseded is not None:
            self._remove(superseded)
        if is_passing:
            self._passing[job] = self._last
        self._told.append(Told(self._last, kind, job, data, state, is_passing))
        self._size += len(data)
        while self._size > self._limit and len(self._told) > 1:
            self._forget_oldest()
        for wake in list(self._listeners.values()):
            wake()

    def _remove(self, number: int) -> None:
        place = bisect_left(self._told, number, key=_number)
        if place < len(self._told) and self._told[place].number == number:
            self._size -= len(self._told.pop(place).data)

    def _forget_oldest(self) -> None:
        oldest = self._told.pop(0)
        self._size -= len(oldest.data)
        self._gone = oldest.number
        if self._passing.get(oldest.job) == oldest.number:
            del self._passing[oldest.job]

    # Who listens

    def listen(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have ``wake`` called after each event, which :meth:`after` gives; not from within it.

        Gives the function that ends this.
        """
        key = object()
        self._listeners[key] = wake

        def end() -> None:
            self._listeners.pop(key, None)

        return end

    def after(self, number: int) -> Told | None:
        """The next event after a number; None where there is none yet."""
        place = bisect_right(self._told, number, key=_number)
        return self._told[place] if place < len(self._told) else None

    def has_all_after(self, number: int) -> bool:
        """Whether nothing that was told after a number is gone, but what was passing."""
        return self._gone <= number <= self._last

    def identifier(self, number: int) -> str:
        """How an event is named outside."""
        return f"{self.life}-{number}"

    def number_of(self, identifier: str) -> int | None:
        """The event of that name, if all that was told after it is still known."""
        life, _, text = identifier.rpartition("-")
        if life != self.life or not (text.isascii() and text.isdecimal() and len(text) < 20):
            return None
        return int(text) if self.has_all_after(int(text)) else None


def _number(told: Told) -> int:
    return told.number


def _shorten(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONGEST_TEXT else f"{value[:LONGEST_TEXT]}…"
    if isinstance(value, Mapping):
        return {key: _shorten(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shorten(each) for each in value[:LONGEST_LIST]]
    return value
