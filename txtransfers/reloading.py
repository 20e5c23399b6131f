"""What was made from files, made anew when they change, or when somebody asks.

What cannot be made anew stays as it is, and the log says why. Files are looked at in threads.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.logger import Logger

from .errors import TransfersError
from .threads import IThreads

log = Logger()

_Stamp = tuple[tuple[int, int, int] | None, ...]


@attrs.frozen
class Reloadable:
    """Something that is made from files.

    :ivar name: for the log. :ivar load: makes it; blocking, may fail with a TransfersError.
    :ivar use: takes what was made; in the reactor's thread.
    """

    name: str
    paths: Sequence[str]
    load: Callable[[], Any]
    use: Callable[[Any], None]


class Reloading:
    """Several of them."""

    def __init__(self, threads: IThreads, items: Sequence[Reloadable]) -> None:
        """They are made from the files as they are now; blocking."""
        self._threads = threads
        self._items = items
        self._stamps = [_stamp(item.paths) for item in items]
        self._busy = False

    async def look(self, everything: bool = False) -> None:
        """Make those anew whose files have changed.

        :param everything: those too whose files look as they did.
        """
        if self._busy:
            return
        self._busy = True
        try:
            for number, item in enumerate(self._items):
                stamp = await self._threads.run(_stamp, item.paths)
                if everything or stamp != self._stamps[number]:
                    self._stamps[number] = stamp
                    await self._reload(item)
        finally:
            self._busy = False

    async def _reload(self, item: Reloadable) -> None:
        try:
            made = await self._threads.run(item.load)
        except TransfersError as error:
            log.error("{name} stays as it was: {error}", name=item.name, error=error)
            return
        item.use(made)
        log.info("{name} was read anew: new connections use it", name=item.name)


def _stamp(paths: Sequence[str]) -> _Stamp:
    return tuple(_stamp_of(path) for path in paths)


def _stamp_of(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
