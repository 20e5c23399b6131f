"""Orthanc's jobs API (protocol, section 5): ``/jobs``, ``/jobs/ID`` and its actions."""

from collections.abc import Callable
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Request

from ..errors import JobActionRefused, UnknownJob
from ..jobs.model import Direction, Job, State
from ..jobs.receipt import history_json, timestamp, transfer_figures
from ..jobs.runner import JobRunner
from ..jobs.throughput import throughput_json
from ..wire.messages import check_priority, decode
from .resource import ApiResource, NotFound, Reply, argument, compact, read_body
from .server import StreamingRequest

_MB = 2**20
_KB = 1024
_NUMBER_SIZE = 100
"""Bytes that a number may have."""

_ACTIONS = ("pause", "resume", "cancel", "resubmit")

WallClock = Callable[[], float]


def job_json(job: Job, now: float, most: int | None = None) -> dict[str, Any]:
    """A job as it travels. :param most: how many of its resources are told; None for all."""
    runtime = job.running_for(now)
    value = {
        "ID": job.id,
        "Type": job.direction.value,
        "State": job.state.value,
        "Priority": job.request.priority,
        "Progress": 100 if job.state is State.SUCCESS else int(100 * job.progress.fraction),
        "ErrorCode": job.error_code,
        "ErrorDescription": job.error_description,
        "ErrorDetails": job.error_details,
        "CreationTime": timestamp(job.created),
        "Timestamp": timestamp(now),
        "EffectiveRuntime": round(runtime, 3),
        "Content": _content(job, runtime, most),
        "History": history_json(job),
    }
    if job.next_try is not None:
        value["NextTryTime"] = timestamp(job.next_try)
    if job.completed is not None:
        value["CompletionTime"] = timestamp(job.completed)
    if job.state is State.RUNNING and job.progress.fraction > 0:
        left = runtime * (1 - job.progress.fraction) / job.progress.fraction
        value["EstimatedTimeOfArrival"] = timestamp(now + left)
    return value


def _content(job: Job, runtime: float, most: int | None) -> dict[str, Any]:
    """The protocol's members, and more: sizes in bytes, retries, what the commit did."""
    progress, request = job.progress, job.request
    content: dict[str, Any] = {
        "Resources": [resource.to_json() for resource in request.resources[:most]],
        "Peer": request.peer,
        "Compression": request.compression.value,
    }
    if request.description is not None:
        content["Description"] = request.description
    if request.originator is not None:
        content["Originator"] = request.originator
    if request.sender_transfer_id is not None:
        content["SenderTransferID"] = request.sender_transfer_id
    if job.direction is Direction.REMOTE_PULL:
        return content | job.figures
    if progress.total_instances is None:
        return content
    pushing = job.direction is Direction.PUSH
    content |= {
        "TotalInstances": progress.total_instances,
        "TotalSizeMB": progress.total_size // _MB,
        "TotalSize": str(progress.total_size),
        "Buckets": progress.buckets,
        "CompletedHttpQueries": progress.buckets_done,
        "UploadedSizeMB" if pushing else "DownloadedSizeMB": progress.done_size // _MB,
        "NetworkSpeedKBs": int(progress.network_size / _KB / runtime) if runtime > 0 else 0,
        **transfer_figures(job),
        **job.figures,
    }
    if job.outcomes:
        content["Outcomes"] = job.outcomes
    return content


class Jobs(ApiResource):
    """``/jobs``."""

    def __init__(self, jobs: JobRunner, wall_clock: WallClock) -> None:
        super().__init__()
        self._jobs = jobs
        self._wall_clock = wall_clock

    async def get(self, request: StreamingRequest) -> Any:
        """The identifiers, or with ``expand`` the jobs."""
        if argument(request, "expand") is None:
            return [job.id for job in self._jobs.jobs()]
        now = self._wall_clock()
        return [job_json(job, now) for job in self._jobs.jobs()]

    def has(self, id_: str) -> bool:
        """Whether there is a job of that identifier."""
        return self._jobs.has(id_)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """One job."""
        return JobNode(path.decode("utf-8", "replace"), self._jobs, self._wall_clock)


class JobNode(ApiResource):
    """``/jobs/ID``, whose children are actions."""

    def __init__(self, id_: str, jobs: JobRunner, wall_clock: WallClock) -> None:
        super().__init__()
        self._id = id_
        self._jobs = jobs
        self._wall_clock = wall_clock

    async def get(self, request: StreamingRequest) -> Any:
        """The job."""
        return job_json(self._jobs.job(self._id), self._wall_clock())

    def getChild(self, path: bytes, request: Request) -> Resource:
        """An action."""
        action = path.decode("latin-1")
        if action == "receipt":
            return JobReceipt(self._id, self._jobs)
        if action == "throughput":
            return JobThroughput(self._id, self._jobs)
        if action == "priority":
            return JobPriority(self._id, self._jobs)
        return JobAction(self._id, action, self._jobs) if action in _ACTIONS else NotFound()


class OfJob(ApiResource):
    """A node below a job."""

    def __init__(self, id_: str, jobs: JobRunner) -> None:
        super().__init__()
        self._id = id_
        self._jobs = jobs


class JobReceipt(OfJob):
    """``/jobs/ID/receipt`` (an extension)."""

    async def get(self, request: StreamingRequest) -> Reply:
        """The manifest of a job that has ended."""
        return Reply(await self._jobs.receipt(self._id), "application/json")


class JobThroughput(OfJob):
    """``/jobs/ID/throughput`` (an extension)."""

    async def get(self, request: StreamingRequest) -> Any:
        """How its bytes have moved over its time."""
        return compact(throughput_json(self._jobs.job(self._id).points))


class JobPriority(OfJob):
    """``/jobs/ID/priority`` (an extension)."""

    async def put(self, request: StreamingRequest) -> Reply:
        """Change it; the body is the number."""
        priority = check_priority(decode(await read_body(request, _NUMBER_SIZE), int))
        await self._jobs.prioritize(self._id, priority)
        return Reply(b"{}", "application/json")


class JobAction(ApiResource):
    """``/jobs/ID/pause|resume|cancel|resubmit``."""

    def __init__(self, id_: str, action: str, jobs: JobRunner) -> None:
        super().__init__()
        self._id = id_
        self._action = action
        self._jobs = jobs

    async def post(self, request: StreamingRequest) -> Reply:
        """Do it; the answer comes once it is done, and is ``{}``."""
        try:
            await getattr(self._jobs, self._action)(self._id)
        except UnknownJob as error:  # Orthanc says 400 here, and 404 for the job itself
            raise JobActionRefused(str(error)) from None
        return Reply(b"{}", "application/json")
