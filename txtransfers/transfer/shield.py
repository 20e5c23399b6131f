"""Work that a pause or a cancellation does not interrupt."""

from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


async def uninterrupted(work: "Deferred[T]") -> T:
    """Wait for ``work`` to its end, also when cancelled meanwhile; its success then stands.

    Raises its error; :class:`CancelledError` instead if it was cancelled meanwhile.
    """
    result, _cancelled = await to_its_end(work)
    return result


async def to_its_end(work: "Deferred[T]") -> tuple[T, bool]:
    """As :func:`uninterrupted`; tells too whether it was cancelled meanwhile."""
    results: list[Any] = []
    waiting: list[Deferred[None]] = []

    def ended(result: Any) -> None:
        results.append(result)
        while waiting:
            waiting.pop().callback(None)

    work.addBoth(ended)
    cancelled = False
    while not results:
        waiter: Deferred[None] = Deferred()
        waiting.append(waiter)
        try:
            await waiter
        except CancelledError:
            waiting.remove(waiter)
            cancelled = True
    (result,) = results
    if isinstance(result, Failure):
        if cancelled:
            raise CancelledError
        result.raiseException()
    return result, cancelled
