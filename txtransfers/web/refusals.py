"""What limits have refused: counted by the key of each, and told in the log, not once for each."""

from collections import Counter

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

NAMES = (
    "HeaderTimeout",
    "MaxChunksUrlLength",
    "MaxConnections",
    "MaxConnectionsPerAddress",
    "MaxDownloads",
    "MaxHeaderSize",
    "MaxMessageSize",
    "MaxUploads",
    "MinimumBodyRate",
)
"""The limits of clients; those of a transfer are told in its own errors."""

_SILENCE_S = 60.0
"""Seconds between two lines of the log about one limit: a flood is not to fill the disk."""

log = Logger()


class Refusals:
    """See the module. :ivar counted: by the key of the configuration, since the start."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self.counted: Counter[str] = Counter()
        self._told: dict[str, tuple[float, int]] = {}

    def note(self, limit: str, who: str) -> None:
        """Something was refused. :param limit: a key of ``Limits``. :param who: the last one."""
        self.counted[limit] += 1
        now = self._clock.seconds()
        last, before = self._told.get(limit, (-_SILENCE_S, 0))
        if now - last >= _SILENCE_S:
            count = self.counted[limit]
            log.warn(
                "Limits.{limit}: {new} refused since the last such line, {count} in all;"
                " the last one from {who}",
                limit=limit,
                new=count - before,
                count=count,
                who=who,
            )
            self._told[limit] = now, count
