"""Round trips from the request for a transfer until its job shows the first bucket: root.

`python -m bench.wan.first`: 500 CT slices over 200 Mbit/s, to an empty receiver, each run with new
daemons. A job that is asked for so often is a little slower: each look costs its daemon 3 ms.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.wan import plan, stopping
from bench.wan.contenders import TxTransfers
from bench.wan.link import Host, Link, up
from bench.wan.stage import Stage
from demo import moves
from demo.daemon import ROOT, Daemon, Json

FOLDER = ROOT / ".demo"
LINKS = (Link(200, 100), Link(200, 400))
LOOK_SECONDS = 0.02
SECONDS = 11.0
LIMIT_SECONDS = 300.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure push and pull on each link, and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m bench.wan.first", description=__doc__)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args(argv)
    stopping.listen()
    FOLDER.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="first-", dir=FOLDER))
    try:
        files, store = folder / "files", folder / "store"
        files.mkdir()
        store.mkdir()
        load = plan.load(plan.FILES[0], LINKS[0], SECONDS, files)
        for link in LINKS:
            for mode in ("push", "pull"):
                for repeat in range(arguments.repeats):
                    with up("first", link, seed=repeat + 1) as hosts:
                        cold, warm = _trips(mode, link, hosts, load, store)
                    sys.stdout.write(
                        f"{link.name}: {mode}: {cold:.1f} round trips;"
                        f" at once after another transfer {warm:.1f}\n"
                    )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _trips(
    mode: str, link: Link, hosts: tuple[Host, Host], load: plan.Load, store: Path
) -> tuple[float, float]:
    """Those of a first transfer, and of one that finds the connections of another."""
    own = Path(tempfile.mkdtemp(dir=store.parent))
    stage = Stage(hosts[0], hosts[1], load, store, own, LIMIT_SECONDS, {})
    with ExitStack() as stack:
        a, b = TxTransfers(mode, "none", "auto").pair(stage, stack)
        cold = _seconds(mode, a, b, load.study)
        b.client.request("DELETE", f"/studies/{load.study}")
        warm = _seconds(mode, a, b, load.study)
    return cold / link.rtt * 1000, warm / link.rtt * 1000


def _seconds(mode: str, a: Daemon, b: Daemon, study: str) -> float:
    first: list[float] = []

    def look(job: Json) -> None:
        if not first and job["Content"].get("CompletedHttpQueries"):
            first.append(time.monotonic())

    resources = [{"Level": "Study", "ID": study}]
    started = time.monotonic()
    moves.move(mode, a, b, resources, compression="none", interval=LOOK_SECONDS, watch=look)
    return first[0] - started


if __name__ == "__main__":
    sys.exit(main())
