"""What a daemon of ours takes beside the protocol, as it says where it describes its plugin."""

from typing import Any

import attrs
import msgspec

from .codec import Codec
from .messages import decode


@attrs.frozen
class Abilities:
    """What the opening of a push may be like (``docs/protocol.md``).

    :ivar packed: it may come packed. :ivar early: buckets may come before it was answered.
    :ivar pieces: it may come in pieces, and the answer to a lookup may be asked for so.
    :ivar zstd: buckets may be in zstd, where the opening offers it, also those that come early.
    """

    packed: bool = False
    early: bool = False
    pieces: bool = False
    zstd: bool = False

    @property
    def codecs(self) -> frozenset[Codec]:
        """Those that may be offered, beside what the protocol has."""
        return frozenset({Codec.ZSTD}) if self.zstd else frozenset()

    def to_json(self) -> dict[str, Any]:
        """Members, as they travel."""
        return {
            "Packed": self.packed,
            "Early": self.early,
            "Pieces": self.pieces,
            "Zstd": self.zstd,
        }


NO_ABILITIES = Abilities()
ALL_ABILITIES = Abilities(packed=True, early=True, pieces=True, zstd=True)


class AbilitiesMessage(msgspec.Struct):
    """Abilities as they travel."""

    Packed: bool = False
    Early: bool = False
    Pieces: bool = False
    Zstd: bool = False


class _Plugin(msgspec.Struct):
    TxTransfers: AbilitiesMessage | msgspec.UnsetType = msgspec.UNSET


def read_abilities(raw: AbilitiesMessage | msgspec.UnsetType) -> Abilities:
    """Abilities from outside."""
    if isinstance(raw, msgspec.UnsetType):
        return NO_ABILITIES
    return Abilities(raw.Packed, raw.Early, raw.Pieces, raw.Zstd)


def parse_plugin(body: bytes) -> Abilities:
    """A peer's answer to ``GET /plugins/transfers``."""
    return read_abilities(decode(body, _Plugin).TxTransfers)
