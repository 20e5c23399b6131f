"""What people call a study, or a job, turned into what the daemon calls it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from ..errors import Ambiguous, UnknownJob, UnknownResource
from ..wire.messages import Level, Resource
from .values import Found, Job

_ORTHANC_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}\Z", re.ASCII)

_PATTERN = re.compile(r"[*?\\]")
"""Characters that mean something in a query; ``?`` is any one."""

_ACCESSION_NUMBER = "AccessionNumber"
_LONGEST_NAME = 256

_SHOWN = 10
"""Candidates that an error names."""


class IArchive(Protocol):
    """Where names are looked up: a :class:`.Client`, or what a daemon knows of a peer."""

    async def lookup(self, identifier: str) -> Sequence[Resource]:
        """See :meth:`.Client.lookup`."""

    async def find(self, level: Level, query: Mapping[str, str]) -> Sequence[Found]:
        """See :meth:`.Client.find`."""

    async def resource(self, level: Level, id_: str) -> Found:
        """See :meth:`.Client.resource`."""

    async def resource_of_any_level(self, id_: str) -> Found:
        """See :meth:`.Client.resource_of_any_level`."""


async def find_studies(archive: IArchive, name: str, take_all: bool = False) -> list[Resource]:
    """The study that has a name: an Orthanc ID, a StudyInstanceUID, an accession number, a patient.

    A patient stands for the patient's studies. The identifier of a series or of an instance gives
    that, and no more.

    :param take_all: whether several studies of that name are all meant.
    :raises UnknownResource: nothing has that name.
    :raises Ambiguous: several studies have, and ``take_all`` was not said.
    """
    found: dict[str, Found] = {}
    for resource in await _resources(archive, name):
        for each in await _studies_of(archive, resource):
            found.setdefault(each.id, each)
    if not found:
        raise UnknownResource(
            f"Nothing is called {name[:100]!r}: it is no Orthanc ID, StudyInstanceUID, accession"
            " number or patient ID there. `txtransfers find` searches by parts of names"
        )
    if len(found) > 1 and not take_all:
        raise Ambiguous(
            f"{name[:100]!r} is {len(found)} studies; name one of them, or say --all",
            tuple(describe(each) for each in list(found.values())[:_SHOWN]),
        )
    return [Resource(each.level, each.id) for each in found.values()]


async def _resources(archive: IArchive, name: str) -> Sequence[Found]:
    if not name.strip() or len(name) > _LONGEST_NAME:
        return []
    if _ORTHANC_ID.match(name):
        try:
            return [await archive.resource_of_any_level(name)]
        except UnknownResource:
            return []
    named = [
        await archive.resource(resource.level, resource.id)
        for resource in await archive.lookup(name)
    ]
    return [*named, *await exactly(archive, Level.STUDY, _ACCESSION_NUMBER, name)]


async def exactly(archive: IArchive, level: Level, keyword: str, text: str) -> Sequence[Found]:
    """What has exactly this text in a tag, although a query takes some characters for patterns."""
    found = await archive.find(level, {keyword: _PATTERN.sub("?", text)})
    return [each for each in found if each.tag(keyword).strip() == text.strip()]


async def _studies_of(archive: IArchive, found: Found) -> Sequence[Found]:
    if found.level is not Level.PATIENT:
        return [found]
    return [await archive.resource(Level.STUDY, study) for study in found.children]


def describe(found: Found) -> str:
    """One line that tells a study from others."""
    parts = [
        found.id,
        found.tag("PatientName") or found.tag("PatientID"),
        found.tag("StudyDate"),
        found.tag("StudyDescription"),
    ]
    return "  ".join(part for part in parts if part)


def find_job(jobs: Iterable[Job], name: str) -> Job:
    """The job whose identifier begins with ``name``, which may be in capitals.

    :raises UnknownJob: none does. :raises Ambiguous: several do.
    """
    known = list(jobs)
    found = [job for job in known if name and job.id.lower().startswith(name.lower())]
    exact = [job for job in found if job.id == name]
    if len(exact) == 1 or len(found) == 1:
        return (exact or found)[0]
    if not found:
        raise UnknownJob(
            f"No job begins with {name[:100]!r}; the daemon knows {len(known)}. Only the last that"
            " ended are kept (JobsHistorySize)"
        )
    raise Ambiguous(
        f"{len(found)} jobs begin with {name[:100]!r}: give more of the identifier",
        tuple(f"{job.id}  {job.state}  {job.peer}" for job in found[:_SHOWN]),
    )
