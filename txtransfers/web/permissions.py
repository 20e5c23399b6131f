"""What a request needs: one table, from methods and routes to permissions. Pure."""

from collections.abc import Sequence

import attrs

from ..config_access import Permission

READ, RECEIVE, PUSH = Permission.READ, Permission.RECEIVE, Permission.PUSH
SEND, ADMINISTER = Permission.SEND, Permission.ADMINISTER
MONITOR = Permission.MONITOR

_LOOK = ("GET", "HEAD", "OPTIONS")
_ALL = (*_LOOK, "POST", "PUT", "DELETE")


@attrs.frozen
class _Rule:
    """Requests, and the permissions of which any is enough; none: whoever is logged in.

    :ivar route: segments; the last may be ``**`` for anything from there on.
    """

    methods: Sequence[str]
    route: str
    enough: frozenset[Permission]

    def holds_for(self, method: str, segments: Sequence[str]) -> bool:
        wanted = self.route.split("/")
        if method not in self.methods:
            return False
        if wanted[-1] == "**":
            return list(segments[: len(wanted) - 1]) == wanted[:-1]
        return list(segments) == wanted


_RULES = (
    _Rule(_LOOK, "plugins/**", frozenset()),
    _Rule(("POST", "OPTIONS"), "transfers/lookup", frozenset({READ, RECEIVE})),
    _Rule(_LOOK, "transfers/chunks/**", frozenset({READ, RECEIVE})),
    _Rule(_ALL, "transfers/push/**", frozenset({RECEIVE, PUSH})),
    _Rule(("POST", "OPTIONS"), "transfers/send", frozenset({SEND})),
    _Rule(("POST", "OPTIONS"), "transfers/pull", frozenset({SEND})),
    _Rule(("POST",), "transfers/peers/**", frozenset({SEND})),
    _Rule(_LOOK, "transfers/**", frozenset({READ, SEND})),
    _Rule(_LOOK, "jobs/**", frozenset({READ, SEND})),
    _Rule(("POST", "PUT"), "jobs/**", frozenset({SEND})),
    _Rule(_LOOK, "peers/**", frozenset({READ, SEND})),
    _Rule(("POST",), "tools/lookup", frozenset({READ})),
    _Rule(("POST",), "tools/find", frozenset({READ})),
    _Rule(("POST",), "tools/count-resources", frozenset({READ})),
    _Rule(_LOOK, "metrics", frozenset({READ, MONITOR})),
    _Rule(_LOOK, "tools/metrics-prometheus", frozenset({READ, MONITOR})),
    _Rule(_LOOK, "**", frozenset({READ})),
)
"""The first that holds counts; where none does, only who may administer may."""


def needed(method: str, segments: Sequence[str]) -> frozenset[Permission]:
    """The permissions of which any is enough; an empty set: being logged in is.

    :param segments: of the path, without empty ones, percent-encoding undone.
    """
    for rule in _RULES:
        if rule.holds_for(method, segments):
            return rule.enough | {ADMINISTER} if rule.enough else rule.enough
    return frozenset({ADMINISTER})
