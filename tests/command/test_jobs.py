"""``jobs --watch``: until the jobs that are named have ended, and as they have."""

import io
import json
import sys
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tests.client.memory import ClientCase
from txtransfers.client import Level, Resource
from txtransfers.command.jobs import watch_jobs
from txtransfers.command.show import Screen
from txtransfers.command.status import FAILED, SUCCESS
from txtransfers.errors import PeerNonsense, UnknownJob
from txtransfers.jobs.runner import JobLimits


class FakeSession:
    """What a command needs of its session, without a reactor of its own."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.screen = Screen(as_json=True)

    async def interruptible(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return await coroutine


class WatchTests(ClientCase):
    def setUp(self) -> None:
        super().setUp()
        self.out = io.StringIO()
        self.patch(sys, "stdout", self.out)
        self.jobs = [self.submit(), self.submit()]

    def submit(self) -> Any:
        sent = self.result(self.client.send([Resource(Level.STUDY, "x")], "B"))
        return self.result(self.client.job(sent.job))

    def watch(self) -> "Deferred[int]":
        session: Any = FakeSession(self.client)
        return self.begin(watch_jobs(session, self.jobs))

    def end(self, number: int, error: Exception | None = None) -> None:
        ending = self.house.transfers[number].ending
        ending.callback(None if error is None else Failure(error))  # type: ignore[arg-type]

    def pass_time(self, watching: "Deferred[int]") -> None:
        for _ in range(3):
            self.house.clock.advance(1)
            self.settle(watching)

    def status(self, watching: "Deferred[int]") -> int:
        self.pass_time(watching)
        return self.successResultOf(watching)

    def test_both_end_well(self) -> None:
        watching = self.watch()
        self.end(0)
        self.house.clock.advance(1)
        self.settle(watching)
        self.assertNoResult(watching)
        self.end(1)
        self.assertEqual(SUCCESS, self.status(watching))
        lines = [json.loads(line) for line in self.out.getvalue().splitlines()]
        last = {line["ID"]: line["State"] for line in lines}
        self.assertEqual({job.id: "Success" for job in self.jobs}, last)
        self.assertIn("Running", {line["State"] for line in lines})

    def test_one_fails(self) -> None:
        watching = self.watch()
        self.end(0)
        self.end(1, PeerNonsense("no"))
        self.assertEqual(FAILED, self.status(watching))

    def test_a_failure_that_is_forgotten_at_once_is_no_success(self) -> None:
        self.house.jobs._limits = JobLimits(2, history_size=0)
        watching = self.watch()
        self.end(0, PeerNonsense("no"))
        self.end(1)
        self.assertEqual(FAILED, self.status(watching))

    def test_an_end_that_nobody_saw(self) -> None:
        self.agent.has_events = False
        self.house.jobs._limits = JobLimits(2, history_size=0)
        watching = self.watch()
        self.end(0)
        self.end(1)
        self.pass_time(watching)
        self.failureResultOf(watching, UnknownJob)
