"""``/transfers/openapi.json``: what this daemon answers, for programs.

``openapi.json`` here is made of ``docs/openapi.yaml`` by ``python -m tests.openapi``, so that no
reader of YAML is needed where the daemon runs.
"""

import json
from importlib.resources import files
from typing import Any

from .. import __version__
from .resource import JSON, Reply, TransfersResource
from .server import StreamingRequest

_FILE = "openapi.json"

OURS = ("/transfers/", "/jobs", "/peers", "/plugins", "/tools/metrics-prometheus")
"""What begins so is answered by us behind a gateway, too."""

ABOUT_US = ("/metrics", "/healthz", "/readyz")
"""The same, where it is all of the path."""


class Description(TransfersResource):
    """``/transfers/openapi.json``. Reads its file at once: it is made at the start."""

    def __init__(self, is_gateway: bool) -> None:
        super().__init__()
        self._reply = Reply(json.dumps(describe(is_gateway)).encode(), JSON)

    async def get(self, request: StreamingRequest) -> Reply:
        """The description."""
        return self._reply


def describe(is_gateway: bool) -> dict[str, Any]:
    """The description; behind a gateway without what is handed on to Orthanc."""
    value: dict[str, Any] = json.loads(files(__package__).joinpath(_FILE).read_text("utf-8"))
    value["info"]["version"] = __version__
    if is_gateway:
        value["paths"] = {
            path: node
            for path, node in value["paths"].items()
            if path.startswith(OURS) or path in ABOUT_US
        }
    return value
