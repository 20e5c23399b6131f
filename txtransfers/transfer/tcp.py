"""A TCP connection, below Twisted: what the kernel knows of it, and how it is to be. Linux."""

import socket
import struct
from contextlib import suppress
from typing import Any

import attrs

_SIZE = 232
_SEGMENT = 16
_RTT = 68
_RECEIVER_RTT = 92
_RESENT = 100
_RECEIVED = 128
_MIN_RTT = 148
_UNSENT_BYTES = 144
_DELIVERY_RATE = 160
_DELIVERED = 192
_DISORDERED = 224
_MICROSECOND = 1e-6

NEAR_S = 0.005
"""A shorter round trip costs nothing: the other end is in the same house."""

UNSENT = 128 * 1024
"""Bytes beyond what travels that the kernel takes for a long link: what it has cannot be recalled,
counts as sent, and stands before what is more urgent. Near, the reactor would refill too late."""


@attrs.frozen
class TcpInfo:
    """See ``struct tcp_info`` in ``linux/tcp.h``.

    :ivar round_trip: seconds, smoothed, as the sender or the receiver sees it;
        ``least_round_trip``: the least of the last minutes.
    :ivar moved: bytes that the other end got (of whole segments, in any order), and that it sent.
    :ivar unsent: bytes that wait for their turn; ``rate`` at which others were delivered lately,
        bytes a second, 0 where none were. :ivar resent: packets that were sent once more.
    :ivar disordered: packets that came before one that was sent before them.
    """

    round_trip: float
    least_round_trip: float
    moved: int
    unsent: int
    rate: int
    resent: int
    disordered: int


def tune(connection: Any, congestion: str | None) -> None:
    """Prepare a new connection; what the system forbids is left, it is as good as any then.

    :param congestion: the name of its congestion control; None leaves the system's own.
    """
    with suppress(OSError):
        if congestion is not None:
            set_congestion(connection, congestion)
    told = read(connection)
    if told is not None and told.round_trip >= NEAR_S:
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)


def set_congestion(connection: Any, name: str) -> None:
    """Have a connection use that congestion control from now on."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())


def read(connection: Any) -> TcpInfo | None:
    """Ask the kernel; None where it does not tell, or the connection is gone.

    :param connection: a :class:`socket.socket`.
    """
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return None
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, option, _SIZE)
    except OSError:
        return None
    if len(told) < _DELIVERED + 4:  # an old kernel
        return None
    segment, round_trip, at_receiver, least, delivered, unsent, resent = (
        struct.unpack_from("=I", told, offset)[0]
        for offset in (_SEGMENT, _RTT, _RECEIVER_RTT, _MIN_RTT, _DELIVERED, _UNSENT_BYTES, _RESENT)
    )
    received, rate = (
        struct.unpack_from("=Q", told, offset)[0] for offset in (_RECEIVED, _DELIVERY_RATE)
    )
    return TcpInfo(
        max(round_trip, at_receiver) * _MICROSECOND,
        least * _MICROSECOND,
        delivered * segment + received,
        unsent,
        rate,
        resent,
        struct.unpack_from("=I", told, _DISORDERED)[0] if len(told) >= _DISORDERED + 4 else 0,
    )
