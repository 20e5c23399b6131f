"""The stream of events: what it begins with, what it replays, and what a slow client costs."""

import json
from typing import Any

import attrs

from tests.web.harness import Connection, FakePeer, House
from tests.web.test_hostile import HostileCase, transfer
from txtransfers.jobs.events import HISTORY_SIZE
from txtransfers.web.events import BEAT_S, MOST_CLIENTS

EVENTS = "/transfers/events"


@attrs.frozen
class Event:
    """One event as a client reads it."""

    kind: str
    id: str
    data: Any


def parse(body: bytes) -> list[Event]:
    """The events of a stream, as the standard has it."""
    events = []
    last = ""
    for block in body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        last = fields.get("id", last)
        if "data" in fields:
            events.append(Event(fields["event"], last, json.loads(fields["data"])))
    return events


class EventsCase(HostileCase):
    def setUp(self) -> None:
        self.house = House({"JobsHistorySize": 3}, peers=[FakePeer("B")])

    def submit(self) -> str:
        return str(self.house.request("POST", "/transfers/send", transfer()).json()["ID"])

    def listen(self, target: str = EVENTS, last: str | None = None) -> Connection:
        connection = self.house.connect()
        headers = {"Last-Event-ID": last} if last is not None else {}
        connection.request("GET", target, headers=headers)
        return connection

    def heard(self, connection: Connection) -> list[Event]:
        (answer,) = connection.answers()
        return parse(answer.body)

    def states(self, events: list[Event]) -> list[tuple[str, str]]:
        return [(e.data["ID"], e.data["State"]) for e in events if e.kind == "job"]


class BeginningTests(EventsCase):
    def test_as_a_stream(self) -> None:
        (answer,) = self.listen().answers()
        self.assertEqual(200, answer.status)
        self.assertEqual("text/event-stream; charset=utf-8", answer.header("Content-Type"))
        self.assertIn("no-cache", answer.header("Cache-Control") or "")
        self.assertFalse(answer.whole)
        self.assertTrue(answer.body.startswith(b"retry: "))

    def test_all_jobs_then_what_happens(self) -> None:
        first, second = self.submit(), self.submit()
        client = self.listen()
        events = self.heard(client)
        self.assertEqual(["reset", "job", "job", "ready"], [e.kind for e in events])
        self.assertEqual([(first, "Running"), (second, "Running")], self.states(events))
        self.assertEqual(["", "", ""], [e.id for e in events[:3]])
        self.assertEqual({"Replayed": False}, events[3].data)
        self.house.request("POST", f"/jobs/{first}/pause", b"")
        news = self.heard(client)[4:]
        self.assertIn((first, "Paused"), self.states(news))
        self.assertEqual(len(news), len({e.id for e in news}))

    def test_what_was_missed(self) -> None:
        job = self.submit()
        client = self.listen()
        last = self.heard(client)[-1].id
        client.leave()
        self.house.request("POST", f"/jobs/{job}/pause", b"")
        self.house.request("POST", f"/jobs/{job}/resume", b"")
        for target, header in ((EVENTS, last), (f"{EVENTS}?last-event-id={last}", None)):
            events = self.heard(self.listen(target, header))
            self.assertEqual("ready", events[-1].kind)
            self.assertEqual({"Replayed": True}, events[-1].data)
            states = dict.fromkeys(state for _id, state in self.states(events))
            self.assertEqual(["Paused", "Pending", "Running"], list(states))
        self.assertEqual([], self.states(self.heard(self.listen(last=events[-1].id))))

    def test_an_event_of_another_life_or_no_event(self) -> None:
        self.submit()
        for last in ("other-1", "life-9999", "nonsense", "\xff", "x" * 5000):
            kinds = [e.kind for e in self.heard(self.listen(last=last))]
            self.assertEqual(["reset", "job", "ready"], kinds)

    def test_one_that_is_forgotten(self) -> None:
        jobs = [self.submit()]
        client = self.listen()
        for job in [*jobs, *(self.submit() for _ in range(3))]:
            self.house.request("POST", f"/jobs/{job}/cancel", b"")
        forgotten = [e.data for e in self.heard(client) if e.kind == "forgotten"]
        self.assertEqual([{"ID": jobs[0]}], forgotten)

    def test_of_one_job(self) -> None:
        first, second = self.submit(), self.submit()
        client = self.listen(f"{EVENTS}?job={second}")
        for job in (first, second):
            self.house.request("POST", f"/jobs/{job}/pause", b"")
        self.assertEqual({second}, {id_ for id_, _state in self.states(self.heard(client))})
        answer = self.house.request("GET", f"{EVENTS}?job=unknown")
        self.assert_refused(answer, 404, 17, "Unknown job")

    def test_progress(self) -> None:
        self.submit()
        client = self.listen()
        before = len(self.heard(client))
        self.house.clock.pump([0.5] * 6)
        self.assertEqual(3, len(self.heard(client)) - before)

    def test_head_and_others(self) -> None:
        self.assertEqual(200, self.house.request("HEAD", EVENTS).status)
        self.assertEqual(405, self.house.request("POST", EVENTS, b"").status)


class LeavingTests(EventsCase):
    def test_a_beat_keeps_the_connection(self) -> None:
        client = self.listen()
        self.house.clock.pump([1.0] * int(BEAT_S * 20))
        self.assertTrue(client.is_open)
        (answer,) = client.answers()
        self.assertEqual(20, answer.body.count(b"\n:\n"))

    def test_places_are_given_back(self) -> None:
        calls = len(self.house.clock.getDelayedCalls())
        clients = [self.listen() for _ in range(MOST_CLIENTS)]
        answer = self.house.request("GET", EVENTS)
        self.assert_refused(answer, 503, 6, "listen already")
        self.assertEqual("5", answer.header("Retry-After"))
        clients[0].leave()
        clients[0] = self.listen()
        self.assertEqual(["reset", "ready"], [e.kind for e in self.heard(clients[0])])
        for client in clients:
            client.leave()
        self.assertEqual(calls, len(self.house.clock.getDelayedCalls()))

    def test_one_that_reads_nothing_is_cut_off(self) -> None:
        client = self.house.connect()
        client.stop_reading_after(0)
        client.request("GET", EVENTS)
        held = len(client.received())
        for _ in range(10):
            self.submit()
        self.assertEqual(held, len(client.received()))
        self.house.clock.pump([1.0] * int(2 * BEAT_S))
        self.assertFalse(client.is_open)

    def test_one_that_pauses_hears_it_all(self) -> None:
        client = self.house.connect()
        client.stop_reading_after(0)
        client.request("GET", EVENTS)
        jobs = [self.submit() for _ in range(3)]
        client.read_on()
        self.assertEqual(set(jobs), {id_ for id_, _ in self.states(self.heard(client))})

    def test_one_whose_place_is_gone_is_cut_off(self) -> None:
        job = self.submit()
        client = self.listen()
        client.stop_reading_after(len(client.received()))
        known = self.house.jobs.job(job)
        self.house.jobs.events.job(known)
        for _ in range(HISTORY_SIZE // len(self.house.jobs.events.shown(known)) + 10):
            self.house.jobs.events.job(known)
        self.assertTrue(client.is_open)
        client.read_on()
        self.house.clock.advance(0)
        self.assertFalse(client.is_open)
