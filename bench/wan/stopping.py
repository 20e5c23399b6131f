"""How a measurement is stopped: once, and not in the middle of what makes a link or removes it.

Whoever presses Ctrl-C twice would interrupt the tidying up, and leave hosts and emulators behind.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def listen() -> None:
    """From now on the first signal is a KeyboardInterrupt, and the others are none.

    Also where SIGINT was ignored, as by a program that a script has put into the background.
    """
    for number in SIGNALS:
        signal.signal(number, _stop)


def _stop(_number: int, _frame: FrameType | None) -> None:
    # Not SIG_IGN: what tidies up are programs, which would inherit it.
    for number in SIGNALS:
        signal.signal(number, _ignore)
    raise KeyboardInterrupt


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Have signals come when the block has ended; in the main thread."""
    came: list[int] = []
    before = {n: signal.signal(n, lambda number, _frame: came.append(number)) for n in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            os.kill(os.getpid(), came[0])
