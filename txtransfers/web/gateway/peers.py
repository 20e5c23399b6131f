"""The peers that only Orthanc's configuration has: they can be used for transfers too.

Orthanc tells their addresses and users, but no passwords, and no values of headers: a peer that
needs these is named in our configuration as well.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from twisted.logger import Logger

from ...config import OrthancSettings, PeerSettings
from ...config_keys import Key, Kind
from ...config_peers import read_peers
from ...errors import PeerIncomplete, PeerUnreachable, TransfersError, UnknownResource
from ...orthanc.answers import Header
from ...threads import IThreads
from ...transfer.directory import Directory
from ...transfer.peers import Peer
from .upstream import Upstream

_FRESH_S = 5.0
"""Seconds for which Orthanc is not asked again."""
_PATIENCE_S = 10.0
_LONGEST = 2**20
_KEPT = ("Url", "Username", "Timeout", "RemoteSelf")
_FORM = Key("OrthancPeers", "", Kind.PEERS, {}, "")

log = Logger()


def own_headers(settings: OrthancSettings, upstream: Upstream) -> list[Header]:
    """Those of a request of our own, with the credentials of the configuration."""
    headers = [(b"Host", upstream.netloc)]
    headers += [(name.encode(), value.encode()) for name, value in settings.headers.items()]
    if settings.username:
        pair = f"{settings.username}:{settings.password}".encode()
        headers.append((b"Authorization", b"Basic " + b64encode(pair)))
    return headers


class OrthancPeers(Directory):
    """Ours, and Orthanc's. Of two with the same name, ours."""

    def __init__(
        self,
        ours: Mapping[str, Peer],
        upstream: Upstream,
        settings: OrthancSettings,
        threads: IThreads,
        make: Callable[[str, PeerSettings], Peer],
    ) -> None:
        super().__init__(ours)
        self._upstream = upstream
        self._headers = own_headers(settings, upstream)
        self._threads = threads
        self._make = make
        self._theirs: dict[str, Peer] = {}
        self._unusable: dict[str, str] = {}
        self._asked: float | None = None
        self._problem = "it was not asked yet"

    def __getitem__(self, name: str) -> Peer:
        return self._ours[name] if name in self._ours else self._theirs[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._ours
        yield from self._theirs

    def __len__(self) -> int:
        return len(self._ours) + len(self._theirs)

    async def refresh(self) -> None:
        """See :class:`Directory`."""
        now = self._upstream.clock.seconds()
        if self._asked is not None and now - self._asked < _FRESH_S:
            return
        try:
            peers = await self._ask()
        except (TransfersError, ValueError, RecursionError) as error:
            self._problem = str(error)
            log.warn("Orthanc's own peers are not known: {error}", error=error)
            return
        if self._asked is None:
            self._tell(peers)
        self._asked, self._problem = now, ""
        self._take(peers)

    async def _ask(self) -> dict[str, Any]:
        fetched = await self._upstream.fetch(b"/peers?expand", self._headers, _LONGEST, _PATIENCE_S)
        if fetched.head.status in (401, 403):
            raise ValueError("it refuses: check Username and Password in Store")
        found = await self._threads.run(json.loads, fetched.body)
        if fetched.head.status != 200 or not isinstance(found, dict):
            raise ValueError(f"it answered /peers with status {fetched.head.status}")
        return found

    def _tell(self, peers: Mapping[str, Any]) -> None:
        both = sorted(set(peers) & set(self._ours))
        if both:
            log.info(
                "OrthancPeers here and in Orthanc both have {names}: ours are used",
                names=", ".join(both),
            )

    def _take(self, peers: Mapping[str, Any]) -> None:
        before, self._theirs, self._unusable = self._theirs, {}, {}
        for name, form in peers.items():
            if name in self._ours:
                continue
            settings = self._read(name, form)
            if settings is None:
                continue
            known = before.get(name)
            is_same = known is not None and known.settings == settings
            self._theirs[name] = known if known and is_same else self._make(name, settings)

    def _read(self, name: str, form: Any) -> PeerSettings | None:
        problems: list[str] = []
        kept = {key: form[key] for key in _KEPT if key in form} if isinstance(form, dict) else form
        found = read_peers(_FORM, {name: kept}, "OrthancPeers", problems).get(name)
        lacking = _lacking(form) if isinstance(form, dict) else ""
        if found is not None and not problems and not lacking:
            return found
        self._unusable[name] = "; ".join([lacking] if lacking else problems)
        return None

    def find(self, name: str) -> Peer:
        """See :class:`Directory`."""
        try:
            return super().find(name)
        except UnknownResource:
            if name in self._unusable:
                raise PeerIncomplete(
                    f'The peer "{name}" is in the configuration of Orthanc only,'
                    f" {self._unusable[name]}: add the whole peer to OrthancPeers of txtransfers"
                ) from None
            if self._problem:
                raise PeerUnreachable(
                    f'The peer "{name[:100]}" is not in OrthancPeers of txtransfers, and which ones'
                    f" Orthanc has is not known: {self._problem}"
                ) from None
            raise


def _lacking(form: Mapping[str, Any]) -> str:
    """What Orthanc does not tell of a peer that needs it."""
    if form.get("Username"):
        return f"which tells its user ({form['Username']}) but not its password"
    if form.get("HttpHeaders"):
        return "which does not tell the values of its HttpHeaders"
    if form.get("Pkcs11"):
        return "and needs PKCS#11"
    return ""
