"""The queue of jobs: who runs when, and pause, resume, cancel, resubmit, whenever they come.

``ConcurrentJobs`` run at once, the highest priority first. Every change of state is in the journal
before it is told to anybody outside.
"""

from collections.abc import Callable
from enum import IntEnum

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import Interrupted, TransfersError, UnknownJob
from ..transfer.parts import ITransfer
from ..wire import codes
from ..wire.messages import TransferRequest
from .journal import IJournal
from .model import ENDED, Direction, Event, Job, State, new_job

log = Logger()

_INTERRUPTED = "The daemon stopped while the job was running; resubmit it to start it again"


class _Wish(IntEnum):
    """Why a running job is being stopped; of several wishes the highest counts."""

    STOP = 0
    PAUSE = 1
    CANCEL = 2


class _Run:
    """A job that is running."""

    def __init__(self) -> None:
        self.deferred: Deferred[None] | None = None
        self.wish: _Wish | None = None
        self.ended: list[Deferred[None]] = []


class JobRunner:
    """See the module. :meth:`start` before use; :meth:`stop` ends it."""

    def __init__(
        self,
        clock: IReactorTime,
        journal: IJournal,
        make_transfer: Callable[[Direction, TransferRequest], ITransfer],
        concurrent: int,
        history_size: int,
        wall_clock: Callable[[], float],
    ) -> None:
        """:param concurrent: ``ConcurrentJobs``; 0 means as many as there are.

        :param history_size: ended jobs that are kept (``JobsHistorySize``).
        :param wall_clock: seconds since the epoch.
        """
        self._clock = clock
        self._journal = journal
        self._make_transfer = make_transfer
        self._concurrent = concurrent
        self._history_size = history_size
        self._wall_clock = wall_clock
        self._jobs: dict[str, Job] = {}
        self._transfers: dict[str, ITransfer] = {}
        self._running: dict[str, _Run] = {}
        self._sequence = 0
        self._stopping = False

    async def start(self) -> None:
        """Take up the jobs of the journal; one that was running is a failure that says so."""
        for job in await self._journal.load():
            self._jobs[job.id] = job
            self._sequence = max(self._sequence, job.sequence)
            if job.state in (State.RUNNING, State.RETRY):
                self._interrupt(job)
                await self._journal.save(job)
        await self._trim()
        self._schedule()

    async def stop(self) -> None:
        """Stop what runs, and note in the journal that it was interrupted."""
        self._stopping = True
        runs = [self._wish(id_, _Wish.STOP) for id_ in list(self._running)]
        await DeferredList(runs, consumeErrors=True)

    def jobs(self) -> tuple[Job, ...]:
        """All jobs, in order of submission."""
        return tuple(self._jobs.values())

    def job(self, id_: str) -> Job:
        """One job.

        :raises UnknownJob: there is none of that identifier.
        """
        job = self._jobs.get(id_)
        if job is None:
            raise UnknownJob(f"Unknown job: {id_[:100]}")
        return job

    async def submit(self, direction: Direction, request: TransferRequest) -> Job:
        """Take a new job; it is in the journal when this returns."""
        self._sequence += 1
        job = new_job(direction, request, self._sequence, self._wall_clock())
        await self._journal.save(job)
        self._jobs[job.id] = job
        log.info(
            "Job {id}: {type} of {count} resources, peer {peer}",
            id=job.id,
            type=direction.value,
            count=len(request.resources),
            peer=request.peer,
        )
        self._schedule()
        return job

    async def pause(self, id_: str) -> None:
        """Let the job wait for :meth:`resume`; what it has transferred is kept."""
        job = self.job(id_)
        if job.state is State.RUNNING:
            await self._wish(id_, _Wish.PAUSE)
            return
        await self._happens(job, Event.PAUSE)

    async def resume(self, id_: str) -> None:
        """Let a paused job go on.

        :raises JobActionRefused: it is not paused.
        """
        await self._happens(self.job(id_), Event.RESUME)

    async def cancel(self, id_: str) -> None:
        """End the job as a failure, and free what it has transferred."""
        job = self.job(id_)
        if job.state is State.RUNNING:
            await self._wish(id_, _Wish.CANCEL)
            return
        # Both begin at once: nothing can start the job, or go on with its transfer, in between.
        abandoned = Deferred.fromCoroutine(self._abandon(job))
        await self._happens(job, Event.CANCEL, (*codes.CANCELLED, ""))
        await abandoned
        await self._trim()

    async def resubmit(self, id_: str) -> None:
        """Start a failed job again.

        :raises JobActionRefused: it has not failed.
        """
        await self._happens(self.job(id_), Event.RESUBMIT)

    async def _happens(
        self, job: Job, event: Event, error: tuple[int, str, str] | None = None
    ) -> None:
        job.happens(event, self._wall_clock(), error)
        await self._journal.save(job)
        self._schedule()

    def _interrupt(self, job: Job) -> None:
        error = Interrupted(_INTERRUPTED)
        job.state = State.RUNNING
        job.happens(Event.FAIL, self._wall_clock(), (*codes.code_of(error), str(error)))

    def _wish(self, id_: str, wish: _Wish) -> "Deferred[None]":
        """Stop a running job for a reason; fires when it has stopped, or ended before."""
        run = self._running[id_]
        is_first, run.wish = run.wish is None, max(wish, run.wish or wish)
        waiter: Deferred[None] = Deferred()
        run.ended.append(waiter)
        transfer = self._transfers.get(id_)  # none when the run has ended, and is being settled
        # A commit that is under way is not interrupted: its end decides.
        if is_first and run.deferred is not None and transfer is not None and transfer.stoppable():
            run.deferred.cancel()
        return waiter

    def _schedule(self) -> None:
        """Start jobs while there is room."""
        while not self._stopping and self._has_room():
            # One whose last run is still being settled waits until that is in the journal.
            waiting = [
                job
                for job in self._jobs.values()
                if job.state is State.PENDING and job.id not in self._running
            ]
            if not waiting:
                return
            self._start(min(waiting, key=lambda job: (-job.request.priority, job.sequence)))

    def _has_room(self) -> bool:
        return not self._concurrent or len(self._running) < self._concurrent

    def _start(self, job: Job) -> None:
        job.happens(Event.START, self._wall_clock())
        run = self._running[job.id] = _Run()
        Deferred.fromCoroutine(self._run(job, run)).addErrback(self._unexpected, job)

    async def _run(self, job: Job, run: _Run) -> None:
        failure: Failure | None = None
        started = self._clock.seconds()
        try:
            await self._journal.save(job)
            if run.wish is None:
                transfer = self._transfers.get(job.id)
                if transfer is None:
                    transfer = self._make_transfer(job.direction, job.request)
                    self._transfers[job.id] = transfer
                run.deferred = Deferred.fromCoroutine(transfer.run(job.progress))
                await run.deferred
        except Exception:
            failure = Failure()
        job.progress.seconds += self._clock.seconds() - started
        try:
            await self._settle(job, run, failure)
        finally:
            del self._running[job.id]
            for waiter in run.ended:
                waiter.callback(None)
            self._schedule()

    async def _settle(self, job: Job, run: _Run, failure: Failure | None) -> None:
        """A run has ended: what that makes of the job."""
        now = self._wall_clock()
        if failure is None:
            stopped = run.deferred is None  # it was not even started
        else:
            stopped = failure.check(CancelledError) is not None
        if not stopped and failure is None:
            self._transfers.pop(job.id, None)
            job.happens(Event.SUCCEED, now)
        elif stopped and run.wish is _Wish.PAUSE:
            job.happens(Event.PAUSE, now)
        elif stopped and run.wish is _Wish.CANCEL:
            await self._abandon(job)
            job.happens(Event.CANCEL, now, (*codes.CANCELLED, ""))
        elif stopped:
            await self._abandon(job)
            self._interrupt(job)
        else:
            assert failure is not None
            await self._abandon(job)
            job.happens(Event.FAIL, now, self._describe(job, failure))
        log.info(
            "Job {id}: {state}{details}",
            id=job.id,
            state=job.state.value,
            details=f": {job.error_details or job.error_description}" if job.error_code else "",
        )
        await self._journal.save(job)
        await self._trim()

    def _describe(self, job: Job, failure: Failure) -> tuple[int, str, str]:
        error = failure.value
        if isinstance(error, TransfersError):
            return (*codes.code_of(error), str(error))
        log.failure("Job {id} failed unexpectedly", failure, id=job.id)
        return (
            *codes.INTERNAL,
            f"A defect of txtransfers ({type(error).__name__}: {error}); the log has more under"
            f" the identifier of this job",
        )

    async def _abandon(self, job: Job) -> None:
        transfer = self._transfers.pop(job.id, None)
        if transfer is not None:
            await transfer.abandon()

    async def _trim(self) -> None:
        """Forget the oldest ended jobs beyond the history's size."""
        ended = sorted(
            (job for job in self._jobs.values() if job.state in ENDED),
            key=lambda job: job.completed or 0.0,
        )
        surplus = [job.id for job in ended[: max(0, len(ended) - self._history_size)]]
        for id_ in surplus:
            del self._jobs[id_]
        if surplus:
            await self._journal.forget(surplus)

    def _unexpected(self, failure: Failure, job: Job) -> None:
        log.failure("Job {id} could not be settled", failure, id=job.id)
