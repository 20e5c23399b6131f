"""What Orthanc's database says of instances: which there are, their sizes and MD5s.

No file is read for that, unless Orthanc keeps no MD5s (``StoreMD5ForAttachments`` false). An MD5 is
remembered with the UUID of the file it is of: one that is replaced has another.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..errors import StorageFailure, UnknownResource
from ..transfer.slots import run_all
from ..wire.identifiers import is_identifier
from ..wire.messages import Level, Resource
from ..wire.plan import MAX_INSTANCE_SIZE, Instance
from .rest import OrthancRest

_SLICE = 500
"""Instances that one request describes: some 200 KB of an answer."""
_TOGETHER = 50
"""MD5s that are asked for one after the other."""
_AT_ONCE = 8
"""Requests at once to Orthanc's database, which it asks one after the other anyway."""
_MOST_REMEMBERED = 50_000
"""Instances, with their MD5s: about 25 MB of memory."""
_RECENT_S = 10.0
"""Seconds for which what Orthanc told is good enough for who compares it with what it reads."""
_BELOW = {"patients": "Studies", "studies": "Series", "series": "Instances"}
_ROUTES = {Level.PATIENT: "patients", Level.STUDY: "studies", Level.SERIES: "series"}

log = Logger()


@attrs.frozen
class Known:
    """An instance as Orthanc has it at a moment; ``uuid`` is of its file.

    :ivar md5: empty where nobody has asked for it.
    """

    id: str
    uuid: str
    size: int
    md5: str = ""


class Catalogue:
    """See the module."""

    def __init__(
        self,
        clock: IReactorTime,
        rest: OrthancRest,
        read_md5: Callable[[Known], Awaitable[str | None]],
    ) -> None:
        """:param read_md5: reads an instance for its MD5; None where it is gone."""
        self._clock = clock
        self._rest = rest
        self._read_md5 = read_md5
        self._has_bulk = True
        self._has_md5s = True
        self._told: OrderedDict[str, tuple[Known, float]] = OrderedDict()
        """What Orthanc told of an instance, and when."""

    async def lookup(self, resources: Sequence[Resource]) -> tuple[Instance, ...]:
        """See :meth:`IInstanceStore.lookup`."""
        named: set[str] = set()
        below: set[str] = set()
        for resource in dict.fromkeys(resources):
            if not is_identifier(resource.id):
                raise self._unknown(resource)
            if resource.level is Level.INSTANCE:
                named.add(resource.id)
            else:
                below.update(await self._below(resource))
        found = await self.find(sorted(named | below))
        for id_ in named:
            if id_ not in found:
                raise self._unknown(Resource(Level.INSTANCE, id_))
        return tuple(Instance(k.id, k.size, k.md5) for _id, k in sorted(found.items()))

    def _unknown(self, resource: Resource) -> UnknownResource:
        level = resource.level.value.lower()
        return UnknownResource(f"{self._rest.who} has no {level} {resource.id[:100]}")

    async def _below(self, resource: Resource) -> list[str]:
        route = _ROUTES[resource.level]
        ids = [resource.id]
        try:
            while route != "instances":
                lists: list[list[str]] = []
                await run_all((partial(self._children, route, id_, lists) for id_ in ids), _AT_ONCE)
                ids = [id_ for each in lists for id_ in each]
                route = _BELOW[route].lower()
        except UnknownResource:
            raise self._unknown(resource) from None
        return ids

    async def _children(self, route: str, id_: str, lists: list[list[str]]) -> None:
        told = await self._rest.get_json(f"/{route}/{id_}")
        name = _BELOW[route]
        children = told.get(name) if isinstance(told, dict) else None
        if not isinstance(children, list) or not all(map(_is_id, children)):
            raise self._nonsense(f"/{route}/{id_}", f"no list of {name}")
        lists.append(children)

    async def find(
        self, ids: Sequence[str], sizes: Mapping[str, int] | None = None
    ) -> dict[str, Known]:
        """Those of ``ids`` that are in Orthanc, with their MD5s.

        :param sizes: of one that has another size than this nobody wants the MD5.
        """
        found = await self.describe(ids)
        unknown = [
            known
            for known in found.values()
            if not known.md5 and (sizes is None or sizes[known.id] == known.size)
        ]
        groups = [unknown[n : n + _TOGETHER] for n in range(0, len(unknown), _TOGETHER)]
        await run_all((partial(self._learn, group, found) for group in groups), _AT_ONCE)
        unread = [found[known.id] for known in unknown if not found[known.id].md5]
        await run_all((partial(self._read, known, found) for known in unread), _AT_ONCE)
        return found

    def recent(self, ids: Iterable[str]) -> dict[str, Known] | None:
        """What :meth:`find` told of these some seconds ago; None where it did not tell all."""
        since = self._clock.seconds() - _RECENT_S
        found: dict[str, Known] = {}
        for id_ in ids:
            known, when = self._told.get(id_, (None, 0.0))
            if known is None or not known.md5 or when < since:
                return None
            found[id_] = known
        return found

    async def describe(self, ids: Sequence[str]) -> dict[str, Known]:
        """Those of ``ids`` that are in Orthanc, with the MD5s that are remembered."""
        wanted = [id_ for id_ in dict.fromkeys(ids) if is_identifier(id_)]
        found: dict[str, Known] = {}
        slices = (wanted[n : n + _SLICE] for n in range(0, len(wanted), _SLICE))
        await run_all((partial(self._describe, some, found) for some in slices), 2)
        return found

    async def _describe(self, ids: Sequence[str], found: dict[str, Known]) -> None:
        if self._has_bulk:
            question = {"Resources": ids, "Level": "Instance", "Short": True, "Metadata": False}
            try:
                told = await self._rest.post_json("/tools/bulk-content", question)
            except UnknownResource:  # before Orthanc 1.9.4
                self._has_bulk = False
            else:
                if not self._take(told, ids, found):
                    return
                # An identifier is that of a patient, too: Orthanc told of what is below.
                ids = [id_ for id_ in ids if id_ not in found]
        await run_all((partial(self._describe_one, id_, found) for id_ in ids), _AT_ONCE)

    async def _describe_one(self, id_: str, found: dict[str, Known]) -> None:
        with suppress(UnknownResource):
            self._take([await self._rest.get_json(f"/instances/{id_}")], [id_], found)

    def _take(self, told: Any, ids: Collection[str], found: dict[str, Known]) -> bool:
        """Take what is told of ``ids``; tells whether there was more."""
        asked, more = set(ids), False
        if not isinstance(told, list):
            raise self._nonsense("/tools/bulk-content", "no list")
        for each in told:
            try:
                id_, size, uuid = each["ID"], each["FileSize"], each.get("FileUuid", "")
            except (TypeError, KeyError, AttributeError):
                raise self._nonsense("/tools/bulk-content", "no instance") from None
            if not _is_id(id_) or not _is_size(size) or not isinstance(uuid, str):
                raise self._nonsense("/tools/bulk-content", "no instance")
            if id_ not in asked:
                more = True
                continue
            before, _when = self._told.get(id_, (None, 0.0))
            is_same = before is not None and before.uuid == uuid != ""
            found[id_] = Known(id_, uuid, size, before.md5 if before and is_same else "")
            self._remember(found[id_])
        return more

    async def _learn(self, group: Sequence[Known], found: dict[str, Known]) -> None:
        """Ask for MD5s; those that Orthanc has not stay empty."""
        if self._has_md5s:
            paths = [f"/instances/{known.id}/attachments/dicom/md5" for known in group]
            answers = await self._rest.get_each(paths, (200, 404))
            for known, path, answer in zip(group, paths, answers, strict=True):
                if answer.status == 200:
                    self._take_md5(known, self._md5_in(answer.body, path), found)

    def _md5_in(self, body: bytes, path: str) -> str:
        md5 = body.decode("latin-1").strip().lower()
        if md5 and (len(md5) != 32 or not set(md5) <= set("0123456789abcdef")):
            raise self._nonsense(path, "no MD5")
        return md5

    def _take_md5(self, known: Known, md5: str, found: dict[str, Known]) -> None:
        if md5:
            found[known.id] = attrs.evolve(known, md5=md5)
            self._remember(found[known.id])

    async def _read(self, known: Known, found: dict[str, Known]) -> None:
        """Read an instance for its MD5."""
        md5 = await self._read_md5(known)
        if md5 is None:  # it is gone
            del found[known.id]
            return
        if self._has_md5s:
            self._has_md5s = False
            log.warn(
                "{who} keeps no MD5 of instance {id}: each instance is read to know it. Set its"
                " StoreMD5ForAttachments to true, and restart this daemon",
                who=self._rest.who,
                id=known.id,
            )
        self._take_md5(known, md5, found)

    def _remember(self, known: Known) -> None:
        self._told[known.id] = known, self._clock.seconds()
        self._told.move_to_end(known.id)
        if len(self._told) > _MOST_REMEMBERED:
            self._told.popitem(last=False)

    def _nonsense(self, path: str, what: str) -> StorageFailure:
        return StorageFailure(
            f"{self._rest.who} answered {path} with {what}: is Store.Url that of an Orthanc?"
        )


def _is_id(value: object) -> bool:
    return isinstance(value, str) and is_identifier(value)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_INSTANCE_SIZE


def same(instances: Iterable[Instance], found: Mapping[str, Known]) -> tuple[int, ...]:
    """The positions of those of ``instances`` that are in Orthanc with the same content."""
    return tuple(
        position
        for position, instance in enumerate(instances)
        if (known := found.get(instance.id)) is not None
        and (known.size, known.md5) == (instance.size, instance.md5)
    )
