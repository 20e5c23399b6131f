"""What this Orthanc can do, by its version and by how it behaves."""

import re
from typing import Any

from twisted.logger import Logger

from ..errors import TransfersError
from .rest import OrthancRest

_RANGES_SINCE = (1, 12, 5)
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)\Z")

log = Logger()


class Dialect:
    """See the module.

    :ivar has_ranges: whether it gives parts of instances; not known to before :meth:`ask`.
    """

    def __init__(self, rest: OrthancRest) -> None:
        self._rest = rest
        self.has_ranges = False

    async def ask(self) -> bool:
        """Ask Orthanc who it is; tells whether it answers, and says in the log what it answers."""
        try:
            told = await self._rest.get_json("/system")
        except TransfersError as error:
            log.warn(
                "The store does not answer, and is asked again when it is needed: {error}",
                error=error,
            )
            return False
        version = told.get("Version") if isinstance(told, dict) else None
        if not isinstance(version, str):
            log.warn("{who} does not say its version: is it an Orthanc?", who=self._rest.who)
            return False
        # What is stored compressed would be inflated anew for each part.
        self.has_ranges = _gives_ranges(version) and not told.get("StorageCompression")
        log.info(
            "The store is {who}, version {version}; instances are read {how}",
            who=self._rest.who,
            version=version[:40],
            how="in parts" if self.has_ranges else "whole, and copied to the disk meanwhile",
        )
        return True

    def no_ranges(self) -> None:
        """It was asked for a part, and gave none."""
        if self.has_ranges:
            self.has_ranges = False
            log.warn("{who} gives no parts of instances after all", who=self._rest.who)


def _gives_ranges(version: Any) -> bool:
    match = _VERSION.match(version)
    if match is None:
        return bool(version.startswith("mainline"))
    return tuple(map(int, match.groups())) >= _RANGES_SINCE
