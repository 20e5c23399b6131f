"""What Orthanc's pages need to know of us: a script for Orthanc Explorer, a line for its successor.

Nothing else of these pages is changed.
"""

import json
from importlib.resources import files
from typing import Any

from ...threads import IThreads
from ...transfer.peers import PLUGIN
from ..resource import Reply, encode
from ..server import StreamingRequest
from ..system import plugin_json
from .unions import Union, as_reply
from .upstream import Upstream

_BUTTON = b"Transfers accelerator"
"""What the button of Orthanc's own accelerator says, where that is installed too."""


class ExplorerScript(Union):
    """``/plugins/explorer.js``, which Orthanc Explorer loads after its own script."""

    def __init__(self, upstream: Upstream, threads: IThreads) -> None:
        super().__init__(upstream, threads)
        self._script = files(__package__).joinpath("button.js").read_bytes()

    async def get(self, request: StreamingRequest) -> Reply:
        """Orthanc's, and the button."""
        theirs = await self.theirs(request)
        if _BUTTON in theirs.body:
            return as_reply(theirs, theirs.body)
        return as_reply(theirs, theirs.body + b"\n" + self._script)


class ExplorerTwo(Union):
    """``/ui/api/configuration``, where Orthanc Explorer 2 learns which plugins there are."""

    async def get(self, request: StreamingRequest) -> Any:
        """Orthanc's answer, with the transfers enabled; where it is none of that kind, as it is."""
        theirs = await self.theirs(request)
        return as_reply(theirs, await self._threads.run(_with_transfers, theirs.body))


def _with_transfers(body: bytes) -> bytes:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(value, dict) or not isinstance(value.setdefault("Plugins", {}), dict):
        return body
    found = value["Plugins"].get(PLUGIN)
    known = found if isinstance(found, dict) else {}
    value["Plugins"][PLUGIN] = {**plugin_json()} | known | {"Enabled": True}
    return encode(json.dumps(value, indent=3, ensure_ascii=False))
