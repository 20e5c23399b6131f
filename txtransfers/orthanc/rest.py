"""Requests to Orthanc's REST API, and what becomes of its refusals.

Whatever goes wrong is an error of the store that names Orthanc's address and reads like advice.
Time limits mean *no progress for so long*. Used by the other modules of this room.
"""

from base64 import b64encode
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import msgspec
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.web._newclient import ParseError

from ..config import OrthancSettings
from ..errors import (
    BadDicom,
    BodyTooLarge,
    StorageFailure,
    StorageFull,
    StoreUnavailable,
    TransfersError,
    UnknownResource,
)
from ..threads import IThreads
from ..transfer.client import innermost, what_orthanc_says, why
from ..transfer.retries import with_retries
from ..transfer.streams import Sink
from ..transfer.trust import tls_problem
from .connection import OF_STORE, Agents
from .exchanges import AgentExchanges, Answer, FileBody, IExchanges, NoAnswer, Question
from .sockets import SocketExchanges

T = TypeVar("T")

_MAX_ANSWER = 64 * 2**20
"""Bytes of a JSON answer: a series of half a million instances."""
_SMALL_ANSWER = 4096
"""One that is parsed sooner than a thread could be told to."""
_RETRIES = 5
"""Of one request that found Orthanc busy, restarting or unreachable: half a minute in all."""

_SLOWEST_STORING = 10 * 2**20
"""Bytes in a second: Orthanc takes a file whole before it stores it, and is silent meanwhile."""

_BUSY = frozenset({408, 429, 502, 503, 504})
_CANNOT_WRITE = 14
_FULL_STORAGE = 19
_DATABASE = range(1000, 1100)
_BAD_FILE = 15
_LOCKED = 24
"""Orthanc's codes: CannotWriteFile (of a full disk, too), FullStorage, SQLite's,
BadFileFormat, DatabaseUnavailable."""


class OrthancRest:
    """See the module."""

    def __init__(
        self,
        clock: IReactorTime,
        threads: IThreads,
        agents: Agents,
        settings: OrthancSettings,
        http_timeout: float,
        waiting_threads: IThreads | None = None,
    ) -> None:
        """:param http_timeout: seconds without progress, where the store has no ``Timeout``.

        :param waiting_threads: those that may wait for Orthanc; None where none may.
        """
        self.threads = threads
        self.url = settings.url.rstrip("/")
        self.username = settings.username
        self._clock = clock
        timeout = settings.timeout or http_timeout
        headers = dict(settings.headers)
        if settings.username:
            pair = f"{settings.username}:{settings.password}".encode()
            headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
        self._streams = AgentExchanges(clock, threads, agents, self.url, headers, timeout)
        self._exchanges: IExchanges = self._streams
        if waiting_threads is not None and self.url.lower().startswith("http:"):
            self._exchanges = SocketExchanges(waiting_threads, self.url, headers, timeout)

    @property
    def who(self) -> str:
        """How errors call it."""
        return f"Orthanc ({self.url}/)"

    async def close(self) -> None:
        """Close the connections."""
        await self._exchanges.close()
        await self._streams.close()

    async def retrying(self, request: Callable[[], Awaitable[T]]) -> T:
        """Call ``request`` until Orthanc is there, at most a few times."""
        return await with_retries(self._clock, _RETRIES, request, lambda: None)

    # Requests

    async def get_json(self, path: str) -> Any:
        """What is at ``path``. Raises :class:`UnknownResource` for a 404."""
        return await self._parse(await self.request("GET", path), path)

    async def post_json(self, path: str, value: Any) -> Any:
        """What Orthanc answers to a JSON value, which is a small one."""
        body = msgspec.json.encode(value)
        return await self._parse(await self.request("POST", path, body), path)

    async def upload(self, file: FileBody, on_again: Callable[[], None]) -> Any:
        """``POST /instances`` with a DICOM file: what Orthanc says became of it.

        :param on_again: see :meth:`request`.
        """
        headers = {"Content-Type": "application/dicom"}
        patience = file.size / _SLOWEST_STORING
        answer = await self.request(
            "POST", "/instances", file, headers, on_again=on_again, patience=patience
        )
        return await self._parse(answer, "/instances")

    async def delete(self, path: str) -> None:
        """Delete what is at ``path``; what is not there need not be deleted."""
        await self.request("DELETE", path, accepted=(200, 404))

    async def fetch(
        self, path: str, sink: Sink, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The body of what is at ``path`` into ``sink``; returns when the sink has it all."""
        question = Question("GET", path, headers=headers or {}, accepted=(200, 206))

        async def ask(_questions: Sequence[Question], is_fresh: bool) -> Sequence[Answer]:
            return [await self._streams.fetch(question, sink, is_fresh)]

        (answer,) = await self._ask([question], ask)
        return answer

    async def _parse(self, answer: Answer, path: str) -> Any:
        try:
            if len(answer.body) <= _SMALL_ANSWER:
                return msgspec.json.decode(answer.body)
            return await self.threads.run(msgspec.json.decode, answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise StorageFailure(
                f"{self.who} answered {path} with something that is no JSON"
                f" ({answer.body[:60]!r}): is Store.Url that of an Orthanc?"
            ) from None

    # How they are made

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | FileBody | None = None,
        headers: Mapping[str, str] | None = None,
        accepted: Collection[int] = (200,),
        on_again: Callable[[], None] = lambda: None,
        patience: float = 0.0,
        limit: int = _MAX_ANSWER,
    ) -> Answer:
        """One request, and its whole answer.

        :param on_again: called when it is sent once more, though Orthanc may have got it.
        :param patience: further seconds that may pass without progress.
        :param limit: bytes that the answer may have.
        """
        question = Question(method, path, body, headers or {}, accepted, limit, patience)
        (answer,) = await self._ask([question], self._exchanges.ask, on_again)
        return answer

    async def get_each(
        self,
        paths: Sequence[str],
        accepted: Collection[int] = (200,),
        limits: Sequence[int] | None = None,
    ) -> Sequence[Answer]:
        """What is at ``paths``, small things, one after the other on one connection.

        :param limits: bytes that each answer may have.
        """
        questions = [
            Question("GET", path, accepted=accepted, limit=limits[n] if limits else _MAX_ANSWER)
            for n, path in enumerate(paths)
        ]
        return await self._ask(questions, self._exchanges.ask)

    async def _ask(
        self,
        questions: Sequence[Question],
        ask: Callable[[Sequence[Question], bool], Awaitable[Sequence[Answer]]],
        on_again: Callable[[], None] = lambda: None,
    ) -> Sequence[Answer]:
        """Ask; if a warm connection turns out to be gone, once more on a new one."""
        first = questions[0]
        try:
            try:
                answers = await ask(questions, False)
            except NoAnswer:
                on_again()
                answers = await ask(questions, True)
        except Exception as error:
            self._explain(error, first.method, first.path)
        for question, answer in zip(questions, answers, strict=True):
            if answer.status not in question.accepted:
                self._refuse(answer, question.method, question.path)
        return answers

    def _refuse(self, answer: Answer, method: str, path: str) -> NoReturn:
        code, reason = what_orthanc_says(answer.body) or (0, "")
        text = f"{self.who} answered {answer.status} to {method} {path[:120]}"
        said = f": {reason}" if reason else ""
        if answer.status == 404:
            raise UnknownResource(f"{text}{said}")
        if answer.status in (401, 403):
            raise StorageFailure(
                f"{text}: check Username and Password under Store, and what that user may do"
            )
        if answer.status == 507 or code in (_FULL_STORAGE, _CANNOT_WRITE):
            raise StorageFull(
                f"{text}{said}: its disk is full, or its MaximumStorageSize is reached"
            )
        if answer.status in _BUSY or code == _LOCKED:
            raise StoreUnavailable(f"{text}{said}: it is busy, or being restarted; try again later")
        if code == _BAD_FILE:
            raise BadDicom(f"{text}{said}")
        if isinstance(code, int) and code in _DATABASE:
            raise StorageFailure(f"{text}{said}: its database fails, as on a full disk")
        raise StorageFailure(f"{text}{said}: its log may tell more")

    def _explain(self, error: BaseException, method: str, path: str) -> NoReturn:
        """Raise ``error`` as the store's word for it."""
        if isinstance(error, BodyTooLarge):
            raise StorageFailure(f"{self.who}, {method} {path[:120]}: {error}") from error
        if isinstance(error, TransfersError | CancelledError):
            raise error
        if isinstance(error, NoAnswer) and error.__cause__ is not None:
            error = error.__cause__
        inner = innermost(error)
        if isinstance(inner, TransfersError):
            raise inner from error
        what = f"{self.who}, {method} {path[:120]}"
        if problem := tls_problem(inner, OF_STORE):
            raise StorageFailure(f"{what}: {problem}") from error
        if isinstance(inner, ParseError):
            raise StorageFailure(
                f"{what}: the answer is no HTTP ({inner.data[:60]!r}); is it https, or the wrong"
                " port? Check Url under Store"
            ) from error
        reason = why(inner, "its host name cannot be resolved; check Url under Store")
        raise StoreUnavailable(f"{what}: {reason}") from error
