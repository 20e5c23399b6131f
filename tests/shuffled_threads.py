"""Threads whose work begins, and whose results come, in an order that a test's seed decides."""

from collections.abc import Callable
from random import Random
from typing import Any

import attrs
from twisted.internet.defer import Deferred, execute
from zope.interface import implementer

from txtransfers.threads import IThreads


@attrs.define(eq=False)
class _Job:
    """:ivar ended: what came of it, once it was done."""

    function: Callable[[], "Deferred[Any]"]
    result: "Deferred[Any]"
    ended: "Deferred[Any] | None" = None


@implementer(IThreads)
class ShuffledThreads:
    """See :class:`IThreads`: nothing happens but in :meth:`step`.

    :ivar at_once: whether all is done at once instead, as for what a test only prepares.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._jobs: list[_Job] = []
        self.at_once = False

    def run(self, function: Any, *args: Any, **kwargs: Any) -> "Deferred[Any]":
        """See :meth:`IThreads.run`."""
        if self.at_once:
            return execute(function, *args, **kwargs)
        result: Deferred[Any] = Deferred()
        self._jobs.append(_Job(lambda: execute(function, *args, **kwargs), result))
        return result

    def step(self) -> bool:
        """Do a piece of work, or let a result come; tells whether there was something."""
        if not self._jobs:
            return False
        job = self._random.choice(self._jobs)
        if job.ended is None:
            job.ended = job.function()
            if self._random.random() < 0.5:
                return True
        self._jobs.remove(job)
        job.ended.chainDeferred(job.result)
        return True
