"""The queue: who runs, and pause, resume, cancel, resubmit whenever they come."""

from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.jobs.test_model import REQUEST
from txtransfers.errors import JobActionRefused, PeerUnreachable, StorageFull, UnknownJob
from txtransfers.jobs.journal import MemoryJournal
from txtransfers.jobs.model import Direction, Job, State
from txtransfers.jobs.runner import JobRunner
from txtransfers.transfer.progress import Progress


class Transfer:
    """A transfer that ends when the test says so."""

    def __init__(self) -> None:
        self.runs: list[Deferred[None]] = []
        self.abandoned = 0
        self.abandoning: Deferred[None] | None = None
        self.may_stop = True

    async def run(self, progress: Progress) -> None:
        self.runs.append(Deferred())
        await self.runs[-1]

    async def abandon(self) -> None:
        self.abandoned += 1
        if self.abandoning is not None:
            await self.abandoning

    def stoppable(self) -> bool:
        return self.may_stop


class SlowJournal(MemoryJournal):
    """A journal whose disk may be slow, or full."""

    def __init__(self) -> None:
        super().__init__()
        self.is_slow = self.is_full = False
        self.saving: list[Deferred[None]] = []

    def save(self, job: Job) -> "Deferred[None]":
        if self.is_full:
            return fail(StorageFull("No room left for the journal"))
        saved = super().save(job)
        if not self.is_slow:
            return saved
        self.saving.append(Deferred())
        return self.saving[-1]

    def finish_one(self) -> None:
        """The oldest save is done."""
        self.saving.pop(0).callback(None)

    def go_on(self) -> None:
        """The disk is fast again."""
        self.is_slow = False
        while self.saving:
            self.finish_one()


class RunnerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.journal = SlowJournal()
        self.transfers: list[Transfer] = []
        self.runner = self.make()
        self.do(self.runner.start())

    def make(self, concurrent: int = 2, history: int = 3) -> JobRunner:
        return JobRunner(
            self.clock, self.journal, self.transfer, concurrent, history, self.clock.seconds
        )

    def transfer(self, *_args: Any) -> Any:
        self.transfers.append(Transfer())
        return self.transfers[-1]

    def begin(self, coroutine: Any) -> Any:
        return Deferred.fromCoroutine(coroutine)

    def do(self, coroutine: Any) -> Any:
        return self.successResultOf(self.begin(coroutine))

    def submit(self, priority: int = 0) -> Job:
        self.clock.advance(1)
        request = attrs.evolve(REQUEST, priority=priority)
        return self.do(self.runner.submit(Direction.PUSH, request))  # type: ignore[no-any-return]

    def kept(self, job: Job) -> State:
        """The state in the journal."""
        loaded = self.successResultOf(self.journal.load())
        return next(one.state for one in loaded if one.id == job.id)

    def assert_state(self, job: Job, state: State) -> None:
        self.assertEqual((job.state, self.kept(job)), (state, state))

    def test_to_success(self) -> None:
        job = self.submit()
        self.assert_state(job, State.RUNNING)
        self.transfers[0].runs[0].callback(None)
        self.assert_state(job, State.SUCCESS)

    def test_no_more_at_once_than_allowed_and_by_priority(self) -> None:
        jobs = [self.submit(priority) for priority in (0, 0, 0, 9, 5)]
        running = [job.state is State.RUNNING for job in jobs]
        self.assertEqual(running, [True, True, False, False, False])
        self.transfers[0].runs[0].callback(None)
        self.assert_state(jobs[3], State.RUNNING)
        self.transfers[1].runs[0].callback(None)
        self.assert_state(jobs[4], State.RUNNING)
        self.assert_state(jobs[2], State.PENDING)

    def test_failure_says_why(self) -> None:
        job = self.submit()
        self.transfers[0].runs[0].errback(PeerUnreachable("the peer is down"))
        self.assert_state(job, State.FAILURE)
        self.assertEqual((job.error_code, job.error_details), (9, "the peer is down"))
        self.assertEqual(self.transfers[0].abandoned, 1)

    def test_a_defect_is_logged_and_named(self) -> None:
        job = self.submit()
        self.transfers[0].runs[0].errback(ZeroDivisionError("oops"))
        self.assert_state(job, State.FAILURE)
        self.assertIn("oops", job.error_details)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_pause_keeps_the_transfer_and_resume_goes_on_with_it(self) -> None:
        job = self.submit()
        self.do(self.runner.pause(job.id))
        self.assert_state(job, State.PAUSED)
        self.do(self.runner.pause(job.id))
        self.do(self.runner.resume(job.id))
        self.assert_state(job, State.RUNNING)
        self.assertEqual((len(self.transfers), len(self.transfers[0].runs)), (1, 2))
        self.assertEqual(self.transfers[0].abandoned, 0)
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
        for job, transfer in ((running, 0), (paused, 1)):
            self.do(self.runner.cancel(job.id))
            self.assert_state(job, State.FAILURE)
            self.assertEqual(job.error_code, 37)
            self.assertEqual(self.transfers[transfer].abandoned, 1)
        self.do(self.runner.cancel(pending.id))
        self.do(self.runner.cancel(running.id))
        self.assert_state(running, State.FAILURE)

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

    def test_a_stop_interrupts_and_says_so(self) -> None:
        running, _second, pending = self.submit(), self.submit(), self.submit()
        self.do(self.runner.stop())
        self.assert_state(running, State.FAILURE)
        self.assertIn("resubmit", running.error_details)
        self.assert_state(pending, State.PENDING)
        self.assertEqual(len(self.transfers), 2)

    def test_after_a_crash(self) -> None:
        running, paused, pending = self.submit(), self.submit(), None
        self.do(self.runner.pause(paused.id))
        self.submit()
        pending = self.submit()
        again = self.make(concurrent=1)
        self.do(again.start())
        states = {job.id: job.state for job in again.jobs()}
        self.assertEqual(states[running.id], State.FAILURE)
        self.assertIn("resubmit", again.job(running.id).error_details)
        self.assertEqual(states[paused.id], State.PAUSED)
        self.assertEqual(states[pending.id], State.RUNNING)
        self.assertGreater(self.do(again.submit(Direction.PULL, REQUEST)).sequence, 4)

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

    def test_cancelled_errors_do_not_leak(self) -> None:
        job = self.submit()
        self.do(self.runner.pause(job.id))
        self.assertEqual(self.flushLoggedErrors(CancelledError), [])

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
            (PeerUnreachable("down"), State.FAILURE),
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
        self.assertEqual(len(self.transfers), 1)
        self.assertEqual(len(self.flushLoggedErrors(StorageFull)), 2)
        self.do(self.runner.stop())

    def test_cancelled_or_paused_before_its_start_is_in_the_journal(self) -> None:
        for action, state in (("cancel", State.FAILURE), ("pause", State.PAUSED)):
            job = self.submit()
            transfer = self.transfers[-1]
            self.do(self.runner.pause(job.id))
            self.journal.is_slow = True
            self.begin(self.runner.resume(job.id))
            self.journal.finish_one()
            self.assertIs(job.state, State.RUNNING)
            acting = self.begin(getattr(self.runner, action)(job.id))
            self.journal.go_on()
            self.successResultOf(acting)
            self.assert_state(job, state)
            self.assertEqual((self.transfers[-1], len(transfer.runs)), (transfer, 1))

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
        self.transfers[0].run = run  # type: ignore[method-assign]
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
        self.assertEqual(len(self.transfers[1].runs), 2)
        self.transfers[1].runs[1].callback(None)
        self.assert_state(job, State.SUCCESS)

    def test_a_job_that_is_being_cancelled_is_not_started(self) -> None:
        """It waits, with a transfer that was paused; a slot becomes free while it is abandoned."""
        self.runner = self.make(concurrent=1)
        cancelled, other = self.submit(), self.submit()
        self.do(self.runner.pause(cancelled.id))
        self.do(self.runner.resume(cancelled.id))
        self.assert_state(cancelled, State.PENDING)
        self.transfers[0].abandoning = Deferred()
        cancelling = self.begin(self.runner.cancel(cancelled.id))
        self.transfers[1].runs[0].callback(None)
        self.transfers[0].abandoning.callback(None)
        self.successResultOf(cancelling)
        self.assert_state(other, State.SUCCESS)
        self.assert_state(cancelled, State.FAILURE)
        self.assertEqual((len(self.transfers), len(self.transfers[0].runs)), (2, 1))

    def test_resumed_while_it_is_being_cancelled(self) -> None:
        job = self.submit()
        self.do(self.runner.pause(job.id))
        self.transfers[0].abandoning = Deferred()
        cancelling = self.begin(self.runner.cancel(job.id))
        self.failureResultOf(self.begin(self.runner.resume(job.id)), JobActionRefused)
        self.transfers[0].abandoning.callback(None)
        self.successResultOf(cancelling)
        self.assert_state(job, State.FAILURE)
        self.assertEqual(len(self.transfers[0].runs), 1)

    def test_the_time_spent_counts(self) -> None:
        job = self.submit()
        self.clock.advance(5)
        self.do(self.runner.pause(job.id))
        self.clock.advance(100)
        self.do(self.runner.resume(job.id))
        self.clock.advance(2)
        self.transfers[0].runs[1].callback(None)
        self.assertEqual((job.runtime, job.progress.seconds), (7, 7))
