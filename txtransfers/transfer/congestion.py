"""Which TCP congestion control the connections use.

On a link that loses packets ``bbr`` carries many times what ``cubic`` does; a process may choose it
where the system has it and allows it (``net.ipv4.tcp_allowed_congestion_control``, or the right to
administer the network).
"""

import socket
from contextlib import closing

from ..errors import ConfigurationError

AUTO = "auto"
PREFERRED = "bbr"


def choose(wanted: str) -> str | None:
    """The name for this machine's connections; None leaves the system's own.

    :param wanted: a name, or :data:`AUTO`: :data:`PREFERRED` where it is to be had.
    :raises ConfigurationError: a name that is not to be had.
    """
    if wanted == AUTO:
        return PREFERRED if _is_allowed(PREFERRED) else None
    if not _is_allowed(wanted):
        raise ConfigurationError(
            f'Transfers.CongestionControl is "{wanted}", which this system does not have or does'
            " not allow: load its module and add it to net.ipv4.tcp_allowed_congestion_control,"
            f' or set "{AUTO}"'
        )
    return wanted


def current() -> str:
    """The system's own."""
    with closing(socket.socket()) as probe:
        name = probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.rstrip(b"\0").decode("ascii", "replace")


def _is_allowed(name: str) -> bool:
    try:
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
    except (OSError, ValueError):
        return False
    return True
