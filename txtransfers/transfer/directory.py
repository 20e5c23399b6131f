"""The peers by name. Where they can change while the daemon runs, they are refreshed before use."""

from collections.abc import Iterator, Mapping

from ..errors import UnknownResource
from .peers import Peer


class Directory(Mapping[str, Peer]):
    """Those of the configuration."""

    def __init__(self, ours: Mapping[str, Peer]) -> None:
        self._ours = ours

    def __getitem__(self, name: str) -> Peer:
        return self._ours[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ours)

    def __len__(self) -> int:
        return len(self._ours)

    async def refresh(self) -> None:
        """Learn which there are now. Never raises: what was known holds then."""

    def find(self, name: str) -> Peer:
        """A peer.

        :raises UnknownResource: there is none of that name.
        :raises PeerError: there is one that cannot be used; the text says why.
        """
        peer = self.get(name)
        if peer is None:
            known = ", ".join(sorted(self)) or "none"
            raise UnknownResource(f"Unknown peer: {name[:100]} (OrthancPeers has {known})")
        return peer
