"""The part of Orthanc's REST API that shows and changes the archive (protocol, section 7)."""

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Request

from ..errors import BadParameter
from ..store.interfaces import ArchiveStatistics, IArchive, ResourceDetails
from ..wire import messages
from ..wire.messages import Level
from .instances import ArchiveParts, Attachments, InstanceFile, Tags, take_upload
from .resource import ApiResource, NotFound, argument, read_body
from .server import StreamingRequest

_MB = 2**20
_DEFAULT_LIMIT = 100
_LARGEST_NUMBER = 2**62
"""An index counts to twice as much, and has to add one."""

_LEVEL_NAMES = {
    "patients": Level.PATIENT,
    "studies": Level.STUDY,
    "series": Level.SERIES,
    "instances": Level.INSTANCE,
}
_PLURALS = {level: name for name, level in _LEVEL_NAMES.items()}
_ORDER = list(_LEVEL_NAMES.values())
_CHILDREN = {Level.PATIENT: "Studies", Level.STUDY: "Series", Level.SERIES: "Instances"}


def path_of(level: Level, id_: str) -> str:
    """Where a resource is."""
    return f"/{_PLURALS[level]}/{id_}"


def details_json(details: ResourceDetails) -> dict[str, Any]:
    """A resource as Orthanc describes it."""
    value: dict[str, Any] = {
        "ID": details.id,
        "Type": details.level.value,
        "MainDicomTags": dict(details.tags),
        "Labels": [],
    }
    if details.level is Level.INSTANCE:
        value |= {
            "FileSize": details.size,
            "FileUuid": details.uuid,
            "IndexInSeries": details.index,
            "ParentSeries": details.parent,
        }
        return value
    value[_CHILDREN[details.level]] = list(details.children)
    value["LastUpdate"] = details.last_update
    value["IsStable"] = True
    if details.level is Level.STUDY:
        value["ParentPatient"] = details.parent
        value["PatientMainDicomTags"] = dict(details.parent_tags)
    if details.level is Level.SERIES:
        value |= {"ParentStudy": details.parent, "ExpectedNumberOfInstances": None}
        value["Status"] = "Unknown"
    return value


def describe_resource(tags: Mapping[str, str]) -> str:
    """One line that tells people what it is: ``Doe, Jane (123): CT Abdomen, 2026-03-01``."""
    family, *given = tags.get("PatientName", "").split("=")[0].split("^")
    name = ", ".join(filter(None, [family, " ".join(filter(None, given[:1]))]))
    patient = f"{name} ({tags['PatientID']})".strip() if tags.get("PatientID") else name
    date = tags.get("StudyDate", "")
    written = f"{date[:4]}-{date[4:6]}-{date[6:]}" if date.isdecimal() and len(date) == 8 else date
    what = [tags.get("StudyDescription", ""), tags.get("SeriesDescription", ""), written]
    return ": ".join(filter(None, [patient, ", ".join(filter(None, what))]))


class LevelNode(ApiResource):
    """``/patients``, ``/studies``, ``/series``; :class:`Instances` adds the upload."""

    def __init__(self, level: Level, parts: ArchiveParts) -> None:
        super().__init__()
        self._level = level
        self._parts = parts

    async def get(self, request: StreamingRequest) -> Any:
        """The identifiers, or with ``expand`` the resources; ``since`` and ``limit`` page."""
        archive = self._parts.archive
        since, limit = _number(request, "since", 0), _number(request, "limit", 0)
        ids = await archive.list_ids(self._level, since, limit)
        if argument(request, "expand") is None:
            return list(ids)
        return await _expanded(archive, self._level, ids)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """One resource."""
        return ResourceNode(self._level, path.decode("utf-8", "replace"), self._parts)


async def _expanded(archive: IArchive, level: Level, ids: Sequence[str]) -> list[dict[str, Any]]:
    return [details_json(details) for details in await archive.describe(level, ids)]


class Instances(LevelNode):
    """``/instances``."""

    async def post(self, request: StreamingRequest) -> Any:
        """Store a DICOM file, or a ZIP archive of them; the body may be gzipped."""
        return await take_upload(request, self._parts)


class ResourceNode(ApiResource):
    """``/{level}/ID``, whose children are its relatives, its statistics and its file."""

    def __init__(self, level: Level, id_: str, parts: ArchiveParts) -> None:
        super().__init__()
        self._level = level
        self._id = id_
        self._parts = parts

    async def get(self, request: StreamingRequest) -> Any:
        """The resource."""
        return details_json(await self._parts.archive.details(self._level, self._id))

    async def delete(self, request: StreamingRequest) -> Any:
        """Delete it and all below it."""
        remaining = await self._parts.archive.delete(self._level, self._id)
        if remaining is None:
            return {"RemainingAncestor": None}
        level, id_ = remaining
        ancestor = {"ID": id_, "Path": path_of(level, id_), "Type": level.value}
        return {"RemainingAncestor": ancestor}

    def getChild(self, path: bytes, request: Request) -> Resource:
        """A relative, or another aspect."""
        name = path.decode("latin-1")
        wanted = _LEVEL_NAMES.get(name)
        if wanted is not None and _ORDER.index(wanted) > _ORDER.index(self._level):
            return Descendants(self._level, self._id, wanted, self._parts)
        if name == "statistics":
            return Statistics(self._level, self._id, self._parts)
        if self._level is not Level.INSTANCE:
            return NotFound()
        if name == "file":
            return InstanceFile(self._id, self._parts)
        if name == "simplified-tags":
            return Tags(self._id, self._parts)
        if name == "attachments":
            return Attachments(self._id, self._parts)
        return NotFound()


class Descendants(ApiResource):
    """``/{level}/ID/studies|series|instances``."""

    def __init__(self, level: Level, id_: str, wanted: Level, parts: ArchiveParts) -> None:
        super().__init__()
        self._level = level
        self._id = id_
        self._wanted = wanted
        self._parts = parts

    async def get(self, request: StreamingRequest) -> Any:
        """The resources, or with ``expand=false`` their identifiers."""
        archive = self._parts.archive
        ids = await archive.descendants(self._level, self._id, self._wanted)
        if (argument(request, "expand") or "").lower() in ("false", "0"):
            return list(ids)
        return await _expanded(archive, self._wanted, ids)


class Statistics(ApiResource):
    """``/statistics`` and ``/{level}/ID/statistics``."""

    def __init__(self, level: Level | None, id_: str, parts: ArchiveParts) -> None:
        super().__init__()
        self._level = level
        self._id = id_
        self._parts = parts

    async def get(self, request: StreamingRequest) -> Any:
        """Counts and sizes: of the archive ``Total…`` and ``Count…``."""
        numbers = await self._parts.archive.statistics(self._level, self._id)
        return statistics_json(self._level, numbers)


def statistics_json(level: Level | None, numbers: ArchiveStatistics) -> dict[str, Any]:
    """Counts of what is below a level, and sizes; without ``level``, of the archive."""
    sizes = _sizes(numbers, "Total" if level is None else "")
    counts = {
        "CountPatients": numbers.patients,
        "CountStudies": numbers.studies,
        "CountSeries": numbers.series,
        "CountInstances": numbers.instances,
    }
    if level is None:
        return counts | sizes
    below = _ORDER[_ORDER.index(level) + 1 :]
    wanted = {f"Count{_PLURALS[each].capitalize()}" for each in below}
    return {name: n for name, n in counts.items() if name in wanted} | sizes


def _sizes(numbers: ArchiveStatistics, prefix: str) -> dict[str, Any]:
    return {
        f"{prefix}DiskSize": str(numbers.size),
        f"{prefix}DiskSizeMB": numbers.size // _MB,
        f"{prefix}UncompressedSize": str(numbers.size),
        f"{prefix}UncompressedSizeMB": numbers.size // _MB,
    }


class ArchiveTool(ApiResource):
    """What asks the archive, below ``/tools``."""

    def __init__(self, parts: ArchiveParts) -> None:
        super().__init__()
        self._parts = parts


class LookupTool(ArchiveTool):
    """``/tools/lookup``."""

    async def post(self, request: StreamingRequest) -> Any:
        """The resources that have the DICOM identifier in the body."""
        identifier = (await read_body(request, 1024)).decode("utf-8", "replace").strip(" \0\r\n")
        found = await self._parts.archive.lookup_dicom(identifier)
        return [
            {"ID": id_, "Path": path_of(level, id_), "Type": level.value} for level, id_ in found
        ]


class Changes(ApiResource):
    """``/changes``."""

    def __init__(self, parts: ArchiveParts) -> None:
        super().__init__()
        self._parts = parts

    async def get(self, request: StreamingRequest) -> Any:
        """The history after ``since``, ``limit`` lines at the most."""
        since, limit = _number(request, "since", 0), _number(request, "limit", _DEFAULT_LIMIT)
        lines, done, last = await self._parts.archive.changes(since, limit or _DEFAULT_LIMIT)
        return {
            "Changes": [
                {
                    "ChangeType": line.type,
                    "Date": line.date,
                    "ID": line.id,
                    "Path": path_of(line.level, line.id),
                    "ResourceType": line.level.value,
                    "Seq": line.seq,
                }
                for line in lines
            ],
            "Done": done,
            "Last": last,
        }


def _number(request: StreamingRequest, name: str, default: int) -> int:
    text = argument(request, name)
    if text is None:
        return default
    try:
        value = messages.parse_decimal(text)
    except ValueError:
        raise BadParameter(f"The argument {name}={text[:40]} is not a number") from None
    if value > _LARGEST_NUMBER:
        raise BadParameter(f"The argument {name}={text[:40]} is more than {_LARGEST_NUMBER}")
    return value


def add_archive(root: Resource, parts: ArchiveParts) -> None:
    """Put the archive's nodes below the root; ``/tools`` is made elsewhere."""
    for name, level in _LEVEL_NAMES.items():
        node = Instances if level is Level.INSTANCE else LevelNode
        root.putChild(name.encode(), node(level, parts))
    root.putChild(b"statistics", Statistics(None, "", parts))
    root.putChild(b"changes", Changes(parts))
