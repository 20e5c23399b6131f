"""A message in pieces, which travel side by side, each on a connection of its own.

A new connection carries 14 KB in its first round trip; what is larger takes several, where eight
connections would take one. It is ours alone (``docs/protocol.md``, "In pieces"). Pure.
"""

import hashlib
import re
from collections.abc import Sequence
from uuid import uuid4

import attrs

from ..errors import BadMessage, BadParameter

PIECE = "application/vnd.txtransfers.piece"
"""The type of an answer that is one: the MD5 of the whole, 16 bytes, and its part of that."""

MOST = 8
_LENGTH = 12 * 1024
"""Bytes: they, and a head, are what a new connection carries at once."""

_MD5 = 16
_TOKEN = re.compile(r"[0-9a-f-]{8,64}\Z")


@attrs.frozen
class Piece:
    """Which piece of which message.

    :ivar of: the message, by a token that nobody can guess. :ivar number: from 0 on.
    """

    of: str
    number: int
    count: int

    @property
    def query(self) -> str:
        """How a URL says it."""
        return f"piece={self.number}&pieces={self.count}&of={self.of}"

    def cut(self, whole: bytes) -> bytes:
        """This piece."""
        start = len(whole) * self.number // self.count
        return whole[start : len(whole) * (self.number + 1) // self.count]

    def stamped(self, stamp: bytes, whole: bytes) -> bytes:
        """This piece, as it is answered. :param stamp: :func:`stamp_of` the whole."""
        return stamp + self.cut(whole)


def stamp_of(whole: bytes) -> bytes:
    """By which it is known of each piece that it belongs to the whole. Takes long for many MB."""
    return hashlib.md5(whole, usedforsecurity=False).digest()


def how_many(size: int) -> int:
    """In how many pieces so many bytes are sent."""
    return max(1, min(MOST, -(-size // _LENGTH)))


def pieces(count: int) -> tuple[Piece, ...]:
    """Those of a new message."""
    of = str(uuid4())
    return tuple(Piece(of, number, count) for number in range(count))


def read_piece(of: str, number: int | None, count: int | None) -> Piece:
    """What a URL says, from outside.

    :raises BadParameter: it is none.
    """
    if not _TOKEN.match(of):
        raise BadParameter("of: 8 to 64 hexadecimal digits or hyphens are expected")
    if count is None or number is None or not 2 <= count <= MOST or number >= count:
        raise BadParameter(f"piece and pieces: one of 2 to {MOST}, counted from 0, is expected")
    return Piece(of, number, count)


def join(stamped: Sequence[bytes]) -> bytes:
    """The whole, of all answers in order, from outside.

    :raises BadMessage: they are not of one message.
    """
    whole = b"".join(each[_MD5:] for each in stamped)
    stamp = stamp_of(whole)
    if any(each[:_MD5] != stamp for each in stamped):
        raise BadMessage("The pieces of the answer are not of one message")
    return whole
