"""The queue: who runs, and pause, resume, cancel, resubmit whenever they come."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.jobs.test_model import REQUEST
from txtransfers.errors import (
    ConfigurationError,
    CorruptedInstances,
    JobActionRefused,
    PeerNonsense,
    PeerRefused,
    PeerUnreachable,
    SourceChanged,
    StorageFailure,
    StorageFull,
    TransfersError,
    UnknownJob,
    UnknownResource,
    WrongOriginator,
)
from txtransfers.jobs.events import Events, Told
from txtransfers.jobs.journal import Kind, MemoryJournal
from txtransfers.jobs.model import Direction, Job, State
from txtransfers.jobs.runner import CHECKPOINT_S, JobLimits, JobRunner
from txtransfers.store.interfaces import Outcome
from txtransfers.threads import SynchronousThreads
from txtransfers.transfer.parts import ITransfer, Memo, is_passing
from txtransfers.transfer.progress import Progress
from txtransfers.wire.plan import Instance


@implementer(ITransfer)
class Transfer:
    """A transfer that ends when the test says so.

    :ivar may_stop: whether being cancelled stops it; else its end decides.
    :ivar told: what it gives to be remembered.
    :ivar keeping: whether it keeps what has arrived after a failure that is passing.
    :ivar committed: whether it turns out, when it is abandoned, that all is committed.
    """

    def __init__(self, memo: Memo) -> None:
        self.memo = memo
        self.found: dict[str, Any] = dict(memo.state)
        self.was_anew = memo.anew
        self.runs: list[Deferred[None]] = []
        self.abandoned = 0
        self.abandoning: Deferred[None] | None = None
        self.closed = 0
        self.may_stop = True
        self.told: Mapping[str, Any] = memo.state
        self.keeping = False
        self.committed = False
        self.results: list[Outcome | None] = []

    async def run(self, progress: Progress) -> None:
        end: Deferred[None] = Deferred()
        waiting: list[Deferred[None]] = []

        def ended(result: Any) -> None:
            waiting[-1].callback(result)

        self.runs.append(end.addBoth(ended))
        while True:
            waiting.append(Deferred())
            try:
                await waiting[-1]
            except CancelledError:
                if self.may_stop or end.called:
                    raise
            else:
                return

    async def abandon(self) -> bool:
        self.abandoned += 1
        if self.abandoning is not None:
            await self.abandoning
        return self.committed

    async def close(self) -> None:
        self.closed += 1

    def state(self) -> Mapping[str, Any]:
        return self.told

    def keeps(self, error: TransfersError) -> bool:
        return self.keeping and is_passing(error)

    def figures(self) -> dict[str, Any]:
        """See :meth:`ITransfer.figures`."""
        return {}

    def outcomes(self) -> Sequence[Outcome | None]:
        return self.results


class SlowJournal(MemoryJournal):
    """A journal whose disk may be slow, or full."""

    def __init__(self) -> None:
        super().__init__()
        self.is_slow = self.is_full = self.is_full_for_more = False
        self.saving: list[Deferred[None]] = []
        self.saves = 0

    def save(self, job: Job, durable: bool = True) -> "Deferred[None]":
        if self.is_full:
            return fail(StorageFull("No room left for the journal"))
        self.saves += 1
        saved = super().save(job, durable)
        if not self.is_slow:
            return saved
        self.saving.append(Deferred())
        return self.saving[-1]

    def attach(self, job: str, kind: Kind, data: bytes) -> "Deferred[None]":
        if self.is_full or self.is_full_for_more:
            return fail(StorageFull("No room left for the journal"))
        return super().attach(job, kind, data)

    def finish_one(self) -> None:
        """The oldest save is done."""
        self.saving.pop(0).callback(None)

    def go_on(self) -> None:
        """The disk is fast again."""
        self.is_slow = False
        while self.saving:
            self.finish_one()


class RunnerCase(SynchronousTestCase):
    """Base of the tests below: a runner, its journal, and the transfers that it has made.

    :ivar prepare: attributes of the transfers that are made from now on.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.downtime = 0.0
        self.journal = SlowJournal()
        self.transfers: list[Transfer] = []
        self.prepare: dict[str, Any] = {}
        self.runner = self.make()
        self.do(self.runner.start())

    def make(self, concurrent: int = 2, history: int = 3, **more: Any) -> JobRunner:
        return JobRunner(
            self.clock,
            SynchronousThreads(),
            self.journal,
            self.transfer,
            JobLimits(concurrent, history, **more),
            self.wall_clock,
            lambda peer: ("here", f"http://{peer}.test/"),
            Events("life", lambda job: {"State": job.state.value}),
        )

    def told(self, after: int = 0) -> list[Told]:
        """What listeners are told now of what happened."""
        found: list[Told] = []
        while (told := self.runner.events.after(found[-1].number if found else after)) is not None:
            found.append(told)
        return found

    def states(self, job: Job) -> list[State | None]:
        """The states of a job that listeners were told, without its progress."""
        return [each.state for each in self.told() if each.job == job.id and not each.is_passing]

    def wall_clock(self) -> float:
        """The daemon may have been off for some time."""
        return 1000.0 + self.clock.seconds() + self.downtime

    def transfer(self, _direction: Direction, _request: Any, memo: Memo) -> Any:
        self.transfers.append(Transfer(memo))
        for name, value in self.prepare.items():
            setattr(self.transfers[-1], name, value)
        return self.transfers[-1]

    def begin(self, coroutine: Any) -> Any:
        return Deferred.fromCoroutine(coroutine)

    def do(self, coroutine: Any) -> Any:
        return self.successResultOf(self.begin(coroutine))

    def submit(self, priority: int = 0) -> Job:
        self.clock.advance(1)
        request = attrs.evolve(REQUEST, priority=priority)
        return self.do(self.runner.submit(Direction.PUSH, request))  # type: ignore[no-any-return]

    def of(self, job: Job) -> list[Transfer]:
        """The transfers that were made for a job, in the present life and in earlier ones."""
        return [transfer for transfer in self.transfers if transfer.memo.id == job.id]

    def last(self, job: Job) -> Transfer:
        """The transfer that was made for a job last."""
        return self.of(job)[-1]

    def runs(self, job: Job) -> int:
        """How often a job ran."""
        return sum(len(transfer.runs) for transfer in self.of(job))

    def abandoned(self, job: Job) -> int:
        """How often what had arrived of a job was freed."""
        return sum(transfer.abandoned for transfer in self.of(job))

    def end(self, job: Job, error: Exception | None = None) -> None:
        """Let the run of a job end."""
        self.last(job).runs[-1].callback(Failure(error) if error else None)

    def kept(self, job: Job) -> Job:
        """The job as it is in the journal."""
        loaded = self.successResultOf(self.journal.load())
        return next(one for one in loaded if one.id == job.id)

    def assert_state(self, job: Job, state: State) -> None:
        self.assertEqual((job.state, self.kept(job).state), (state, state))

    def said(self, job: Job) -> list[str]:
        """The history that people read."""
        return [text for _when, text in job.history]

    def die(self) -> None:
        """The daemon is killed: nothing that it had planned happens."""
        for call in self.clock.getDelayedCalls():
            call.cancel()

    def live_again(self, downtime: float = 0.0, **more: Any) -> None:
        """Another life begins, with what is in the journal."""
        self.downtime += downtime
        self.runner = self.make(**more)
        self.do(self.runner.start())


class RunnerTests(RunnerCase):
    def test_the_stand_in(self) -> None:
        job = self.submit()
        verifyObject(ITransfer, self.last(job))

    def test_to_success(self) -> None:
        job = self.submit()
        self.assert_state(job, State.RUNNING)
        self.transfers[0].runs[0].callback(None)
        self.assert_state(job, State.SUCCESS)

    def running(self, jobs: list[Job]) -> list[bool]:
        return [job.state is State.RUNNING for job in jobs]

    def test_no_more_at_once_than_allowed_and_by_priority(self) -> None:
        jobs = [self.submit(priority) for priority in (9, 9, 0, 9, 5)]
        self.assertEqual(self.running(jobs), [True, True, False, False, False])
        self.transfers[0].runs[0].callback(None)
        self.assert_state(jobs[3], State.RUNNING)
        self.transfers[1].runs[0].callback(None)
        self.assert_state(jobs[4], State.RUNNING)
        self.assert_state(jobs[2], State.PENDING)

    def test_an_urgent_one_does_not_wait_for_lower_ones(self) -> None:
        jobs = [self.submit(priority) for priority in (0, 0, 0, 9, 5, 9, 9)]
        self.assertEqual(self.running(jobs), [True, True, False, True, True, True, False])

    def test_failure_says_why(self) -> None:
        job = self.submit()
        self.transfers[0].runs[0].errback(PeerUnreachable("the peer is down"))
        self.assert_state(job, State.FAILURE)
        self.assertEqual((job.error_code, job.error_details), (9, "the peer is down"))
        self.assertEqual((self.transfers[0].abandoned, job.memo), (1, {}))
        self.assertEqual(self.said(job), ["Submitted", "Running", "Failure: the peer is down"])

    def test_a_defect_is_logged_and_named(self) -> None:
        job = self.submit()
        self.transfers[0].runs[0].errback(ZeroDivisionError("oops"))
        self.assert_state(job, State.FAILURE)
        self.assertIn("oops", job.error_details)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_pause_keeps_what_has_arrived_and_resume_goes_on_with_it(self) -> None:
        job = self.submit()
        self.transfers[0].told = {"done": [[0, 7]]}
        self.do(self.runner.pause(job.id))
        self.assert_state(job, State.PAUSED)
        self.assertEqual(self.kept(job).memo, {"done": [[0, 7]]})
        self.assertEqual(self.transfers[0].closed, 1, "a paused job takes no memory")
        self.do(self.runner.pause(job.id))
        self.do(self.runner.resume(job.id))
        self.assert_state(job, State.RUNNING)
        self.assertEqual(self.last(job).found, {"done": [[0, 7]]})
        self.assertEqual((self.runs(job), self.abandoned(job)), (2, 0))
        self.assertFalse(self.last(job).was_anew)
        resuming = Deferred.fromCoroutine(self.runner.resume(job.id))
        self.failureResultOf(resuming, JobActionRefused)

    def test_a_paused_or_pending_job_takes_no_place(self) -> None:
        first, second, third = self.submit(), self.submit(), self.submit()
        self.do(self.runner.pause(first.id))
        self.assert_state(third, State.RUNNING)
        fourth = self.submit()
        self.do(self.runner.pause(fourth.id))
        self.assert_state(fourth, State.PAUSED)
        self.do(self.runner.cancel(second.id))
        self.assert_state(fourth, State.PAUSED)

    def test_cancel_in_every_state(self) -> None:
        running, paused, _other, pending = [self.submit() for _ in range(4)]
        self.do(self.runner.pause(paused.id))
        for job in (running, paused, pending):
            self.do(self.runner.cancel(job.id))
            self.assert_state(job, State.FAILURE)
            self.assertEqual((job.error_code, job.memo), (37, {}))
            self.assertEqual(self.abandoned(job), 1)
        self.do(self.runner.cancel(running.id))
        self.assert_state(running, State.FAILURE)
        self.assertEqual(self.abandoned(running), 1)

    def test_a_commit_decides_before_a_cancel(self) -> None:
        job = self.submit()
        self.transfers[0].may_stop = False
        cancelling = Deferred.fromCoroutine(self.runner.cancel(job.id))
        self.assertNoResult(cancelling)
        self.transfers[0].runs[0].callback(None)
        self.successResultOf(cancelling)
        self.assert_state(job, State.SUCCESS)

    def test_resubmit(self) -> None:
        job = self.submit()
        resubmitting = Deferred.fromCoroutine(self.runner.resubmit(job.id))
        self.failureResultOf(resubmitting, JobActionRefused)
        self.do(self.runner.cancel(job.id))
        self.do(self.runner.resubmit(job.id))
        self.assert_state(job, State.RUNNING)
        self.assertEqual(job.error_code, 0)

    def test_unknown(self) -> None:
        for action in ("pause", "resume", "cancel", "resubmit"):
            doing = Deferred.fromCoroutine(getattr(self.runner, action)("x"))
            self.failureResultOf(doing, UnknownJob)

    def test_history_is_trimmed(self) -> None:
        ended = []
        for _ in range(5):
            job = self.submit()
            self.transfers[-1].runs[0].callback(None)
            ended.append(job.id)
        self.assertEqual([job.id for job in self.runner.jobs()], ended[2:])
        self.assertEqual(len(self.successResultOf(self.journal.load())), 3)

    def test_a_transfer_that_cannot_be_made(self) -> None:
        def refuse(*_args: Any) -> Any:
            raise PeerUnreachable("no such peer any more")

        self.runner._make_transfer = refuse  # type: ignore[assignment]
        job = self.submit()
        self.assert_state(job, State.FAILURE)
        self.assertIn("any more", job.error_details)

    def test_cancel_of_a_job_whose_peer_is_gone(self) -> None:
        def refuse(*_args: Any) -> Any:
            raise ConfigurationError("no such peer any more")

        job = self.submit()
        self.do(self.runner.pause(job.id))
        self.runner._make_transfer = refuse  # type: ignore[assignment]
        self.do(self.runner.cancel(job.id))
        self.assert_state(job, State.FAILURE)
        self.assertEqual(job.error_code, 37)

    def test_cancelled_errors_do_not_leak(self) -> None:
        job = self.submit()
        self.do(self.runner.pause(job.id))
        self.assertEqual(self.flushLoggedErrors(CancelledError), [])

    def test_a_cancellation_that_nobody_wished_for(self) -> None:
        """It ends the run: the job can be dealt with."""
        job = self.submit()
        self.end(job, CancelledError())
        self.assert_state(job, State.FAILURE)
        self.assertEqual(len(self.flushLoggedErrors(CancelledError)), 1, "that is a defect")
        self.do(self.runner.resubmit(job.id))
        self.assert_state(job, State.RUNNING)

    def test_no_limit_of_jobs_at_once(self) -> None:
        self.runner = self.make(concurrent=0)
        self.assertEqual({self.submit().state for _ in range(20)}, {State.RUNNING})

    def test_no_history(self) -> None:
        self.runner = self.make(history=0)
        job = self.submit()
        self.transfers[0].runs[0].callback(None)
        self.assertEqual((job.state, self.runner.jobs()), (State.SUCCESS, ()))
        self.assertEqual(self.successResultOf(self.journal.load()), ())

    def test_jobs_that_have_not_ended_are_no_history(self) -> None:
        self.runner = self.make(concurrent=1, history=0)
        jobs = [self.submit() for _ in range(4)]
        self.do(self.runner.pause(jobs[1].id))
        self.transfers[0].runs[0].callback(None)
        self.assertEqual(self.runner.jobs(), tuple(jobs[1:]))

    def test_pause_of_an_ended_job_changes_nothing(self) -> None:
        succeeded, failed = self.submit(), self.submit()
        self.transfers[0].runs[0].callback(None)
        self.transfers[1].runs[0].errback(PeerUnreachable("down"))
        for job, state in ((succeeded, State.SUCCESS), (failed, State.FAILURE)):
            for action in (self.runner.pause, self.runner.cancel):
                self.do(action(job.id))
                self.assert_state(job, state)
        self.assertEqual(failed.error_details, "down")
        self.assertEqual(self.transfers[1].abandoned, 1)

    def test_actions_that_are_refused_change_nothing(self) -> None:
        failed, succeeded, paused = self.submit(), self.submit(), self.submit()
        self.do(self.runner.cancel(failed.id))
        self.transfers[1].runs[0].callback(None)
        self.do(self.runner.pause(paused.id))
        running, _other, pending = self.submit(), self.submit(), self.submit()
        for action, jobs in (
            (self.runner.resume, (running, pending, succeeded, failed)),
            (self.runner.resubmit, (running, pending, paused, succeeded)),
        ):
            for job in jobs:
                before = job.state
                error = self.failureResultOf(self.begin(action(job.id)), JobActionRefused).value
                self.assertIn(before.value, str(error))
                self.assert_state(job, before)

    def test_a_commit_decides_before_a_pause(self) -> None:
        for end, state in (
            (None, State.SUCCESS),
            (StorageFull("no room"), State.FAILURE),
            (PeerUnreachable("down"), State.PAUSED),
        ):
            job = self.submit()
            transfer = self.transfers[-1]
            transfer.may_stop = False
            pausing = self.begin(self.runner.pause(job.id))
            self.assertNoResult(pausing)
            self.assert_state(job, State.RUNNING)
            transfer.runs[0].callback(Failure(end) if end else None)
            self.successResultOf(pausing)
            self.assert_state(job, state)

    def test_a_stop_waits_for_a_commit(self) -> None:
        job = self.submit()
        self.transfers[0].may_stop = False
        stopping = self.begin(self.runner.stop())
        self.assertNoResult(stopping)
        self.transfers[0].runs[0].callback(None)
        self.successResultOf(stopping)
        self.assert_state(job, State.SUCCESS)

    def test_a_stop_leaves_paused_jobs_paused(self) -> None:
        job = self.submit()
        self.do(self.runner.pause(job.id))
        self.do(self.runner.stop())
        self.assert_state(job, State.PAUSED)

    def test_the_journal_has_a_job_before_it_is_told(self) -> None:
        self.journal.is_slow = True
        submitting = self.begin(self.runner.submit(Direction.PUSH, REQUEST))
        self.assertNoResult(submitting)
        self.assertEqual((self.runner.jobs(), self.transfers), ((), []))
        self.journal.go_on()
        self.assert_state(self.successResultOf(submitting), State.RUNNING)

    def test_a_job_that_cannot_be_kept_is_not_taken(self) -> None:
        self.journal.is_full = True
        self.failureResultOf(self.begin(self.runner.submit(Direction.PUSH, REQUEST)), StorageFull)
        self.assertEqual((self.runner.jobs(), self.transfers), ((), []))

    def test_a_disk_that_fills_while_jobs_run(self) -> None:
        """They end as far as memory goes, the next one gets its turn, nobody waits for ever."""
        self.runner = self.make(concurrent=1)
        first, second = self.submit(), self.submit()
        self.journal.is_full = True
        self.transfers[0].runs[0].callback(None)
        self.assertEqual(first.state, State.SUCCESS)
        self.assertEqual(second.state, State.FAILURE)
        self.assertEqual(second.error_details, "No room left for the journal")
        self.assertEqual(self.runs(second), 0)
        self.do(self.runner.stop())

    def test_cancelled_or_paused_before_its_start_is_in_the_journal(self) -> None:
        for action, state in (("cancel", State.FAILURE), ("pause", State.PAUSED)):
            job = self.submit()
            self.do(self.runner.pause(job.id))
            self.journal.is_slow = True
            self.begin(self.runner.resume(job.id))
            self.journal.finish_one()
            self.assertIs(job.state, State.RUNNING)
            acting = self.begin(getattr(self.runner, action)(job.id))
            self.journal.go_on()
            self.successResultOf(acting)
            self.assert_state(job, state)
            self.assertEqual(self.runs(job), 1)

    def test_of_several_wishes_the_strongest_counts(self) -> None:
        for wishes in (("cancel", "pause"), ("pause", "cancel")):
            job = self.submit()
            transfer = self.transfers[-1]
            transfer.may_stop = False
            acting = [self.begin(getattr(self.runner, wish)(job.id)) for wish in wishes]
            transfer.runs[0].errback(CancelledError())
            for done in acting:
                self.successResultOf(done)
            self.assert_state(job, State.FAILURE)
            self.assertEqual(job.error_code, 37)

    def test_a_transfer_is_cancelled_once(self) -> None:
        """It has begun to tidy up then: that is not disturbed."""
        job = self.submit()
        cancelled = []
        tidying: Deferred[None] = Deferred(lambda _deferred: cancelled.append("tidying"))

        async def run(_progress: Progress) -> None:
            try:
                await Deferred()
            finally:
                await tidying

        self.do(self.runner.pause(job.id))
        self.prepare = {"run": run}
        self.do(self.runner.resume(job.id))
        acting = [self.begin(self.runner.pause(job.id)) for _ in range(2)]
        self.assertEqual(cancelled, [])
        tidying.callback(None)
        for done in acting:
            self.successResultOf(done)
        self.assert_state(job, State.PAUSED)

    def test_actions_while_the_transfer_is_being_abandoned(self) -> None:
        """The peer is told, which takes a while; the job is running until then."""
        for action in ("cancel", "pause"):
            job = self.submit()
            transfer = self.transfers[-1]
            transfer.abandoning = Deferred()
            first = self.begin(self.runner.cancel(job.id))
            second = self.begin(getattr(self.runner, action)(job.id))
            self.assertNoResult(first)
            self.assertNoResult(second)
            transfer.abandoning.callback(None)
            self.successResultOf(first)
            self.successResultOf(second)
            self.assert_state(job, State.FAILURE)
            self.assertEqual((job.error_code, transfer.abandoned), (37, 1))

    def test_a_stop_while_an_end_is_being_written_down(self) -> None:
        job = self.submit()
        self.journal.is_slow = True
        self.transfers[0].runs[0].callback(None)
        stopping = self.begin(self.runner.stop())
        self.assertNoResult(stopping)
        self.journal.go_on()
        self.successResultOf(stopping)
        self.assert_state(job, State.SUCCESS)

    def test_resubmitted_while_its_failure_is_being_written_down(self) -> None:
        """Another job's end gives room at that moment: the new run waits for the end of the old."""
        other, job = self.submit(), self.submit()
        self.journal.is_slow = True
        self.transfers[0].runs[0].callback(None)
        self.transfers[1].runs[0].errback(PeerUnreachable("down"))
        resubmitting = self.begin(self.runner.resubmit(job.id))
        self.journal.finish_one()
        self.assertIs(job.state, State.PENDING)
        self.journal.go_on()
        self.successResultOf(resubmitting)
        self.assert_state(job, State.RUNNING)
        self.transfers[2].runs[0].callback(None)
        self.assert_state(job, State.SUCCESS)
        self.assert_state(other, State.SUCCESS)
        self.do(self.runner.stop())

    def test_resumed_while_its_pause_is_being_written_down(self) -> None:
        _other, job = self.submit(), self.submit()
        self.journal.is_slow = True
        self.transfers[0].runs[0].callback(None)
        acting = [self.begin(self.runner.pause(job.id)), self.begin(self.runner.resume(job.id))]
        self.journal.finish_one()
        self.assertIs(job.state, State.PENDING)
        self.journal.go_on()
        for done in acting:
            self.successResultOf(done)
        self.assert_state(job, State.RUNNING)
        self.assertEqual(self.runs(job), 2)
        self.end(job)
        self.assert_state(job, State.SUCCESS)

    def test_a_job_that_is_being_cancelled_is_not_started(self) -> None:
        """It waits, with a transfer that was paused; a slot becomes free while it is abandoned."""
        self.runner = self.make(concurrent=1)
        cancelled, other = self.submit(), self.submit()
        self.do(self.runner.pause(cancelled.id))
        self.do(self.runner.resume(cancelled.id))
        self.assert_state(cancelled, State.PENDING)
        abandoning: Deferred[None] = Deferred()
        self.prepare = {"abandoning": abandoning}
        cancelling = self.begin(self.runner.cancel(cancelled.id))
        self.end(other)
        self.assertNoResult(cancelling)
        abandoning.callback(None)
        self.successResultOf(cancelling)
        self.assert_state(other, State.SUCCESS)
        self.assert_state(cancelled, State.FAILURE)
        self.assertEqual((self.runs(cancelled), self.abandoned(cancelled)), (1, 1))
        self.do(self.runner.resubmit(cancelled.id))
        self.assert_state(cancelled, State.RUNNING)

    def test_actions_while_it_is_being_cancelled(self) -> None:
        """It does not run; what would go on with it is refused."""
        job = self.submit()
        self.do(self.runner.pause(job.id))
        abandoning: Deferred[None] = Deferred()
        self.prepare = {"abandoning": abandoning}
        cancelling = [self.begin(self.runner.cancel(job.id)) for _ in range(2)]
        for action in (self.runner.resume, self.runner.resubmit):
            self.failureResultOf(self.begin(action(job.id)), JobActionRefused)
        pausing = self.begin(self.runner.pause(job.id))
        for acting in cancelling:
            self.assertNoResult(acting)
        abandoning.callback(None)
        for acting in (*cancelling, pausing):
            self.successResultOf(acting)
        self.assert_state(job, State.FAILURE)
        self.assertEqual((job.error_code, self.runs(job), self.abandoned(job)), (37, 1, 1))

    def test_the_time_spent_counts(self) -> None:
        job = self.submit()
        self.clock.advance(5)
        self.do(self.runner.pause(job.id))
        self.clock.advance(100)
        self.do(self.runner.resume(job.id))
        self.clock.advance(2)
        self.end(job)
        self.assertEqual((job.runtime, job.progress.seconds), (7, 7))


DOWN = PeerUnreachable("down")


class LivesTests(RunnerCase):
    """What becomes of jobs when the daemon ends, and begins again."""

    def one_in_each_state(self) -> dict[State, Job]:
        self.runner = self.make(concurrent=1, history=9, retry_delays=[100.0])
        jobs = {}
        jobs[State.SUCCESS] = self.submit()
        self.end(jobs[State.SUCCESS])
        jobs[State.FAILURE] = self.submit()
        self.end(jobs[State.FAILURE], StorageFull("full"))
        jobs[State.PAUSED] = self.submit()
        self.do(self.runner.pause(jobs[State.PAUSED].id))
        jobs[State.RETRY] = self.submit()
        self.end(jobs[State.RETRY], DOWN)
        jobs[State.RUNNING] = self.submit()
        jobs[State.PENDING] = self.submit()
        for state, job in jobs.items():
            self.assert_state(job, state)
        return jobs

    def test_killed_in_every_state(self) -> None:
        before = self.one_in_each_state()
        made = len(self.transfers)
        self.die()
        self.live_again(downtime=10, concurrent=0, history=9, retry_delays=[100.0])
        after = {state: self.runner.job(job.id) for state, job in before.items()}
        self.assertEqual(
            {state: job.state for state, job in after.items()},
            {
                **{state: state for state in State},
                State.PENDING: State.RUNNING,
            },
        )
        started = [transfer.memo.id for transfer in self.transfers[made:]]
        self.assertEqual(started, [after[State.RUNNING].id, after[State.PENDING].id])
        for job in after.values():
            self.assert_state(job, job.state)
        self.assertEqual(after[State.FAILURE].error_details, "full")
        self.assertEqual(after[State.RETRY].error_details, "down")
        self.assertEqual([job.id for job in self.runner.jobs()], [j.id for j in before.values()])
        self.assertGreater(self.submit().sequence, after[State.PENDING].sequence)

    def test_killed_while_it_is_being_cancelled(self) -> None:
        """It does not go on afterwards: somebody was about to be told that it has ended."""
        job = self.submit()
        self.last(job).may_stop = False
        self.assertNoResult(self.begin(self.runner.cancel(job.id)))
        self.die()
        self.live_again()
        again = self.runner.job(job.id)
        self.assert_state(again, State.FAILURE)
        self.assertEqual(again.error_code, 37)
        self.assertEqual(self.last(again).abandoned, 1)
        self.die()
        self.live_again()
        self.assert_state(self.runner.job(job.id), State.FAILURE)

    def test_killed_while_it_ran(self) -> None:
        job = self.submit()
        self.last(job).told = {"done": [[0, 7]]}
        self.clock.advance(1)
        self.last(job).told = {"done": [[0, 8]]}
        self.die()
        self.live_again()
        again = self.runner.job(job.id)
        self.assert_state(again, State.RUNNING)
        self.assertEqual(self.last(job).found, {"done": [[0, 7]]}, "but for the last second")
        self.assertFalse(self.last(job).was_anew)
        self.assertEqual(
            self.said(again),
            ["Submitted", "Running", "The daemon was restarted", "Pending", "Running"],
        )
        self.end(again)
        self.assert_state(again, State.SUCCESS)

    def test_stopped_while_it_ran(self) -> None:
        job = self.submit()
        waiting = [self.submit(), self.submit()][1]
        transfer = self.last(job)
        transfer.told = {"done": [[0, 8]]}
        self.do(self.runner.stop())
        self.assert_state(job, State.RUNNING)
        self.assert_state(waiting, State.PENDING)
        self.assertEqual((transfer.closed, transfer.abandoned), (1, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.live_again(downtime=10)
        self.assertEqual(self.last(job).found, {"done": [[0, 8]]})
        self.assertIn("The daemon was restarted", self.said(self.runner.job(job.id)))
        self.assertNotIn("The daemon was restarted", self.said(self.runner.job(waiting.id)))

    def test_those_that_ran_queue_as_all_do(self) -> None:
        jobs = [self.submit(0), self.submit(0), self.submit(9)]
        self.die()
        self.live_again(concurrent=1)
        for job, state in zip(jobs, (State.PENDING, State.PENDING, State.RUNNING), strict=True):
            self.assert_state(self.runner.job(job.id), state)
        self.end(jobs[2])
        self.assertIs(self.runner.job(jobs[0].id).state, State.RUNNING)

    def test_many_lives(self) -> None:
        job = self.submit()
        for n in range(5):
            self.last(job).told = {"n": n}
            self.do(self.runner.stop())
            self.live_again(downtime=100)
            self.assertEqual(self.last(job).found, {"n": n})
        job = self.runner.job(job.id)
        self.assertEqual(self.said(job).count("The daemon was restarted"), 5)
        self.end(job)
        self.assert_state(job, State.SUCCESS)
        self.assertEqual(self.abandoned(job), 0)

    def test_the_time_when_the_daemon_is_off_does_not_count(self) -> None:
        job = self.submit()
        self.clock.advance(5)
        self.do(self.runner.stop())
        self.live_again(downtime=1000)
        self.clock.advance(2)
        job = self.runner.job(job.id)
        self.end(job)
        self.assertEqual(job.runtime, 7)

    def test_the_time_after_a_kill_does_not_count(self) -> None:
        """But for the last second."""
        job = self.submit()
        self.clock.pump([1.0] * 5)
        self.die()
        self.live_again(downtime=1000)
        job = self.runner.job(job.id)
        self.end(job)
        self.assertLessEqual(abs(job.runtime - 5), CHECKPOINT_S)

    def test_nothing_begins_while_it_stops(self) -> None:
        job, other, waiting = self.submit(), self.submit(), self.submit()
        self.last(job).may_stop = False
        stopping = self.begin(self.runner.stop())
        self.assertNoResult(stopping)
        later = self.submit()
        self.end(job)
        self.successResultOf(stopping)
        self.assert_state(job, State.SUCCESS)
        self.assert_state(other, State.RUNNING)
        for one in (waiting, later):
            self.assert_state(one, State.PENDING)
            self.assertEqual(self.of(one), [])

    def test_stopped_before_its_start_is_in_the_journal(self) -> None:
        job = self.submit()
        self.do(self.runner.pause(job.id))
        self.journal.is_slow = True
        self.begin(self.runner.resume(job.id))
        self.journal.finish_one()
        stopping = self.begin(self.runner.stop())
        self.journal.go_on()
        self.successResultOf(stopping)
        self.assert_state(job, State.RUNNING)
        self.assertEqual(self.runs(job), 1)
        self.live_again()
        self.assertEqual(self.runs(job), 2)

    def test_where_jobs_do_not_survive_nothing_is_left_behind(self) -> None:
        self.runner = self.make(concurrent=1, history=9, retry_delays=[100.0], survive=False)
        kept = self.submit()
        self.last(kept).keeping = True
        self.runner._limits = attrs.evolve(self.runner._limits, retry_delays=())
        self.end(kept, DOWN)
        self.runner._limits = attrs.evolve(self.runner._limits, retry_delays=(100.0,))
        paused, retrying = self.submit(), None
        self.do(self.runner.pause(paused.id))
        retrying = self.submit()
        self.end(retrying, DOWN)
        running = self.submit()
        self.assertEqual([self.abandoned(j) for j in (kept, paused, retrying, running)], [0] * 4)
        self.do(self.runner.stop())
        self.assertEqual([self.abandoned(j) for j in (kept, paused, retrying, running)], [1] * 4)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RetryTests(RunnerCase):
    """Jobs that are tried again by themselves."""

    def setUp(self) -> None:
        super().setUp()
        self.runner = self.make(concurrent=1, retry_delays=[10.0, 60.0])

    def failed(self, error: Exception = DOWN) -> Job:
        """A job whose first run has failed."""
        job = self.submit()
        self.end(job, error)
        return job

    def test_after_each_delay(self) -> None:
        job = self.submit()
        self.last(job).told = {"done": [[0, 3]]}
        for tries, delay in ((1, 10), (2, 60)):
            transfer = self.last(job)
            self.end(job, PeerUnreachable(f"down for the {tries}. time"))
            self.assert_state(job, State.RETRY)
            self.assertEqual((transfer.closed, transfer.abandoned), (1, 0))
            self.assertEqual((job.next_try, job.tries), (self.wall_clock() + delay, tries))
            self.assertEqual((job.error_code, job.completed), (9, None))
            self.assertEqual(job.error_details, f"down for the {tries}. time")
            self.assertEqual(self.kept(job).next_try, job.next_try)
            self.clock.advance(delay - 1)
            self.assert_state(job, State.RETRY)
            self.clock.advance(1)
            self.assert_state(job, State.RUNNING)
            self.assertEqual((job.next_try, job.error_code), (None, 0))
            self.assertEqual(self.last(job).found, {"done": [[0, 3]]})
            self.assertFalse(self.last(job).was_anew)
        self.end(job, DOWN)
        self.assert_state(job, State.FAILURE)
        self.assertEqual((job.error_details, job.next_try, self.runs(job)), ("down", None, 3))
        self.assertEqual(
            self.said(job),
            [
                "Submitted",
                "Running",
                "Retry: down for the 1. time",
                "Pending",
                "Running",
                "Retry: down for the 2. time",
                "Pending",
                "Running",
                "Failure: down",
            ],
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_is_worth_it(self) -> None:
        self.runner = self.make(concurrent=1, history=99, retry_delays=[1000.0])
        for error, state in (
            (PeerUnreachable("x"), State.RETRY),
            (PeerRefused("x", 503), State.RETRY),
            (PeerRefused("x", 429), State.RETRY),
            (CorruptedInstances("x", ()), State.RETRY),
            (PeerRefused("x", 401), State.FAILURE),
            (PeerRefused("x", 404), State.FAILURE),
            (PeerRefused("x", 507), State.FAILURE),
            (SourceChanged("x"), State.FAILURE),
            (UnknownResource("x"), State.FAILURE),
            (StorageFull("x"), State.FAILURE),
            (WrongOriginator("x"), State.FAILURE),
        ):
            self.assert_state(self.failed(error), state)

    def test_a_defect_is_not_tried_again(self) -> None:
        self.assert_state(self.failed(ZeroDivisionError("oops")), State.FAILURE)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_none_are_configured(self) -> None:
        self.runner = self.make()
        self.assert_state(self.failed(), State.FAILURE)

    def test_a_waiting_job_takes_no_place_and_has_its_turn_later(self) -> None:
        job = self.failed()
        other = self.submit()
        self.assert_state(other, State.RUNNING)
        self.clock.advance(10)
        self.assertIs(job.state, State.PENDING)
        self.end(other)
        self.assert_state(job, State.RUNNING)

    def test_the_end_is_well(self) -> None:
        job = self.failed()
        self.clock.advance(10)
        self.end(job)
        self.assert_state(job, State.SUCCESS)
        self.assertEqual((job.error_code, job.error_details), (0, ""))

    def test_paused(self) -> None:
        job = self.failed()
        self.do(self.runner.pause(job.id))
        self.assert_state(job, State.PAUSED)
        self.assertEqual((job.next_try, self.clock.getDelayedCalls()), (None, []))
        self.clock.advance(100)
        self.assert_state(job, State.PAUSED)
        self.do(self.runner.resume(job.id))
        self.assert_state(job, State.RUNNING)
        self.assertEqual(self.abandoned(job), 0)
        self.end(job, DOWN)
        self.assertEqual(job.next_try, self.wall_clock() + 60)

    def test_cancelled(self) -> None:
        job = self.failed()
        self.do(self.runner.cancel(job.id))
        self.assert_state(job, State.FAILURE)
        self.assertEqual((job.error_code, job.next_try, self.abandoned(job)), (37, None, 1))

    def test_cancelled_is_not_tried_again(self) -> None:
        job = self.failed()
        self.do(self.runner.cancel(job.id))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(100)
        self.assert_state(job, State.FAILURE)

    def test_due_while_it_is_being_cancelled(self) -> None:
        job = self.failed()
        abandoning: Deferred[None] = Deferred()
        self.prepare = {"abandoning": abandoning}
        cancelling = self.begin(self.runner.cancel(job.id))
        self.clock.advance(10)
        abandoning.callback(None)
        self.successResultOf(cancelling)
        self.assert_state(job, State.FAILURE)
        self.assertEqual((job.error_code, self.runs(job)), (37, 1))

    def test_cancelled_during_a_commit_that_fails_then(self) -> None:
        job = self.submit()
        self.last(job).may_stop = False
        cancelling = self.begin(self.runner.cancel(job.id))
        self.end(job, DOWN)
        self.successResultOf(cancelling)
        self.assert_state(job, State.FAILURE)
        self.assertEqual((job.error_code, job.next_try), (37, None))

    def test_paused_during_a_commit_that_fails_then(self) -> None:
        self.check_paused(keeping=True)

    def test_paused_during_a_commit_that_fails_and_keeps_nothing(self) -> None:
        self.check_paused(keeping=False)

    def check_paused(self, keeping: bool) -> None:
        job = self.submit()
        self.last(job).may_stop = False
        self.last(job).keeping = keeping
        pausing = self.begin(self.runner.pause(job.id))
        self.end(job, DOWN)
        self.successResultOf(pausing)
        self.assert_state(job, State.PAUSED)
        self.assertEqual((job.next_try, self.abandoned(job)), (None, 0))
        self.clock.advance(100)
        self.assert_state(job, State.PAUSED)

    def test_a_commit_that_fails_while_the_daemon_stops(self) -> None:
        """It is tried again in the next life."""
        job = self.submit()
        self.last(job).may_stop = False
        stopping = self.begin(self.runner.stop())
        self.end(job, DOWN)
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.live_again(downtime=1000, concurrent=1, retry_delays=[10.0, 60.0])
        self.clock.advance(0)
        self.assert_state(self.runner.job(job.id), State.RUNNING)

    def test_what_is_refused(self) -> None:
        job = self.failed()
        for action in ("resume", "resubmit"):
            error = self.failureResultOf(
                self.begin(getattr(self.runner, action)(job.id)), JobActionRefused
            )
            self.assertIn("Retry", str(error.value))
        self.assert_state(job, State.RETRY)
        self.clock.advance(10)
        self.assert_state(job, State.RUNNING)

    def test_a_resubmitted_job_has_all_its_tries_again(self) -> None:
        job = self.failed()
        self.do(self.runner.pause(job.id))
        self.do(self.runner.cancel(job.id))
        self.do(self.runner.resubmit(job.id))
        self.assertEqual(job.tries, 0)
        self.end(job, DOWN)
        self.assertEqual((job.tries, job.next_try), (1, self.wall_clock() + 10))

    def test_a_restart_before_it_is_due(self) -> None:
        for how in ("stopped", "killed"):
            job = self.failed()
            if how == "stopped":
                self.do(self.runner.stop())
            self.die()
            self.assert_state(job, State.RETRY)
            self.live_again(downtime=4, concurrent=1, retry_delays=[10.0, 60.0])
            job = self.runner.job(job.id)
            self.assertIs(job.state, State.RETRY)
            self.clock.advance(5)
            self.assert_state(job, State.RETRY)
            self.clock.advance(1)
            self.assert_state(job, State.RUNNING)
            self.assertNotIn("The daemon was restarted", self.said(job))
            self.end(job, DOWN)
            self.assertEqual((job.tries, job.next_try), (2, self.wall_clock() + 60))
            self.do(self.runner.cancel(job.id))
            self.die()

    def test_a_restart_after_it_was_due(self) -> None:
        job = self.failed()
        self.do(self.runner.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.live_again(downtime=1000, concurrent=1, retry_delays=[10.0, 60.0])
        self.clock.advance(0)
        self.assert_state(self.runner.job(job.id), State.RUNNING)

    def test_a_restart_when_no_tries_are_configured_any_more(self) -> None:
        job = self.failed()
        self.do(self.runner.stop())
        self.live_again()
        self.clock.advance(10)
        job = self.runner.job(job.id)
        self.assert_state(job, State.RUNNING)
        self.end(job, DOWN)
        self.assert_state(job, State.FAILURE)


class CheckpointTests(RunnerCase):
    """What a running job has done is in the journal every second."""

    def test_every_second(self) -> None:
        job = self.submit()
        for n in range(1, 4):
            self.last(job).told = {"n": n}
            job.progress.buckets_done = n
            self.clock.advance(CHECKPOINT_S - 0.1)
            self.assertNotEqual(self.kept(job).memo, {"n": n})
            self.clock.advance(0.1)
            self.assertEqual(self.kept(job).memo, {"n": n})
            self.assertEqual(self.kept(job).progress.buckets_done, n)
        self.assert_state(job, State.RUNNING)

    def test_not_when_it_does_not_run(self) -> None:
        job = self.submit()
        self.clock.advance(3)
        for action in (self.runner.pause, self.runner.resume, self.runner.cancel):
            self.do(action(job.id))
            running = job.state is State.RUNNING
            self.assertEqual(len(self.clock.getDelayedCalls()), int(running))
        saves = self.journal.saves
        self.clock.advance(100)
        self.assertEqual(self.journal.saves, saves)

    def test_each_of_several(self) -> None:
        jobs = [self.submit(), self.submit()]
        for n, job in enumerate(jobs):
            self.last(job).told = {"n": n}
        self.clock.advance(CHECKPOINT_S)
        self.assertEqual([self.kept(job).memo for job in jobs], [{"n": 0}, {"n": 1}])

    def test_a_journal_that_fails_does_not_end_the_run(self) -> None:
        job = self.submit()
        self.journal.is_full = True
        self.last(job).told = {"n": 1}
        for _ in range(3):
            self.clock.advance(CHECKPOINT_S)
        self.assertEqual((job.state, self.kept(job).memo), (State.RUNNING, {}))
        self.assertEqual(self.flushLoggedErrors(), [], "a warning is enough")
        self.journal.is_full = False
        self.clock.advance(CHECKPOINT_S)
        self.assertEqual(self.kept(job).memo, {"n": 1})
        self.end(job)
        self.assert_state(job, State.SUCCESS)

    def test_a_journal_that_is_slow(self) -> None:
        job = self.submit()
        self.journal.is_slow = True
        for _ in range(3):
            self.clock.advance(CHECKPOINT_S)
        self.assertIs(job.state, State.RUNNING)
        self.end(job)
        self.journal.go_on()
        self.assert_state(job, State.SUCCESS)

    def test_a_job_that_has_ended_has_nothing_to_remember(self) -> None:
        for error in (None, StorageFull("full")):
            job = self.submit()
            self.last(job).told = {"n": 1}
            self.clock.advance(CHECKPOINT_S)
            self.end(job, error)
            self.assertEqual(self.kept(job).memo, {})


class CommittedTests(RunnerCase):
    """Cancellations, and failures, that find that all is committed already."""

    RESULTS = (Outcome.STORED, Outcome.ALREADY_STORED, Outcome.STORED, None)

    def assert_succeeded(self, job: Job) -> None:
        self.assert_state(job, State.SUCCESS)
        self.assertEqual((job.error_code, job.error_details, job.memo), (0, "", {}))
        wanted = {"Stored": 2, "AlreadyStored": 1, "Committed": 1}
        self.assertEqual((job.outcomes, self.kept(job).outcomes), (wanted, wanted))
        receipt = json.loads(self.do(self.runner.receipt(job.id)))
        self.assertEqual((receipt["State"], receipt["Outcomes"]), ("Success", wanted))

    def test_cancelled_in_every_state(self) -> None:
        self.runner = self.make(concurrent=1, history=9, retry_delays=[100.0])
        self.prepare = {"committed": True, "results": self.RESULTS}
        paused, retrying = self.submit(), None
        self.do(self.runner.pause(paused.id))
        retrying = self.submit()
        self.end(retrying, DOWN)
        running, pending = self.submit(), self.submit()
        for job, state in (
            (pending, State.PENDING),
            (running, State.RUNNING),
            (paused, State.PAUSED),
            (retrying, State.RETRY),
        ):
            self.assert_state(job, state)
            self.do(self.runner.cancel(job.id))
            self.assert_succeeded(job)
            self.assertEqual(self.abandoned(job), 1)

    def test_failed(self) -> None:
        self.prepare = {"committed": True, "results": self.RESULTS}
        job = self.submit()
        self.end(job, PeerRefused("that was too much", 400))
        self.assert_succeeded(job)

    def test_an_answer_that_comes_in_time(self) -> None:
        job = self.submit()
        self.last(job).results = list(self.RESULTS)
        self.end(job)
        self.assert_succeeded(job)
        self.assertEqual((self.last(job).closed, self.abandoned(job)), (1, 0))


class KeptTests(RunnerCase):
    """What has arrived before a failure that is passing waits for a resubmission."""

    TIMEOUT = 600.0

    def setUp(self) -> None:
        super().setUp()
        self.prepare = {"keeping": True}

    def failed(self, error: Exception = DOWN) -> Job:
        job = self.submit()
        self.last(job).told = {"n": 1}
        self.end(job, error)
        return job

    def test_kept(self) -> None:
        job = self.failed()
        self.assert_state(job, State.FAILURE)
        self.assertEqual((self.last(job).closed, self.abandoned(job)), (1, 0))
        self.assertTrue(self.kept(job).kept)
        self.assertEqual(self.kept(job).memo, {"n": 1})

    def test_not_kept(self) -> None:
        for error in (PeerRefused("x", 404), StorageFull("full"), SourceChanged("x")):
            job = self.failed(error)
            self.assertEqual((self.kept(job).kept, self.kept(job).memo), (False, {}))
            self.assertEqual(self.abandoned(job), 1)

    def test_a_defect_keeps_nothing(self) -> None:
        job = self.failed(ZeroDivisionError("oops"))
        self.assertEqual((job.kept, self.abandoned(job)), (False, 1))
        self.flushLoggedErrors(ZeroDivisionError)

    def test_resubmitted(self) -> None:
        job = self.failed()
        self.do(self.runner.resubmit(job.id))
        self.assert_state(job, State.RUNNING)
        again = self.last(job)
        self.assertEqual((again.found, again.was_anew, job.kept), ({"n": 1}, True, False))
        self.do(self.runner.expire(0))
        self.assertEqual(self.abandoned(job), 0)

    def test_anew_until_the_transfer_has_seen_to_it(self) -> None:
        job = self.failed()
        self.do(self.runner.resubmit(job.id))
        self.do(self.runner.stop())
        self.live_again()
        self.assertTrue(self.last(job).was_anew)
        self.last(job).memo.anew = False
        self.clock.advance(CHECKPOINT_S)
        self.die()
        self.live_again()
        self.assertFalse(self.last(job).was_anew)

    def test_every_resubmission_is_anew(self) -> None:
        job = self.submit()
        self.assertFalse(self.last(job).was_anew)
        self.do(self.runner.cancel(job.id))
        self.do(self.runner.resubmit(job.id))
        self.assertTrue(self.last(job).was_anew)
        self.assertEqual(self.last(job).found, {})

    def test_expires(self) -> None:
        job = self.failed()
        self.clock.advance(self.TIMEOUT)
        self.do(self.runner.expire(self.TIMEOUT))
        self.assertEqual((job.kept, self.abandoned(job)), (True, 0))
        self.clock.advance(1)
        for _ in range(3):
            self.do(self.runner.expire(self.TIMEOUT))
        self.assertEqual((self.kept(job).kept, self.abandoned(job)), (False, 1))
        self.assertEqual(self.said(self.kept(job))[-1], "What had arrived is not kept any longer")
        self.assert_state(job, State.FAILURE)
        self.assertEqual(job.error_details, "down")

    def test_expires_in_another_life(self) -> None:
        job = self.failed()
        self.do(self.runner.stop())
        self.live_again(downtime=self.TIMEOUT + 1)
        self.do(self.runner.expire(self.TIMEOUT))
        self.assertEqual((self.kept(job).kept, self.abandoned(job)), (False, 1))
        self.assertEqual(self.last(job).found, {"n": 1})

    def test_only_what_is_kept_expires(self) -> None:
        jobs = [self.failed(StorageFull("full")), self.submit(), self.submit()]
        self.do(self.runner.pause(jobs[1].id))
        before = [self.said(job) for job in jobs]
        self.clock.advance(self.TIMEOUT + 1)
        self.do(self.runner.expire(self.TIMEOUT))
        self.assertEqual([self.said(job) for job in jobs], before)
        self.assertEqual([self.abandoned(job) for job in jobs], [1, 0, 0])

    def test_expires_once_where_its_peer_is_gone(self) -> None:
        job = self.failed()

        def refuse(*_args: Any) -> Any:
            raise ConfigurationError("no such peer any more")

        self.runner._make_transfer = refuse  # type: ignore[assignment]
        self.clock.advance(self.TIMEOUT + 1)
        for _ in range(3):
            self.do(self.runner.expire(self.TIMEOUT))
        self.assertEqual(self.said(job).count("What had arrived is not kept any longer"), 1)
        self.assertFalse(self.kept(job).kept)

    def test_expires_though_all_was_committed(self) -> None:
        """Then the job did not fail."""
        self.prepare |= {"committed": True, "results": [Outcome.STORED]}
        job = self.failed()
        self.clock.advance(self.TIMEOUT + 1)
        self.do(self.runner.expire(self.TIMEOUT))
        self.assert_state(job, State.SUCCESS)
        self.assertEqual((self.kept(job).kept, job.error_code), (False, 0))
        self.assertNotIn("What had arrived is not kept any longer", self.said(job))
        receipt = json.loads(self.do(self.runner.receipt(job.id)))
        self.assertEqual((receipt["State"], receipt["Outcomes"]), ("Success", {"Stored": 1}))

    def test_resubmitted_while_it_expires(self) -> None:
        """The new run waits until the old is gone."""
        job = self.failed()
        abandoning: Deferred[None] = Deferred()
        self.prepare = {"abandoning": abandoning}
        self.clock.advance(self.TIMEOUT + 1)
        expiring = self.begin(self.runner.expire(self.TIMEOUT))
        self.do(self.runner.resubmit(job.id))
        self.assertEqual((job.state, self.runs(job)), (State.PENDING, 1))
        abandoning.callback(None)
        self.successResultOf(expiring)
        self.assert_state(job, State.RUNNING)
        self.assertEqual((self.runs(job), self.kept(job).kept), (2, False))

    def test_cancelled(self) -> None:
        """Who cancels has no use for what is kept; the job stays the failure that it is."""
        job = self.failed()
        completed = job.completed
        self.clock.advance(5)
        for _ in range(2):
            self.do(self.runner.cancel(job.id))
            self.assert_state(job, State.FAILURE)
            self.assertEqual((job.error_details, job.completed), ("down", completed))
            self.assertEqual((self.kept(job).kept, self.abandoned(job)), (False, 1))
        self.assertEqual(self.said(job).count("What had arrived is not kept any longer"), 1)
        self.do(self.runner.resubmit(job.id))
        self.assert_state(job, State.RUNNING)

    def test_cancelled_though_all_was_committed(self) -> None:
        self.prepare |= {"committed": True, "results": [Outcome.STORED]}
        job = self.failed()
        self.do(self.runner.cancel(job.id))
        self.assert_state(job, State.SUCCESS)
        self.assertEqual((job.kept, job.outcomes), (False, {"Stored": 1}))

    def test_cancelled_while_it_expires(self) -> None:
        job = self.failed()
        abandoning: Deferred[None] = Deferred()
        self.prepare = {"abandoning": abandoning}
        self.clock.advance(self.TIMEOUT + 1)
        acting = [self.begin(self.runner.expire(self.TIMEOUT)) for _ in range(2)]
        acting += [self.begin(self.runner.cancel(job.id)) for _ in range(2)]
        abandoning.callback(None)
        for done in acting:
            self.successResultOf(done)
        self.assert_state(job, State.FAILURE)
        self.assertEqual((job.kept, self.abandoned(job)), (False, 1))

    def test_paused(self) -> None:
        job = self.failed()
        self.do(self.runner.pause(job.id))
        self.assertEqual((self.kept(job).kept, self.abandoned(job)), (True, 0))

    def test_cancelled_during_a_commit_that_fails_then(self) -> None:
        job = self.submit()
        self.last(job).may_stop = False
        cancelling = self.begin(self.runner.cancel(job.id))
        self.end(job, DOWN)
        self.successResultOf(cancelling)
        self.assert_state(job, State.FAILURE)
        self.assertEqual((job.kept, self.abandoned(job)), (False, 1))

    def test_trimmed(self) -> None:
        jobs = [self.failed() for _ in range(4)]
        self.assertEqual([self.abandoned(job) for job in jobs], [1, 0, 0, 0])
        self.assertEqual(list(self.runner.jobs()), jobs[1:])

    def test_trimmed_in_another_life(self) -> None:
        jobs = [self.failed() for _ in range(3)]
        self.do(self.runner.stop())
        self.live_again(history=1)
        self.assertEqual([self.abandoned(job) for job in jobs], [1, 1, 0])


class ReceiptTests(RunnerCase):
    """The manifest of a job that has ended."""

    INSTANCES = (Instance("a", 5, "md5 of a"), Instance("b", 7, "md5 of b"))

    def job(self) -> Job:
        """A job that knows its instances."""
        job = self.submit()
        self.do(self.last(job).memo.keep_instances(self.INSTANCES))
        return job

    def receipt(self, job: Job) -> Any:
        return json.loads(self.do(self.runner.receipt(job.id)))

    def assert_none(self, job: Job, told: str) -> None:
        error = self.failureResultOf(self.begin(self.runner.receipt(job.id)), UnknownJob)
        self.assertIn(told, str(error.value))

    def test_of_a_success(self) -> None:
        job = self.job()
        self.last(job).results = [Outcome.STORED, Outcome.ALREADY_STORED]
        self.end(job)
        receipt = self.receipt(job)
        self.assertEqual((receipt["Job"], receipt["State"]), (job.id, "Success"))
        self.assertEqual((receipt["Daemon"], receipt["PeerURL"]), ("here", "http://peer.test/"))
        self.assertEqual(receipt["Outcomes"], {"Stored": 1, "AlreadyStored": 1})
        told = [(i["ID"], i["MD5"], i["Outcome"]) for i in receipt["Instances"]]
        self.assertEqual(told, [("a", "md5 of a", "Stored"), ("b", "md5 of b", "AlreadyStored")])
        self.assertEqual(receipt["History"][-1]["Event"], "Success")

    def test_of_a_failure(self) -> None:
        job = self.job()
        self.end(job, DOWN)
        receipt = self.receipt(job)
        self.assertEqual((receipt["State"], receipt["ErrorCode"]), ("Failure", 9))
        self.assertEqual(receipt["ErrorDetails"], "down")
        self.assertEqual([i["Outcome"] for i in receipt["Instances"]], ["NotTransferred"] * 2)

    def test_of_a_cancelled_one(self) -> None:
        running, paused = self.job(), self.job()
        self.do(self.runner.pause(paused.id))
        for job in (running, paused):
            self.do(self.runner.cancel(job.id))
            receipt = self.receipt(job)
            self.assertEqual((receipt["State"], receipt["ErrorCode"]), ("Failure", 37))
            self.assertEqual([i["Outcome"] for i in receipt["Instances"]], ["NotTransferred"] * 2)

    def test_of_one_that_never_ran(self) -> None:
        job = [self.submit() for _ in range(3)][2]
        self.do(self.runner.cancel(job.id))
        self.assertEqual(self.receipt(job)["Instances"], [])

    def test_not_before_the_end(self) -> None:
        self.runner = self.make(concurrent=1, retry_delays=[100.0])
        paused = self.submit()
        self.do(self.runner.pause(paused.id))
        retrying = self.submit()
        self.end(retrying, DOWN)
        running, pending = self.submit(), self.submit()
        for job in (paused, retrying, running, pending):
            self.assert_none(job, job.state.value)
        self.failureResultOf(self.begin(self.runner.receipt("x")), UnknownJob)

    def test_while_the_end_is_being_written_down(self) -> None:
        job = self.job()
        self.journal.is_slow = True
        self.end(job)
        self.assertIs(job.state, State.SUCCESS)
        asking = self.begin(self.runner.receipt(job.id))
        self.journal.go_on()
        self.assertEqual(json.loads(self.successResultOf(asking))["State"], "Success")

    def test_of_the_last_run(self) -> None:
        job = self.job()
        self.end(job, DOWN)
        self.do(self.runner.resubmit(job.id))
        self.assert_none(job, "Running")
        self.end(job)
        receipt = self.receipt(job)
        self.assertEqual((receipt["State"], receipt["ErrorDetails"]), ("Success", ""))
        self.assertIn("Failure: down", [line["Event"] for line in receipt["History"]])

    def test_in_another_life(self) -> None:
        job = self.job()
        self.end(job)
        before = self.receipt(job)
        self.do(self.runner.stop())
        self.live_again()
        self.assertEqual(self.receipt(self.runner.job(job.id)), before)

    def test_forgotten_with_its_job(self) -> None:
        jobs = [self.job() for _ in range(1)]
        self.end(jobs[0])
        for _ in range(3):
            jobs.append(self.job())
            self.end(jobs[-1])
        self.failureResultOf(self.begin(self.runner.receipt(jobs[0].id)), UnknownJob)
        for kind in Kind:
            self.assertIsNone(self.successResultOf(self.journal.attached(jobs[0].id, kind)))

    def test_no_room_for_it(self) -> None:
        """The job ends as it ends, and its receipt is there as long as the daemon is."""
        job = self.job()
        self.journal.is_full_for_more = True
        self.end(job)
        self.assert_state(job, State.SUCCESS)
        receipt = json.loads(self.successResultOf(self.begin(self.runner.receipt(job.id))))
        self.assertEqual((receipt["Job"], receipt["State"]), (job.id, "Success"))

    def test_a_journal_that_cannot_be_read(self) -> None:
        """The job ends as it ends."""
        job = self.job()
        self.journal.attached = lambda *_args: fail(  # type: ignore[method-assign]
            StorageFailure("the disk is broken")
        )
        self.end(job)
        self.flushLoggedErrors(StorageFailure)
        self.assert_state(job, State.SUCCESS)


class ToldTests(RunnerCase):
    """What listeners are told, and when."""

    def test_a_job_from_its_submission_to_its_end(self) -> None:
        job = self.submit()
        self.assertEqual([State.PENDING, State.RUNNING], self.states(job))
        self.end(job)
        self.assertEqual([State.PENDING, State.RUNNING, State.SUCCESS], self.states(job))

    def test_progress_every_second_of_which_the_last_counts(self) -> None:
        job = self.submit()
        self.clock.pump([CHECKPOINT_S] * 3)
        self.assertEqual([True], [each.is_passing for each in self.told(2)])
        self.assertEqual(5, self.runner.events.last)
        self.end(job)
        self.assertEqual([State.SUCCESS], [each.state for each in self.told(2)])

    def test_what_people_wish(self) -> None:
        job = self.submit()
        before = len(self.states(job))
        self.do(self.runner.pause(job.id))
        self.do(self.runner.resume(job.id))
        self.end(job, PeerNonsense("no"))
        self.do(self.runner.resubmit(job.id))
        self.do(self.runner.cancel(job.id))
        expected = [
            *(State.PAUSED, State.PENDING, State.RUNNING, State.FAILURE),
            *(State.PENDING, State.RUNNING, State.FAILURE),
        ]
        told = [s for s, last in pairwise_from(self.states(job)[before:]) if s is not last]
        self.assertEqual(expected, told)

    def test_waiting_for_another_try(self) -> None:
        self.runner = self.make(retry_delays=[5.0])
        job = self.submit()
        self.end(job, PeerUnreachable("no"))
        self.assertEqual(State.RETRY, self.states(job)[-1])
        self.clock.advance(5)
        self.assertEqual([State.PENDING, State.RUNNING], self.states(job)[-2:])

    def test_one_that_is_forgotten(self) -> None:
        jobs = []
        for _ in range(4):
            jobs.append(self.submit())
            self.end(jobs[-1])
        self.assertIsNone(self.states(jobs[0])[-1])
        self.assertNotIn(None, self.states(jobs[1]))

    def test_the_journal_comes_first_unless_it_fails(self) -> None:
        job = self.submit()
        self.journal.is_slow = True
        self.end(job)
        self.assertEqual(State.RUNNING, self.states(job)[-1])
        self.journal.go_on()
        self.assertEqual(State.SUCCESS, self.states(job)[-1])
        other = self.submit()
        self.journal.is_full = True
        self.end(other)
        self.assertEqual(State.SUCCESS, self.states(other)[-1])


def pairwise_from(states: list[State | None]) -> list[tuple[State | None, State | None]]:
    """Each state with the one before."""
    return list(zip(states, [None, *states], strict=False))
