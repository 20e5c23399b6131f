"""The whole URL tree, in one function; and who may come in."""

from collections.abc import Callable, Mapping
from hmac import compare_digest
from ipaddress import ip_address
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from ..config import Settings
from ..errors import ForeignOrigin
from ..jobs.runner import JobRunner
from ..store.interfaces import IArchive, IInstanceStore
from ..threads import IThreads
from ..transfer.bandwidth import Bandwidth
from ..transfer.directory import Directory
from ..transfer.incoming import PushTransactions
from .archive import LookupTool, add_archive
from .explorer import Front
from .finding import CountTool, FindTool
from .gateway.door import Door
from .gateway.exchange import HandOn
from .gateway.tree import Gateway, gateway_tree
from .instances import ArchiveParts
from .jobs import Jobs
from .origins import is_foreign
from .resource import ApiResource, NotFoundParent, Reply
from .server import StreamingRequest, StreamingSite
from .system import Metrics, PeersNode, Plugins, System
from .transfers import transfers_tree

_REALM = 'Basic realm="Orthanc Secure Area"'

log = Logger()


@attrs.frozen
class SiteParts:
    """What the URL tree is made of. Without ``archive``, what it shows is not there; with
    ``gateway``, it is Orthanc's.
    """

    settings: Settings
    clock: IReactorTime
    wall_clock: Callable[[], float]
    threads: IThreads
    store: IInstanceStore
    archive: IArchive | None
    jobs: JobRunner
    peers: Directory
    transactions: PushTransactions
    originator: str
    used_cache: Callable[[], int]
    bandwidth: Bandwidth
    gateway: Gateway | None = None


def make_site(parts: SiteParts) -> StreamingSite:
    """The site of a daemon."""
    settings = parts.settings
    jobs = Jobs(parts.jobs, parts.wall_clock)
    metrics = Metrics(parts.transactions, parts.archive, parts.used_cache, parts.wall_clock)
    if parts.gateway is not None:
        tree = gateway_tree(parts, parts.gateway, transfers_tree(parts), jobs, metrics)
        return GuardedSite(tree, settings, Door(parts.gateway.upstream, parts.clock))
    root = Front()
    root.putChild(b"transfers", transfers_tree(parts))
    root.putChild(b"jobs", jobs)
    root.putChild(b"system", System(settings, parts.archive))
    root.putChild(b"plugins", Plugins())
    root.putChild(b"peers", PeersNode(settings.peers))
    tools = NotFoundParent()
    root.putChild(b"tools", tools)
    tools.putChild(b"metrics-prometheus", metrics)
    if parts.archive is not None:
        archive = ArchiveParts(parts.archive, parts.store, parts.threads)
        add_archive(root, archive)
        tools.putChild(b"lookup", LookupTool(archive))
        tools.putChild(b"find", FindTool(archive))
        tools.putChild(b"count-resources", CountTool(archive))
    return GuardedSite(root, settings)


class GuardedSite(StreamingSite):
    """Lets in whom the configuration lets in, before any byte of a body is taken."""

    def __init__(self, root: IResource, settings: Settings, door: Door | None = None) -> None:
        """:param door: whether the Orthanc to which requests are handed on guards itself."""
        super().__init__(root, settings.http_timeout, settings.keep_alive)
        self._settings = settings
        self._door = door

    def getResourceFor(self, request: Request) -> IResource:
        """The resource of a path, or a refusal."""
        if not self._settings.remote_access_allowed and not _is_local(request):
            return Refusal(403, {})
        resource = super().getResourceFor(request)
        foreign = is_foreign(request.method, request.getHeader)
        if self._settings.authentication_enabled and not self._knows(request):
            refusal = Refusal(401, {"WWW-Authenticate": _REALM})
            if self._door is not None and isinstance(resource, HandOn) and not foreign:
                return Ask(self._door, resource, refusal)
            return refusal
        return Foreign() if foreign else resource

    def _knows(self, request: Request) -> bool:
        password = self._settings.registered_users.get(request.getUser().decode("utf-8", "replace"))
        given = request.getPassword()
        return password is not None and compare_digest(password.encode(), given)


def _is_local(request: Request) -> bool:
    host = getattr(request.getClientAddress(), "host", "127.0.0.1")
    return bool(ip_address(host.partition("%")[0]).is_loopback)


class Ask(ApiResource):
    """For those whom we do not know, and who want what is Orthanc's."""

    continues = True

    def __init__(self, door: Door, hand_on: HandOn, refusal: "Refusal") -> None:
        super().__init__()
        self._door = door
        self._hand_on = hand_on
        self._refusal = refusal

    async def handle(self, request: StreamingRequest, method: str) -> Any:
        """Let them in where Orthanc asks who they are."""
        if await self._door.guards_itself():
            return await self._hand_on.handle(request, method)
        request.refuse_body()
        return await self._refusal.handle(request, method)


class Foreign(ApiResource):
    """For what a page of another site wants."""

    async def handle(self, request: StreamingRequest, method: str) -> Any:
        """Refuse, and say why: a proxy may be the reason."""
        raise ForeignOrigin(
            "This comes from a page of another site. If it is the page of this daemon behind a"
            " proxy, let the proxy pass the header Host on, or tell it as X-Forwarded-Host"
        )

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Whatever is below, too."""
        return self


class Refusal(ApiResource):
    """For those who may not come in, whatever they ask for."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__()
        self._reply = Reply(b"", status=status, headers=headers)

    async def handle(self, request: StreamingRequest, method: str) -> Any:
        """Refuse."""
        return self._reply

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Whatever is below, too."""
        return self
