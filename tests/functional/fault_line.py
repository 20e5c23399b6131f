"""What breaks things between two daemons: a line that understands HTTP.

A :class:`Line` passes requests and answers on, and does to them what its :class:`Plan` says, once:
at counts of bytes that have passed, or to messages of some routes. It counts what it has done, so
that a test can tell a fault that was survived from one that did not happen. ``calm`` ends it all.
"""

import asyncio
import contextlib
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import attrs

from demo.daemon import HOST
from tests.functional.live import STOP_S

_PIECE = 16 * 1024
_HEAD = 64 * 1024
_BODILESS = (204, 304)


@attrs.define
class Mark:
    """What happens when ``at`` bytes have passed: ``cut``, ``stall`` or ``call``."""

    at: int
    kind: str
    seconds: float = 0.0
    call: Callable[[], None] | None = None


@attrs.define
class Rule:
    """What happens to the exchanges whose ``"METHOD /path"`` matches, to ``times`` of them.

    :ivar kind: ``refuse`` (answer ``status`` instead of forwarding), ``lose`` (forward, then reset
        instead of the answer), ``gateway`` (forward, then ``status`` instead of the answer),
        ``corrupt-request``, ``corrupt-answer``, ``truncate`` (an answer ends early), ``shorten``
        (an answer is shorter, and says so), ``call`` (forward, and call ``call`` after ``seconds``,
        when the answer may have come or not).
    :ivar share: how likely it happens to each.
    """

    kind: str
    random: Random
    times: int = 1
    share: float = 1.0
    routes: str = ""
    status: int = 503
    retry_after: int | None = None
    seconds: float = 0.0
    call: Callable[[], None] | None = None

    def takes(self, request: "Head") -> bool:
        """Whether it happens to this one; if so, once less to others."""
        if not self.times or not re.match(self.routes, f"{request.method} {request.path}"):
            return False
        if self.kind == "corrupt-request" and not request.has_body:
            return False
        if self.random.random() > self.share:
            return False
        self.times -= 1
        return True


@attrs.define
class Plan:
    """What goes wrong; ``delay`` is the longest wait, in seconds, before each message."""

    marks: list[Mark] = attrs.Factory(list)
    rules: list[Rule] = attrs.Factory(list)
    delay: float = 0.0

    @property
    def instants(self) -> bool:
        """Whether somebody is to be called."""
        return any(each.call is not None for each in (*self.marks, *self.rules))


class _CutError(Exception):
    """The connection is to be reset."""


@attrs.define
class Head:
    """The head of a message, and how its body is delimited."""

    first: str
    headers: list[tuple[str, str]]
    bodiless: bool = False

    @classmethod
    def parse(cls, data: bytes) -> "Head":
        """Read a head, with the empty line at its end."""
        first, *lines = data.decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return cls(first, [(name, value.strip()) for name, _colon, value in pairs])

    @property
    def data(self) -> bytes:
        """As it travels."""
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    @property
    def method(self) -> str:
        """Of a request."""
        return self.first.split(" ")[0]

    @property
    def path(self) -> str:
        """Of a request."""
        return self.first.split(" ")[1]

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.first.split(" ")[1])

    def get(self, name: str) -> str:
        """The header's value; empty if it is not there."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    @property
    def chunked(self) -> bool:
        """Whether the body travels in chunks."""
        return "chunked" in self.get("transfer-encoding").lower()

    @property
    def length(self) -> int:
        """What the head says of the length, 0 if nothing."""
        return int(self.get("content-length") or 0)

    @property
    def has_body(self) -> bool:
        """Whether some bytes follow."""
        return not self.bodiless and (self.chunked or self.length > 0)


@attrs.frozen
class _Piece:
    """Some bytes of a body, between those of their frame."""

    before: bytes
    data: bytes
    after: bytes = b""


async def _body(head: Head, reader: asyncio.StreamReader) -> AsyncIterator[_Piece]:
    """The pieces of a message's body, until its end."""
    if head.bodiless:
        return
    left = head.length
    while left > 0:
        data = await reader.read(min(left, _PIECE))
        if not data:
            raise _CutError
        left -= len(data)
        yield _Piece(b"", data)
    while head.chunked:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        data = await reader.readexactly(size)
        yield _Piece(line, data, await reader.readuntil(b"\r\n"))
        if not size:
            return


@attrs.define
class _Exchange:
    """A request that was passed on, and the rule that its answer is subject to."""

    request: Head
    rule: Rule | None


class Line:
    """Two ports, each of which leads to one of two daemons; see the module.

    :ivar targets: the daemons' ports, to be set before the first use.
    :ivar plan: what goes wrong now. :ivar passed: bytes of both ways since it was set.
    :ivar injected: how often each kind of fault was done since the start.
    """

    def __init__(self, names: tuple[str, ...] = ("A", "B")) -> None:
        self.targets: dict[str, int] = {}
        self.ports: dict[str, int] = {}
        self.plan = Plan()
        self.passed = 0
        self.injected: Counter[str] = Counter()
        self._random = Random(0)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        for name in names:
            self._run(self._listen(name))

    def set(self, plan: Plan) -> None:
        """Let other things go wrong, and count bytes from 0."""
        plan.marks.sort(key=lambda mark: mark.at)
        self.plan, self.passed = plan, 0

    def calm(self) -> None:
        """Nothing goes wrong any more."""
        self.set(Plan())

    def close(self) -> None:
        """Reset all connections; end the thread."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)
        self._loop.close()

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(STOP_S)

    async def _listen(self, name: str) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._serve(name, reader, writer)
            finally:
                self._tasks.discard(task)

        server = await asyncio.start_server(serve, HOST, 0, limit=_HEAD)
        self.ports[name] = server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=STOP_S) if self._tasks else None

    async def _serve(
        self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection: whichever way ends first ends both."""
        writers = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            far_reader, far = await asyncio.open_connection(HOST, self.targets[name], limit=_HEAD)
            writers.append(far)
            asked: asyncio.Queue[_Exchange] = asyncio.Queue()
            pumps = [
                asyncio.create_task(self._requests(reader, far, writer, asked)),
                asyncio.create_task(self._answers(far_reader, writer, asked)),
            ]
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if all(pump.exception() is None for pump in done):
                for each in writers:
                    each.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            for pump in pumps:
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await pump
            for each in writers:
                if not each.is_closing():
                    each.transport.abort()

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        far: asyncio.StreamWriter,
        near: asyncio.StreamWriter,
        asked: "asyncio.Queue[_Exchange]",
    ) -> None:
        while (head := await self._head(reader)) is not None:
            rule = next((rule for rule in self.plan.rules if rule.takes(head)), None)
            if rule is not None and rule.kind == "refuse":
                async for _piece in _body(head, reader):
                    pass
                await self._say(rule, near)
                continue
            asked.put_nowait(_Exchange(head, rule))
            corrupt = rule if rule is not None and rule.kind == "corrupt-request" else None
            await self._pass(head, reader, far, corrupt)
            if rule is not None and rule.call is not None:
                self.injected["call"] += 1
                self._loop.call_later(rule.seconds, rule.call)

    async def _answers(
        self,
        reader: asyncio.StreamReader,
        near: asyncio.StreamWriter,
        asked: "asyncio.Queue[_Exchange]",
    ) -> None:
        while (head := await self._head(reader)) is not None:
            exchange = await asked.get()
            rule, kind = exchange.rule, exchange.rule.kind if exchange.rule else ""
            head.bodiless = exchange.request.method == "HEAD" or head.status in _BODILESS
            if rule is None or kind in ("corrupt-request", "call"):
                await self._pass(head, reader, near)
            elif kind in ("lose", "gateway"):
                async for _piece in _body(head, reader):
                    pass
                if kind == "lose":
                    self.injected[kind] += 1
                    raise _CutError
                await self._say(rule, near)
            elif kind in ("truncate", "shorten") and head.length > 0:
                await self._cut_short(head, reader, near, rule)
                if kind == "truncate":
                    return  # an end in order: whoever trusts the end of a connection is deceived
            else:
                await self._pass(head, reader, near, rule)

    async def _head(self, reader: asyncio.StreamReader) -> Head | None:
        """The next message's head; None where the connection has ended well."""
        try:
            data = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise _CutError from None
            return None
        if self.plan.delay:
            await asyncio.sleep(self._random.uniform(0, self.plan.delay))
            self.injected["delay"] += 1
        return Head.parse(data)

    async def _pass(
        self,
        head: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        corrupt: Rule | None = None,
    ) -> None:
        await self._write(writer, head.data)
        async for piece in _body(head, reader):
            data = piece.data
            if corrupt is not None and data:
                data = _damaged(data, corrupt.random)
                self.injected[corrupt.kind] += 1
                corrupt = None
            await self._write(writer, piece.before + data + piece.after)

    async def _cut_short(
        self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rule: Rule
    ) -> None:
        body = b"".join([piece.data async for piece in _body(head, reader)])
        body = body[: rule.random.randrange(len(body))]
        self.injected[rule.kind] += 1
        if rule.kind == "shorten":
            kept = [pair for pair in head.headers if pair[0].lower() != "content-length"]
            head.headers = [*kept, ("Content-Length", str(len(body)))]
        await self._write(writer, head.data + body)

    async def _say(self, rule: Rule, near: asyncio.StreamWriter) -> None:
        """An answer of our own, as a proxy's."""
        self.injected[rule.kind] += 1
        body = b"<html><body>The line is out of order</body></html>"
        wait = f"Retry-After: {rule.retry_after}\r\n" if rule.retry_after is not None else ""
        near.write(
            f"HTTP/1.1 {rule.status} Out of order\r\nContent-Type: text/html\r\n{wait}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await near.drain()

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Pass bytes on, up to each mark by itself."""
        while self.plan.marks and self.passed + len(data) >= self.plan.marks[0].at:
            mark = self.plan.marks.pop(0)
            part = max(0, mark.at - self.passed)
            await self._flush(writer, data[:part])
            data = data[part:]
            self.injected[mark.kind] += 1
            if mark.call is not None:
                mark.call()
            if mark.kind == "cut":
                raise _CutError
            await asyncio.sleep(mark.seconds)
        await self._flush(writer, data)

    async def _flush(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        self.passed += len(data)
        writer.write(data)
        await writer.drain()


def _damaged(data: bytes, random: Random) -> bytes:
    """A few bytes are others."""
    damaged = bytearray(data)
    for _ in range(random.randint(1, 4)):
        damaged[random.randrange(len(damaged))] ^= random.randint(1, 255)
    return bytes(damaged)
