"""Jobs: states, transitions, records."""

import json
from copy import deepcopy

import attrs
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import JobActionRefused
from txtransfers.jobs.model import (
    ENDED,
    TRANSITIONS,
    Direction,
    Event,
    Job,
    State,
    from_record,
    new_job,
    to_record,
)
from txtransfers.transfer.progress import Progress
from txtransfers.wire.messages import Compression, Level, Resource, TransferRequest

REQUEST = TransferRequest(
    (Resource(Level.STUDY, "x"),), Compression.GZIP, "peer", 3, "originator", "transfer"
)


def job(state: State = State.PENDING) -> Job:
    made = new_job(Direction.PUSH, REQUEST, 1, 100.0)
    made.state = state
    return made


P, R, S, F = State.PENDING, State.RUNNING, State.SUCCESS, State.FAILURE
PAUSED, RETRY = State.PAUSED, State.RETRY
NO = None
TABLE = {
    # what happens:    P       R       S   F   PAUSED  RETRY
    Event.START: (     R,      NO,     NO, NO, NO,     NO),
    Event.SUCCEED: (   S,      S,      NO, S,  S,      S),
    Event.FAIL: (      NO,     F,      NO, NO, NO,     NO),
    Event.PAUSE: (     PAUSED, PAUSED, S,  F,  PAUSED, PAUSED),
    Event.RESUME: (    NO,     NO,     NO, NO, P,      NO),
    Event.CANCEL: (    F,      F,      S,  F,  F,      F),
    Event.RESUBMIT: (  NO,     NO,     NO, P,  NO,     NO),
    Event.WAIT: (      NO,     RETRY,  NO, NO, NO,     NO),
    Event.TRY_AGAIN: ( NO,     NO,     NO, NO, NO,     P),
    Event.INTERRUPT: ( NO,     P,      NO, NO, NO,     NO),
}  # fmt: skip
"""The state after each event in each state; NO where it is refused."""

OLD = {
    "id": "0f6b",
    "sequence": 7,
    "direction": "PushTransfer",
    "request": {
        "resources": [{"Level": "Study", "ID": "x"}],
        "compression": "gzip",
        "peer": "peer",
        "priority": 3,
        "originator": None,
        "sender_transfer_id": "transfer",
    },
    "created": 100.0,
    "state": "Running",
    "progress": {
        "total_instances": 2,
        "total_size": 50,
        "buckets": 1,
        "buckets_done": 0,
        "done_size": 0,
        "network_size": 9,
        "retries": 1,
        "stored": 0,
        "already_stored": 0,
        "seconds": 1.5,
    },
    "error": [0, "Success", ""],
    "started": 101.0,
    "completed": None,
    "runtime": 2.0,
}
"""A record as the first release wrote it."""


class JobTests(SynchronousTestCase):
    def test_every_event_in_every_state(self) -> None:
        for event in Event:
            for before, after in zip((P, R, S, F, PAUSED, RETRY), TABLE[event], strict=True):
                self.assertIs(TRANSITIONS.get((before, event)), after, (before, event))

    def test_a_refused_event_changes_nothing(self) -> None:
        one = job(State.RUNNING)
        before = deepcopy(to_record(one))
        for event in (Event.START, Event.RESUME, Event.RESUBMIT):
            self.assertRaises(JobActionRefused, one.happens, event, 500.0, (1, "x", "y"))
        self.assertEqual(to_record(one), before)

    def test_states_and_types_as_orthanc_writes_them(self) -> None:
        self.assertEqual(
            {state.value for state in State},
            {"Pending", "Running", "Success", "Failure", "Paused", "Retry"},
        )
        orthancs = {"PushTransfer", "PullTransfer"}
        self.assertEqual({d.value for d in Direction}, orthancs | {"RemotePullTransfer"})

    def test_what_is_not_in_the_table_is_refused(self) -> None:
        for state in State:
            for event in Event:
                one = job(state)
                if (state, event) in TRANSITIONS:
                    one.happens(event, 200.0)
                    self.assertIs(one.state, TRANSITIONS[state, event])
                else:
                    error = self.assertRaises(JobActionRefused, one.happens, event, 200.0)
                    self.assertIn(state.value, str(error))
                    self.assertIs(one.state, state)

    def test_orthancs_rules(self) -> None:
        for state in (State.PENDING, State.RUNNING, State.PAUSED, State.SUCCESS):
            self.assertFalse(job(state).can(Event.RESUBMIT), state)
        self.assertTrue(job(State.FAILURE).can(Event.RESUBMIT))
        for state in ENDED:
            self.assertTrue(job(state).can(Event.CANCEL))
            self.assertTrue(job(state).can(Event.PAUSE))
            self.assertFalse(job(state).can(Event.RESUME))

    def test_times(self) -> None:
        one = job()
        one.happens(Event.START, 110.0)
        self.assertEqual(one.running_for(115.0), 5.0)
        one.happens(Event.PAUSE, 120.0)
        one.happens(Event.RESUME, 130.0)
        one.happens(Event.START, 140.0)
        one.happens(Event.FAIL, 145.0, (9, "Bad", "why"))
        self.assertEqual((one.running_for(999.0), one.completed), (15.0, 145.0))
        self.assertEqual((one.error_code, one.error_details), (9, "why"))
        one.happens(Event.CANCEL, 150.0, (37, "Cancelled", ""))
        self.assertEqual(one.error_code, 9, "an ended job stays as it ended")
        one.happens(Event.RESUBMIT, 160.0)
        self.assertEqual((one.completed, one.error_code, one.error_details), (None, 0, ""))

    def test_times_so_far(self) -> None:
        """What is accounted for is not lost with the daemon, and not counted twice."""
        one = job()
        one.account(105.0)
        self.assertEqual(one.running_for(106.0), 0.0)
        one.happens(Event.START, 110.0)
        for now in (111.0, 115.0):
            one.account(now)
        self.assertEqual((one.runtime, one.running_for(116.0)), (5.0, 6.0))
        again = from_record(to_record(one))
        again.started = None
        again.happens(Event.INTERRUPT, 1000.0)
        self.assertEqual(again.running_for(1000.0), 5.0)
        one.happens(Event.SUCCEED, 117.0)
        self.assertEqual(one.runtime, 7.0)

    def test_a_record_keeps_everything(self) -> None:
        one = job()
        one.happens(Event.START, 110.0)
        one.progress.buckets_done = 7
        one.happens(Event.FAIL, 145.0, (9, "Bad", "why"))
        record = json.loads(json.dumps(to_record(one)))
        self.assertEqual(to_record(from_record(record)), to_record(one))
        record["progress"]["unknown"] = 1
        self.assertEqual(from_record(record).progress.buckets_done, 7)
        record["progress"] = {"buckets": 9}
        self.assertEqual(from_record(record).progress, Progress(buckets=9))
        for state in State:
            record["state"] = state.value
            self.assertIs(from_record(json.loads(json.dumps(record))).state, state)

    def test_a_record_keeps_what_a_transfer_needs_in_another_life(self) -> None:
        one = job()
        one.request = attrs.evolve(one.request, delta=True)
        one.happens(Event.START, 110.0)
        one.memo = {"path": "/transfers/push/x", "done": [[0, 4]], "cookies": [{"name": "n"}]}
        one.anew = one.kept = True
        one.outcomes = {"Stored": 2, "AlreadyStored": 1}
        one.happens(Event.WAIT, 120.0, (9, "Bad", "why"))
        one.tries, one.next_try = 2, 150.0
        again = from_record(json.loads(json.dumps(to_record(one))))
        for field in attrs.fields(Job):
            self.assertEqual(getattr(again, field.name), getattr(one, field.name), field.name)

    def test_records_of_older_releases(self) -> None:
        one = from_record(json.loads(json.dumps(OLD)))
        self.assertEqual((one.id, one.state, one.started), ("0f6b", State.RUNNING, 101.0))
        self.assertEqual((one.progress.network_size, one.progress.seconds), (9, 1.5))
        self.assertIsNone(one.request.delta)
        self.assertEqual((one.memo, one.outcomes, one.history), ({}, {}, []))
        self.assertEqual((one.anew, one.kept, one.tries, one.next_try), (False, False, 0, None))
        one.happens(Event.INTERRUPT, 110.0)
        self.assertEqual(to_record(from_record(to_record(one))), to_record(one))

    def test_history(self) -> None:
        one = job()
        one.happens(Event.START, 110.0)
        one.happens(Event.WAIT, 120.0, (9, "Bad", "the peer is down"))
        one.happens(Event.TRY_AGAIN, 130.0)
        one.happens(Event.START, 131.0)
        one.happens(Event.CANCEL, 140.0, (37, "Cancelled", ""))
        one.happens(Event.CANCEL, 150.0, (37, "Cancelled", ""))
        self.assertEqual(
            one.history,
            [
                (100.0, "Submitted"),
                (110.0, "Running"),
                (120.0, "Retry: the peer is down"),
                (130.0, "Pending"),
                (131.0, "Running"),
                (140.0, "Failure: Cancelled"),
            ],
        )

    def test_history_has_an_end(self) -> None:
        one = job()
        for n in range(250):
            one.say(str(n), float(n))
        self.assertEqual([text for _when, text in one.history], [str(n) for n in range(150, 250)])

    def test_waiting_for_another_try(self) -> None:
        one = job()
        one.happens(Event.START, 110.0)
        one.happens(Event.WAIT, 120.0, (9, "Bad", "why"))
        one.next_try = 150.0
        self.assertEqual((one.error_code, one.error_details), (9, "why"), "people see why it waits")
        self.assertEqual((one.completed, one.running_for(140.0)), (None, 10.0))
        for event in (Event.TRY_AGAIN, Event.PAUSE, Event.CANCEL, Event.SUCCEED):
            other = from_record(to_record(one))
            other.happens(event, 150.0)
            self.assertEqual((other.next_try, other.error_code), (None, 0), event)
