"""Who is compared: two daemons of ours in all their ways, and the others.

Each is made ready first and then timed. What is ready has a receiver that holds nothing, and a
sender that holds the files, in its own store if it has one. It goes when asked, and is done when
the receiver has confirmed all.
"""

import time
from contextlib import ExitStack

import attrs

from bench.wan.link import Host
from bench.wan.others import Curl, OrthancPeers, Rsync, Storescu
from bench.wan.programs import TooLongError
from bench.wan.stage import HTTP_PORT, OPEN, Contender, Ready, Stage, fill, stop, url
from demo import moves
from demo.daemon import AnswerError, Daemon, Json, peers_of

POLL_SECONDS = 0.25
"""Between two looks at a job, which costs its daemon something, and tells itself when it ended."""

VISITS_SECONDS = 4.0
"""Until both know each other: the one that was there first tries again after two seconds."""


class NotOfferedError(Exception):
    """This version does not know what was asked for."""


@attrs.frozen
class TxTransfers:
    """Two of our daemons."""

    mode: str
    compression: str
    congestion: str
    """Of Transfers.CongestionControl: auto takes bbr."""

    programs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How results and the command line call it."""
        suffix = "" if self.congestion == "auto" else f"-{self.congestion}"
        return f"txtransfers-{self.mode}-{self.compression}{suffix}"

    def ready(self, stage: Stage, stack: ExitStack) -> Ready:
        """Start both, with the files in A's store."""
        a, b = self.pair(stage, stack)
        return Ready(lambda: self._go(stage, a, b), lambda: len(b.client.get("/instances")))

    def pair(self, stage: Stage, stack: ExitStack) -> tuple[Daemon, Daemon]:
        """Start both, the files in the store of the first; the stack ends them."""
        a = self._daemon(stage, "A", stage.sender, stage.receiver)
        b = self._daemon(stage, "B", stage.receiver, stage.sender)
        for daemon in (a, b):
            stack.callback(stop, daemon)
            daemon.start()
        fill(a.client, stage.load)
        time.sleep(VISITS_SECONDS)
        return a, b

    def _daemon(self, stage: Stage, name: str, host: Host, other: Host) -> Daemon:
        peer = "B" if name == "A" else "A"
        store = stage.store if name == "A" else stage.folder
        settings = {
            "HttpBindAddresses": [host.address],
            "StorageDirectory": str(store / "txtransfers"),
            "OrthancPeers": peers_of(name, peer, url(other)),
            "Transfers": {"CongestionControl": self.congestion} | stage.settings,
        }
        return Daemon(name, stage.folder, HTTP_PORT, OPEN | settings, host)

    def _go(self, stage: Stage, a: Daemon, b: Daemon) -> float:
        deadline = time.monotonic() + stage.limit

        def watch(_job: Json) -> None:
            if time.monotonic() > deadline:
                raise TooLongError

        resources = [{"Level": "Study", "ID": stage.load.study}]
        try:
            return moves.move(
                *(self.mode, a, b, resources),
                compression=self.compression,
                interval=POLL_SECONDS,
                watch=watch,
            )
        except AnswerError as error:
            if error.status == 400 and self.compression not in moves.COMPRESSIONS:
                raise NotOfferedError from error
            raise


def everybody(*, lossy: bool) -> list[Contender]:
    """Return all, in the order of the tables; on links that lose packets, us without bbr too."""
    own = [
        TxTransfers(mode, compression, congestion)
        for congestion in (("auto", "cubic") if lossy else ("auto",))
        for mode in ("push", "pull")
        for compression in ("none", "gzip", "auto")
    ]
    return [*own, OrthancPeers(), Curl(), Storescu(), Rsync()]
