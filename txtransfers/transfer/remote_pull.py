"""A transfer that a peer makes: it pulls from us, and its own job says how far it is.

Told as a sequence: the peer is asked to pull, where that has not been done; then its job is asked
for until it has ended. That an answer is missing now and then ends nothing. A pause here is none
there: only the watching pauses.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from ..errors import PeerNonsense, PeerUnreachable, RemoteJobFailed, TransfersError
from ..store.interfaces import Outcome
from ..wire.messages import TransferRequest, new_transfer_id
from .parts import ITransfer, Memo, Parts
from .peers import Peer
from .progress import Progress
from .retries import is_worth_retrying

_POLL_S = 1.0
"""Seconds between two looks at the peer's job."""
_LONGEST_POLL_S = 30.0
"""While it does not answer."""
_SILENCE_S = 3600.0
"""Seconds without any answer after which the peer's job is given up."""
_SUCCESS, _FAILURE = "Success", "Failure"
_STATES = (_SUCCESS, "Pending", "Running", "Paused", "Retry")
_PERCENT = 100
_CONTENT = (
    *("TotalInstances", "TotalSizeMB", "TotalSize", "Buckets", "CompletedHttpQueries"),
    *("DownloadedSizeMB", "DownloadedSize", "NetworkSpeedKBs", "ReceivedInstances"),
    *("SkippedInstances", "SkippedSize", "NetworkSize", "Codec", "CodecLevel"),
)
"""What is shown of the peer's job, where it tells it."""

log = Logger()


@implementer(ITransfer)
class RemotePull:
    """See the module."""

    def __init__(self, parts: Parts, peer: Peer, request: TransferRequest, memo: Memo) -> None:
        self._parts = parts
        self._peer = peer
        self._request = request
        self._memo = memo
        self._state: dict[str, Any] = dict(memo.state)
        self._session = peer.session(request.sender_transfer_id or new_transfer_id())
        self._told: Mapping[str, Any] = {}

    async def run(self, progress: Progress) -> None:
        """See :meth:`ITransfer.run`."""
        if "path" not in self._state:
            job = await ask_to_pull(self._peer, self._request, self._parts.originator)
            self._state = dict(job)
            await self._memo.keep(self._state)
        self._memo.anew = False
        clock = self._parts.reactor
        failures, answered = 0, clock.seconds()
        while (state := await self._look(progress, answered)) != _SUCCESS:
            if state is None:
                failures += 1
            else:
                failures, answered = 0, clock.seconds()
            await deferLater(clock, min(_POLL_S * 2**failures, _LONGEST_POLL_S))

    async def _look(self, progress: Progress, answered: float) -> str | None:
        """Ask for the peer's job, whose state this gives; None without an answer.

        :param answered: when there was one.
        """
        try:
            told = await self._peer.job(self._state["path"], self._session)
        except TransfersError as error:
            silence = self._parts.reactor.seconds() - answered
            if not is_worth_retrying(error) or silence > _SILENCE_S:
                raise
            if self._told:
                self._memo.say(f"The peer does not tell of its job: {error}")
            self._told = {}
            return None
        self._told = told
        _show(told, progress)
        state = told.get("State")
        if state == _FAILURE:
            raise RemoteJobFailed(
                f'Peer "{self._peer.name}" ({self._url}) could not pull: {_reason(told)}'
            )
        if state not in _STATES:
            raise PeerNonsense(f'Peer "{self._peer.name}" ({self._url}) tells of no job')
        return str(state)

    @property
    def _url(self) -> str:
        return f"{self._peer.base_url}{self._state['path']}"

    async def abandon(self) -> bool:
        """See :meth:`ITransfer.abandon`."""
        if "path" not in self._state or self._told.get("State") == _FAILURE:
            return False
        try:
            await self._peer.act_on_job(self._state["path"], "cancel", self._session)
            told = await self._peer.job(self._state["path"], self._session)
        except TransfersError as error:
            log.info("The job of the peer is not cancelled: {error}", error=error)
            return False
        return bool(told.get("State") == _SUCCESS)

    async def close(self) -> None:
        """See :meth:`ITransfer.close`."""

    def state(self) -> Mapping[str, Any]:
        """See :meth:`ITransfer.state`."""
        return self._state

    def keeps(self, error: TransfersError) -> bool:
        """See :meth:`ITransfer.keeps`."""
        return False

    def figures(self) -> Mapping[str, Any]:
        """See :meth:`ITransfer.figures`."""
        if "path" not in self._state:
            return {}
        content = self._told.get("Content")
        content = content if isinstance(content, dict) else {}
        shown = {name: content[name] for name in _CONTENT if _is_plain(content.get(name))}
        state = self._told.get("State")
        return {
            "RemoteJob": self._state["job"],
            "URL": self._url,
            "RemoteState": state if isinstance(state, str) else "Unknown",
            **shown,
        }

    def outcomes(self) -> Sequence[Outcome | None]:
        """See :meth:`ITransfer.outcomes`."""
        return ()


async def ask_to_pull(peer: Peer, request: TransferRequest, originator: str) -> Mapping[str, str]:
    """Have the peer take a job that pulls from us: its ``job`` and ``path``, JSON values."""
    as_peer = peer.settings.remote_self
    if as_peer is None:
        raise PeerUnreachable(
            f'Peer "{peer.name}" has no RemoteSelf in OrthancPeers any more: it cannot pull'
        )
    session = peer.session(request.sender_transfer_id or new_transfer_id())
    job, path = await peer.request_pull(request, originator, as_peer, session)
    return {"job": job, "path": path}


def _show(told: Mapping[str, Any], progress: Progress) -> None:
    content = told.get("Content")
    instances = content.get("TotalInstances") if isinstance(content, dict) else None
    if isinstance(instances, int):
        progress.total_instances = instances
    percent = told.get("Progress")
    if isinstance(percent, int) and 0 < percent <= _PERCENT:
        # The fraction that is computed of these is that percentage.
        progress.buckets, progress.buckets_done = _PERCENT - 2, percent - 1


def _reason(told: Mapping[str, Any]) -> str:
    details = told.get("ErrorDetails") or told.get("ErrorDescription") or "it does not say why"
    return str(details)[:300]


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 40)
