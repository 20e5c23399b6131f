"""What others are told when a transfer has ended, and how it is signed. Pure.

The headers and the signature are those of Standard Webhooks (standardwebhooks.com, version 1), for
which there are libraries: HMAC-SHA256 over identifier, time and body.
"""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import msgspec

from .. import __version__
from .model import Job
from .outbox import Delivery
from .receipt import head_json, timestamp

EVENT = "TransferEnded"

_LEFT_OUT = "History"


class Announcements:
    """Makes the deliveries of a job that has ended: one event, for each receiver."""

    def __init__(
        self,
        urls: Iterable[str],
        describe_peer: Callable[[str], tuple[str, str]],
        wall_clock: Callable[[], float],
    ) -> None:
        """:param describe_peer: the name of this daemon, and the URL of a peer.

        :param wall_clock: seconds since the epoch.
        """
        self._urls = tuple(urls)
        self._describe_peer = describe_peer
        self._wall_clock = wall_clock

    def of(self, job: Job) -> Sequence[Delivery]:
        """Those of ``job``, as it is now."""
        if not self._urls:
            return ()
        id_, now = str(uuid4()), self._wall_clock()
        daemon, peer_url = self._describe_peer(job.request.peer)
        body = msgspec.json.encode(event_json(id_, job, daemon, peer_url, now))
        return [Delivery(id_, url, body, now, 0, now) for url in self._urls]


def event_json(id_: str, job: Job, daemon: str, peer_url: str, now: float) -> dict[str, Any]:
    """What is told: the job's receipt without its instances, and where to get it whole."""
    head = head_json(job, daemon, peer_url)
    del head[_LEFT_OUT]
    return {
        "ID": id_,
        "Event": EVENT,
        "Time": timestamp(now),
        "Receipt": f"/jobs/{job.id}/receipt",
        "Transfer": head,
    }


def signed_headers(delivery: Delivery, secret: bytes, now: float) -> Mapping[str, str]:
    """The headers that go with the body of ``delivery`` when it is sent at ``now``."""
    moment = str(int(now))
    return {
        "Content-Type": "application/json",
        "User-Agent": f"txtransfers/{__version__}",
        "Webhook-Id": delivery.id,
        "Webhook-Timestamp": moment,
        "Webhook-Signature": signature(delivery.id, moment, delivery.body, secret),
    }


def signature(id_: str, moment: str, body: bytes, secret: bytes) -> str:
    """``v1,`` and the HMAC-SHA256 in base64."""
    signed = b".".join((id_.encode(), moment.encode(), body))
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return f"v1,{b64encode(digest).decode()}"
