"""What the machine is like, as far as it matters: programs, and ratios instead of models."""

import hashlib
import os
import platform
import subprocess
import time

from bench.wan.programs import find

GIGABIT = 1e9 / 8
"""Bytes a second of the fastest link."""
MD5_BYTES = 64 * 1024 * 1024
PROGRAMS = ("Orthanc", "storescu", "curl", "rsync", "iperf3")


def describe() -> dict[str, str]:
    """Return what a page tells of this machine."""
    told = {
        "cores": str(os.cpu_count()),
        "kernel": platform.release().partition("-")[0],
        "Python": platform.python_version(),
        "MD5 on one core": f"{md5_speed() / GIGABIT:.1f} times 1 Gbit/s",
    }
    return told | {name: _version(name) for name in PROGRAMS}


def md5_speed() -> float:
    """Return bytes a second of one core."""
    piece = bytes(MD5_BYTES)
    started = time.perf_counter()
    hashlib.md5(piece).hexdigest()
    return MD5_BYTES / (time.perf_counter() - started)


def _version(program: str) -> str:
    path = find(program)
    if path is None:
        return "not installed"
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    numbers = [word for word in done.stdout.split() if word.lstrip("v")[:1].isdigit()]
    return numbers[0].lstrip("v") if numbers else "installed"
