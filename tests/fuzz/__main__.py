"""``python -m tests.fuzz NAME --seconds 30``: try one parser, or ``all`` of them.

With atheris (``pip install atheris``) guided by coverage, else by simple changes of the corpus.
What fails is written to ``.cache/fuzz``; put it into ``tests/data/fuzz/NAME``, where the tests
play it.
"""

import argparse
import hashlib
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

CACHE = Path(".cache/fuzz")
_MEASURED = 16
"""Of so many inputs one is measured: that takes several times as long."""

_ROOM_MB = 1024


def main() -> int:
    """Run; 1 where something failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("name", help="a harness, all, or list")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--own", action="store_true", help="without atheris, though it is there")
    parser.add_argument("--input", type=Path, help="play this file alone")
    wanted = parser.parse_args()
    atheris = None if wanted.own or wanted.input else _atheris()
    if atheris is None:
        from tests.fuzz.every import HARNESSES  # noqa: PLC0415
    else:
        with atheris.instrument_imports(include=["txtransfers", "twisted.web"]):
            from tests.fuzz.every import HARNESSES  # noqa: PLC0415
    if wanted.name == "list":
        print("\n".join(sorted(HARNESSES)))
        return 0
    if wanted.name == "all":
        return max(_in_its_own_process(name, wanted) for name in sorted(HARNESSES))
    harness = HARNESSES[wanted.name]
    if wanted.input:
        harness.measured(wanted.input.read_bytes())
        return 0
    if atheris is not None:
        return _guided(atheris, harness, wanted)
    return _simple(harness, wanted)


def _atheris() -> Any:
    try:
        import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore] # noqa: PLC0415
    except ImportError:
        print("atheris is not installed: by simple changes of the corpus")
        return None
    return atheris


def _in_its_own_process(name: str, wanted: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(wanted.seconds)]
    command += ["--seed", str(wanted.seed), *(["--own"] if wanted.own else [])]
    print(f"== {name}", flush=True)
    return int(subprocess.run(command, check=False).returncode != 0)


def _guided(atheris: Any, harness: Any, wanted: argparse.Namespace) -> int:
    folder = CACHE / harness.name
    folder.mkdir(parents=True, exist_ok=True)
    words = folder.with_suffix(".dict")
    lines = ("".join(f"\\x{byte:02x}" for byte in token) for token in harness.tokens)
    words.write_text("".join(f'"{line}"\n' for line in lines if len(line) < 400))
    from tests.fuzz.harness import CORPUS  # noqa: PLC0415

    arguments = [
        *(f"-max_total_time={wanted.seconds}", f"-rss_limit_mb={_ROOM_MB}", "-max_len=20000"),
        *(f"-seed={wanted.seed}", f"-artifact_prefix={CACHE}/{harness.name}-", "-timeout=20"),
        *(f"-dict={words}", "-print_final_stats=1", "-verbosity=0"),
        *(str(folder), str(CORPUS / harness.name)),
    ]
    atheris.Setup([sys.argv[0], *arguments], harness.run)
    atheris.Fuzz()
    return 0


def _simple(harness: Any, wanted: argparse.Namespace) -> int:
    from tests.fuzz.mutation import endless  # noqa: PLC0415

    until = time.monotonic() + wanted.seconds
    failures: dict[str, bytes] = {}
    number = 0
    for number, data in enumerate(endless(harness.seeds(), harness.tokens, wanted.seed)):
        if time.monotonic() > until:
            break
        try:
            (harness.run if number % _MEASURED else harness.measured)(data)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
            if len(data) < len(failures.get(what, bytes(10**9))):
                failures[what] = data
    CACHE.mkdir(parents=True, exist_ok=True)
    for what, data in failures.items():
        path = CACHE / f"{harness.name}-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        print(f"{what}: {path}")
    print(f"{harness.name}: {number} inputs, {len(failures)} kinds of failures")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
