"""The URL tree of a gateway: a few nodes are ours or shared, all else is Orthanc's."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
from twisted.web.resource import Resource
from twisted.web.server import Request

from ..jobs import Jobs
from ..system import Metrics
from .exchange import HandOn
from .explorer import ExplorerScript, ExplorerTwo
from .unions import JobsUnion, MetricsUnion, PeersUnion, PluginsUnion
from .upstream import Upstream

if TYPE_CHECKING:
    from ..site import SiteParts


@attrs.frozen
class Gateway:
    """What a gateway has that a daemon with its own store has not.

    :ivar explorer_root: where Orthanc Explorer 2 is, as ``/ui/``.
    """

    upstream: Upstream
    explorer_root: str


class Fallback(HandOn):
    """A node with children of ours; all others are Orthanc's."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        """One of Orthanc's."""
        return HandOn(self._upstream)


def gateway_tree(
    parts: "SiteParts", gateway: Gateway, transfers: Resource, jobs: Jobs, metrics: Metrics
) -> Fallback:
    """The whole tree."""
    upstream, threads = gateway.upstream, parts.threads
    root = Fallback(upstream)
    plugins = PluginsUnion(upstream, threads)
    plugins.putChild(b"explorer.js", ExplorerScript(upstream, threads))
    root.putChild(b"transfers", transfers)
    root.putChild(b"plugins", plugins)
    root.putChild(b"jobs", JobsUnion(upstream, threads, jobs))
    root.putChild(b"peers", PeersUnion(upstream, threads, parts.settings.peers))
    path = ["tools", "metrics-prometheus"]
    _put(root, path, MetricsUnion(upstream, threads, metrics), lambda: Fallback(upstream))
    explorer = [segment for segment in gateway.explorer_root.split("/") if segment]
    path = [*explorer, "api", "configuration"]
    _put(root, path, ExplorerTwo(upstream, threads), lambda: Fallback(upstream))
    return root


def _put(
    root: Resource, path: list[str], leaf: Resource, make_parent: Callable[[], Resource]
) -> None:
    """Put a leaf below parents that are there, or are made."""
    *parents, last = [segment.encode() for segment in path]
    node = root
    for segment in parents:
        child = node.children.get(segment)
        if not isinstance(child, Resource):
            child = make_parent()
            node.putChild(segment, child)
        node = child
    node.putChild(last, leaf)
