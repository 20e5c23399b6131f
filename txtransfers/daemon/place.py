"""What the daemon takes for itself before it runs: the storage directory, and ports.

Both are had before twistd goes to the background, so that a sentence tells what is wrong.
"""

import fcntl
import os
import socket
from collections.abc import Sequence

from ..config import Settings
from ..errors import ConfigurationError

_BACKLOG = 128
_LOCK_FILE = "lock"


def take_storage(folder: str) -> int:
    """Make sure that the storage directory can be written, and that no other daemon uses it.

    Gives a file descriptor that holds the lock as long as it is open.

    :raises ConfigurationError: the directory cannot be used.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor = os.open(os.path.join(folder, _LOCK_FILE), os.O_RDWR | os.O_CREAT, 0o640)
    except OSError as error:
        raise ConfigurationError(
            f"StorageDirectory {folder} cannot be written: {error.strerror}. It must exist or be"
            " makeable, and belong to the user that runs the daemon"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigurationError(
            f"StorageDirectory {folder} is used by another daemon that is running"
        ) from None
    return descriptor


def listen(settings: Settings) -> list[socket.socket]:
    """Bind the HTTP port on each address.

    :raises ConfigurationError: it is taken, or not allowed, or the address is not this machine's.
    """
    sockets: list[socket.socket] = []
    for address in _addresses(settings):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((address, settings.http_port))
            bound.listen(_BACKLOG)
        except OSError as error:
            for other in [bound, *sockets]:
                other.close()
            raise ConfigurationError(
                f"Cannot listen on {address} port {settings.http_port} (HttpPort):"
                f" {error.strerror}. Is another Orthanc or txtransfers running there?"
            ) from None
        bound.setblocking(False)
        sockets.append(bound)
    return sockets


def _addresses(settings: Settings) -> Sequence[str]:
    if settings.http_bind_addresses:
        return settings.http_bind_addresses
    return ["0.0.0.0"] if settings.remote_access_allowed else ["127.0.0.1"]
