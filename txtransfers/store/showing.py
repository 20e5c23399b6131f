"""How a commit becomes visible: in one SQL transaction, or for a large one as a hidden batch.

Blocking. One large commit or deletion at a time: so a batch may lean on the patients, studies,
series and held instances that are there, and small commits pass between its steps.
"""

import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..errors import BadState, CorruptedInstances
from ..sqlite import Database, FairLock
from ..wire.messages import Level
from . import index
from .batches import Batch, purge
from .interfaces import CommitReport, Outcome
from .steps import Step

if TYPE_CHECKING:
    from .reception import StagedIncoming

BATCH_STEP = 500
"""Instances that are inserted in one step: others wait for that long, some 20 ms."""

_Placed = tuple[int, str]
"""An instance's position in its transfer, and the identifier that its file has."""


class Showing:
    """Shows staging areas, and deletes what is shown."""

    def __init__(self, database: Database, step: Callable[[Step], None]) -> None:
        self._database = database
        self._step = step
        self._one_large = FairLock()

    def show(self, incoming: "StagedIncoming", overwrite: bool) -> CommitReport:
        """Show all files of a staging area, which are synced, or none; its folder stays open.

        :param overwrite: ``OverwriteInstances``.
        :raises CorruptedInstances: an instance that is held is not there any more.
        """
        if len(incoming.instances) > BATCH_STEP:
            with self._one_large:
                return self._show_large(incoming, Batch(overwrite))
        rows = sorted(incoming.rows(), key=incoming.position)  # of two files, the first counts
        placed = [(incoming.position(row), row.id) for row in rows]
        incoming.check_rows(position for position, _id in placed)

        def transaction(db: Any) -> CommitReport:
            _check_held(db, incoming)
            outcomes = index.insert(db, rows, overwrite)
            return self._decide(db, incoming, placed, outcomes)

        return self._database.write(transaction)

    def _show_large(self, incoming: "StagedIncoming", batch: Batch) -> CommitReport:
        self._database.read(lambda db: _check_held(db, incoming))
        try:
            placed = self._add(incoming, batch)
            incoming.check_rows(position for position, _id in placed)
            return self._database.write(
                lambda db: self._decide(db, incoming, placed, batch.show(db))
            )
        except BaseException:
            self._database.write(purge)
            raise

    def _add(self, incoming: "StagedIncoming", batch: Batch) -> list[_Placed]:
        """All steps but the last, which a power cut may undo."""
        self._database.write(batch.begin, durable=False)
        self._step(Step.BATCH_BEGUN)
        rows = iter(incoming.rows())
        placed: list[_Placed] = []
        while some := list(islice(rows, BATCH_STEP)):
            self._database.write(lambda db, some=some: batch.add(db, some), durable=False)  # type: ignore[misc]
            placed.extend((incoming.position(row), row.id) for row in some)
            self._step(Step.BATCH_ADDED)
        return placed

    def _decide(
        self,
        db: Any,
        incoming: "StagedIncoming",
        placed: Sequence[_Placed],
        outcomes: Sequence[Outcome],
    ) -> CommitReport:
        """Write the report, in the order of the instances, in the transaction that shows all."""
        ids = [instance.id for instance in incoming.instances]
        all_outcomes = [Outcome.ALREADY_STORED] * len(ids)
        for (position, id_), outcome in zip(placed, outcomes, strict=True):
            ids[position], all_outcomes[position] = id_, outcome
        report = CommitReport(tuple(all_outcomes), tuple(ids))
        if index.find_report(db, incoming.name) is not None:
            raise BadState(f"{incoming.name} was committed before")
        index.add_report(db, incoming.name, time.time(), report.to_text())
        self._step(Step.DECIDING)
        return report

    def delete(self, level: Level, id_: str) -> tuple[Level, str] | None:
        """See :meth:`IArchive.delete`."""
        with self._one_large:
            return self._database.write(lambda db: index.delete(db, level, id_))


def _check_held(db: Any, incoming: "StagedIncoming") -> None:
    lost = []
    for instance in incoming.instances:
        if instance.id in incoming.held:
            shown = index.find_shown(db, instance.id)
            if shown is None or shown[1] != instance.md5:
                lost.append(instance.id)
    if lost:
        incoming.lost_held(lost)
        raise CorruptedInstances(
            f"{len(lost)} instances that were here when the transfer began were deleted or replaced"
            f" meanwhile, the first is {lost[0]}: their bytes are needed now",
            tuple(lost),
        )
