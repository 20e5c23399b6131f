"""Two Orthancs: their own peers, and daemons in front of them, with the same files in one run.

``python -m bench.gateway [--only loopback link large] [--count N] [--repeats N]`` prints seconds
and the ratio to ``POST /peers/B/store`` of the same run; for the large instance, the most memory
that the daemons had. ``link`` needs root: see ``bench/wan/README.md``.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import attrs
from rich.console import Console
from rich.table import Table

from bench.wan.link import Link, up
from demo import dataset, moves
from demo.daemon import HOST, Client, Daemon, Json, Loopback, Place, free_ports, peers_of
from demo.orthanc import PLAIN, Orthanc, in_front_of

FOLDER = Path(".demo")
"""On a disk, as archives are; git does not look at it."""
SCENES = ("loopback", "link", "large")
LINK = Link(100, 40)
KILOBYTES = 512
LARGE_MEGABYTES = 1024
MOST_MEMORY_MB = 150
"""The most that a daemon may have, whatever the size of an instance."""
GOALS = {"loopback": ("none", 1.0), "link": ("auto", 3.0)}
"""How many times faster than Orthanc's own peers daemons are to be, and in which compression.

Without any, the link's own rate allows 2.3 times at the most."""
PLAIN_PEERS = "orthanc peers"
WAYS = (("push", "none"), ("pull", "none"), ("push", "gzip"), ("push", "auto"), ("pull", "auto"))
_PATIENCE_S = 24 * 3600
_POLL_S = 0.25
"""Seconds between two looks at a job, which tells itself when it ended."""
_MEGABYTE = 2**20


@attrs.frozen
class Site:
    """An Orthanc, and the daemon in front of it."""

    orthanc: Orthanc
    gateway: Daemon

    def empty(self) -> None:
        """Delete all that Orthanc holds."""
        for patient in self.orthanc.client.get("/patients"):
            self.orthanc.client.request("DELETE", f"/patients/{patient}")


def _access(here: Place) -> dict[str, Json]:
    return {"RemoteAccessAllowed": here.address != HOST, "AuthenticationEnabled": False}


def gateway_settings(here: Place, orthanc: Orthanc, peers: Json) -> dict[str, Json]:
    """What a daemon in front of ``orthanc`` is configured with."""
    return {
        **_access(here),
        "RemoteAccessWithoutUsers": here.address != HOST,
        "HttpBindAddresses": [here.address],
        "OrthancPeers": peers,
        "Store": in_front_of(orthanc, CacheSize=1),
    }


def _sites(folder: Path, places: Sequence[Place], stack: ExitStack) -> tuple[Site, Site]:
    """Start both; the stack ends them."""
    ports = free_ports(4)
    orthancs, gateways = ports[:2], ports[2:]
    made = []
    for number, (name, other) in enumerate((("A", "B"), ("B", "A"))):
        here, there = places[number], places[1 - number]
        peers = {other: [f"http://{there.address}:{orthancs[1 - number]}/"]}
        settings = {**PLAIN, **_access(here), "OrthancPeers": peers, "HttpTimeout": _PATIENCE_S}
        orthanc = Orthanc(name, folder / "orthanc", orthancs[number], settings, here)
        url = f"http://{there.address}:{gateways[1 - number]}/"
        own = gateway_settings(here, orthanc, peers_of(name, other, url))
        gateway = Daemon(name, folder / "gateway", gateways[number], own, here)
        for daemon in (orthanc, gateway):
            stack.callback(daemon.stop)
            daemon.start()
        made.append(Site(orthanc, gateway))
    return made[0], made[1]


def _upload(site: Site, paths: Sequence[Path]) -> list[Json]:
    """Store the files; gives the resources to transfer."""
    for path in paths:
        site.orthanc.client.upload(path)
    return [{"Level": "Study", "ID": id_} for id_ in site.orthanc.client.get("/studies")]


def _timed(do: Callable[[], object]) -> float:
    started = time.monotonic()
    do()
    return time.monotonic() - started


def _runs(a: Site, b: Site, resources: list[Json], place: Place) -> Iterator[tuple[str, float]]:
    """One run of each; the receiver is emptied between them."""
    patient = Client(a.orthanc.port, place, _PATIENCE_S)
    body = {"Resources": [each["ID"] for each in resources], "Synchronous": True}
    yield PLAIN_PEERS, _timed(lambda: patient.post("/peers/B/store", body))
    patient.close()
    for mode, compression in WAYS:
        b.empty()
        yield f"daemons, {mode}, {compression}", _move(mode, compression, a, b, resources)


def _move(mode: str, compression: str, a: Site, b: Site, resources: list[Json]) -> float:
    """Seconds from the request to Success."""
    return moves.move(
        *(mode, a.gateway, b.gateway, resources), compression=compression, interval=_POLL_S
    )


@contextmanager
def _places(scene: str) -> Iterator[Sequence[Place]]:
    if scene == "link":
        with up("gateway", LINK) as hosts:
            yield hosts
    else:
        yield Loopback(), Loopback()


def _compare(console: Console, scene: str, folder: Path, count: int, repeats: int) -> bool:
    """Many instances, by both ways; tells whether the goal is reached."""
    paths = dataset.ct_series(folder / "files", count, KILOBYTES, 1)
    size = sum(path.stat().st_size for path in paths)
    seconds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        places = stack.enter_context(_places(scene))
        a, b = _sites(folder, places, stack)
        resources = _upload(a, paths)
        for _ in range(repeats):
            for name, took in _runs(a, b, resources, places[0]):
                seconds.setdefault(name, []).append(took)
                if b.orthanc.count() != count:
                    raise RuntimeError(f"{name}: {b.orthanc.count()} of {count} instances arrived")
            b.empty()
        memory = [site.gateway.memory("VmHWM") / 1024 for site in (a, b)]
    return _print(console, scene, f"{count} x {KILOBYTES} KB", size, seconds, memory)


def _print(
    console: Console,
    scene: str,
    what: str,
    size: int,
    seconds: dict[str, list[float]],
    memory: Sequence[float],
) -> bool:
    where = LINK.name if scene == "link" else scene
    table = Table("way", "seconds", "MB/s", "times as fast", title=f"{what}, {where}")
    plain = median(seconds[PLAIN_PEERS])
    ratios = []
    judged, goal = GOALS[scene]
    for name, all_of_it in seconds.items():
        middle = median(all_of_it)
        spread = " ".join(f"{each:.2f}" for each in all_of_it)
        ratio = plain / middle
        table.add_row(name, spread, f"{size / middle / _MEGABYTE:.0f}", f"{ratio:.2f}")
        if name != PLAIN_PEERS and name.endswith(judged):
            ratios.append(ratio)
    console.print(table)
    console.print(f"most memory of the daemons: {memory[0]:.0f} and {memory[1]:.0f} MB")
    console.print(
        f"{judged}: at least {goal:g} times as fast: {'yes' if min(ratios) >= goal else 'NO'}"
    )
    return min(ratios) >= goal


def _large(console: Console, folder: Path, megabytes: int) -> bool:
    """One large instance; tells whether the daemons' memory stayed small."""
    path = dataset.multiframe(folder / "files" / "large.dcm", megabytes, 1)
    table = Table("way", "seconds", "MB/s", "memory of A and B, MB", title=f"one of {megabytes} MB")
    most = 0.0
    with ExitStack() as stack:
        a, b = _sites(folder, (Loopback(), Loopback()), stack)
        resources = _upload(a, [path])
        for mode, compression in WAYS:
            for site in (a, b):
                site.gateway.reset_peak_memory()
            took = _move(mode, compression, a, b, resources)
            peaks = [site.gateway.memory("VmHWM") / 1024 for site in (a, b)]
            most = max(most, *peaks)
            told = f"{peaks[0]:.0f}, {peaks[1]:.0f}"
            table.add_row(f"{mode}, {compression}", f"{took:.1f}", f"{megabytes / took:.0f}", told)
            b.empty()
    console.print(table)
    console.print(f"at most {MOST_MEMORY_MB} MB: {'yes' if most <= MOST_MEMORY_MB else 'NO'}")
    return most <= MOST_MEMORY_MB


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SCENES, default=SCENES)
    parser.add_argument("--count", type=int, default=500, help="instances of 512 KB")
    parser.add_argument("--megabytes", type=int, default=LARGE_MEGABYTES)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args(argv)
    console = Console()
    reached = []
    for scene in arguments.only:
        FOLDER.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="gateway-", dir=FOLDER) as name:
            folder = Path(name).resolve()
            if scene == "large":
                reached.append(_large(console, folder, arguments.megabytes))
            else:
                reached.append(_compare(console, scene, folder, arguments.count, arguments.repeats))
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
