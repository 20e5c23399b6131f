"""The recordings are read in full, and as they are."""

from twisted.trial.unittest import SynchronousTestCase

from tests import recorded

PUSHED = "58bbc3fc-f506c2ee-bec4853b-c4e424b5-5dc000a4"
"""The instance of 321,054 bytes, which is cut in three."""


class RecordedTests(SynchronousTestCase):
    def test_every_recording_is_read(self) -> None:
        counts = {name: len(recorded.load(name)) for name in recorded.names()}
        self.assertEqual(30, len(counts))
        self.assertEqual(565, sum(counts.values()))
        self.assertEqual(
            {"push-none": 7, "lookup": 53, "errors-push-transaction": 103, "chunks": 52},
            {
                name: counts[name]
                for name in ("push-none", "lookup", "errors-push-transaction", "chunks")
            },
        )

    def test_requests_and_their_json(self) -> None:
        opening, bucket, *_, commit = recorded.load("push-none")
        self.assertEqual(
            ("POST", "/transfers/push", "HTTP/1.1"),
            (opening.method, opening.target, opening.version),
        )
        self.assertEqual("application/json", opening.request_header("content-type"))
        self.assertEqual(1004, opening.request_length)
        self.assertEqual({"Buckets", "Compression", "Instances"}, set(opening.request_json()))
        self.assertEqual(
            [{"ID": PUSHED, "Offset": "0", "Size": "107018"}], opening.request_json()["Buckets"][0]
        )
        self.assertEqual("PUT", bucket.method)
        self.assertTrue(commit.target.endswith("/commit"))
        self.assertEqual(b"", commit.request_body)

    def test_answers_and_their_json(self) -> None:
        answer = recorded.load("push-none")[0]
        self.assertEqual(200, answer.status)
        self.assertEqual("117", answer.response_header("Content-Length"))
        self.assertEqual(117, answer.response_length)
        transfer = answer.response_json()
        self.assertEqual(f"/transfers/push/{transfer['ID']}", transfer["Path"])

    def test_an_error(self) -> None:
        refused = recorded.load("errors-push-transaction")[0]
        self.assertEqual("001: PUT to unknown transaction", refused.title)
        self.assertEqual(404, refused.status)
        self.assertEqual(b"abc", refused.request_body)
        self.assertEqual(17, refused.response_json()["OrthancStatus"])

    def test_a_long_binary_body_is_only_summarised(self) -> None:
        bucket = recorded.load("push-none")[1]
        self.assertIsNone(bucket.request_body)
        self.assertEqual(
            (107018, "c81d180e36fd6d997b0c14f0b95b14fc"),
            (bucket.request_length, bucket.request_md5),
        )
        self.assertRaises(ValueError, bucket.request_json)
        whole = recorded.load("chunks")[0]
        self.assertEqual((None, 33838), (whole.response_body, whole.response_length))
        self.assertEqual("2111b26b3e4fde36e7f9065ebdfa1c29", whole.response_md5)

    def test_a_short_binary_body_is_rebuilt(self) -> None:
        two = recorded.load("chunks")[8]
        self.assertEqual(bytes.fromhex("fc00fc00fc0000000000"), two.response_body)

    def test_a_damaged_recording_is_refused(self) -> None:
        text = (recorded.WIRE / "push-none.txt").read_text(encoding="utf-8")
        for damaged in (
            text.replace("[end of body: 1004 bytes]", "[end of body: 1005 bytes]"),
            text.replace("[end of body: 1004 bytes]", ""),
            text.replace("<<<<<<<< response", ""),
        ):
            self.assertRaises(ValueError, recorded.parse, damaged)
