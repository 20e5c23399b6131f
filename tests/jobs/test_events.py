"""The history of events: what it keeps, what gives way, and who is told."""

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txtransfers.jobs.events import LONGEST_LIST, LONGEST_TEXT, Events, Kind, Told
from txtransfers.jobs.model import Direction, Event, Job, State, new_job
from txtransfers.wire.messages import Compression, Level, Resource, TransferRequest


def make_job(number: int = 1, resources: int = 1) -> Job:
    named = tuple(Resource(Level.STUDY, f"study-{n}") for n in range(resources))
    request = TransferRequest(named, Compression.NONE, "B")
    return new_job(Direction.PUSH, request, number, 0.0)


def describe(job: Job) -> dict[str, Any]:
    return {
        "ID": job.id,
        "State": job.state.value,
        "Done": job.progress.done_size,
        "Resources": [resource.to_json() for resource in job.request.resources],
        "ErrorDetails": job.error_details,
        "History": [text for _when, text in job.history],
    }


class EventsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events = Events("life", describe, 2000)

    def all_after(self, number: int) -> list[Told]:
        found = []
        while (told := self.events.after(number)) is not None:
            found.append(told)
            number = told.number
        return found

    def test_in_order_and_numbered(self) -> None:
        job = make_job()
        self.events.job(job)
        job.happens(Event.START, 1.0)
        self.events.job(job)
        self.events.forgotten(job.id)
        told = self.all_after(0)
        self.assertEqual([1, 2, 3], [each.number for each in told])
        self.assertEqual([Kind.JOB, Kind.JOB, Kind.FORGOTTEN], [each.kind for each in told])
        self.assertEqual([State.PENDING, State.RUNNING, None], [each.state for each in told])
        self.assertEqual({"ID": job.id}, json.loads(told[2].data))
        self.assertEqual(told[1:], self.all_after(1))
        self.assertEqual(3, self.events.last)
        self.assertIsNone(self.events.after(3))

    def test_what_is_passing_gives_way_to_the_next_of_its_job(self) -> None:
        first, second = make_job(1), make_job(2)
        self.events.job(first)
        for done in (1, 2, 3):
            for job in (first, second):
                job.progress.done_size = done
                self.events.job(job, is_passing=True)
        told = self.all_after(0)
        self.assertEqual([first.id, first.id, second.id], [each.job for each in told])
        self.assertEqual([0, 3, 3], [json.loads(each.data)["Done"] for each in told])
        self.events.job(first)
        self.assertEqual([second.id, first.id], [each.job for each in self.all_after(2)])
        self.assertTrue(self.events.has_all_after(0))

    def test_the_history_is_bounded_and_says_where_it_begins(self) -> None:
        jobs = [make_job(n) for n in range(100)]
        for job in jobs:
            self.events.job(job, is_passing=True)
        told = self.all_after(0)
        self.assertLessEqual(sum(len(each.data) for each in told), 2000)
        self.assertGreater(len(told), 5)
        self.assertEqual(jobs[-1].id, told[-1].job)
        first = told[0].number
        self.assertTrue(self.events.has_all_after(first - 1))
        self.assertFalse(self.events.has_all_after(first - 2))
        self.assertFalse(self.events.has_all_after(101))
        for job in jobs:  # those that are gone are told anew
            self.events.job(job, is_passing=True)
        self.assertEqual(200, self.events.last)

    def test_one_that_is_larger_than_the_history_is_told(self) -> None:
        events = Events("life", describe, 10)
        events.job(make_job())
        told = events.after(0)
        assert told is not None
        self.assertEqual(1, told.number)

    def test_an_event_is_bounded(self) -> None:
        job = make_job(resources=1000)
        job.error_details = "x" * 10_000
        job.say("what happened", 0.0)
        self.events.job(job)
        told = self.events.after(0)
        assert told is not None
        shown = json.loads(told.data)
        self.assertEqual(LONGEST_LIST, len(shown["Resources"]))
        self.assertEqual(LONGEST_TEXT + 1, len(shown["ErrorDetails"]))
        self.assertNotIn("History", shown)
        self.assertNotIn(b"\n", told.data)
        self.assertEqual(self.events.shown(job), told.data)

    def test_listeners_are_woken_until_they_end_it(self) -> None:
        heard: list[str] = []
        end_first = self.events.listen(lambda: heard.append("first"))
        self.events.listen(lambda: (heard.append("second"), end_first())[0])
        self.events.job(make_job())
        self.events.job(make_job())
        end_first()
        self.assertEqual(["first", "second", "second"], heard)

    def test_identifiers(self) -> None:
        job = make_job()
        for _ in range(3):
            self.events.job(job)
        self.assertEqual("life-3", self.events.identifier(3))
        self.assertEqual(3, self.events.number_of("life-3"))
        self.assertEqual(0, self.events.number_of("life-0"))
        for strange in ("life-4", "other-3", "life-", "3", "", "life--1", "life-" + "9" * 30):
            self.assertIsNone(self.events.number_of(strange), strange)
        for number in range(100):
            self.events.job(make_job(number))
        self.assertIsNone(self.events.number_of("life-3"))
