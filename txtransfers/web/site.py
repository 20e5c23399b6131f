"""The whole URL tree, in one function; and who may come in."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from ..config import Settings
from ..errors import BadParameter, Forbidden, ForeignOrigin, TooBusy, TransfersError
from ..jobs.runner import JobRunner
from ..metrics import Measures
from ..store.files import StoreFiles
from ..store.interfaces import IArchive, IInstanceStore
from ..threads import IThreads
from ..transfer.bandwidth import Bandwidth
from ..transfer.directory import Directory
from ..transfer.incoming import PushTransactions
from ..transfer.slots import Slots
from .access import Access, User, claimed_name
from .archive import LookupTool, add_archive
from .auditing import Auditor
from .explorer import Front
from .finding import CountTool, FindTool
from .gateway.door import Door
from .gateway.exchange import HandOn
from .gateway.tree import Gateway, gateway_tree
from .health import Alive, Health, Readiness, Ready
from .instances import ArchiveParts
from .jobs import Jobs
from .metrics import PrometheusMetrics, Sources
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
    """What the URL tree is made of. Without ``archive``, what it shows is not there; with
    ``gateway``, what is not ours is handed on to an Orthanc.
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
    auditor: Auditor | None = None
    measures: Measures = attrs.Factory(Measures)
    files: StoreFiles | None = None
    memory: Slots | None = None


def make_site(parts: SiteParts) -> StreamingSite:
    """The site of a daemon."""
    access = Access(parts.settings, parts.clock, parts.threads)
    jobs = Jobs(parts.jobs, parts.wall_clock)
    metrics = Metrics(
        parts.transactions,
        parts.archive,
        parts.used_cache,
        parts.wall_clock,
        lambda: access.failed,
    )
    root: Resource
    door = None
    if parts.gateway is not None:
        root = gateway_tree(parts, parts.gateway, transfers_tree(parts), jobs, metrics)
        door = Door(parts.gateway.upstream, parts.clock)
    else:
        root = _own_tree(parts, jobs, metrics)
    _add_monitoring(root, parts, access)
    return GuardedSite(root, parts, access, door)


def _own_tree(parts: SiteParts, jobs: Jobs, metrics: Metrics) -> Resource:
    """The tree of a daemon with a store of its own."""
    root = Front()
    root.putChild(b"transfers", transfers_tree(parts))
    root.putChild(b"jobs", jobs)
    root.putChild(b"system", System(parts.settings, parts.archive))
    root.putChild(b"plugins", Plugins())
    root.putChild(b"peers", PeersNode(parts.settings.peers))
    tools = NotFoundParent()
    root.putChild(b"tools", tools)
    tools.putChild(b"metrics-prometheus", metrics)
    if parts.archive is not None:
        archive = ArchiveParts(parts.archive, parts.store, parts.threads)
        add_archive(root, archive)
        tools.putChild(b"lookup", LookupTool(archive))
        tools.putChild(b"find", FindTool(archive))
        tools.putChild(b"count-resources", CountTool(archive))
    return root


def _add_monitoring(root: Resource, parts: SiteParts, access: Access) -> None:
    """What tells programs how the daemon is."""
    readiness = Readiness(
        parts.clock,
        parts.threads,
        parts.files.probe if parts.files is not None else None,
        lambda: parts.transactions.is_refusing,
        parts.gateway.upstream if parts.gateway is not None else None,
    )
    sources = Sources(
        parts.measures,
        parts.threads,
        parts.jobs,
        parts.transactions,
        parts.archive,
        parts.files.space if parts.files is not None else None,
        parts.memory,
        lambda: access.failed,
        readiness.is_orthanc_up if parts.gateway is not None else None,
    )
    root.putChild(b"metrics", PrometheusMetrics(sources))
    root.putChild(b"healthz", Alive())
    root.putChild(b"readyz", Ready(readiness))


@attrs.frozen
class Wanted:
    """What a request is for. :ivar segments: of its path, without empty ones."""

    resource: IResource
    segments: Sequence[str]


class GuardedSite(StreamingSite):
    """Lets in whom the configuration lets in, before any byte of a body is taken."""

    def __init__(
        self,
        root: IResource,
        parts: SiteParts,
        access: Access,
        door: Door | None = None,
    ) -> None:
        """:param door: whether the Orthanc to which requests are handed on guards itself."""
        settings = parts.settings
        super().__init__(
            root,
            settings.http_timeout,
            settings.keep_alive,
            settings.limits,
            settings.transfers.cache_size,
            parts.clock,
            parts.measures,
        )
        self._settings = settings
        self.access = access
        self._auditor = parts.auditor
        self._door = door

    def getResourceFor(self, request: Request) -> IResource:
        """The resource of a path, a refusal, or a wait until it is known who asks."""
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        if self._settings.authentication_enabled:
            request.setHeader("Cache-Control", "no-store")
        if not request.uri.startswith((b"/", b"*")):
            return Refused(
                BadParameter(
                    "This is no proxy: what is asked for must begin with a slash, not with an"
                    " address"
                )
            )
        if not self._settings.remote_access_allowed and not is_local(request.getClientAddress()):
            return Refusal(403, {})
        if self._is_foreign(request):
            return Refused(
                ForeignOrigin(
                    "A page of another address may change nothing here; if it is meant to, list"
                    " it in AllowedOrigins. If it is the page of this daemon behind a proxy, let"
                    " the proxy pass the header Host on, or tell it as X-Forwarded-Host"
                )
            )
        path = (segment.decode("utf-8", "replace") for segment in request.postpath or ())
        segments = [segment for segment in path if segment]
        wanted = Wanted(super().getResourceFor(request), segments)
        if isinstance(wanted.resource, Health):
            return wanted.resource
        user = self.access.known(_header(request, b"Authorization"))
        enough = needed(request.method.decode("latin-1"), segments)
        if self._door is None or not isinstance(wanted.resource, HandOn):
            return self.enter(request, user, wanted)
        if user is None or not user.may(enough):
            return Ask(self, self._door, wanted.resource, wanted, user)
        return self.enter(request, user, wanted)

    def enter(self, request: Request, user: User | None, wanted: Wanted) -> IResource:
        """What is wanted, or what is in the way; or a wait until it is known who asks."""
        header = _header(request, b"Authorization")
        if user is None and header is not None:
            return Login(self, header, wanted)
        return self.admit(request, user, wanted)

    def admit(self, request: Request, user: User | None, wanted: Wanted) -> IResource:
        """What is wanted, where ``user`` may have it."""
        if user is None:
            return Refusal(401, {"WWW-Authenticate": _REALM})
        cast(StreamingRequest, request).asker = user.name or self._shown(request)
        cast(StreamingRequest, request).login = user.name
        enough = needed(request.method.decode("latin-1"), wanted.segments)
        if not user.may(enough):
            names = ", ".join(sorted(permission.value for permission in enough))
            return Refused(
                Forbidden(
                    f"User {user.name} may not do this: it needs one of {names} (Permissions)"
                )
            )
        return self.take_body(request, wanted)

    def take_body(self, request: Request, wanted: Wanted) -> IResource:
        """What is wanted, unless too many bodies are coming already."""
        try:
            cast(StreamingRequest, request).take_body()
        except TooBusy as error:
            return Refused(error)
        if self._auditor is not None:
            self._auditor.watch(cast(StreamingRequest, request), wanted.segments)
        return wanted.resource

    def _shown(self, request: Request) -> str:
        if not self._settings.ssl_verify_peers or request._disconnected:
            return ""
        name = shown_name(request.channel.transport)
        return f"certificate {name}" if name else ""

    def _is_foreign(self, request: Request) -> bool:
        hosts = (_header(request, b"Host"), _header(request, b"X-Forwarded-Host"))
        return is_foreign(
            request.method.decode("latin-1"),
            _header(request, b"Origin"),
            _header(request, b"Sec-Fetch-Site"),
            [host for host in hosts if host],
            self._settings.allowed_origins,
        )


class Ask(ApiResource):
    """For those who may not do it by our own rules, and who want what is Orthanc's."""

    continues = True

    def __init__(
        self, site: GuardedSite, door: Door, hand_on: HandOn, wanted: Wanted, user: User | None
    ) -> None:
        super().__init__()
        self._site = site
        self._door = door
        self._hand_on = hand_on
        self._wanted = wanted
        self._user = user

    def render(self, request: Request) -> int:
        """Answer later."""
        return _later(request, self._find(request))

    async def _find(self, request: Request) -> IResource:
        """Let them in where Orthanc asks who they are; where it does not, we do."""
        if await self._door.guards_itself():
            # If Orthanc answers, it has checked that they are who they say.
            cast(StreamingRequest, request).asker = claimed_name(_header(request, b"Authorization"))
            return self._site.take_body(request, self._wanted)
        return self._site.enter(request, self._user, self._wanted)


class Login(Resource):
    """Waits until it is known who asks, then does as was asked."""

    isLeaf = True
    continues = True

    def __init__(self, site: GuardedSite, header: str, wanted: Wanted) -> None:
        super().__init__()
        self._site = site
        self._header = header
        self._wanted = wanted

    def render(self, request: Request) -> int:
        """Answer later."""
        return _later(request, self._find(request))

    async def _find(self, request: Request) -> IResource:
        address = getattr(request.getClientAddress(), "host", "")
        try:
            user = await self._site.access.identify(self._header, address)
        except TooBusy as error:
            return Refused(error)
        return self._site.admit(request, user, self._wanted)


def _header(request: Request, name: bytes) -> str | None:
    value = request.getHeader(name)
    return value.decode("utf-8", "surrogateescape") if value is not None else None


def _later(request: Request, finding: Coroutine[Any, Any, IResource]) -> int:
    """Answer with what is found."""

    async def answer() -> None:
        resource = await finding
        if not request._disconnected:
            request.render(resource)

    answered = Deferred.fromCoroutine(answer())
    answered.addErrback(lambda failure: log.failure("A login failed for a defect", failure))
    return NOT_DONE_YET


class Refused(ApiResource):
    """An error, whatever is asked for."""

    continues = True

    def __init__(self, error: TransfersError) -> None:
        super().__init__()
        self._error = error

    async def handle(self, request: StreamingRequest, method: str) -> Any:
        """Fail."""
        request.refuse_body()
        raise self._error

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Whatever is below, too."""
        return self


class Refusal(ApiResource):
    """For those who may not come in, whatever they ask for."""

    continues = True

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__()
        self._reply = Reply(b"", status=status, headers=headers)

    async def handle(self, request: StreamingRequest, method: str) -> Any:
        """Refuse."""
        request.refuse_body()
        return self._reply

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Whatever is below, too."""
        return self
