"""The manifest that every ended transfer leaves: who, what, when, and what became of each instance.

Kept with the history of jobs, and given by ``GET /jobs/ID/receipt``; members as in
``docs/protocol.md``. Sizes are decimal strings of bytes, times are UTC.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

import msgspec

from ..store.interfaces import Outcome
from ..wire.codec import Codec
from ..wire.messages import Compression
from ..wire.plan import Instance
from .model import Direction, Job, State

VERSION = 1


def timestamp(seconds: float) -> str:
    """A time as Orthanc writes it: UTC, always six digits of fraction."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%S.%f")


def make_receipt(
    job: Job,
    instances: Sequence[Instance],
    outcomes: Sequence[Outcome | None],
    daemon: str,
    peer_url: str,
) -> bytes:
    """The receipt of a job that has ended, as JSON.

    :param outcomes: of each instance; None, or none at all, where it is not known.
    :param daemon: the name of this one. :param peer_url: empty if the peer is gone.
    """
    value = head_json(job, daemon, peer_url) | {
        "Instances": [
            {
                "ID": instance.id,
                "Size": str(instance.size),
                "MD5": instance.md5,
                "Outcome": _outcome(job, outcome),
            }
            for instance, outcome in zip_longest(instances, outcomes[: len(instances)])
        ]
    }
    return msgspec.json.format(msgspec.json.encode(value), indent=1)


def _outcome(job: Job, outcome: Outcome | None) -> str:
    if job.state is not State.SUCCESS:
        # The peer was asked to commit, and did not say how that went.
        return "Unknown" if job.memo.get("asked_to_commit") else "NotTransferred"
    return "Committed" if outcome is None else outcome.value


def head_json(job: Job, daemon: str, peer_url: str) -> dict[str, Any]:
    """All of a receipt but the instances."""
    request, progress = job.request, job.progress
    return {
        "Version": VERSION,
        "Job": job.id,
        "Type": job.direction.value,
        "State": job.state.value,
        "ErrorCode": job.error_code,
        "ErrorDescription": job.error_description,
        "ErrorDetails": job.error_details,
        "Daemon": daemon,
        "Peer": request.peer,
        "PeerURL": peer_url,
        "Originator": request.originator,
        "SenderTransferID": request.sender_transfer_id,
        "Resources": [resource.to_json() for resource in request.resources],
        "Compression": request.compression.value,
        "CreationTime": timestamp(job.created),
        "CompletionTime": timestamp(job.completed or job.created),
        "EffectiveRuntime": round(job.runtime, 3),
        "TotalInstances": progress.total_instances or 0,
        "TotalSize": str(progress.total_size),
        "Outcomes": job.outcomes,
        **transfer_figures(job),
        "History": history_json(job),
    }


def transfer_figures(job: Job) -> dict[str, Any]:
    """What moved, what was saved and what was repeated; shown with the job too."""
    progress = job.progress
    pushing = job.direction is Direction.PUSH
    compressed = job.request.compression is not Compression.NONE
    once = progress.network_size - progress.repeated_size
    codec, level = progress.coding or (None, 0)
    return {
        "SentInstances" if pushing else "ReceivedInstances": (
            (progress.total_instances or 0) - progress.skipped
        ),
        "CompletedInstances": progress.skipped + progress.done_instances,
        "UploadedSize" if pushing else "DownloadedSize": str(progress.done_size),
        "NetworkSize": str(progress.network_size),
        "RepeatedSize": str(progress.repeated_size),
        "SkippedInstances": progress.skipped,
        "SkippedSize": str(progress.skipped_size),
        "SavedByCompression": str(max(0, progress.done_size - once) if compressed else 0),
        "Retries": progress.retries,
        **({} if codec is None else {"Codec": codec}),
        **({} if codec in (None, Codec.NONE.value) else {"CodecLevel": level}),
    }


def history_json(job: Job) -> list[dict[str, str]]:
    """What happened to a job, oldest first."""
    return [{"Time": timestamp(when), "Event": text} for when, text in job.history]
