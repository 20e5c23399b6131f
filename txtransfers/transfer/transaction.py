"""The transaction of a push at the peer, as the sender knows it, and as its job remembers it."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import attrs

from ..wire.codec import Codec, codec_names, read_codecs
from ..wire.plan import Cut, Instance, Plan, plan_buckets, without
from ..wire.ranges import from_ranges, to_ranges

_ANY = 2**31
"""More instances, or buckets, than any transfer has."""


class Transaction:
    """See the module. Without :attr:`path`, none is open.

    :ivar instances: of the whole transfer.
    :ivar key: what the sender calls it, where the peer knows the extension.
    :ivar extended: whether the peer does.
    :ivar cut: how large its buckets are.
    :ivar compression: what it was opened with, once that is decided.
    :ivar codecs: what the peer takes beside that, bucket by bucket.
    :ivar awaits: whether it may be committed while the last buckets are on their way.
    :ivar skipped: positions, among all instances, of those that were not declared to the peer.
    :ivar held: positions, among those declared, that the peer holds and that are not sent.
    :ivar done: numbers of the buckets that have arrived.
    :ivar partial: bucket -> how many of its first bytes need not be sent; what the peer said last.
    :ivar in_flight: bucket -> bytes of its last try, while it is not known what became of them.
    :ivar asked_to_commit: whether the peer may have begun to commit.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        """:param state: what :meth:`state` gave; may be empty."""
        self.instances: tuple[Instance, ...] = ()
        self.path: str = state.get("path", "")
        self.key: str = state.get("key", "")
        self.extended: bool = state.get("extended", False)
        self.asked_to_commit: bool = state.get("asked_to_commit", False)
        self.compression = Codec(state["compression"]) if state.get("compression") else None
        self.codecs = read_codecs(state.get("codecs", ()))
        self.awaits: bool = state.get("awaits", False)
        self.skipped = from_ranges(state.get("skipped", ()), _ANY, "skipped")
        self.held = from_ranges(state.get("held", ()), _ANY, "held")
        self.done = set(from_ranges(state.get("done", ()), _ANY, "done"))
        self.partial: dict[int, int] = {}
        self.in_flight = {int(n): size for n, size in state.get("in_flight", {}).items()}
        # Earlier versions had one size for all buckets, which the same cut makes of it.
        self.cut = Cut(*state.get("cut", (state.get("bucket_size", 1),)))
        self.declared: tuple[Instance, ...] = ()
        self.plan: Plan = ()
        self.buckets: Plan = ()

    def state(self) -> dict[str, Any]:
        """All that is to be remembered, as JSON values."""
        return {
            "path": self.path,
            "key": self.key,
            "extended": self.extended,
            "asked_to_commit": self.asked_to_commit,
            "compression": self.compression.value if self.compression is not None else "",
            "codecs": codec_names(self.codecs),
            "awaits": self.awaits,
            "skipped": to_ranges(self.skipped),
            "held": to_ranges(self.held),
            "done": to_ranges(self.done),
            "in_flight": {str(n): size for n, size in self.in_flight.items()},
            "cut": attrs.astuple(self.cut),
        }

    def begin(self, skipped: frozenset[int], cut: Cut) -> None:
        """A new one, that is not open yet. Takes long for many instances.

        An opening whose answer did not come is made again as it was: it may be open after all.
        """
        is_same = self.key and not self.path and self.skipped == skipped
        if not is_same:
            self.forget()
            self.key = str(uuid4())
            self.skipped = skipped
            self.cut = cut
        self.make_plan()

    def make_plan(self) -> None:
        """Declare the instances in buckets, as in the life before. Takes long for many."""
        self.declared = tuple(i for n, i in enumerate(self.instances) if n not in self.skipped)
        self.plan = plan_buckets(self.declared, self.cut)
        self.hold(self.held)

    def hold(self, held: frozenset[int]) -> None:
        """These of the declared instances need not be sent."""
        self.held = held
        self.buckets = without(self.plan, {self.declared[n].id for n in held})

    def forget(self) -> None:
        """None is open any more."""
        self.path = ""
        self.key = ""
        self.extended = self.asked_to_commit = self.awaits = False
        self.compression, self.codecs = None, frozenset()
        self.skipped = self.held = frozenset()
        self.done.clear()
        self.partial.clear()
        self.in_flight.clear()

    @property
    def may_be_open(self) -> str:
        """Where it is, or would be if its opening was served though its answer did not come."""
        return self.path or (f"/transfers/push/{self.key}" if self.key else "")

    @property
    def missing(self) -> list[int]:
        """Numbers of the buckets that must still be sent."""
        return [n for n, bucket in enumerate(self.buckets) if bucket and n not in self.done]

    def bucket_path(self, number: int, offset: int, codec: Codec) -> str:
        """Where a bucket goes, from byte ``offset`` on; what travels as opened needs no word."""
        arguments = [f"offset={offset}"] if offset else []
        if codec is not self.compression:
            arguments.append(f"codec={codec.value}")
        if not self.path:
            arguments.append("early=1")
        return f"{self.may_be_open}/{number}{'?' if arguments else ''}{'&'.join(arguments)}"

    def not_sent(self) -> list[Instance]:
        """Those of the instances that need not be sent."""
        held = {self.declared[n].id for n in self.held}
        return [i for n, i in enumerate(self.instances) if n in self.skipped or i.id in held]
