"""How far a transfer is: the figures that a job shows. Changed in the reactor only."""

from collections.abc import Sequence

import attrs

from ..wire.plan import Instance, Plan


@attrs.define
class Progress:
    """Counters of one transfer.

    :ivar total_size: bytes of all instances, before compression.
    :ivar done_size: of these, bytes in buckets that have arrived.
    :ivar network_size: bytes that travelled, compressed where they were.
    :ivar seconds: time spent transferring, for the speed.
    """

    total_instances: int | None = None
    total_size: int = 0
    buckets: int | None = None
    buckets_done: int = 0
    done_size: int = 0
    network_size: int = 0
    retries: int = 0
    seconds: float = 0.0
    stored: int | None = None
    already_stored: int | None = None

    def bucket_done(self, size: int) -> None:
        """A bucket of ``size`` bytes has arrived."""
        self.buckets_done += 1
        self.done_size += size

    def planned(self, instances: Sequence[Instance], plan: Plan) -> None:
        """The transfer starts, or starts anew: nothing has arrived."""
        self.total_instances = len(instances)
        self.total_size = sum(instance.size for instance in instances)
        self.buckets = len(plan)
        self.buckets_done = self.done_size = 0

    @property
    def fraction(self) -> float:
        """How much is done, from 0 to 1 (protocol, section 5)."""
        if self.buckets is None:
            return 0.0
        return (1 + self.buckets_done) / (2 + self.buckets)
