"""``/tools/find`` and ``/tools/count-resources``, in Orthanc's own names (protocol, section 7)."""

from collections.abc import Mapping
from typing import Any

from ..errors import BadMessage, OutOfRange
from ..store.finding import keyword_of
from ..store.interfaces import MODALITIES, Find, Order, ResourceDetails, SortKey
from ..wire import messages
from ..wire.messages import FindRequest, Level, OrderMessage
from .archive import ArchiveTool, details_json, statistics_json
from .resource import read_body
from .server import StreamingRequest

_BODY_SIZE = 2**20
_MOST_TAGS = 100
_MOST_EXPANDED = 1000
"""Resources that are described at a time, so that one answer does not hold a thread for long."""

_ALWAYS = ("ID", "Type")
_CONTENT: Mapping[str, tuple[str, ...]] = {
    "MainDicomTags": ("MainDicomTags", "PatientMainDicomTags"),
    "Children": ("Studies", "Series", "Instances"),
    "Parent": ("ParentPatient", "ParentStudy", "ParentSeries"),
    "Labels": ("Labels",),
    "Metadata": ("LastUpdate", "IndexInSeries"),
    "Status": ("Status",),
    "IsStable": ("IsStable",),
    "Attachments": ("FileSize", "FileUuid"),
    "RequestedTags": (),
    "IsProtected": (),
    "Statistics": (),
}
"""What ``ResponseContent`` may ask for -> the members that it brings; the last is ours."""

_PARENTS = {
    "ParentPatient": Level.PATIENT,
    "ParentStudy": Level.STUDY,
    "ParentSeries": Level.SERIES,
}
_LEVELS = list(Level)


def _read(body: bytes) -> tuple[FindRequest, Find]:
    wanted = messages.decode(body, FindRequest)
    level = messages.parse_level(wanted.Level)
    if wanted.Since < 0 or wanted.Limit < 0:
        raise OutOfRange(f"Since {wanted.Since} and Limit {wanted.Limit} must not be negative")
    for name in ("Query", "OrderBy", "RequestedTags"):
        if len(getattr(wanted, name)) > _MOST_TAGS:
            raise OutOfRange(f"{name} has more than {_MOST_TAGS} members")
    for name in wanted.ResponseContent or ():
        if name not in _CONTENT:
            raise OutOfRange(f'ResponseContent has "{name[:40]}"; it knows {", ".join(_CONTENT)}')
    return wanted, Find(
        level,
        wanted.Query,
        wanted.CaseSensitive,
        wanted.Since,
        wanted.Limit,
        tuple(_order(each) for each in wanted.OrderBy),
        _parent(wanted, level),
    )


def _order(wanted: OrderMessage) -> Order:
    directions = {"ASC": True, "DESC": False}
    if wanted.Direction not in directions:
        raise OutOfRange(f'OrderBy: Direction is "ASC" or "DESC", not "{wanted.Direction[:40]}"')
    by_tag = {key.value: key for key in (SortKey.TAG, SortKey.TAG_AS_INT, SortKey.TAG_AS_FLOAT)}
    if wanted.Type in by_tag:
        return Order(wanted.Key, directions[wanted.Direction], by_tag[wanted.Type])
    known = {key.value: key for key in (SortKey.LAST_UPDATE, SortKey.RECEPTION)}
    if wanted.Type != "Metadata" or wanted.Key not in known:
        raise OutOfRange(
            f'OrderBy: Type "{wanted.Type[:40]}" with Key "{wanted.Key[:40]}" is not known; Type is'
            f" {', '.join(by_tag)}, or Metadata with Key {' or '.join(known)}"
        )
    return Order("", directions[wanted.Direction], known[wanted.Key])


def _parent(wanted: FindRequest, level: Level) -> tuple[Level, str] | None:
    given = [(name, getattr(wanted, name)) for name in _PARENTS if getattr(wanted, name)]
    if len(given) > 1:
        raise BadMessage(f"{' and '.join(name for name, _id in given)}: one parent is enough")
    for name, id_ in given:
        if _LEVELS.index(_PARENTS[name]) >= _LEVELS.index(level):
            raise OutOfRange(f"{name} is not above the level {level.value}")
        return _PARENTS[name], id_
    return None


def found_json(details: ResourceDetails, wanted: FindRequest) -> dict[str, Any]:
    """One resource that was found, as the question wants it."""
    value = details_json(details)
    content = wanted.ResponseContent
    if content is not None:
        names = {name for each in content for name in _CONTENT[each]}
        value = {name: v for name, v in value.items() if name in names or name in _ALWAYS}
    if wanted.RequestedTags:
        value["RequestedTags"] = _requested(details, wanted.RequestedTags)
    if "Statistics" in (content or ()) and details.statistics is not None:
        value["Statistics"] = statistics_json(details.level, details.statistics)
    return value


def _requested(details: ResourceDetails, tags: list[str]) -> dict[str, str]:
    """Main tags of the resource and of all above it, and what is counted."""
    known = {**details.inherited, **details.tags, **_counted(details)}
    keywords = [keyword_of(tag) for tag in tags]
    return {keyword: known.get(keyword, "") for keyword in keywords}


def _counted(details: ResourceDetails) -> dict[str, str]:
    numbers, level = details.statistics, details.level
    if numbers is None or level is Level.INSTANCE:
        return {}
    counts = {"Studies": numbers.studies, "Series": numbers.series, "Instances": numbers.instances}
    names = list(counts)[_LEVELS.index(level) :]
    told = {f"NumberOf{level.value}Related{name}": str(counts[name]) for name in names}
    return told | ({MODALITIES: details.modalities} if level is Level.STUDY else {})


class FindTool(ArchiveTool):
    """``/tools/find``."""

    async def post(self, request: StreamingRequest) -> Any:
        """The resources of a level whose main tags match a query."""
        wanted, question = _read(await read_body(request, _BODY_SIZE))
        archive = self._parts.archive
        ids = await archive.find(question)
        if not wanted.Expand and wanted.ResponseContent is None:
            return list(ids)
        more = bool(wanted.RequestedTags) or "Statistics" in (wanted.ResponseContent or ())
        found: list[dict[str, Any]] = []
        for start in range(0, len(ids), _MOST_EXPANDED):
            some = ids[start : start + _MOST_EXPANDED]
            described = await archive.describe(question.level, some, more)
            found += [found_json(details, wanted) for details in described]
        return found


class CountTool(ArchiveTool):
    """``/tools/count-resources``."""

    async def post(self, request: StreamingRequest) -> Any:
        """How many match."""
        _wanted, question = _read(await read_body(request, _BODY_SIZE))
        return {"Count": await self._parts.archive.count(question)}
