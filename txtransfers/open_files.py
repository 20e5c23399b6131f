"""How many files and connections the process may have open: as many as the configuration needs."""

import resource

_BESIDE_CONNECTIONS = 1024
"""Files of instances and staging, connections to peers, the index."""


def allow(connections: int) -> str:
    """Raise the process's limit to what so many connections need, as far as it may.

    Gives a sentence where that is not far enough; else none.
    """
    wanted = connections + _BESIDE_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return ""
    return (
        f"This process may have {soft} files open, and MaxConnections in Limits needs {wanted}:"
        " raise that limit (ulimit -Hn, LimitNOFILE in a unit), or lower MaxConnections"
    )
