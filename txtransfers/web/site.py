"""The whole URL tree, in one function; and who may come in."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from ..config import Settings
from ..errors import Forbidden, TooBusy, TransfersError
from ..jobs.runner import JobRunner
from ..store.interfaces import IArchive, IInstanceStore
from ..threads import IThreads
from ..transfer.bandwidth import Bandwidth
from ..transfer.incoming import PushTransactions
from ..transfer.peers import Peer
from .access import Access, User
from .archive import FindTool, LookupTool, add_archive
from .auditing import Auditor
from .instances import ArchiveParts
from .jobs import Jobs
from .origins import HEADERS, is_foreign
from .permissions import needed
from .resource import ApiResource, NotFoundParent, Reply
from .server import StreamingRequest, StreamingSite
from .system import Metrics, PeersNode, Plugins, System
from .tls import is_local, shown_name
from .transfers import transfers_tree

_REALM = 'Basic realm="Orthanc Secure Area"'

log = Logger()


@attrs.frozen
class SiteParts:
    """What the URL tree is made of. Without ``archive``, what it shows is not there."""

    settings: Settings
    clock: IReactorTime
    wall_clock: Callable[[], float]
    threads: IThreads
    store: IInstanceStore
    archive: IArchive | None
    jobs: JobRunner
    peers: Mapping[str, Peer]
    transactions: PushTransactions
    originator: str
    used_cache: Callable[[], int]
    bandwidth: Bandwidth
    auditor: Auditor | None = None


def make_site(parts: SiteParts) -> StreamingSite:
    """The site of a daemon."""
    settings = parts.settings
    access = Access(settings, parts.clock, parts.threads)
    root = NotFoundParent()
    root.putChild(b"transfers", transfers_tree(parts))
    root.putChild(b"jobs", Jobs(parts.jobs, parts.wall_clock))
    root.putChild(b"system", System(settings, parts.archive))
    root.putChild(b"plugins", Plugins())
    root.putChild(b"peers", PeersNode(settings.peers))
    tools = NotFoundParent()
    root.putChild(b"tools", tools)
    tools.putChild(
        b"metrics-prometheus",
        Metrics(
            parts.transactions,
            parts.archive,
            parts.used_cache,
            parts.wall_clock,
            lambda: access.failed,
        ),
    )
    if parts.archive is not None:
        archive = ArchiveParts(parts.archive, parts.store, parts.threads)
        add_archive(root, archive)
        tools.putChild(b"lookup", LookupTool(archive))
        tools.putChild(b"find", FindTool(archive))
    return GuardedSite(root, settings, access, parts.auditor)


class GuardedSite(StreamingSite):
    """Lets in whom the configuration lets in, before any byte of a body is taken."""

    def __init__(
        self, root: IResource, settings: Settings, access: Access, auditor: Auditor | None
    ) -> None:
        super().__init__(root, settings.http_timeout, settings.keep_alive)
        self._settings = settings
        self.access = access
        self._auditor = auditor

    def getResourceFor(self, request: Request) -> IResource:
        """The resource of a path, a refusal, or a wait until it is known who asks."""
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        if self._settings.authentication_enabled:
            request.setHeader("Cache-Control", "no-store")
        if not self._settings.remote_access_allowed and not is_local(request.getClientAddress()):
            return Refusal(403, {})
        if self._is_foreign(request):
            return Refused(
                Forbidden(
                    "A page of another address may change nothing here; if it is meant to, list"
                    " it in AllowedOrigins (behind a proxy: does that pass Host on?)"
                )
            )
        header = request.getHeader("Authorization")
        user = self.access.known(header)
        if user is None and header is not None:
            return Login(self, header)
        return self.admit(request, user)

    def admit(self, request: Request, user: User | None) -> IResource:
        """The resource of a path, for a user."""
        if user is None:
            return Refusal(401, {"WWW-Authenticate": _REALM})
        cast(StreamingRequest, request).asker = user.name or self._shown(request)
        path = (segment.decode("utf-8", "replace") for segment in request.postpath or ())
        segments = [segment for segment in path if segment]
        enough = needed(request.method.decode("latin-1"), segments)
        if not user.may(enough):
            names = ", ".join(sorted(permission.value for permission in enough))
            return Refused(
                Forbidden(
                    f"User {user.name} may not do this: it needs one of {names} (Permissions)"
                )
            )
        if self._auditor is not None:
            self._auditor.watch(cast(StreamingRequest, request), segments)
        return super().getResourceFor(request)

    def _shown(self, request: Request) -> str:
        if not self._settings.ssl_verify_peers:
            return ""
        name = shown_name(request.channel.transport)
        return f"certificate {name}" if name else ""

    def _is_foreign(self, request: Request) -> bool:
        return is_foreign(
            request.method.decode("latin-1"),
            request.getHeader("Origin"),
            request.getHeader("Sec-Fetch-Site"),
            request.getHeader("Host") or "",
            self._settings.allowed_origins,
        )


class Login(Resource):
    """Waits until it is known who asks, then does as was asked."""

    isLeaf = True

    def __init__(self, site: GuardedSite, header: str) -> None:
        super().__init__()
        self._site = site
        self._header = header

    def render(self, request: Request) -> int:
        """Answer later."""
        answer = Deferred.fromCoroutine(self._answer(request))
        answer.addErrback(lambda failure: log.failure("A login failed for a defect", failure))
        return NOT_DONE_YET

    async def _answer(self, request: Request) -> None:
        address = getattr(request.getClientAddress(), "host", "")
        try:
            user = await self._site.access.identify(self._header, address)
        except TooBusy as error:
            resource: IResource = Refused(error)
        else:
            resource = self._site.admit(request, user)
        if not request._disconnected:
            request.render(resource)


class Refused(ApiResource):
    """An error, whatever is asked for."""

    def __init__(self, error: TransfersError) -> None:
        super().__init__()
        self._error = error

    async def handle(self, request: StreamingRequest, method: str) -> Any:
        """Fail."""
        raise self._error


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
