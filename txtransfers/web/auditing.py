"""What the audit log is told: of requests that moved something, and of jobs that have ended."""

from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..audit import AuditLog
from ..config import Settings
from ..errors import TransfersError
from ..jobs.model import Direction, Job, State
from ..store.interfaces import IArchive, IInstanceStore
from ..wire.messages import Level
from .server import StreamingRequest

SERVED_S = 10.0
"""Seconds without a further request after which a pull from here counts as ended."""

_MOST_PATIENTS = 100
_UNAUTHORIZED = 401
_ABOVE = {Level.INSTANCE: Level.SERIES, Level.SERIES: Level.STUDY, Level.STUDY: Level.PATIENT}
_LEVELS = ("patients", "studies", "series", "instances")

log = Logger()


def event_of(method: str, segments: Sequence[str]) -> str | None:
    """What a request is to the audit log; None for most.

    Those to an Orthanc behind us are among them: archives and ``store`` are its own.
    """
    match method, list(segments):
        case "POST", ["transfers", "push", _, "commit"]:
            return "Received"
        case "DELETE", ["transfers", "push", _]:
            return "Discarded"
        case "GET", ["transfers", "chunks", _]:
            return "Served"
        case "POST", ["instances"]:
            return "Uploaded"
        case "GET", ["instances", _, "file"] | ["instances", _, "attachments", "dicom", "data"]:
            return "Downloaded"
        case "GET", [level, _, "archive" | "media"] if level in _LEVELS:
            return "Downloaded"
        case "POST", ["peers" | "modalities", _, "store"]:
            return "Sent"
        case "DELETE", [level, _] if level in _LEVELS:
            return "Deleted"
    return None


def by_whom(request: StreamingRequest) -> str:
    """``user@address``."""
    address = getattr(request.getClientAddress(), "host", "")
    return f"{request.asker or 'anybody'}@{address}"


@attrs.define
class _Serving:
    """A pull from here, under way."""

    ids: set[str] = attrs.Factory(set)
    size: int = 0
    requests: int = 0
    failed: int = 0
    timer: IDelayedCall | None = None


class Auditor:
    """See the module. What it cannot find out any more is left out of its lines."""

    def __init__(
        self,
        audit: AuditLog,
        clock: IReactorTime,
        settings: Settings,
        store: IInstanceStore,
        archive: IArchive | None,
    ) -> None:
        self._audit = audit
        self._clock = clock
        self._settings = settings
        self._store = store
        self._archive = archive
        self._serving: dict[tuple[str, str], _Serving] = {}
        self._pending: set[Deferred[None]] = set()

    def watch(self, request: StreamingRequest, segments: Sequence[str]) -> None:
        """Note a request when it has ended, if it moves something."""
        if not self._audit.is_kept:
            return
        event = event_of(request.method.decode("latin-1"), segments)
        if event is not None:
            request.notifyFinish().addBoth(self._ended, event, request, segments)

    def job_ended(self, job: Job) -> None:
        """Note a job."""
        if self._audit.is_kept:
            self._later(self._note_job(job))

    async def settle(self) -> None:
        """Write what is known of what is under way; nothing more comes."""
        for key in list(self._serving):
            self._served(key)
        await DeferredList(list(self._pending))
        await self._audit.settle()

    def _later(self, noting: Coroutine[Any, Any, None]) -> None:
        noted = Deferred.fromCoroutine(noting)
        self._pending.add(noted)
        noted.addErrback(lambda failure: log.failure("An audit line could not be made", failure))
        noted.addBoth(lambda _none: self._pending.discard(noted))

    def _ended(
        self, result: Any, event: str, request: StreamingRequest, segments: Sequence[str]
    ) -> None:
        if request.code == _UNAUTHORIZED:  # by an Orthanc behind us: it is not known who asked
            return
        is_good = not isinstance(result, Failure) and request.code == 200
        if event == "Served":
            self._add_served(request, segments[2].split("."), is_good)
            return
        facts = dict(request.facts)
        ids = facts.pop("Ids", ())
        if event == "Downloaded":
            facts["Size"] = request.sentLength
        elif event == "Sent":
            facts["To"] = segments[1]
        if event == "Downloaded" and segments[0] == "instances":
            ids = (segments[1],)
        elif event in ("Downloaded", "Deleted"):
            facts["Resource"] = f"/{segments[0]}/{segments[1]}"
        self._later(self._note(event, request, is_good, ids, facts))

    async def _note(
        self,
        event: str,
        request: StreamingRequest,
        is_good: bool,
        ids: Sequence[str],
        facts: dict[str, Any],
    ) -> None:
        own = self._settings.name
        by = by_whom(request)
        comes_in = event not in ("Downloaded", "Sent")
        line = {
            "By": by,
            "From": by if comes_in else own,
            "To": own if comes_in else by,
            "Result": "Success" if is_good else "Failure",
            "Status": request.code,
            **_transfer(request),
            **facts,
        }
        if ids:
            line |= await self._describe(ids)
            if comes_in:
                found = await self._store.find(ids)
                line["Size"] = sum(instance.size for instance in found.values())
        self._audit.write(event, line)

    # Pulls from here: many requests, one line

    def _add_served(self, request: StreamingRequest, ids: Iterable[str], is_good: bool) -> None:
        key = by_whom(request), _transfer(request).get("Transfer", "")
        serving = self._serving.setdefault(key, _Serving())
        if serving.timer is not None:
            serving.timer.cancel()
        serving.timer = self._clock.callLater(SERVED_S, self._served, key)
        serving.requests += 1
        serving.size += request.sentLength
        serving.failed += 0 if is_good else 1
        if is_good:
            serving.ids.update(id_ for id_ in ids if id_)

    def _served(self, key: tuple[str, str]) -> None:
        serving = self._serving.pop(key)
        if serving.timer is not None and serving.timer.active():
            serving.timer.cancel()
        self._later(self._note_served(key, serving))

    async def _note_served(self, key: tuple[str, str], serving: _Serving) -> None:
        by, transfer = key
        line: dict[str, Any] = {
            "By": by,
            "From": self._settings.name,
            "To": by,
            "Result": "Failure" if serving.failed else "Success",
            "Requests": serving.requests,
            "FailedRequests": serving.failed,
            "Size": serving.size,
        }
        if transfer:
            line["Transfer"] = transfer
        self._audit.write("Served", line | await self._describe(tuple(serving.ids)))

    # Jobs

    async def _note_job(self, job: Job) -> None:
        peer = self._settings.peers.get(job.request.peer)
        places = self._settings.name, job.request.peer
        is_push = job.direction is not Direction.PULL
        line: dict[str, Any] = {
            "Job": job.id,
            "Type": job.direction.value,
            "By": job.submitter,
            "From": places[0 if is_push else 1],
            "To": places[1 if is_push else 0],
            "Peer": peer.url if peer is not None else "",
            "Result": "Success" if job.state is State.SUCCESS else "Failure",
            "Resources": [resource.to_json() for resource in job.request.resources],
            "Instances": job.progress.total_instances or 0,
            "Size": job.progress.total_size,
        }
        if job.error_code:
            line["Error"] = job.error_details or job.error_description
        if job.outcomes:
            line["Outcomes"] = job.outcomes
        if self._settings.audit_patient_names:
            wanted = [(resource.level, resource.id) for resource in job.request.resources]
            line["Patients"] = await self._patients(wanted)
        self._audit.write("Transfer", line)

    # What was moved

    async def _describe(self, ids: Sequence[str]) -> dict[str, Any]:
        facts: dict[str, Any] = {"Instances": len(ids)}
        if self._archive is None or not ids:
            return facts
        studies = await self._archive.studies_of(ids)
        facts["Studies"] = list(studies)
        if self._settings.audit_patient_names:
            facts["Patients"] = await self._patients([(Level.STUDY, id_) for id_ in studies])
        return facts

    async def _patients(self, resources: Sequence[tuple[Level, str]]) -> list[dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        if self._archive is None:
            return []
        for level, id_ in resources[:_MOST_PATIENTS]:
            try:
                patient, tags = await self._patient(level, id_)
            except TransfersError:
                continue
            found[patient] = {
                "ID": patient,
                **{name: tags[name] for name in ("PatientID", "PatientName") if name in tags},
            }
        return list(found.values())

    async def _patient(self, level: Level, id_: str) -> tuple[str, Any]:
        assert self._archive is not None
        details = await self._archive.details(level, id_)
        if level is Level.PATIENT:
            return id_, details.tags
        assert details.parent is not None
        return await self._patient(_ABOVE[level], details.parent)


def _transfer(request: StreamingRequest) -> dict[str, str]:
    transfer = request.getHeader("sender-transfer-id")
    return {"Transfer": transfer[:200]} if transfer else {}
