"""``/transfers/bandwidth``, an extension of ours: what the limits are, and their change."""

from collections.abc import Hashable, Mapping
from typing import Any

from ..config_bandwidth import DIRECTIONS, read_directions
from ..config_values import check_known, describe, join
from ..errors import BadMessage, UnknownResource
from ..threads import IThreads
from ..timetable import Timetable, format_figure
from ..transfer.bandwidth import Bandwidth, TwoWays
from ..transfer.turns import Turn
from ..wire.messages import decode
from .resource import JSON, ApiResource, read_body
from .server import StreamingRequest

_PEERS = "Peers"
_BODY_SIZE = 2**20

Changes = tuple[Mapping[str, Timetable], Mapping[str, Mapping[str, Timetable]]]


class BandwidthNode(ApiResource):
    """``/transfers/bandwidth``."""

    json_type = JSON

    def __init__(self, bandwidth: Bandwidth, threads: IThreads) -> None:
        super().__init__()
        self._bandwidth = bandwidth
        self._threads = threads

    async def get(self, request: StreamingRequest) -> Any:
        """What is set, and what that means at this moment."""
        peers = {name: _shown(ways) for name, ways in self._bandwidth.peers.items()}
        return {**_shown(self._bandwidth.all), _PEERS: peers}

    async def put(self, request: StreamingRequest) -> Any:
        """Set what is named, all of it or nothing, until the daemon is restarted."""
        body = await read_body(request, _BODY_SIZE)
        everything, peers = await self._threads.run(_read, body)
        for name in peers:
            if name not in self._bandwidth.peers:
                known = ", ".join(sorted(self._bandwidth.peers)) or "none"
                raise UnknownResource(f"Unknown peer: {name[:100]} (OrthancPeers has {known})")
        self._bandwidth.change(everything, peers)
        return await self.get(request)


def asked(request: StreamingRequest) -> Turn:
    """In whose name a peer's request is served: its transfer's, or else its connection's."""
    transfer = request.getHeader("sender-transfer-id")
    job: Hashable = transfer or str(request.getClientAddress())
    return Turn(0, ("asked", job))


def _shown(ways: TwoWays) -> dict[str, Any]:
    limits = {name: getattr(ways, field) for name, field in DIRECTIONS.items()}
    return {
        name: {"Limit": limit.timetable.form, "Now": format_figure(limit.bits)}
        for name, limit in limits.items()
    }


def _read(body: bytes) -> Changes:
    """:raises BadMessage: names every member that is wrong."""
    found = decode(body, dict[str, Any])
    problems: list[str] = []
    check_known([*DIRECTIONS, _PEERS], found, "", problems)
    directions = {name: value for name, value in found.items() if name in DIRECTIONS}
    everything = read_directions(directions, "", problems) if directions else {}
    forms = found.get(_PEERS, {})
    peers = {}
    if isinstance(forms, dict):
        for name, form in forms.items():
            peers[name] = read_directions(form, join(_PEERS, name), problems)
    else:
        problems.append(
            f"{_PEERS}: expected an object {{ name : limits }}; found {describe(forms)}"
        )
    if problems:
        raise BadMessage("; ".join(problems))
    return everything, peers
