"""``/transfers/openapi.json``: what this daemon answers, for programs.

``openapi.yaml`` here is what people read, and edit, as ``docs/openapi.yaml``.
"""

from importlib.resources import files
from typing import Any

import msgspec
import yaml

from .. import __version__
from ..threads import IThreads
from .resource import JSON, Reply, TransfersResource
from .server import StreamingRequest

_FILE = "openapi.yaml"

OURS = ("/transfers/", "/jobs", "/peers", "/plugins", "/tools/metrics-prometheus")
"""What begins so is answered by us behind a gateway, too."""

ABOUT_US = ("/metrics", "/healthz", "/readyz")
"""The same, where it is all of the path."""


class Description(TransfersResource):
    """``/transfers/openapi.json``. Its file is read when somebody asks, once."""

    def __init__(self, threads: IThreads, is_gateway: bool) -> None:
        super().__init__()
        self._threads = threads
        self._is_gateway = is_gateway
        self._reply: Reply | None = None

    async def get(self, request: StreamingRequest) -> Reply:
        """The description."""
        if self._reply is None:
            body = await self._threads.run(lambda: msgspec.json.encode(describe(self._is_gateway)))
            self._reply = Reply(body, JSON)
        return self._reply


def read() -> dict[str, Any]:
    """The file's content; takes some tenths of a second."""
    value: dict[str, Any] = yaml.safe_load(files(__package__).joinpath(_FILE).read_text("utf-8"))
    return value


def describe(is_gateway: bool) -> dict[str, Any]:
    """The description; behind a gateway without what is handed on to Orthanc."""
    value = read()
    value["info"]["version"] = __version__
    if is_gateway:
        value["paths"] = {
            path: node
            for path, node in value["paths"].items()
            if path.startswith(OURS) or path in ABOUT_US
        }
    return value
