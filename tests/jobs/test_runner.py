"""The queue: who runs, and pause, resume, cancel, resubmit whenever they come."""

from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.jobs.test_model import REQUEST
from txtransfers.errors import JobActionRefused, PeerUnreachable, UnknownJob
from txtransfers.jobs.journal import MemoryJournal
from txtransfers.jobs.model import Direction, Job, State
from txtransfers.jobs.runner import JobRunner
from txtransfers.transfer.progress import Progress


class Transfer:
    """A transfer that ends when the test says so."""

    def __init__(self) -> None:
        self.runs: list[Deferred[None]] = []
        self.abandoned = 0
        self.may_stop = True

    async def run(self, progress: Progress) -> None:
        self.runs.append(Deferred())
        await self.runs[-1]

    async def abandon(self) -> None:
        self.abandoned += 1

    def stoppable(self) -> bool:
        return self.may_stop


class RunnerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.journal = MemoryJournal()
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

    def do(self, coroutine: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

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
