"""The queue of jobs: who runs when, and pause, resume, cancel, resubmit, whenever they come.

``ConcurrentJobs`` run at once, the highest priority first. Every change of state is in the journal
before it is told to anybody outside, and what a running transfer needs in another life is there
every second: after a restart each job goes on from where it was.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import JobActionRefused, TransfersError, UnknownJob
from ..store.interfaces import Outcome
from ..threads import IThreads
from ..transfer.parts import ITransfer, Memo
from ..transfer.retries import is_worth_retrying
from ..waiters import Waiters
from ..wire import codes
from ..wire.messages import TransferRequest
from .events import Events
from .journal import IJournal
from .memo import JobMemo
from .model import ENDED, Direction, Event, Job, State, new_job
from .receipts import Receipts

CHECKPOINT_S = 1.0
"""Seconds between two saves of what a running transfer has done."""

log = Logger()


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
        self.ended = Waiters()
        self.checkpoint: IDelayedCall | None = None


@attrs.frozen
class JobLimits:
    """What the configuration says of jobs.

    :ivar concurrent: ``ConcurrentJobs``; 0 means as many as there are.
    :ivar history_size: ended jobs that are kept (``JobsHistorySize``).
    :ivar retry_delays: seconds before each further try of a job (``Transfers.JobRetryDelays``).
    :ivar survive: whether jobs outlive the daemon (``SaveJobs``).
    """

    concurrent: int
    history_size: int
    retry_delays: Sequence[float] = ()
    survive: bool = True


class JobRunner:
    """See the module. :meth:`start` before use; :meth:`stop` ends it."""

    def __init__(
        self,
        clock: IReactorTime,
        threads: IThreads,
        journal: IJournal,
        make_transfer: Callable[[Direction, TransferRequest, Memo], ITransfer],
        limits: JobLimits,
        wall_clock: Callable[[], float],
        describe_peer: Callable[[str], tuple[str, str]],
        events: Events,
        on_ended: Callable[[Job], None] = lambda _job: None,
        on_moved: Callable[[Job, int, int], None] = lambda _job, _size, _retries: None,
    ) -> None:
        """:param wall_clock: seconds since the epoch. :param on_ended: called with each job.

        :param on_moved: called while one runs, with the bytes that have travelled and the requests
            that were made again since the last time.

        :param describe_peer: the name of this daemon, and the URL of a peer: for receipts.
        :param events: are told of each change, after the journal.
        """
        self.events = events
        self._clock = clock
        self._threads = threads
        self._journal = journal
        self._make_transfer = make_transfer
        self._limits = limits
        self._wall_clock = wall_clock
        self._on_ended = on_ended
        self._on_moved = on_moved
        self._told: dict[str, tuple[int, int]] = {}
        """Bytes and retries, of those that run, that ``on_moved`` was told of."""
        self._receipts = Receipts(journal, threads, describe_peer)
        self._jobs: dict[str, Job] = {}
        self._transfers: dict[str, ITransfer] = {}
        self._running: dict[str, _Run] = {}
        self._ending: dict[str, Waiters] = {}
        """Jobs that do not run and whose transfer is being abandoned, and who waits for that."""
        self._timers: dict[str, IDelayedCall] = {}
        self._sequence = 0
        self._stopping = False

    async def start(self) -> None:
        """Take up the jobs of the journal; those that were running go on."""
        for job in await self._journal.load():
            self._jobs[job.id] = job
            self._sequence = max(self._sequence, job.sequence)
            if job.state is State.RUNNING:
                job.say("The daemon was restarted", self._wall_clock())
                job.started = None  # the time without a daemon is no time of the job
                job.happens(Event.INTERRUPT, self._wall_clock())
                await self._journal.save(job)
            elif job.state is State.RETRY and not job.cancelling:
                self._wait_to_retry(job)
            if job.cancelling and job.state not in ENDED:
                Deferred.fromCoroutine(self._end(job)).addErrback(self._unexpected, job)
        await self._trim()
        self._schedule()

    async def stop(self) -> None:
        """Stop what runs; it goes on in the next life, where jobs survive."""
        self._stopping = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        runs = [self._wish(id_, _Wish.STOP) for id_ in list(self._running)]
        await DeferredList(runs, consumeErrors=True)
        if not self._limits.survive:
            for job in self.jobs():
                if job.id not in self._ending:
                    await self._abandon(job)

    def jobs(self) -> tuple[Job, ...]:
        """All jobs, in order of submission."""
        for id_ in self._running:
            self._look_at(self._jobs[id_])
        return tuple(self._jobs.values())

    def has(self, id_: str) -> bool:
        """Whether there is a job of that identifier."""
        return id_ in self._jobs

    def job(self, id_: str) -> Job:
        """One job.

        :raises UnknownJob: there is none of that identifier.
        """
        job = self._jobs.get(id_)
        if job is None:
            raise UnknownJob(f"Unknown job: {id_[:100]}")
        self._look_at(job)
        return job

    def _look_at(self, job: Job) -> None:
        """Have the figures of one that runs be those of this moment."""
        transfer = self._transfers.get(job.id)
        if transfer is not None and job.state is State.RUNNING:
            job.figures = dict(transfer.figures())

    async def receipt(self, id_: str) -> bytes:
        """The manifest of a job that has ended, as JSON.

        :raises UnknownJob: there is no such job, or it has not ended.
        """
        job = self.job(id_)
        if job.state in ENDED and id_ in self._running:  # it is being written
            await self._running[id_].ended.wait()
        if id_ in self._ending:
            await self._ending[id_].wait()
        return await self._receipts.read(job)

    async def submit(
        self,
        direction: Direction,
        request: TransferRequest,
        submitter: str = "",
        memo: Mapping[str, Any] | None = None,
    ) -> Job:
        """Take a new job; it is in the journal when this returns.

        :param submitter: who asks for it.
        :param memo: what its transfer is to know, as its own ``state``.
        """
        self._sequence += 1
        job = new_job(direction, request, self._sequence, self._wall_clock(), memo)
        job.submitter = submitter
        await self._journal.save(job)
        self._jobs[job.id] = job
        self.events.job(job)
        log.info(
            "Job {id}: {type} of {count} resources, peer {peer}",
            id=job.id,
            type=direction.value,
            count=len(request.resources),
            peer=request.peer,
        )
        self._schedule()
        return job

    # What people, or programs, wish

    async def pause(self, id_: str) -> None:
        """Let the job wait for :meth:`resume`; what it has transferred is kept."""
        job = self.job(id_)
        if job.state is State.RUNNING:
            await self._wish(id_, _Wish.PAUSE)
            return
        await self._happens(job, Event.PAUSE)

    async def resume(self, id_: str) -> None:
        """Let a paused job go on.

        :raises JobActionRefused: it is not paused, or is being cancelled.
        """
        if id_ in self._ending:
            raise JobActionRefused(f"Job {id_} is being cancelled")
        await self._happens(self.job(id_), Event.RESUME)

    async def cancel(self, id_: str) -> None:
        """End the job as a failure, and free what it has transferred; also what a failed one keeps.

        If it turns out that all was committed before, it ends as the success that it is.
        """
        job = self.job(id_)
        if job.state is State.RUNNING:
            ended = self._wish(id_, _Wish.CANCEL)
            job.cancelling = True
            await self._save(job, durable=False)  # should the daemon end before it does
            await ended
        elif id_ in self._ending:
            await self._ending[id_].wait()
        elif job.state not in ENDED:
            await self._end(job)
        elif job.kept:
            await self._free_kept(job)

    async def _end(self, job: Job) -> None:
        self._forget_timer(job)
        self._ending[job.id] = Waiters()  # nothing starts it in between
        try:
            await self._cancelled(job, await self._abandon(job))
            await self._save(job)
        finally:
            self._has_ended(job)
        await self._trim()

    def _has_ended(self, job: Job) -> None:
        self._ending.pop(job.id).fire()
        self._schedule()

    async def resubmit(self, id_: str) -> None:
        """Start a failed job again, from what is already there.

        :raises JobActionRefused: it has not failed.
        """
        job = self.job(id_)
        if job.can(Event.RESUBMIT):
            self._receipts.forget(job)
            job.anew, job.tries, job.kept = True, 0, False
            job.points = []
        await self._happens(job, Event.RESUBMIT)

    async def prioritize(self, id_: str, priority: int) -> None:
        """Change a job's priority; one that runs goes on, and has it from its next buckets on."""
        job = self.job(id_)
        if job.state in ENDED:
            raise JobActionRefused(f"Job {id_} has ended: its priority does not matter any more")
        job.request = attrs.evolve(job.request, priority=priority)
        await self._save(job)
        self._schedule()

    async def _happens(self, job: Job, event: Event) -> None:
        job.happens(event, self._wall_clock())
        self._forget_timer(job)
        await self._save(job)
        self._schedule()

    async def _save(self, job: Job, durable: bool = True) -> None:
        """What has changed is in the journal, then told; also where the journal fails."""
        try:
            await self._journal.save(job, durable)
        finally:
            if job.id in self._jobs:
                self.events.job(job)

    def _forget_timer(self, job: Job) -> None:
        timer = self._timers.pop(job.id, None)
        if timer is not None:
            timer.cancel()

    def _wish(self, id_: str, wish: _Wish) -> "Deferred[None]":
        """Stop a running job for a reason; fires when it has stopped, or ended before."""
        run = self._running[id_]
        is_first, run.wish = run.wish is None, max(wish, run.wish or wish)
        ended = run.ended.wait()
        if is_first and run.deferred is not None:
            run.deferred.cancel()  # nothing happens if it has ended, and is being settled
        return ended

    # Running

    def _schedule(self) -> None:
        """Start jobs while there is room."""
        while not self._stopping:
            # One whose last run is still being settled waits until that is in the journal.
            waiting = [
                job
                for job in self._jobs.values()
                if job.state is State.PENDING
                and job.id not in self._running
                and job.id not in self._ending
            ]
            for job in waiting:
                if job.direction is Direction.REMOTE_PULL:  # to watch one takes no room
                    self._start(job)
            waiting = [job for job in waiting if job.id not in self._running]
            first = min(
                waiting, key=lambda job: (-job.request.priority, job.sequence), default=None
            )
            if first is None or not self._has_room(first.request.priority):
                return
            self._start(first)

    def _has_room(self, priority: int) -> bool:
        """Whether one more may run; those of lower priority give way, bucket by bucket."""
        running = (self._jobs[id_] for id_ in self._running)
        equals = sum(
            job.direction is not Direction.REMOTE_PULL and job.request.priority >= priority
            for job in running
        )
        return not self._limits.concurrent or equals < self._limits.concurrent

    def _start(self, job: Job) -> None:
        job.happens(Event.START, self._wall_clock())
        run = self._running[job.id] = _Run()
        Deferred.fromCoroutine(self._run(job, run)).addErrback(self._unexpected, job)

    def _memo(self, job: Job) -> JobMemo:
        return JobMemo(job, self._journal, self._threads, self._wall_clock)

    def _transfer(self, job: Job) -> ITransfer:
        transfer = self._transfers.get(job.id)
        if transfer is None:
            transfer = self._make_transfer(job.direction, job.request, self._memo(job))
            self._transfers[job.id] = transfer
        return transfer

    async def _run(self, job: Job, run: _Run) -> None:
        failure: Failure | None = None
        started = self._clock.seconds()
        try:
            await self._save(job, durable=False)  # without it, it would be pending
            if run.wish is None:
                self._tell_moved(job)  # what earlier runs have moved is known
                transfer = self._transfer(job)
                self._arm_checkpoint(job, run)
                run.deferred = Deferred.fromCoroutine(transfer.run(job.progress))
                await run.deferred
        except Exception:
            failure = Failure()
        if run.checkpoint is not None:
            run.checkpoint.cancel()
        job.progress.seconds += self._clock.seconds() - started
        try:
            await self._settle(job, run, failure)
        finally:
            del self._running[job.id]
            self._told.pop(job.id, None)
            run.ended.fire()
            self._schedule()

    def _arm_checkpoint(self, job: Job, run: _Run) -> None:
        def checkpoint() -> None:
            self._remember(job)
            self.events.job(job, is_passing=True)
            self._journal.save(job, durable=False).addErrback(
                lambda failure: log.warn(
                    "Job {id} cannot be saved: {error}", id=job.id, error=failure.value
                )
            )
            self._arm_checkpoint(job, run)

        run.checkpoint = self._clock.callLater(CHECKPOINT_S, checkpoint)

    def _tell_moved(self, job: Job) -> None:
        progress = job.progress
        now = progress.network_size, progress.retries
        size, retries = self._told.get(job.id, now)
        self._told[job.id] = now
        self._on_moved(job, now[0] - size, now[1] - retries)

    def _remember(self, job: Job) -> None:
        self._tell_moved(job)
        job.account(self._wall_clock())
        job.measure(self._wall_clock())
        transfer = self._transfers.get(job.id)
        if transfer is not None:
            job.memo = dict(transfer.state())
            job.figures = dict(transfer.figures())

    async def _settle(self, job: Job, run: _Run, failure: Failure | None) -> None:
        """A run has ended: what that makes of the job."""
        if failure is None:
            stopped = run.deferred is None  # it was not even started
        else:
            stopped = run.wish is not None and failure.check(CancelledError) is not None
        self._remember(job)
        if not stopped and failure is None:
            await self._succeeded(job)
        elif stopped and run.wish is _Wish.CANCEL:
            await self._cancelled(job, await self._abandon(job))
        elif stopped and run.wish is _Wish.PAUSE:
            await self._close(job)
            job.happens(Event.PAUSE, self._wall_clock())
        elif stopped:  # the daemon stops: the journal has it as running
            await self._close(job)
        else:
            assert failure is not None
            await self._failed(job, run.wish, failure)
        log.info(
            "Job {id}: {state}{details}",
            id=job.id,
            state=job.state.value,
            details=f": {job.error_details or job.error_description}" if job.error_code else "",
        )
        await self._save(job)
        await self._trim(job)

    async def _succeeded(self, job: Job) -> None:
        transfer = self._transfers.pop(job.id, None)
        outcomes = transfer.outcomes() if transfer is not None else ()
        if transfer is not None:
            await transfer.close()
        job.memo = {}
        job.outcomes = _count(outcomes)
        job.happens(Event.SUCCEED, self._wall_clock())
        await self._has_a_receipt(job, outcomes)

    async def _has_a_receipt(self, job: Job, outcomes: Sequence[Outcome | None]) -> None:
        await self._receipts.write(job, self._memo(job), outcomes)
        self._on_ended(job)

    async def _cancelled(self, job: Job, committed: Sequence[Outcome | None] | None) -> None:
        """:param committed: what became of all, if it turned out that all was committed."""
        if committed is None:
            job.happens(Event.CANCEL, self._wall_clock(), (*codes.CANCELLED, ""))
        else:
            job.outcomes = _count(committed)
            job.happens(Event.SUCCEED, self._wall_clock())
        await self._has_a_receipt(job, committed or ())
        job.memo = {}

    async def _failed(self, job: Job, wish: _Wish | None, failure: Failure) -> None:
        """:param wish: one that came too late to stop the run."""
        error = failure.value
        description = self._describe(job, failure)
        transfer = self._transfers.get(job.id)
        known = error if isinstance(error, TransfersError) else None
        passing = known is not None and is_worth_retrying(known)
        keeps = known is not None and transfer is not None and transfer.keeps(known)
        if wish is _Wish.CANCEL:
            await self._cancelled(job, await self._abandon(job))
        elif wish is _Wish.PAUSE and (keeps or passing):
            await self._close(job)
            job.happens(Event.PAUSE, self._wall_clock())
        elif passing and self._has_tries(job):
            await self._close(job)
            job.happens(Event.WAIT, self._wall_clock(), description)
            job.next_try = self._wall_clock() + self._limits.retry_delays[job.tries]
            job.tries += 1
            self._wait_to_retry(job)
        elif keeps:
            await self._close(job)
            job.kept = True
            await self._end_as_failure(job, description)
        else:
            committed = await self._abandon(job)
            if committed is not None:
                await self._cancelled(job, committed)
            else:
                await self._end_as_failure(job, description)
                job.memo = {}

    async def _end_as_failure(self, job: Job, description: tuple[int, str, str]) -> None:
        job.happens(Event.FAIL, self._wall_clock(), description)
        await self._has_a_receipt(job, ())

    def _has_tries(self, job: Job) -> bool:
        return job.tries < len(self._limits.retry_delays)

    def _wait_to_retry(self, job: Job) -> None:
        if self._stopping:  # it is for the next life
            return

        def due() -> None:
            del self._timers[job.id]
            job.happens(Event.TRY_AGAIN, self._wall_clock())
            self.events.job(job)
            self._schedule()

        delay = max(0.0, (job.next_try or 0.0) - self._wall_clock())
        self._timers[job.id] = self._clock.callLater(delay, due)

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

    # What is left of transfers

    async def _close(self, job: Job) -> None:
        transfer = self._transfers.pop(job.id, None)
        if transfer is not None:
            await transfer.close()

    async def _abandon(self, job: Job) -> Sequence[Outcome | None] | None:
        """Free what has arrived. Gives the outcomes if it turned out that all is committed."""
        job.kept = False
        try:
            transfer = self._transfer(job)
        except TransfersError:  # its peer is not configured any more
            return None
        del self._transfers[job.id]
        return transfer.outcomes() if await transfer.abandon() else None

    async def expire(self, timeout: float) -> None:
        """Free what failed jobs keep for a resubmission that did not come for so many seconds."""
        before = self._wall_clock() - timeout
        for job in self.jobs():
            is_idle = job.state is State.FAILURE and job.kept and job.id not in self._ending
            if is_idle and (job.completed or 0.0) < before:
                await self._free_kept(job)

    async def _free_kept(self, job: Job) -> None:
        self._ending[job.id] = Waiters()  # a resubmission waits
        try:
            committed = await self._abandon(job)
            if committed is None:
                job.say("What had arrived is not kept any longer", self._wall_clock())
            elif job.state is State.FAILURE:
                await self._cancelled(job, committed)
            await self._save(job)
        finally:
            self._has_ended(job)

    async def _trim(self, settled: Job | None = None) -> None:
        """Forget the oldest ended jobs beyond the history's size, but none that is being settled.

        :param settled: one that has been, though it still counts as running.
        """
        busy = {*self._running, *self._ending}
        if settled is not None:
            busy.discard(settled.id)
        ended = sorted(
            (job for job in self._jobs.values() if job.state in ENDED and job.id not in busy),
            key=lambda job: job.completed or 0.0,
        )
        surplus = ended[: max(0, len(ended) - self._limits.history_size)]
        for job in surplus:
            del self._jobs[job.id]
            self._receipts.forget(job)
            self.events.forgotten(job.id)
        for job in surplus:
            if job.kept:
                await self._abandon(job)
        if surplus:
            await self._journal.forget([job.id for job in surplus])

    def _unexpected(self, failure: Failure, job: Job) -> None:
        if failure.check(TransfersError):  # a full disk, for instance; the next life asks again
            log.error("Job {id}: its end cannot be saved: {error}", id=job.id, error=failure.value)
            return
        log.failure("Job {id} could not be settled", failure, id=job.id)


def _count(outcomes: Sequence[Outcome | None]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for outcome in outcomes:
        name = "Committed" if outcome is None else outcome.value
        counts[name] = counts.get(name, 0) + 1
    return counts
