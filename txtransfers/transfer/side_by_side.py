"""A message in pieces, at the client: a request for each, on connections of their own."""

from collections.abc import Callable
from functools import partial

from treq.client import HTTPClient
from twisted.internet.defer import Deferred

from ..wire.pieces import Piece, pieces
from .asking import Answer, Asking, Body, Session
from .slots import run_all


async def post_pieces(
    http: Asking,
    session: Session,
    path: str,
    count: int,
    body_of: Callable[[Piece], Body],
    client: HTTPClient,
    on_asked: Callable[[], None],
) -> list[Answer]:
    """POST so many pieces of one message; gives their answers in order.

    The first failure ends all, and is raised.

    :param client: of the session's. :param on_asked: called when each request has its connection,
        or one that is being made.
    """
    answers: dict[int, Answer] = {}

    async def post(piece: Piece) -> None:
        route = f"{path}?{piece.query}"
        answers[piece.number] = await http.call(
            session, "POST", route, body_of(piece), client=client
        )

    asking = Deferred.fromCoroutine(
        run_all((partial(post, piece) for piece in pieces(count)), count)
    )
    on_asked()
    await asking
    return [answers[number] for number in range(count)]
