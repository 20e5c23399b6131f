"""Programs that are not Python's and that some tests need: found, skipped for, or insisted on."""

import os
import shutil

from twisted.trial.unittest import SynchronousTestCase

REQUIRE_ALL = "TXTRANSFERS_REQUIRE_ALL"
"""Set to 1, a test whose program is missing fails instead of being skipped."""

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])


def need(case: SynchronousTestCase, program: str) -> str:
    """Return the path of ``program``; skip the test where it is missing, or fail it."""
    found = shutil.which(program, path=_PATH)
    if found is not None:
        return found
    return do_without(case, program)


def do_without(case: SynchronousTestCase, part: str) -> str:
    """Skip the test for which something is missing, or fail it."""
    if os.environ.get(REQUIRE_ALL) == "1":
        case.fail(f"{part} is not installed, and {REQUIRE_ALL} is 1")
    return case.skipTest(f"{part} is not installed")
