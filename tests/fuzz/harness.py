"""What a harness is, and what holds for all of them."""

import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from twisted.logger import globalLogPublisher

CORPUS = Path(__file__).parent.parent / "data" / "fuzz"


@attrs.frozen
class Harness:
    """One parser.

    :ivar run: takes any bytes, and fails with AssertionError, or any other error, where something
        does not hold. :ivar memory: bytes that it may take, besides ``factor`` times the input.
    :ivar tokens: what is worth putting into an input.
    """

    name: str
    run: Callable[[bytes], None]
    memory: int = 2**20
    factor: int = 40
    tokens: tuple[bytes, ...] = ()

    def seeds(self) -> list[bytes]:
        """The corpus."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())]

    def measured(self, data: bytes) -> None:
        """Run, and see that it took no more memory than is right."""
        tracemalloc.start()
        try:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            self.run(data)
            taken = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
        allowed = self.memory + self.factor * len(data)
        assert taken <= allowed, f"{taken} bytes of memory for {len(data)} bytes of input"


class Logged:
    """Within it, nothing may be logged as an error: what was is raised at its end."""

    def __init__(self) -> None:
        self._failures: list[Any] = []

    def __enter__(self) -> "Logged":
        globalLogPublisher.addObserver(self._see)
        return self

    def __exit__(self, *_exception: object) -> None:
        globalLogPublisher.removeObserver(self._see)
        for failure in self._failures:
            failure.raiseException()

    def _see(self, event: Mapping[str, Any]) -> None:
        if event.get("log_failure") is not None:
            self._failures.append(event["log_failure"])


def is_frozen(value: Any) -> bool:
    """Whether nothing in a value can be changed: frozen attrs, tuples, and what Python freezes."""
    if attrs.has(type(value)):
        setters = type(value).__setattr__
        is_fixed = setters is not object.__setattr__
        return is_fixed and all(
            is_frozen(getattr(value, f.name)) for f in attrs.fields(type(value))
        )
    if isinstance(value, tuple | frozenset):
        return all(map(is_frozen, value))
    return value is None or isinstance(value, str | bytes | int | float) or _is_constant(value)


def _is_constant(value: Any) -> bool:
    """Enumerations; and mappings, which are handed over as they are read, and are not shared."""
    return hasattr(type(value), "__members__") or isinstance(value, Mapping)


class Cutter:
    """Takes numbers and pieces from the input itself, so that it decides about everything."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def number(self, below: int) -> int:
        """From the first two bytes."""
        head, self._data = self._data[:2], self._data[2:]
        return int.from_bytes(head, "big") % below

    def rest(self) -> bytes:
        """What is left."""
        return self._data

    def pieces(self) -> list[bytes]:
        """What is left, in pieces."""
        size = (1, 7, 100, 4096, 2**20)[self.number(5)]
        rest = self._data
        return [rest[start : start + size] for start in range(0, len(rest), size)]
