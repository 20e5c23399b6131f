"""A peer's answers, and the words for what went wrong: they name the peer, and read like advice."""

from typing import NoReturn

import attrs
from twisted.internet.defer import CancelledError
from twisted.web._newclient import ParseError

from ..config_tls import HttpProxy
from ..errors import (
    BodyTooLarge,
    PeerNonsense,
    PeerRefused,
    PeerUnreachable,
    PeerUntrusted,
    TransfersError,
)
from .client import innermost, what_orthanc_says, why
from .proxy import ProxyError, describe, refusal
from .trust import tls_problem

_NO_PEER = (
    "Is this URL that of an Orthanc with the transfers accelerator, or of txtransfers?"
    ' GET /plugins there would list "transfers"'
)
_NOT_FOUND = {
    "/transfers/lookup": "It does not hold the resource (check Level and ID)",
    "/transfers/push": "It does not know the route",
    "/transfers/pull": "It knows no peer of the name that RemoteSelf gives",
}


@attrs.frozen
class Answer:
    """A peer's answer: status, its body where it was asked for."""

    status: int
    body: bytes
    content_type: str


class Words:
    """Of one peer."""

    def __init__(self, who: str, proxy: HttpProxy | None) -> None:
        """:param who: the peer, in a sentence. :param proxy: by which it is reached."""
        self.who = who
        self._proxy = proxy

    def check_json(self, answer: Answer, method: str, path: str) -> None:
        """Refuse what cannot be JSON.

        :raises PeerNonsense: it is something else.
        """
        if answer.body.lstrip()[:1] not in (b"{", b"["):
            raise PeerNonsense(
                f"{self.who} answered {method} {path} with something that is no JSON"
                f" ({_quote(answer)}). {_NO_PEER}"
            )

    def too_much(self, error: BodyTooLarge, method: str, path: str) -> NoReturn:
        """Raise what became of an answer that is longer than any should be."""
        what = f"{method} {_shorten(path)}"
        raise PeerNonsense(f"{self.who} answered {what} with too much: {error}") from error

    def refuse(self, answer: Answer, method: str, path: str, retry_after: str) -> NoReturn:
        """Raise what became of an answer that is no success.

        :param retry_after: the header, or nothing.
        """
        text = f"{self.who} answered {answer.status} to {method} {_shorten(path)}"
        said = what_orthanc_says(answer.body)
        if answer.status == 407 and self._proxy is not None:
            text = f"{self.who}: {describe(self._proxy)} {refusal(answer.status)}"
        elif answer.status in (401, 403):
            text += ": check the Username and Password of the peer in OrthancPeers"
        elif said is None:
            busy = answer.status in (408, 429) or answer.status >= 500
            text += f" ({_quote(answer)}){'' if busy else f'. {_NO_PEER}'}"
        else:
            text += f": {said[1]}"
            if answer.status == 404 and path in _NOT_FOUND:
                text += f". {_NOT_FOUND[path]}, or it has no transfers accelerator"
        delay = int(retry_after) if retry_after.isdecimal() else None
        raise PeerRefused(text, answer.status, delay)

    def explain(self, error: BaseException, method: str, path: str) -> NoReturn:
        """Raise ``error`` as the domain's word for it."""
        if isinstance(error, TransfersError | CancelledError):
            raise error
        what = f"{method} {_shorten(path)}"
        inner = innermost(error)
        if isinstance(inner, TransfersError):
            raise inner from error
        if problem := tls_problem(inner):
            raise PeerUntrusted(f"{self.who}, {what}: {problem}") from error
        if isinstance(inner, ProxyError):
            raise PeerUnreachable(f"{self.who}, {what}: {inner}") from error
        if isinstance(inner, ParseError | ValueError):
            said = inner.data[:60] if isinstance(inner, ParseError) else str(inner)
            raise PeerNonsense(
                f"{self.who} answered {what} with something that is no HTTP ({said!r}). {_NO_PEER}"
            ) from error
        reason = why(inner, "its host name cannot be resolved; check Url in OrthancPeers")
        if self._proxy is not None:
            reason += f"; it is reached by {describe(self._proxy)}"
        raise PeerUnreachable(f"{self.who}, {what}: {reason}") from error


def _quote(answer: Answer) -> str:
    if not answer.body:
        return "an empty body"
    kind = answer.content_type.split(";")[0] or "unknown type"
    if "html" in kind:
        return "a web page"
    start = answer.body[:60].decode("utf-8", "replace").strip()
    return f"{len(answer.body)} bytes of {kind}: {start!r}"


def _shorten(path: str) -> str:
    return path if len(path) <= 120 else f"{path[:117]}..."
