"""A push as its peer has it: where the transaction stands, and how its commit went.

The peer is believed where it knows our extension, and looked at where it does not: nothing is said
of a commit before it is known.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ..errors import PeerRefused, TransfersError
from ..store.interfaces import Outcome
from ..wire.messages import TransferRequest
from ..wire.pushes import PushState, PushStatus
from .asking import Session
from .holdings import held_by_lookup
from .parts import Memo, Parts
from .peers import Peer
from .progress import Progress
from .retries import is_worth_retrying
from .transaction import Transaction

GOODBYE_S = 1.0
"""Seconds that telling the peer of an abandoned transaction may take, before its commit."""

FIND_OUT_S = 60.0
"""Seconds that a peer may be out of reach while it is asked how its commit went."""

POLL_S = 0.5
"""Seconds between two questions of how it stands; the peer waits a little itself."""

CONFLICT = 409

log = Logger()


class PushAtPeer:
    """See the module.

    :ivar outcomes: what became of each instance, once all is committed.
    :ivar last_error: why the last commit came to nothing although nothing is missing.
    """

    def __init__(
        self,
        parts: Parts,
        peer: Peer,
        session: Session,
        request: TransferRequest,
        memo: Memo,
        transaction: Transaction,
        show: Callable[[Progress], None],
    ) -> None:
        """:param show: called when more, or less, is known to have arrived."""
        self._parts = parts
        self._peer = peer
        self._session = session
        self._request = request
        self._memo = memo
        self._transaction = transaction
        self._show = show
        self.outcomes: list[Outcome | None] = []
        self.last_error: TransfersError | None = None

    def state(self) -> Mapping[str, Any]:
        """What another life of the job must know."""
        return self._transaction.state() | {"cookies": self._session.cookies()}

    async def decided(self, verify: bool, patience: float = 0.0) -> PushStatus:
        """Where the transaction stands, once the peer has read, or committed, what it has.

        :param patience: seconds that the peer may be out of reach.
        """
        transaction, clock = self._transaction, self._parts.reactor
        last_seen = clock.seconds()
        while True:
            begun = clock.seconds()
            try:
                status = await self._peer.push_status(
                    transaction.may_be_open,
                    len(transaction.declared),
                    len(transaction.plan),
                    verify,
                    self._session,
                )
                last_seen = clock.seconds()
                if status.state in (PushState.RECEIVING, PushState.COMMITTED):
                    return status
                verify = False
            except TransfersError as error:
                if not is_worth_retrying(error) or begun - last_seen >= patience:
                    raise
            await deferLater(clock, POLL_S)

    async def is_committed(self) -> bool:
        """Whether it says, at this moment, that all is."""
        try:
            return self.learn(await self.decided(verify=False))
        except TransfersError:
            return False

    def learn(self, status: PushStatus) -> bool:
        """Believe the peer; tells whether all is committed."""
        transaction = self._transaction
        if status.state is PushState.COMMITTED:
            self.outcomes = self._told(status)
            return True
        transaction.hold(status.already_stored)
        transaction.done = set(range(len(transaction.plan))) - status.missing
        transaction.partial = dict(status.partial)
        return False

    def _told(self, status: PushStatus) -> list[Outcome | None]:
        declared = [Outcome.STORED] * len(self._transaction.declared)
        for positions, outcome in (
            (status.already_stored, Outcome.ALREADY_STORED),
            (status.different, Outcome.DIFFERENT),
            (status.replaced, Outcome.REPLACED),
        ):
            for position in positions:
                declared[position] = outcome
        told = iter(declared)
        skipped = self._transaction.skipped
        return [
            Outcome.ALREADY_STORED if n in skipped else next(told)
            for n in range(len(self._transaction.instances))
        ]

    def lost(self) -> None:
        """The peer knows nothing of it."""
        self._memo.say("The peer does not know the transaction any more: a new one is opened")
        self._transaction.forget()

    async def held(self, progress: Progress) -> frozenset[int]:
        """Positions of the instances that the peer holds, as its lookup tells."""
        return await held_by_lookup(
            self._transaction.instances,
            self._request.resources,
            lambda some: self._parts.retrying(
                progress, lambda: self._peer.lookup(some, self._session)
            ),
        )

    async def commit_after_missing(self) -> PushStatus:
        """Have all committed once what is on its way has arrived."""
        transaction = self._transaction
        await self._ask_to_commit()
        return await self._peer.commit_after(
            transaction.path,
            transaction.missing,
            self._parts.limits.commit_timeout,
            len(transaction.declared),
            self._session,
        )

    async def _ask_to_commit(self) -> None:
        """From now on the peer may commit: another life must know."""
        if not self._transaction.asked_to_commit:
            self._transaction.asked_to_commit = True
            await self._memo.keep(self.state())

    async def commit(self, progress: Progress, asked: "Deferred[PushStatus] | None") -> bool:
        """Have all committed; tells whether it is, or else the rest must be sent."""
        transaction, limits = self._transaction, self._parts.limits
        if asked is not None:
            try:
                return self.learn(await asked)
            except TransfersError as error:
                return await self.find_out(error, progress)
        await self._ask_to_commit()

        async def commit() -> None:
            await self._peer.commit(transaction.path, limits.commit_timeout, self._session)

        try:
            if transaction.extended:
                await commit()
            else:
                await self._parts.retrying(progress, commit)
        except TransfersError as error:
            return await self.find_out(error, progress)
        if not transaction.extended:
            self._assume_stored()
            return True
        return await self.find_out(None, progress)

    def _assume_stored(self) -> None:
        """A stock peer does not tell what it did with each instance."""
        skipped = self._transaction.skipped
        count = len(self._transaction.instances)
        self.outcomes = [Outcome.ALREADY_STORED if n in skipped else None for n in range(count)]

    async def find_out(self, error: TransfersError | None, progress: Progress) -> bool:
        """How the commit went; ``error`` is what came instead of its answer, if nothing good did.

        Tells whether all is committed, or else the rest must be sent.
        """
        undecided = (
            error is None
            or is_worth_retrying(error)
            or (isinstance(error, PeerRefused) and (error.is_unknown or error.status == CONFLICT))
        )
        if error is not None and not undecided:
            self._not_committed(error)
        if not self._transaction.extended:
            assert error is not None
            return await self._find_out_by_lookup(error, progress)
        try:
            status = await self.decided(verify=False, patience=FIND_OUT_S)
        except TransfersError as unknown:
            if error is None:  # it is committed; only what became of each instance is not known
                self._assume_stored()
                return True
            if isinstance(unknown, PeerRefused) and unknown.is_unknown:
                self.lost()
                return False
            raise
        if self.learn(status):
            if error is not None:
                self._memo.say(f"The peer has committed, though its answer was lost: {error}")
            return True
        self._show(progress)
        if not self._transaction.missing and status.error:
            self._not_committed(error or PeerRefused(status.error, CONFLICT))
        self._memo.say(f"Not committed yet: {status.error or error}")
        if not self._transaction.missing:
            self.last_error = error
        return False

    async def _find_out_by_lookup(self, error: TransfersError, progress: Progress) -> bool:
        """A stock peer knows no transaction that it has committed: does it hold all?"""
        if not await self._is_all_there(progress):
            if isinstance(error, PeerRefused) and error.is_unknown:
                self.lost()
                return False
            self._not_committed(error)
        self._memo.say(f"The peer holds all instances, though its answer was lost: {error}")
        self._assume_stored()
        return True

    async def _is_all_there(self, progress: Progress) -> bool:
        try:
            return len(await self.held(progress)) == len(self._transaction.instances)
        except TransfersError as unknown:
            log.info("What the peer holds cannot be found out: {error}", error=unknown)
            return False

    def _not_committed(self, error: TransfersError) -> NoReturn:
        if isinstance(error, PeerRefused):
            raise PeerRefused(
                f"All buckets have arrived, but the peer did not commit: {error}", error.status
            ) from error
        raise error

    async def goodbye(self) -> bool:
        """Delete the transaction; tells whether it turned out to be committed."""
        transaction = self._transaction
        ending = Deferred.fromCoroutine(self._delete())
        # A commit that may be under way decides: it is waited for.
        patience = FIND_OUT_S if transaction.asked_to_commit else GOODBYE_S
        ending.addTimeout(patience, self._parts.reactor)
        try:
            return await ending
        except (TransfersError, DeferTimeoutError) as error:
            log.info("The abandoned transaction stays at the peer: {error}", error=error)
            return False
        finally:
            transaction.forget()

    async def _delete(self) -> bool:
        transaction = self._transaction
        try:
            await self._peer.discard(transaction.may_be_open, self._session)
        except PeerRefused as error:
            if not error.is_unknown or not transaction.asked_to_commit:
                raise
            if transaction.extended:
                return self.learn(await self.decided(verify=False))
            if await self._is_all_there(Progress()):
                self._assume_stored()
                return True
            raise
        return False
