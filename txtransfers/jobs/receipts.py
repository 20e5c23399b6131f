"""The receipts of jobs, beside the jobs in the journal; what is in one: ``receipt.py``."""

import sqlite3
from collections.abc import Callable, Sequence

from twisted.logger import Logger

from ..errors import TransfersError, UnknownJob
from ..store.interfaces import Outcome
from ..threads import IThreads
from ..transfer.parts import Memo
from .journal import IJournal, Kind
from .model import ENDED, Job
from .receipt import make_receipt

log = Logger()


class Receipts:
    """Writes and reads them."""

    def __init__(
        self,
        journal: IJournal,
        threads: IThreads,
        describe_peer: Callable[[str], tuple[str, str]],
    ) -> None:
        """:param describe_peer: the name of this daemon, and the URL of a peer."""
        self._journal = journal
        self._threads = threads
        self._describe_peer = describe_peer
        self._unsaved: dict[str, bytes] = {}
        """Of jobs that ended while the disk was full."""

    async def write(self, job: Job, memo: Memo, outcomes: Sequence[Outcome | None]) -> None:
        """Write that of a job that has ended. Never raises: the job ends as it ends."""
        daemon, url = self._describe_peer(job.request.peer)
        try:
            instances = await memo.instances() or ()
            data = await self._threads.run(make_receipt, job, instances, outcomes, daemon, url)
            self._unsaved[job.id] = data
            await self._journal.attach(job.id, Kind.RECEIPT, data)
            del self._unsaved[job.id]
        except (TransfersError, sqlite3.Error) as error:
            log.warn("The receipt of job {id} cannot be saved: {error}", id=job.id, error=error)

    async def read(self, job: Job) -> bytes:
        """The receipt of a job, as JSON.

        :raises UnknownJob: the job has none: it has not ended.
        """
        data = self._unsaved.get(job.id)
        if data is None and job.state in ENDED:
            data = await self._journal.attached(job.id, Kind.RECEIPT)
        if data is None:
            raise UnknownJob(f"Job {job.id} has no receipt: its state is {job.state.value}")
        return data

    def forget(self, job: Job) -> None:
        """The job is forgotten, or begins once more."""
        self._unsaved.pop(job.id, None)
