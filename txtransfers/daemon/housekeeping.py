"""What is done now and then: transactions and jobs that have expired; and once, at the start."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ..jobs.model import ENDED
from ..transfer.incoming import is_push
from ..transfer.pull import staging_name
from .assembly import Assembly

_HOUSEKEEPING_S = 30.0
"""Seconds between two looks for what has expired; less where that may be sooner."""

log = Logger()


class Housekeeping:
    """See the module. :meth:`start` when jobs are there again, :meth:`stop` before they stop."""

    def __init__(self, reactor: Any, made: Assembly) -> None:
        self._made = made
        self._reactor = reactor
        self._timeout = made.settings.transfers.push_transaction_timeout
        self._loop = LoopingCall(self._keep)
        self._loop.clock = reactor

    def start(self) -> None:
        """Look now and then."""
        self._loop.start(min(_HOUSEKEEPING_S, self._timeout), now=False)

    def stop(self) -> None:
        """Look no more; safe to call twice."""
        if self._loop.running:
            self._loop.stop()

    async def drop_orphans(self) -> None:
        """Remove what was staged for jobs that are not there any more."""
        store, jobs = self._made.store, self._made.jobs
        names = {staging_name(job.id) for job in jobs.jobs() if job.state not in ENDED or job.kept}
        for staged in await store.staged():
            if not is_push(staged.name) and staged.name not in names:
                log.info(
                    "What was staged for {name} ({size} bytes declared) is removed",
                    name=staged.name,
                    size=staged.size,
                )
                await store.drop(staged.name)

    def _keep(self) -> "Deferred[None]":
        return Deferred.fromCoroutine(self._expire()).addErrback(
            lambda failure: log.failure("The housekeeping failed", failure)
        )

    async def _expire(self) -> None:
        await self._made.transactions.expire(self._timeout, self._made.time())
        await self._made.jobs.expire(self._timeout)
