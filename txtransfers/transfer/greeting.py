"""Who a peer is, as it tells it to people who ask."""

from typing import Any

import attrs

from .client import LONGEST_QUOTE, whole_characters


@attrs.frozen
class Greeting:
    """What a peer tells of itself.

    :ivar reason: why it has no accelerator, as far as is known. :ivar seconds: of a round trip.
    :ivar version: of the Orthanc whose API it has. :ivar own_version: of txtransfers.
    """

    accelerated: bool
    reason: str
    seconds: float
    name: str = ""
    version: str = ""
    own_version: str = ""
    plugin_version: str = ""

    @property
    def text(self) -> str:
        """For people."""
        product = f"txtransfers {self.own_version}" if self.own_version else "Orthanc"
        orthanc = f" (as Orthanc {self.version})" if self.own_version else f" {self.version}"
        called = f', called "{self.name}"' if self.name else ""
        return f"{product}{orthanc}, accelerator {self.plugin_version}{called}"


def told(seconds: float, system: Any, plugin: Any) -> Greeting:
    """Of one that has the accelerator; what it lacks of the rest is empty.

    :param seconds: of a round trip. :param system: its answer to ``GET /system``.
    :param plugin: its answer to ``GET /plugins/transfers``.
    """
    return Greeting(
        True,
        "",
        seconds,
        _text(system, "Name"),
        _text(system, "Version"),
        _text(system, "TxtransfersVersion"),
        _text(plugin, "Version"),
    )


def _text(value: Any, name: str) -> str:
    found = value.get(name) if isinstance(value, dict) else None
    return whole_characters(found[:LONGEST_QUOTE]) if isinstance(found, str) else ""
