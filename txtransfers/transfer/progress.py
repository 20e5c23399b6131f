"""How far a transfer is: the figures that a job shows. Changed in the reactor only."""

from collections.abc import Sequence

import attrs

from ..wire.codec import Coding
from ..wire.plan import Instance, Plan, bucket_size


@attrs.define
class Progress:
    """Counters of one transfer.

    :ivar total_size: bytes of all instances, before compression.
    :ivar skipped: instances that need not travel, as the receiver holds them; ``skipped_size``
        their bytes.
    :ivar buckets: those that are to travel.
    :ivar done_size: bytes in buckets that have arrived, before compression; ``done_instances`` the
        instances of which all has arrived.
    :ivar network_size: bytes that travelled, compressed where they were; ``repeated_size`` of
        these, in buckets that had to travel again.
    :ivar seconds: time spent transferring, for the speed.
    :ivar codings: how buckets have travelled ("zstd 1": codec and level) -> bytes in them, before
        compression.
    """

    total_instances: int | None = None
    total_size: int = 0
    skipped: int = 0
    skipped_size: int = 0
    buckets: int | None = None
    buckets_done: int = 0
    done_size: int = 0
    network_size: int = 0
    repeated_size: int = 0
    retries: int = 0
    seconds: float = 0.0
    codings: dict[str, int] = attrs.Factory(dict)
    done_instances: int = 0

    def bucket_done(self, size: int, instances: int = 0) -> None:
        """A bucket of ``size`` bytes has arrived, and with it the last of some instances."""
        self.buckets_done += 1
        self.done_size += size
        self.done_instances += instances

    def travelled(self, coding: Coding, size: int) -> None:
        """A bucket, or what was left of it, has travelled so; ``size`` before compression."""
        name = str(coding)
        self.codings[name] = self.codings.get(name, 0) + size

    @property
    def coding(self) -> tuple[str, int] | None:
        """Codec and level that most bytes travelled in; None before the first bucket."""
        if not self.codings:
            return None
        codec, _, level = max(self.codings, key=lambda name: self.codings[name]).partition(" ")
        return codec, int(level)

    def planned(
        self, instances: Sequence[Instance], skipped: Sequence[Instance], plan: Plan
    ) -> None:
        """The transfer starts, or starts anew: nothing has arrived.

        :param skipped: those of ``instances`` that need not travel.
        :param plan: what is to travel; its empty buckets do not.
        """
        self.total_instances = len(instances)
        self.total_size = sum(instance.size for instance in instances)
        self.skipped = len(skipped)
        self.skipped_size = sum(instance.size for instance in skipped)
        self.buckets = sum(1 for bucket in plan if bucket)
        self.buckets_done = self.done_size = self.done_instances = 0

    def arrived(self, plan: Plan, done: Sequence[int], instances: int = 0) -> None:
        """These buckets of ``plan`` have arrived, and no others.

        :param instances: of which all is in them.
        """
        self.done_instances = instances
        self.buckets_done = len(done)
        self.done_size = sum(bucket_size(plan[number]) for number in done)

    def at_least(self, network: int, repeated: int) -> None:
        """What was counted is too little: the last second of a killed daemon is not in it."""
        self.network_size = max(self.network_size, network)
        self.repeated_size = max(self.repeated_size, repeated)

    @property
    def fraction(self) -> float:
        """How much is done, from 0 to 1 (protocol, section 5)."""
        if self.buckets is None:
            return 0.0
        return (1 + self.buckets_done) / (2 + self.buckets)
