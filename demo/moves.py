"""One transfer between two daemons, as a client asks for it, and the proof that it is complete."""

import hashlib
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from demo.daemon import AnswerError, Client, Daemon, DaemonError, Json

MODES = ("push", "send (pull)", "pull")
"""Pushed by the sender; pulled as the sender asks (RemoteSelf); pulled as the receiver asks."""
COMPRESSIONS = ("none", "gzip")
READ_SIZE = 1024 * 1024


@attrs.frozen
class Cargo:
    """What was uploaded to one daemon and is to be moved."""

    resources: list[dict[str, str]]
    instances: dict[str, tuple[str, int]]
    """{instance: (MD5, size)}, reckoned from the files on disk, not asked from a daemon."""
    patients: list[str]

    @property
    def size(self) -> int:
        """Bytes of all instances."""
        return sum(size for _, size in self.instances.values())


def upload(client: Client, paths: Iterable[Path], done: Callable[[int], None]) -> Cargo:
    """Store these files at a daemon; ``done`` is told the bytes of each."""
    instances: dict[str, tuple[str, int]] = {}
    studies: dict[str, set[str]] = {}
    for path in paths:
        answer = client.upload(path)
        size = path.stat().st_size
        instances[answer["ID"]] = (md5_of(path), size)
        studies.setdefault(answer["ParentPatient"], set()).add(answer["ParentStudy"])
        done(size)
    return Cargo([_resource(*item) for item in studies.items()], instances, list(studies))


def _resource(patient: str, studies: set[str]) -> dict[str, str]:
    """Name a patient by its only study, or as a patient: so that both levels are used."""
    if len(studies) == 1:
        return {"Level": "Study", "ID": next(iter(studies))}
    return {"Level": "Patient", "ID": patient}


def md5_of(path: Path) -> str:
    """Return the MD5 of a file, read in slices."""
    md5 = hashlib.md5()
    with path.open("rb") as file:
        while piece := file.read(READ_SIZE):
            md5.update(piece)
    return md5.hexdigest()


def move(
    mode: str,
    sender: Daemon,
    receiver: Daemon,
    resources: list[dict[str, str]],
    *,
    compression: str,
    interval: float,
    watch: Callable[[Any], None] = lambda _: None,
) -> float:
    """Make one transfer; return the seconds from request to Success, or fail with DaemonError.

    When it ended is what its job says, of the same clock: how often it is asked does not matter.
    """
    started = time.time()
    body = {"Resources": resources, "Compression": compression}
    holder, job = _submit(mode, sender, receiver, body)
    ended = holder.client.wait_for_job(job, interval, watch)
    if ended["State"] != "Success":
        told = ended.get("ErrorDetails") or ended.get("ErrorDescription")
        raise DaemonError(f"the job of a {mode} at {holder.name} ended in {ended['State']}: {told}")
    return _moment(ended["CompletionTime"]) - started


def _moment(text: str) -> float:
    """What Orthanc, and the daemons, write of a time, which is UTC, as seconds since 1970."""
    return datetime.strptime(text, "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC).timestamp()


def _submit(mode: str, sender: Daemon, receiver: Daemon, body: Json) -> tuple[Daemon, str]:
    """Ask for a transfer; return the daemon that holds the job, and the job."""
    if mode == "push":
        answer = sender.client.post("/transfers/send", body | {"Peer": receiver.name})
        return sender, answer["ID"]
    if mode == "pull":
        answer = receiver.client.post("/transfers/pull", body | {"Peer": sender.name})
        return receiver, answer["ID"]
    answer = sender.client.post("/transfers/send", body | {"Peer": f"{receiver.name}-pull"})
    return receiver, answer["RemoteJob"]


def delete(daemon: Daemon, cargo: Cargo) -> None:
    """Remove the cargo's patients from a daemon, those that are there."""
    here = set(daemon.client.get("/patients"))
    for patient in here.intersection(cargo.patients):
        daemon.client.request("DELETE", f"/patients/{patient}")


def is_absent(daemon: Daemon, cargo: Cargo) -> bool:
    """Tell whether not one instance of the cargo is at a daemon."""
    return not set(daemon.client.get("/instances")) & set(cargo.instances)


def verify(daemons: Iterable[Daemon], cargo: Cargo) -> str | None:
    """Compare all MD5s at these daemons with the files' own; return what differs, or None."""
    for daemon in daemons:
        try:
            there = daemon.client.lookup(cargo.resources)
        except AnswerError as error:
            return f"lookup at {daemon.name} failed: {error}"
        wrong = {i for i in cargo.instances if there.get(i) != cargo.instances[i]}
        extra = set(there) - set(cargo.instances)
        if wrong or extra:
            return (
                f"at {daemon.name}, {len(wrong)} of {len(cargo.instances)} instances are missing "
                f"or differ, {len(extra)} should not be there: {sorted(wrong | extra)[:3]}"
            )
        smallest = min(cargo.instances, key=lambda each: cargo.instances[each][1])
        bytes_there = daemon.client.request("GET", f"/instances/{smallest}/file")
        if hashlib.md5(bytes_there).hexdigest() != cargo.instances[smallest][0]:
            return f"{daemon.name} gives other bytes than the file's for {smallest}"
    return None
