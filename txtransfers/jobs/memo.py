"""What the transfer of a job remembers over restarts, in the journal; see :class:`Memo`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ..threads import IThreads
from ..wire.plan import Instance
from .journal import IJournal, Kind
from .model import Job


class JobMemo:
    """See :class:`Memo`."""

    def __init__(
        self, job: Job, journal: IJournal, threads: IThreads, wall_clock: Callable[[], float]
    ) -> None:
        self._job = job
        self._journal = journal
        self._threads = threads
        self._wall_clock = wall_clock

    @property
    def id(self) -> str:
        """See :class:`Memo`."""
        return self._job.id

    @property
    def priority(self) -> int:
        """See :class:`Memo`."""
        return self._job.request.priority

    @property
    def state(self) -> Mapping[str, Any]:
        """See :class:`Memo`."""
        return self._job.memo

    @property
    def anew(self) -> bool:
        """See :class:`Memo`."""
        return self._job.anew

    @anew.setter
    def anew(self, value: bool) -> None:
        self._job.anew = value

    async def keep(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Memo.keep`."""
        self._job.memo = dict(state)
        await self._journal.save(self._job, durable=False)

    async def instances(self) -> tuple[Instance, ...] | None:
        """See :meth:`Memo.instances`."""
        data = await self._journal.attached(self.id, Kind.INSTANCES)
        if data is None:
            return None
        instances: tuple[Instance, ...] = await self._threads.run(_decode, data)
        return instances

    async def keep_instances(self, instances: Sequence[Instance]) -> None:
        """See :meth:`Memo.keep_instances`."""
        data = await self._threads.run(_encode, instances)
        await self._journal.attach(self.id, Kind.INSTANCES, data)

    def say(self, text: str) -> None:
        """See :meth:`Memo.say`."""
        self._job.say(text, self._wall_clock())


def _encode(instances: Sequence[Instance]) -> bytes:
    return msgspec.json.encode([(i.id, i.size, i.md5) for i in instances])


def _decode(data: bytes) -> tuple[Instance, ...]:
    return tuple(Instance(*values) for values in msgspec.json.decode(data))
