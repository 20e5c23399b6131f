"""What is measured as it happens, for Prometheus: a registry of our own, and one method an event.

Called in the reactor; :func:`exposition` may be called in a thread. Labels are bounded: peers by
the names that the configuration has, all others together.
"""

from collections.abc import Collection, Iterable
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric

PUSH, PULL, RECEIVED, SERVED = "push", "pull", "received", "served"
"""The directions: what our jobs push to a peer, and pull from it; what others push to us, and pull
from us."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text; every Prometheus reads it, and no name here needs a later one."""

OTHER = "other"
"""The label of a peer whose name the configuration has not."""

_LABELS = ("peer", "direction")
_BUCKET_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_COMMIT_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
_TRANSFER_SECONDS = (0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_KB = 1024
_BUCKET_BYTES = tuple(n * _KB for n in (16, 64, 256, 1024, 2048, 4096, 8192, 32768, 131072))


class ICollected(Protocol):
    """What can be exposed."""

    def collect(self) -> Iterable[Metric]:
        """The metrics."""


class Measures:
    """See the module. Sizes in bytes, as they travelled; times in seconds."""

    def __init__(self, names: Collection[str] = ()) -> None:
        """:param names: of peers, users and scripts: those that are told apart."""
        self._names = frozenset(names)
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def histogram(name: str, text: str, buckets: Iterable[float]) -> Histogram:
            return Histogram(name, text, _LABELS, buckets=tuple(buckets), registry=registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = _LABELS) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self._bucket_seconds = histogram(
            "txtransfers_bucket_seconds", "How long buckets that arrived took.", _BUCKET_SECONDS
        )
        self._bucket_bytes = histogram(
            "txtransfers_bucket_bytes", "Sizes of these buckets, as they travelled.", _BUCKET_BYTES
        )
        self._commit_seconds = histogram(
            "txtransfers_commit_seconds", "How long commits that succeeded took.", _COMMIT_SECONDS
        )
        self._transfer_seconds = histogram(
            "txtransfers_transfer_seconds", "How long jobs that succeeded ran.", _TRANSFER_SECONDS
        )
        self._bytes = counter(
            "txtransfers_bytes", "Bytes of buckets that have travelled, those in vain too."
        )
        self._retries = counter("txtransfers_retries", "Requests of jobs that were made again.")
        self._jobs = counter("txtransfers_jobs_ended", "Jobs that have ended.", (*_LABELS, "state"))
        self._answers = counter(
            "txtransfers_http_answers", "Answers to requests, by class of status.", ("status",)
        )

    def _label(self, name: str) -> str:
        return name if not name or name in self._names else OTHER

    def bucket(self, peer: str, direction: str, seconds: float, size: int) -> None:
        """A bucket has arrived."""
        labels = self._label(peer), direction
        self._bucket_seconds.labels(*labels).observe(seconds)
        self._bucket_bytes.labels(*labels).observe(size)

    def travelled(self, peer: str, direction: str, size: int) -> None:
        """Bytes of buckets have, whatever became of them."""
        if size > 0:
            self._bytes.labels(self._label(peer), direction).inc(size)

    def committed(self, peer: str, direction: str, seconds: float) -> None:
        """All of a transfer is stored."""
        self._commit_seconds.labels(self._label(peer), direction).observe(seconds)

    def tried_again(self, peer: str, direction: str, times: int) -> None:
        """Requests were made again."""
        if times > 0:
            self._retries.labels(self._label(peer), direction).inc(times)

    def job_ended(self, peer: str, direction: str, state: str, seconds: float) -> None:
        """A job has."""
        labels = self._label(peer), direction
        self._jobs.labels(*labels, state).inc()
        if state == "Success":
            self._transfer_seconds.labels(*labels).observe(seconds)

    def answered(self, status: int) -> None:
        """A request has been."""
        self._answers.labels(f"{status // 100}xx").inc()


class _WithoutCreated:
    """When each counter began is of no use, and as much text again."""

    def __init__(self, sources: Iterable[ICollected]) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """See :class:`ICollected`."""
        for source in self._sources:
            for metric in source.collect():
                metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
                yield metric


def exposition(*sources: ICollected) -> bytes:
    """The text that Prometheus reads; takes milliseconds, and reads ``/proc``."""
    exposed: Any = _WithoutCreated(sources)
    return bytes(generate_latest(exposed))
