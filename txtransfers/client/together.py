"""Several coroutines at once."""

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, FirstError, gatherResults


async def together(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run all at once; gives their results, or raises the first error when one fails.

    The others are cancelled then, and awaited.
    """
    running = [Deferred.fromCoroutine(each) for each in coroutines]
    try:
        return await gatherResults(running, consumeErrors=True)
    except FirstError as error:
        await _end(running)
        reason = error.subFailure.value
        assert reason is not None
        raise reason from None
    except BaseException:
        await _end(running)
        raise


async def _end(running: list["Deferred[Any]"]) -> None:
    for each in running:
        each.cancel()
    await DeferredList(running, consumeErrors=True)
