"""What a link gives at the most, as iperf3 finds it: many streams, or one, that carry nothing."""

import json
from collections.abc import Iterator
from pathlib import Path

import attrs

from bench.wan.link import Host
from bench.wan.programs import find, path_of, run, serving

PORT = 5201
MANY = 64


@attrs.frozen
class Iperf:
    """One way to ask iperf3."""

    streams: int
    congestion: str = ""
    """None: the host's."""

    @property
    def name(self) -> str:
        """How results and the command line call it."""
        return "-".join(filter(None, ("iperf3", str(self.streams), self.congestion)))

    @property
    def title(self) -> str:
        """Return its command line."""
        congestion = f" -C {self.congestion}" if self.congestion else ""
        return f"iperf3 -P {self.streams}{congestion}"

    def goodput(self, sender: Host, receiver: Host, folder: Path, seconds: float) -> float:
        """Return Mbit/s of payload, the receiver's sum over all streams."""
        iperf, address = path_of("iperf3"), receiver.address
        server = (iperf, "--server", "--bind", address, "--port", str(PORT))
        client = (
            *(iperf, "--client", address, "--port", str(PORT), "--json"),
            *("--parallel", str(self.streams), "--time", f"{max(1, round(seconds))}"),
            *(("--congestion", self.congestion) if self.congestion else ()),
        )
        with serving(receiver, server, folder / "server.log", PORT):
            told = json.loads(run(sender, client, folder / "client.log", 4 * seconds + 60))
        return float(told["end"]["sum_received"]["bits_per_second"]) * 1e-6


def limits(*, lossy: bool) -> Iterator[Iperf]:
    """Yield what is asked of a link."""
    yield Iperf(MANY)
    yield Iperf(1)
    if lossy:
        yield Iperf(MANY, "bbr")


def is_installed() -> bool:
    """Tell whether it can be asked."""
    return find("iperf3") is not None
