"""Jobs: states, transitions, records."""

import json

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
    Event.SUCCEED: (   NO,     S,      NO, NO, NO,     NO),
    Event.FAIL: (      NO,     F,      NO, NO, NO,     NO),
    Event.PAUSE: (     PAUSED, PAUSED, S,  F,  PAUSED, NO),
    Event.RESUME: (    NO,     NO,     NO, NO, P,      NO),
    Event.CANCEL: (    F,      F,      S,  F,  F,      NO),
    Event.RESUBMIT: (  NO,     NO,     NO, P,  NO,     NO),
}  # fmt: skip
"""The state after each event in each state; NO where it is refused."""


class JobTests(SynchronousTestCase):
    def test_every_event_in_every_state(self) -> None:
        for event in Event:
            for before, after in zip((P, R, S, F, PAUSED, RETRY), TABLE[event], strict=True):
                self.assertIs(TRANSITIONS.get((before, event)), after, (before, event))

    def test_a_refused_event_changes_nothing(self) -> None:
        one = job(State.RUNNING)
        before = to_record(one)
        for event in (Event.START, Event.RESUME, Event.RESUBMIT):
            self.assertRaises(JobActionRefused, one.happens, event, 500.0, (1, "x", "y"))
        self.assertEqual(to_record(one), before)

    def test_states_and_types_as_orthanc_writes_them(self) -> None:
        self.assertEqual(
            {state.value for state in State},
            {"Pending", "Running", "Success", "Failure", "Paused", "Retry"},
        )
        self.assertEqual({d.value for d in Direction}, {"PushTransfer", "PullTransfer"})

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
