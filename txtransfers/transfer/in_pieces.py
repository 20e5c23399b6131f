"""A peer's long messages in pieces, a request for each, on connections of their own.

See :mod:`..wire.pieces`. Where they do not come together, several machines are behind one address:
the whole is sent, and pieces are not tried again.
"""

from collections.abc import Callable
from functools import partial

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from ..errors import BadMessage, PeerRefused, TransfersError
from ..wire import packed
from ..wire.messages import MAX_MESSAGE_SIZE
from ..wire.pieces import MOST, PIECE, Piece, how_many, join, pieces
from .answers import Answer
from .asking import Asking, Body, Session, constant
from .slots import run_all

_CONFLICT = 409
"""What the server says where some pieces did not come."""

log = Logger()


class InPieces:
    """See the module. One lives as long as its peer."""

    def __init__(self, http: Asking) -> None:
        self._http = http
        self._is_one = True
        """Whether pieces came together there, as far as is known."""

    @property
    def may_be_tried(self) -> bool:
        """Whether they save time there, and work, as far as is known."""
        return self._is_one and not self._http.link.is_near

    async def ask(self, body: Body, session: Session, path: str) -> Answer | None:
        """POST a question whose answer comes in pieces; None: it must be asked as usual."""
        count = min(MOST, self._http.link.limit)
        if count < 2:
            return None
        answers = await self._post(session, path, count, lambda _piece: body, session.warm)
        if answers[0].content_type != PIECE:
            return answers[0]
        try:
            whole = await self._http.threads.run(join, [answer.body for answer in answers])
        except BadMessage as error:
            self._note_apart(error)
            return None
        return Answer(200, whole, packed.PACKED)

    async def send(
        self, data: bytes, session: Session, path: str, on_asked: Callable[[], None]
    ) -> Answer | None:
        """POST a packed message; gives the answer to it. None: it must be sent as a whole.

        :param on_asked: called when each request has its connection, or one that is being made.
        """
        count = min(how_many(len(data)), self._http.link.limit)
        if count < 2:
            return None

        def part(piece: Piece) -> Body:
            return constant(piece.cut(data), packed.PACKED)

        try:
            return (await self._post(session, path, count, part, session.fresh, on_asked))[0]
        except PeerRefused as error:
            if error.status != _CONFLICT:
                raise
            self._note_apart(error)
            return None

    async def _post(
        self,
        session: Session,
        path: str,
        count: int,
        body_of: Callable[[Piece], Body],
        client: HTTPClient,
        on_asked: Callable[[], None] = lambda: None,
    ) -> list[Answer]:
        """The answers in order. The first failure ends all, and is raised."""
        answers: dict[int, Answer] = {}

        async def post(piece: Piece) -> None:
            # An answer that is no piece comes to the first alone.
            most = MAX_MESSAGE_SIZE // (MOST if piece.number else 1)
            answers[piece.number] = await self._http.call(
                session,
                "POST",
                f"{path}?{piece.query}",
                body_of(piece),
                client=client,
                most=most,
            )

        asking = Deferred.fromCoroutine(
            run_all((partial(post, piece) for piece in pieces(count)), count)
        )
        on_asked()
        await asking
        return [answers[number] for number in range(count)]

    def _note_apart(self, error: TransfersError) -> None:
        log.info(
            "Peer {name} is sent no pieces any more: {error}", name=self._http.name, error=error
        )
        self._is_one = False
