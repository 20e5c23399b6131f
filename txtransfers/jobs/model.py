"""A job: a transfer with a state, a priority and a history (protocol, section 5).

The transitions are the table :data:`TRANSITIONS`; whatever is not in it is refused.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any
from uuid import uuid4

import attrs

from ..errors import JobActionRefused
from ..transfer.progress import Progress
from ..wire import codes
from ..wire.messages import Compression, Level, Resource, TransferRequest
from .throughput import Point, added


class State(Enum):
    """Of a job; the value is how it is written."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCESS = "Success"
    FAILURE = "Failure"
    PAUSED = "Paused"
    RETRY = "Retry"


class Event(Enum):
    """What happens to a job; the value is how a refusal names it."""

    START = "start"
    SUCCEED = "end well"
    FAIL = "fail"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RESUBMIT = "resubmit"
    WAIT = "wait for another try"
    TRY_AGAIN = "be tried again"
    INTERRUPT = "be interrupted"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.PENDING, Event.START): State.RUNNING,
    (State.PENDING, Event.PAUSE): State.PAUSED,
    (State.PENDING, Event.CANCEL): State.FAILURE,
    (State.RUNNING, Event.SUCCEED): State.SUCCESS,
    (State.RUNNING, Event.FAIL): State.FAILURE,
    (State.RUNNING, Event.PAUSE): State.PAUSED,
    (State.RUNNING, Event.CANCEL): State.FAILURE,
    (State.PAUSED, Event.RESUME): State.PENDING,
    (State.PAUSED, Event.CANCEL): State.FAILURE,
    # A cancellation can find that all was committed already:
    (State.PENDING, Event.SUCCEED): State.SUCCESS,
    (State.PAUSED, Event.SUCCEED): State.SUCCESS,
    (State.RETRY, Event.SUCCEED): State.SUCCESS,
    (State.FAILURE, Event.SUCCEED): State.SUCCESS,
    (State.RUNNING, Event.WAIT): State.RETRY,
    (State.RUNNING, Event.INTERRUPT): State.PENDING,
    (State.RETRY, Event.TRY_AGAIN): State.PENDING,
    (State.RETRY, Event.PAUSE): State.PAUSED,
    (State.RETRY, Event.CANCEL): State.FAILURE,
    (State.FAILURE, Event.RESUBMIT): State.PENDING,
    # Nothing happens, and that is no error:
    (State.PAUSED, Event.PAUSE): State.PAUSED,
    (State.SUCCESS, Event.PAUSE): State.SUCCESS,
    (State.FAILURE, Event.PAUSE): State.FAILURE,
    (State.SUCCESS, Event.CANCEL): State.SUCCESS,
    (State.FAILURE, Event.CANCEL): State.FAILURE,
}

ENDED = frozenset({State.SUCCESS, State.FAILURE})

_LONGEST_HISTORY = 100


class Direction(Enum):
    """Which way a job's bytes go, and who moves them; the value is the job's ``Type``."""

    PUSH = "PushTransfer"
    PULL = "PullTransfer"
    REMOTE_PULL = "RemotePullTransfer"
    """A job of the peer moves them; that is watched only."""


@attrs.define(eq=False)
class Job:
    """One transfer that was asked for.

    :ivar sequence: grows with each submission; the order within a priority, and in lists.
    :ivar created: seconds since the epoch, like ``started`` (of the present run) and ``completed``.
    :ivar runtime: seconds that earlier runs took.
    :ivar memo: what its transfer remembers over restarts (:class:`Memo`).
    :ivar anew: whether it was resubmitted, and has not begun since.
    :ivar cancelling: whether somebody wished its end, which has not come yet.
    :ivar kept: whether, though it failed, what has arrived is kept for its resubmission.
    :ivar tries: how often it failed since it was submitted, and was tried again by itself.
    :ivar next_try: when it is tried again, while it waits for that.
    :ivar announced: the ``completed`` of the last end that others have been told, or will be.
    :ivar outcomes: how many instances had each outcome (the value of :class:`Outcome`).
    :ivar figures: how it moved, when it was looked at last: buckets in flight, goodput, and so on.
    :ivar submitter: who asked for it, and from where.
    :ivar history: what happened, each with its time; the newest hundred.
    :ivar points: how its bytes have moved over its time.
    """

    id: str
    sequence: int
    direction: Direction
    request: TransferRequest
    created: float
    state: State = State.PENDING
    progress: Progress = attrs.Factory(Progress)
    error_code: int = codes.SUCCESS[0]
    error_description: str = codes.SUCCESS[1]
    error_details: str = ""
    started: float | None = None
    completed: float | None = None
    runtime: float = 0.0
    memo: dict[str, Any] = attrs.Factory(dict)
    anew: bool = False
    cancelling: bool = False
    kept: bool = False
    tries: int = 0
    next_try: float | None = None
    announced: float | None = None
    outcomes: dict[str, int] = attrs.Factory(dict)
    figures: dict[str, Any] = attrs.Factory(dict)
    history: list[tuple[float, str]] = attrs.Factory(list)
    points: list[Point] = attrs.Factory(list)
    submitter: str = ""

    def say(self, text: str, now: float) -> None:
        """Add a line to the history."""
        self.history.append((now, text))
        del self.history[:-_LONGEST_HISTORY]

    def can(self, event: Event) -> bool:
        """Whether :meth:`happens` would take ``event``."""
        return (self.state, event) in TRANSITIONS

    def happens(self, event: Event, now: float, error: tuple[int, str, str] | None = None) -> None:
        """Change the state.

        :param error: code, description and details of a failure.
        :raises JobActionRefused: the state does not allow it; nothing has changed.
        """
        if not self.can(event):
            raise JobActionRefused(
                f"Job {self.id} cannot {event.value}: its state is {self.state.value}"
            )
        before, self.state = self.state, TRANSITIONS[self.state, event]
        if before is self.state:
            return
        if before is State.RUNNING:
            self.account(now)
            self.started = None
        if self.state is State.RUNNING:
            self.started = now
        if self.state in ENDED:
            self.completed = now
            self.cancelling = False
        if before in ENDED:
            self.completed = None
        code, description, details = error or (*codes.SUCCESS, "")
        self.error_code, self.error_description = code, description
        self.error_details = details
        self.next_try = None
        reason = f": {details or description}" if code else ""
        self.say(f"{self.state.value}{reason}", now)

    def account(self, now: float) -> None:
        """Add the present run's time to ``runtime``: what a crash would lose of it."""
        if self.started is not None:
            self.runtime += now - self.started
            self.started = now

    def measure(self, now: float) -> None:
        """Add a point to how its bytes have moved."""
        seconds = round(self.running_for(now), 2)
        self.points = added(
            self.points, (seconds, self.progress.done_size, self.progress.network_size)
        )

    def running_for(self, now: float) -> float:
        """Seconds that it has run in all."""
        return self.runtime + (now - self.started if self.started is not None else 0.0)


def new_job(
    direction: Direction,
    request: TransferRequest,
    sequence: int,
    now: float,
    memo: Mapping[str, Any] | None = None,
) -> Job:
    """A job that waits for its turn. :param memo: what its transfer is to know."""
    job = Job(str(uuid4()), sequence, direction, request, now, memo=dict(memo or {}))
    job.say("Submitted", now)
    return job


def to_record(job: Job) -> dict[str, Any]:
    """A job as the journal keeps it: only JSON values."""
    request = job.request
    return {
        "id": job.id,
        "sequence": job.sequence,
        "direction": job.direction.value,
        "request": {
            "resources": [resource.to_json() for resource in request.resources],
            "compression": request.compression.value,
            "peer": request.peer,
            "priority": request.priority,
            "originator": request.originator,
            "sender_transfer_id": request.sender_transfer_id,
            "delta": request.delta,
            "description": request.description,
        },
        "created": job.created,
        "state": job.state.value,
        "progress": attrs.asdict(job.progress),
        "error": [job.error_code, job.error_description, job.error_details],
        "started": job.started,
        "completed": job.completed,
        "runtime": job.runtime,
        "memo": job.memo,
        "anew": job.anew,
        "cancelling": job.cancelling,
        "kept": job.kept,
        "tries": job.tries,
        "next_try": job.next_try,
        "announced": job.announced,
        "outcomes": job.outcomes,
        "figures": job.figures,
        "history": job.history,
        "points": job.points,
        "submitter": job.submitter,
    }


def from_record(record: dict[str, Any]) -> Job:
    """The job of a record; unknown counters are left out, so that older records can be read."""
    request = record["request"]
    known = attrs.fields_dict(Progress)
    code, description, details = record["error"]
    return Job(
        id=record["id"],
        sequence=record["sequence"],
        direction=Direction(record["direction"]),
        request=TransferRequest(
            tuple(Resource(Level(r["Level"]), r["ID"]) for r in request["resources"]),
            Compression(request["compression"]),
            request["peer"],
            request["priority"],
            request["originator"],
            request["sender_transfer_id"],
            request.get("delta"),
            description=request.get("description"),
        ),
        created=record["created"],
        state=State(record["state"]),
        progress=Progress(**{k: v for k, v in record["progress"].items() if k in known}),
        error_code=code,
        error_description=description,
        error_details=details,
        started=record["started"],
        completed=record["completed"],
        runtime=record["runtime"],
        memo=record.get("memo", {}),
        anew=record.get("anew", False),
        cancelling=record.get("cancelling", False),
        kept=record.get("kept", False),
        tries=record.get("tries", 0),
        next_try=record.get("next_try"),
        announced=record.get("announced", record["completed"]),  # older ones are not told
        outcomes=record.get("outcomes", {}),
        figures=record.get("figures", {}),
        history=[(when, text) for when, text in record.get("history", ())],
        points=[(seconds, done, network) for seconds, done, network in record.get("points", ())],
        submitter=record.get("submitter", ""),
    )
