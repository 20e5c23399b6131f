"""All limits of bandwidth: of everything together, and of each peer; and their change."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

import attrs
from twisted.internet.interfaces import IReactorTime

from ..config_bandwidth import BandwidthSettings
from ..timetable import Timetable
from .flow import Flow
from .limit import Limit
from .turns import Turn


@attrs.frozen
class TwoWays:
    """The limits of both directions."""

    upload: Limit
    download: Limit

    def change(self, timetables: Mapping[str, Timetable]) -> None:
        """Take these, by the names of the attributes; the others stay."""
        for direction, timetable in timetables.items():
            limit: Limit = getattr(self, direction)
            limit.change(timetable)


class Bandwidth:
    """See the module. What is changed is forgotten at a restart: the configuration holds then."""

    def __init__(
        self,
        clock: IReactorTime,
        local_time: Callable[[], datetime],
        settings: BandwidthSettings,
        peers: Mapping[str, BandwidthSettings],
    ) -> None:
        """:param local_time: what timetables are read by. :param peers: by name, all there are."""

        def limits(what: str, of: BandwidthSettings) -> TwoWays:
            return TwoWays(
                Limit(f"uploads{what}", clock, local_time, of.upload),
                Limit(f"downloads{what}", clock, local_time, of.download),
            )

        self.all = limits("", settings)
        self.peers: Mapping[str, TwoWays] = {
            name: limits(f' of peer "{name}"', of) for name, of in peers.items()
        }

    def sending(self, turn: Turn, peer: str | None = None) -> Flow:
        """A stream that we send. :param peer: with which we run the transfer, if we do."""
        return Flow([ways.upload for ways in self._ways(peer)], turn)

    def receiving(self, turn: Turn, peer: str | None = None) -> Flow:
        """A stream that we receive; see :meth:`sending`."""
        return Flow([ways.download for ways in self._ways(peer)], turn)

    def _ways(self, peer: str | None) -> Iterator[TwoWays]:
        """The narrower first: what it grants is asked of the other."""
        if peer is not None and peer in self.peers:
            yield self.peers[peer]
        yield self.all

    def change(
        self, everything: Mapping[str, Timetable], peers: Mapping[str, Mapping[str, Timetable]]
    ) -> None:
        """Have other limits at once, by direction; of peers that are known."""
        self.all.change(everything)
        for name, timetables in peers.items():
            self.peers[name].change(timetables)
