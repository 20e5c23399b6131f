"""One request to Orthanc and its answer, however that travels.

What this is needed for most, hundreds of small requests and files, goes by sockets in threads
(:mod:`.sockets`) where it can; here is what goes by Twisted's agents: TLS, and bodies that are
handed on as they come.
"""

# mypy: disable-error-code="misc,empty-body"
# ruff: noqa: N805

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.client import RequestTransmissionFailed, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer
from zope.interface import Interface, implementer

from ..threads import IThreads
from ..transfer.client import Stall, deliver
from ..transfer.streams import MemorySlices, RequestBody, Sink, collecting_sink
from .connection import Agents
from .files import FileSlices

_ERROR_SIZE = 64 * 1024
"""Bytes of an answer that is a refusal."""


@attrs.frozen
class FileBody:
    """A file, or the part of one from ``start`` on, that is the body of a request."""

    path: str
    size: int
    start: int = 0


@attrs.frozen
class Question:
    """A request.

    :ivar accepted: statuses of an answer that is none of refusal.
    :ivar limit: bytes that such an answer may have, where it is taken whole.
    :ivar patience: further seconds that may pass without progress.
    """

    method: str
    path: str
    body: bytes | FileBody | None = None
    headers: Mapping[str, str] = attrs.Factory(dict)
    accepted: Collection[int] = (200,)
    limit: int = 0
    patience: float = 0.0

    def limit_of(self, status: int) -> int:
        """How many bytes the body of an answer may have."""
        return self.limit if status in self.accepted else _ERROR_SIZE


@attrs.frozen
class Answer:
    """An answer: its status, its body where that was taken whole.

    :ivar headers: the first of each name, which is in lower case.
    """

    status: int
    body: bytes
    headers: Mapping[bytes, bytes]

    def header(self, name: str) -> str:
        """The first of that name; empty where there is none."""
        return self.headers.get(name.lower().encode(), b"").decode("latin-1")


class NoAnswer(Exception):
    """The connection broke before the answer was there: a warm one may have been closed since it
    was used last. Its cause is the error.
    """


class IExchanges(Interface):
    """Asks Orthanc."""

    def ask(questions: Sequence[Question], is_fresh: bool) -> Deferred[list[Answer]]:
        """Ask one question after the other, and take the whole answers, whatever their status is.

        :param is_fresh: not on a connection that has been used.

        Fails with :class:`NoAnswer`, :class:`BodyTooLarge`, or what Twisted has for it; cancelling
        ends the connection.
        """

    def close() -> Deferred[None]:
        """End what is idle, and what can be ended at once."""


@implementer(IExchanges)
class AgentExchanges:
    """By Twisted's agents; see :class:`IExchanges`."""

    def __init__(
        self,
        clock: IReactorTime,
        threads: IThreads,
        agents: Agents,
        url: str,
        headers: Mapping[str, str],
        timeout: float,
    ) -> None:
        """:param headers: those of all requests. :param timeout: seconds without progress."""
        self._clock = clock
        self._threads = threads
        self._agents = agents
        self._url = url
        self._headers = headers
        self._timeout = timeout

    def ask(self, questions: Sequence[Question], is_fresh: bool) -> "Deferred[list[Answer]]":
        """See :meth:`IExchanges.ask`."""
        return Deferred.fromCoroutine(self._ask_each(questions, is_fresh))

    async def _ask_each(self, questions: Sequence[Question], is_fresh: bool) -> list[Answer]:
        return [await self._ask(question, is_fresh, _collect) for question in questions]

    async def fetch(self, question: Question, sink: Sink, is_fresh: bool) -> Answer:
        """The body of what is accepted into ``sink``; returns when the sink has it all."""

        async def take(response: Any, stall: Stall, question: Question) -> bytes:
            if response.code not in question.accepted:
                return await _collect(response, stall, question)
            await deliver(response, sink, stall, _ignore)
            return b""

        try:
            return await self._ask(question, is_fresh, take)
        except NoAnswer as error:
            if sink.taken and error.__cause__ is not None:
                raise error.__cause__ from None
            raise

    def close(self) -> "Deferred[None]":
        """See :meth:`IExchanges.close`."""

        async def close() -> None:
            await self._agents.close()

        return Deferred.fromCoroutine(close())

    async def _ask(
        self,
        question: Question,
        is_fresh: bool,
        take: Callable[[Any, Stall, Question], Awaitable[bytes]],
    ) -> Answer:
        agent: IAgent = self._agents.fresh if is_fresh else self._agents.warm
        stall = Stall(self._clock, self._timeout + question.patience)
        named = {**self._headers, **question.headers}
        try:
            response: Any = await stall.watch(
                agent.request(
                    question.method.encode(),
                    (self._url + question.path).encode("ascii"),
                    Headers({name: [text] for name, text in named.items()}),
                    self._body(question.body, stall),
                )
            )
            data = await take(response, stall, question)
        except (ResponseNeverReceived, RequestTransmissionFailed) as error:
            raise NoAnswer from error
        return Answer(response.code, data, _first_of_each(response.headers))

    def _body(self, body: bytes | FileBody | None, stall: Stall) -> IBodyProducer | None:
        def progress(_size: int) -> None:
            stall.touch()

        if body is None:
            return None
        if isinstance(body, bytes):
            return RequestBody(len(body), MemorySlices([body]), progress)
        slices = FileSlices(self._threads, body.path, body.size, body.start)
        return RequestBody(body.size, slices, progress)


async def _collect(response: Any, stall: Stall, question: Question) -> bytes:
    collector, parts = collecting_sink(question.limit_of(response.code))
    await deliver(response, collector, stall, _ignore)
    return b"".join(parts)


def _first_of_each(headers: Headers) -> Mapping[bytes, bytes]:
    return {name.lower(): values[0] for name, values in headers.getAllRawHeaders() if values}


def _ignore(_left: int) -> None:
    pass
