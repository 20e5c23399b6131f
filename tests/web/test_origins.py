"""What a page of another site can make a browser do here: nothing that changes anything."""

from tests.web.harness import FakePeer, House
from tests.web.test_hostile import HostileCase, transfer


class OriginTests(HostileCase):
    def ask(self, method: str = "POST", **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.house.request(method, "/transfers/send", transfer(), named)
        if answer.status == 403:
            self.assert_refused(answer, 403, 8, "another address", "X-Forwarded-Host")
        return answer.status

    def test_who_is_let_in(self) -> None:
        for headers in (
            {},
            {"Sec_Fetch_Site": "same-origin", "Origin": "http://here"},
            {"Sec_Fetch_Site": "none"},
            {"Sec_Fetch_Site": "same-origin", "Origin": "https://pacs.example.org"},
            {"Origin": "http://here"},
            {"Origin": "http://HERE", "Host": "here"},
            {"Origin": "http://here:8042", "Host": "here:8042"},
            {"Origin": "https://pacs.example.org", "X_Forwarded_Host": "pacs.example.org"},
        ):
            self.assertEqual(200, self.ask(**headers), headers)

    def test_who_is_not(self) -> None:
        for headers in (
            {"Sec_Fetch_Site": "cross-site", "Origin": "http://evil.test"},
            {"Sec_Fetch_Site": "same-site", "Origin": "http://here"},
            {"Origin": "http://evil.test"},
            {"Origin": "http://here:81", "Host": "here:82"},
            {"Origin": "http://here.evil.test"},
            {"Origin": "null"},
            {"Origin": ""},
            {"Origin": "http://[::1"},
            {"Origin": "\xff\xfe"},
        ):
            self.assertEqual(403, self.ask(**headers), headers)
            self.assertEqual((), self.house.jobs.jobs())

    def test_what_only_reads_is_answered(self) -> None:
        for method in ("GET", "HEAD"):
            answer = self.house.request(method, "/jobs", None, {"Origin": "http://evil.test"})
            self.assertEqual(200, answer.status)

    def test_whoever_asks(self) -> None:
        self.house = House({"AuthenticationEnabled": True}, peers=[FakePeer("B")])
        self.assertEqual(403, self.ask(Origin="http://evil.test"))
        self.assertEqual(401, self.ask(Origin="http://here"))
