"""A peer, asked from here: its archive for ``receive``, its job for ``send`` where it pulls.

The daemon's own credentials never go there: what is sent are those that the daemon's configuration
has for the peer, where that was named (``-c``), and none else.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from ..client import Client, Found, Level, Resource, Sent
from ..client.names import IArchive, exactly
from ..errors import DaemonError, UnknownResource
from .session import Session

_PATIENCE_S = 5.0
"""Seconds for a peer to answer: it may not be reachable from here at all."""


@asynccontextmanager
async def at_peer(session: Session, name: str) -> AsyncIterator[IArchive]:
    """What a peer holds: asked by the daemon where it can do that, else from here.

    :raises UnknownResource: the daemon has no such peer.
    """
    known = {peer.name: peer.url for peer in await session.client.peers()}
    if name not in known:
        names = ", ".join(known) or "none"
        raise UnknownResource(f"Unknown peer: {name[:100]} (OrthancPeers has {names})")
    direct = peer_client(session, name, known[name])
    try:
        yield _AtPeer(session.client, direct, name)
    finally:
        await direct.close()


@asynccontextmanager
async def remote_job(session: Session, sent: Sent, name: str) -> AsyncIterator[Client]:
    """The peer that runs a job for us."""
    path = f"/jobs/{sent.remote_job}"
    url = sent.remote_url.partition(path)[0].rstrip("/")
    client = peer_client(session, name, f"{url}/")
    try:
        yield client
    finally:
        await client.close()


def peer_client(session: Session, name: str, url: str) -> Client:
    """A client of a peer at ``url``, which the daemon told."""
    settings = session.place.settings
    peer = settings.peers.get(name) if settings is not None else None
    user = password = ""
    if peer is not None and _same_place(peer.url, url):
        user, password = peer.username, peer.password
    return Client(
        session.reactor,
        url,
        user,
        password,
        authorities=session.place.authorities,
        timeout=_PATIENCE_S,
    )


def _same_place(one: str, other: str) -> bool:
    return urlsplit(one)[:2] == urlsplit(other)[:2]


class _AtPeer:
    """See :class:`.IArchive`. The Orthanc ID of a study needs no asking."""

    def __init__(self, client: Client, direct: Client, name: str) -> None:
        self._client = client
        self._direct = direct
        self._name = name
        self._found: dict[str, Found] = {}

    async def find(self, level: Level, query: Mapping[str, str]) -> Sequence[Found]:
        """See :class:`.IArchive`."""
        try:
            found = await self._find(level, query)
        except DaemonError as error:
            raise UnknownResource(
                f'Peer "{self._name}" cannot be searched: {error}. Give the Orthanc ID that the'
                " study has there"
            ) from None
        self._found.update((each.id, each) for each in found)
        return found

    async def _find(self, level: Level, query: Mapping[str, str]) -> Sequence[Found]:
        try:
            return await self._client.find_at(self._name, level, query)
        except UnknownResource:  # the daemon has no such route
            return await self._direct.find(level, query)

    async def lookup(self, identifier: str) -> Sequence[Resource]:
        """See :class:`.IArchive`: what has it, studies of a patient instead of the patient."""
        tags = [(Level.STUDY, "PatientID")]
        if _UID.match(identifier):
            tags += [(Level.STUDY, "StudyInstanceUID"), (Level.SERIES, "SeriesInstanceUID")]
        results = [await exactly(self, level, keyword, identifier) for level, keyword in tags]
        return [Resource(each.level, each.id) for found in results for each in found]

    async def resource(self, level: Level, id_: str) -> Found:
        """See :class:`.IArchive`; one that was found before."""
        return self._found[id_]

    async def resource_of_any_level(self, id_: str) -> Found:
        """See :class:`.IArchive`: it is taken for a study, without asking."""
        return Found(Level.STUDY, id_, {}, (), {})


_UID = re.compile(r"[0-9.]{1,64}\Z", re.ASCII)
