"""The stream of events over real sockets: what a script reads, and what it missed."""

import http.client
import json
import signal
from collections.abc import Iterator
from typing import Any

from demo import dataset
from demo.daemon import Daemon
from tests.functional.live import HOST, WAIT_S, LiveTestCase, study_of

ENDED = ("Success", "Failure")


class EventsTests(LiveTestCase):
    def listen(self, daemon: Daemon, last: str = "") -> Iterator[tuple[str, str, Any]]:
        """The events as a script reads them: kind, identifier, data."""
        connection = http.client.HTTPConnection(HOST, daemon.port, timeout=WAIT_S)
        self.addCleanup(connection.close)
        headers = {"Last-Event-ID": last} if last else {}
        connection.request("GET", "/transfers/events", headers=headers)
        response = connection.getresponse()
        self.assertEqual(200, response.status)
        fields: dict[str, str] = {}
        for line in iter(response.readline, b""):
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                yield fields["event"], fields.get("id", ""), json.loads(fields["data"])
                fields = {}

    def test_a_script_that_comes_and_goes(self) -> None:
        a, _b = self.pair()
        uploaded = self.upload(a, dataset.ct_series(self.folder / "ct", 3, 64, 1))
        study = study_of(next(iter(uploaded.values())))
        events = self.listen(a)
        self.assertEqual(["reset", "ready"], [next(events)[0], next(events)[0]])
        first = self.submit(a, "send", study)
        states = []
        for kind, identifier, job in events:
            self.assertEqual(("job", first), (kind, job["ID"]))
            states.append(job["State"])
            last = identifier
            if job["State"] in ENDED:
                break
        self.assertEqual(["Pending", "Running", "Success"], list(dict.fromkeys(states)))
        events.close()  # type: ignore[attr-defined]

        second = self.submit(a, "send", study)
        self.wait_for(a, second)
        missed = []
        for kind, _identifier, told in self.listen(a, last):
            if kind == "ready":
                self.assertEqual({"Replayed": True}, told)
                break
            missed.append((kind, told["ID"], told["State"]))
        self.assertEqual({("job", second)}, {each[:2] for each in missed})
        self.assertEqual("Success", missed[-1][2])

        self.end(a, signal.SIGTERM)
        a = self.again(a)
        events = self.listen(a, last)
        self.assertEqual("reset", next(events)[0])
        self.assertEqual([first, second], [next(events)[2]["ID"] for _ in range(2)])
        self.assertEqual(("ready", {"Replayed": False}), next(events)[::2])
