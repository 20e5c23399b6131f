"""What clients ask of the daemon itself: ``/system``, ``/plugins``, ``/peers``, the metrics."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Request

from .. import __version__
from ..config import PeerSettings, Settings
from ..errors import UnknownResource
from ..store.interfaces import IArchive
from ..transfer.incoming import PushTransactions
from ..transfer.peers import PLUGIN
from ..wire.abilities import ALL_ABILITIES
from .resource import ApiResource, NotFound, Reply
from .server import StreamingRequest

_PLUGINS: Mapping[str, dict[str, Any]] = {
    PLUGIN: {
        "Description": "Accelerates transfers and provides storage commitment"
        " between Orthanc peers",
        "ExtendsOrthancExplorer": True,
        "ID": PLUGIN,
        "TxTransfers": ALL_ABILITIES.to_json(),
        "Version": "1.7",
    }
}
_MS = 1000


def plugin_json() -> Mapping[str, Any]:
    """How Orthanc describes the accelerator."""
    return _PLUGINS[PLUGIN]


_SECRET = re.compile("pass|secret|token|key|auth|cred|pin|bearer|cookie", re.IGNORECASE)
_ORTHANC_VERSION = "1.10.1"
"""The Orthanc whose REST API this daemon follows: clients read a version of Orthanc here."""
_API_VERSION = 17


class System(ApiResource):
    """``/system``."""

    def __init__(self, settings: Settings, archive: IArchive | None) -> None:
        super().__init__()
        self._settings = settings
        self._archive = archive

    async def get(self, request: StreamingRequest) -> Any:
        """Who this is, in the members that Orthanc's clients read."""
        settings = self._settings
        return {
            "ApiVersion": _API_VERSION,
            "DatabaseServerIdentifier": self._archive.identifier if self._archive else "",
            "DicomAet": "",
            "HttpPort": settings.http_port,
            "IsHttpServerSecure": settings.ssl_enabled,
            "Name": settings.name,
            "OverwriteInstances": settings.overwrite_instances,
            "PluginsEnabled": True,
            "ReadOnly": False,
            "StorageCompression": False,
            "TxtransfersVersion": __version__,
            "Version": _ORTHANC_VERSION,
        }


class Plugins(ApiResource):
    """``/plugins``, by which peers recognise each other."""

    async def get(self, request: StreamingRequest) -> Any:
        """The names."""
        return list(_PLUGINS)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """One plugin."""
        plugin = _PLUGINS.get(path.decode("latin-1"))
        return Constant(plugin) if plugin else NotFound()


class Constant(ApiResource):
    """An answer that is always the same."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self._value = value

    async def get(self, request: StreamingRequest) -> Any:
        """The answer."""
        return self._value


class PeersNode(ApiResource):
    """``/peers``: the configured peers, without passwords."""

    def __init__(self, peers: Mapping[str, PeerSettings]) -> None:
        super().__init__()
        self._peers = peers

    async def get(self, request: StreamingRequest) -> Any:
        """The names, or with ``expand`` the peers."""
        if b"expand" in (request.args or {}):
            return {name: peer_json(peer) for name, peer in self._peers.items()}
        return list(self._peers)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """One peer."""
        return PeerNode(path.decode("utf-8", "replace"), self._peers)


class PeerNode(ApiResource):
    """``/peers/ID`` and ``/peers/ID/configuration``."""

    def __init__(self, name: str, peers: Mapping[str, PeerSettings]) -> None:
        super().__init__()
        self._name = name
        self._peers = peers

    async def get(self, request: StreamingRequest) -> Any:
        """The peer."""
        peer = self._peers.get(self._name)
        if peer is None:
            raise UnknownResource(f"Unknown peer: {self._name[:100]}")
        return peer_json(peer)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Its configuration is the same."""
        return self if path == b"configuration" else NotFound()


def peer_json(peer: PeerSettings) -> dict[str, Any]:
    """A peer as Orthanc describes it: names of headers, but no secrets."""
    value: dict[str, Any] = {
        "HttpHeaders": list(peer.headers),
        "Pkcs11": False,
        "Timeout": int(peer.timeout or 0),
        "Url": peer.url,
    }
    if peer.username:
        value["Username"] = peer.username
    if peer.remote_self is not None:
        value["RemoteSelf"] = peer.remote_self
    # The user's own keys may hold secrets of theirs: those that are called so are not shown.
    return value | {name: own for name, own in peer.extra.items() if not _SECRET.search(name)}


class Metrics(ApiResource):
    """``/tools/metrics-prometheus``: lines of three cells, name, value, time in ms."""

    def __init__(
        self,
        transactions: PushTransactions,
        archive: IArchive | None,
        used_cache: Callable[[], int],
        wall_clock: Callable[[], float],
        failed_logins: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__()
        self._failed_logins = failed_logins
        self._transactions = transactions
        self._archive = archive
        self._used_cache = used_cache
        self._wall_clock = wall_clock

    async def get(self, request: StreamingRequest) -> Reply:
        """All metrics."""
        now = round(self._wall_clock() * _MS)
        values = self._transfers()
        if self._archive is not None:
            numbers = await self._archive.statistics(None, "")
            values |= {
                "orthanc_count_patients": numbers.patients,
                "orthanc_count_studies": numbers.studies,
                "orthanc_count_series": numbers.series,
                "orthanc_count_instances": numbers.instances,
                "orthanc_disk_size_mb": round(numbers.size / 2**20, 6),
            }
        lines = "".join(f"{name} {value} {now}\n" for name, value in sorted(values.items()))
        return Reply(lines.encode(), "text/plain; version=0.0.4")

    def _transfers(self) -> dict[str, float]:
        counters = self._transactions.counters
        prefix = "orthanc_transfers_"
        return {
            f"{prefix}used_cache_size": self._used_cache(),
            f"{prefix}cache_hit_count": 0,
            f"{prefix}cache_miss_count": 0,
            f"{prefix}available_push_count": self._transactions.available,
            f"{prefix}failed_login_count": self._failed_logins(),
            f"{prefix}created_push_count": counters.created,
            f"{prefix}committed_push_count": counters.committed,
            f"{prefix}aborted_push_count": counters.aborted,
            f"{prefix}push_total_received_bytes_count": counters.received_bytes,
            f"{prefix}push_total_time_spent_in_reception_ms": round(
                counters.reception_seconds * _MS
            ),
            f"{prefix}push_total_time_spent_in_commit_ms": round(counters.commit_seconds * _MS),
        }
