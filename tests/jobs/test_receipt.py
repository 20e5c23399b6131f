"""The manifest of an ended job."""

import json
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from tests.jobs.test_model import REQUEST
from txtransfers.jobs.model import Direction, Event, Job, new_job
from txtransfers.jobs.receipt import make_receipt
from txtransfers.store.interfaces import Outcome
from txtransfers.transfer.progress import Progress
from txtransfers.wire.messages import Compression, TransferRequest
from txtransfers.wire.plan import Instance

INSTANCES = (
    Instance("a", 10, "md5 of a"),
    Instance("b", 2**40, "md5 of b"),
    Instance("c", 30, "md5 of c"),
)
PROGRESS = Progress(
    total_instances=3,
    total_size=1000,
    skipped=1,
    skipped_size=300,
    buckets=2,
    buckets_done=2,
    done_size=700,
    network_size=500,
    repeated_size=100,
    retries=4,
    done_instances=2,
)


def ended(
    event: Event = Event.SUCCEED,
    direction: Direction = Direction.PUSH,
    request: TransferRequest = REQUEST,
    error: tuple[int, str, str] | None = None,
) -> Job:
    """A job that ran from second 110 to 117.25."""
    job = new_job(direction, request, 1, 100.5)
    job.progress = PROGRESS
    job.happens(Event.START, 110.0)
    job.happens(event, 117.25, error)
    return job


def receipt(job: Job, outcomes: Any = (), instances: Any = INSTANCES, url: str = "http://x") -> Any:
    """Its receipt."""
    return json.loads(make_receipt(job, instances, outcomes, "here", url))


class ReceiptTests(SynchronousTestCase):
    def test_all_of_it(self) -> None:
        job = ended()
        job.outcomes = {"Stored": 1, "Replaced": 1, "Different": 1}
        told = receipt(job, [Outcome.STORED, Outcome.REPLACED, Outcome.DIFFERENT])
        self.assertEqual(
            told,
            {
                "Version": 1,
                "Job": job.id,
                "Type": "PushTransfer",
                "State": "Success",
                "ErrorCode": 0,
                "ErrorDescription": "Success",
                "ErrorDetails": "",
                "Daemon": "here",
                "Peer": "peer",
                "PeerURL": "http://x",
                "Originator": "originator",
                "SenderTransferID": "transfer",
                "Resources": [{"Level": "Study", "ID": "x"}],
                "Compression": "gzip",
                "CreationTime": "19700101T000140.500000",
                "CompletionTime": "19700101T000157.250000",
                "EffectiveRuntime": 7.25,
                "TotalInstances": 3,
                "TotalSize": "1000",
                "Outcomes": {"Stored": 1, "Replaced": 1, "Different": 1},
                "CompletedInstances": 3,
                "SentInstances": 2,
                "UploadedSize": "700",
                "NetworkSize": "500",
                "RepeatedSize": "100",
                "SkippedInstances": 1,
                "SkippedSize": "300",
                "SavedByCompression": "300",
                "Retries": 4,
                "History": [
                    {"Time": "19700101T000140.500000", "Event": "Submitted"},
                    {"Time": "19700101T000150.000000", "Event": "Running"},
                    {"Time": "19700101T000157.250000", "Event": "Success"},
                ],
                "Instances": [
                    {"ID": "a", "Size": "10", "MD5": "md5 of a", "Outcome": "Stored"},
                    {"ID": "b", "Size": str(2**40), "MD5": "md5 of b", "Outcome": "Replaced"},
                    {"ID": "c", "Size": "30", "MD5": "md5 of c", "Outcome": "Different"},
                ],
            },
        )

    def outcomes(self, told: Any) -> list[str]:
        return [instance["Outcome"] for instance in told["Instances"]]

    def test_of_a_pull(self) -> None:
        told = receipt(ended(direction=Direction.PULL), [Outcome.ALREADY_STORED] * 3)
        self.assertEqual((told["Type"], told["DownloadedSize"]), ("PullTransfer", "700"))
        self.assertEqual(told["ReceivedInstances"], 2)
        self.assertNotIn("SentInstances", told)
        self.assertNotIn("UploadedSize", told)
        self.assertEqual(self.outcomes(told), ["AlreadyStored"] * 3)

    def test_what_it_travelled_in(self) -> None:
        for codings, codec, level in (
            ({"none 0": 5}, "none", None),
            ({"zstd 3": 5, "none 0": 4}, "zstd", 3),
            ({"gzip 1": 1, "gzip 0": 2}, "gzip", 0),
        ):
            job = ended()
            job.progress = attrs.evolve(job.progress, codings=codings)
            told = receipt(job)
            self.assertEqual((told["Codec"], told.get("CodecLevel")), (codec, level))
        self.assertNotIn("Codec", receipt(ended()))

    def test_outcomes_that_are_not_known(self) -> None:
        """A stock peer does not tell them."""
        outcomes = [None, Outcome.ALREADY_STORED, None]
        told = self.outcomes(receipt(ended(), outcomes))
        self.assertEqual(told, ["Committed", "AlreadyStored", "Committed"])
        self.assertEqual(self.outcomes(receipt(ended())), ["Committed"] * 3)

    def test_of_a_failure(self) -> None:
        error = (9, "Error in the network protocol", "the peer is down")
        told = receipt(ended(Event.FAIL, error=error), [Outcome.STORED])
        self.assertEqual(told["State"], "Failure")
        self.assertEqual((told["ErrorCode"], told["ErrorDescription"]), error[:2])
        self.assertEqual(told["ErrorDetails"], "the peer is down")
        self.assertEqual(self.outcomes(told), ["NotTransferred"] * 3)
        self.assertEqual(told["History"][-1]["Event"], "Failure: the peer is down")

    def test_of_a_failure_whose_commit_nobody_can_tell_of(self) -> None:
        job = ended(Event.FAIL, error=(9, "Error in the network protocol", "the peer is down"))
        job.memo = {"asked_to_commit": True}
        self.assertEqual(self.outcomes(receipt(job)), ["Unknown"] * 3)

    def test_of_one_that_never_ran(self) -> None:
        job = new_job(Direction.PULL, REQUEST, 1, 100.0)
        job.happens(Event.CANCEL, 105.0, (37, "Cancelled", ""))
        told = receipt(job, instances=())
        self.assertEqual((told["TotalInstances"], told["TotalSize"]), (0, "0"))
        self.assertEqual((told["Instances"], told["EffectiveRuntime"]), ([], 0))

    def test_what_compression_saves(self) -> None:
        plain = attrs.evolve(REQUEST, compression=Compression.NONE)
        self.assertEqual(receipt(ended(request=plain))["SavedByCompression"], "0")
        job = ended()
        job.progress = attrs.evolve(PROGRESS, network_size=900)
        self.assertEqual(receipt(job)["SavedByCompression"], "0", "it saved nothing")

    def test_a_peer_that_is_gone(self) -> None:
        self.assertEqual(receipt(ended(), url="")["PeerURL"], "")

    def test_text_from_elsewhere(self) -> None:
        job = ended(Event.FAIL, error=(9, "Bad", 'a "quote", \n and \u00e9 \U0001f600'))
        self.assertEqual(receipt(job)["ErrorDetails"], 'a "quote", \n and \u00e9 \U0001f600')
