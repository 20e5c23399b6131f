"""``/metrics``: what was measured, and how much of everything there is at this moment."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)

from .. import __version__
from ..jobs.model import State
from ..jobs.runner import JobRunner
from ..metrics import CONTENT_TYPE, Measures, exposition
from ..store.interfaces import IArchive
from ..store.space import Space
from ..threads import IThreads
from ..transfer.incoming import PushTransactions
from ..transfer.slots import Slots
from .refusals import NAMES
from .resource import ApiResource, Reply
from .server import StreamingRequest, StreamingSite

_PREFIX = "txtransfers_"

Values = float | Mapping[str, float]
"""One value, or one for each value of a label."""


@attrs.frozen
class Sources:
    """What is looked at.

    :ivar memory: ``CacheSize``, and what of it buckets of jobs have.
    :ivar is_orthanc_up: None where there is no Orthanc behind us.
    """

    measures: Measures
    threads: IThreads
    jobs: JobRunner
    transactions: PushTransactions
    archive: IArchive | None
    space: Space | None
    memory: Slots | None
    failed_logins: Callable[[], int]
    is_orthanc_up: Callable[[], Any] | None


class Snapshot:
    """Metrics that are made when they are asked for; collected once."""

    def __init__(self) -> None:
        self._families: list[Metric] = []

    def gauge(self, name: str, text: str, values: Values, label: str = "") -> None:
        """Something that goes up and down."""
        self._add(GaugeMetricFamily, name, text, values, label)

    def counter(self, name: str, text: str, values: Values, label: str = "") -> None:
        """Something that only grows."""
        self._add(CounterMetricFamily, name, text, values, label)

    def _add(self, kind: Any, name: str, text: str, values: Values, label: str) -> None:
        family = kind(_PREFIX + name, text, labels=[label] if label else [])
        if isinstance(values, Mapping):
            for value_of_label, value in values.items():
                family.add_metric([value_of_label], value)
        else:
            family.add_metric([], values)
        self._families.append(family)

    def collect(self) -> Iterable[Metric]:
        """See :class:`.metrics.ICollected`."""
        version = InfoMetricFamily(f"{_PREFIX}build", "What runs here.")
        version.add_metric((), {"version": __version__})
        return [version, *self._families]


class PrometheusMetrics(ApiResource):
    """``/metrics``."""

    def __init__(self, sources: Sources) -> None:
        super().__init__()
        self._sources = sources

    async def get(self, request: StreamingRequest) -> Reply:
        """All metrics."""
        sources, snapshot = self._sources, Snapshot()
        site = request.site
        if sources.is_orthanc_up is not None:
            is_up = await sources.is_orthanc_up()
            snapshot.gauge("orthanc_up", "Whether Orthanc answers.", is_up)
        if sources.archive is not None:
            await _archive(snapshot, sources.archive)
        _jobs(snapshot, sources)
        _pushes(snapshot, sources.transactions)
        _clients(snapshot, site)
        _queues(snapshot, sources, site)
        failed = sources.failed_logins()
        snapshot.counter("failed_logins", "Passwords and tokens that were wrong.", failed)
        body = await sources.threads.run(_write, sources, snapshot)
        return Reply(body, CONTENT_TYPE)


def _write(sources: Sources, snapshot: Snapshot) -> bytes:
    """Blocking: looks at the disk."""
    if sources.space is not None:
        areas, written, promised = sources.space.staged()
        sizes = {"written": written, "promised": promised}
        text = "What is being received: what is on the disk, what is promised beside that."
        snapshot.gauge("staging_bytes", text, sizes, "what")
        snapshot.gauge("staging_areas", "Transfers that are staged.", areas)
        free = float(sources.space.free())
        text = "What can still be promised, of the disk and within its limits."
        snapshot.gauge("storage_free_bytes", text, free)
    return exposition(snapshot, sources.measures.registry)


async def _archive(snapshot: Snapshot, archive: IArchive) -> None:
    numbers = await archive.statistics(None, "")
    counts = {
        name: getattr(numbers, name) for name in ("patients", "studies", "series", "instances")
    }
    snapshot.gauge("archive", "How many there are in the archive.", counts, "level")
    snapshot.gauge("archive_bytes", "Size of all instances.", numbers.size)


def _jobs(snapshot: Snapshot, sources: Sources) -> None:
    states = Counter(job.state for job in sources.jobs.jobs())
    series = {state.value: states[state] for state in State}
    snapshot.gauge("jobs", "Jobs that are known, by state.", series, "state")


def _pushes(snapshot: Snapshot, transactions: PushTransactions) -> None:
    counters = transactions.counters
    ended = {
        "created": counters.created,
        "committed": counters.committed,
        "aborted": counters.aborted,
    }
    snapshot.counter("pushes", "Pushes that others opened, and what came of them.", ended, "what")
    snapshot.gauge("pushes_open", "Of these, open.", transactions.open_count)
    room = transactions.available
    snapshot.gauge("pushes_available", "How many more there is room for.", room)


def _clients(snapshot: Snapshot, site: StreamingSite) -> None:
    connections = site.connections
    by_state = {
        "idle": connections.idle,
        "busy": connections.count - connections.idle,
    }
    snapshot.gauge("connections", "Connections of clients.", by_state, "state")
    opened = connections.opened
    snapshot.counter("connections_opened", "Connections that clients have opened.", opened)
    limit = site.limits.connections
    snapshot.gauge("connections_limit", "MaxConnections.", limit)
    refused = {name: site.refusals.counted[name] for name in NAMES}
    snapshot.counter("refused", "What was refused, by limit.", refused, "limit")


def _queues(snapshot: Snapshot, sources: Sources, site: StreamingSite) -> None:
    load = site.load
    queues = {
        "buckets_received": sources.transactions.bodies,
        "downloads": load.downloads,
        "messages": load.messages,
    }
    if sources.memory is not None:
        queues["buckets_sent"] = sources.memory
    waiting = {name: slots.waiting for name, slots in queues.items()}
    waiting["threads"] = getattr(sources.threads, "waiting", 0)
    snapshot.gauge("queue", "How many wait for their turn.", waiting, "queue")
    snapshot.gauge("uploads", "Bodies that are coming.", load.uploads)
    if sources.memory is not None:
        memory = {
            "used": sources.memory.held,
            "limit": sources.memory.limit,
        }
        snapshot.gauge("cache_bytes", "CacheSize, and what buckets of jobs have.", memory, "what")
