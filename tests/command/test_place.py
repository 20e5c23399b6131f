"""Which daemon is meant, and with which credentials."""

import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txtransfers.command.place import DEFAULT_URL, Place, Wishes, find_place
from txtransfers.errors import ConfigurationError


class PlaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.environment: dict[str, str] = {}

    def file(self, name: str, text: str, mode: int = 0o600) -> str:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return str(path)

    def configuration(self, **keys: Any) -> str:
        return self.file("c.json", json.dumps(keys))

    def place(self, **wishes: Any) -> Place:
        return find_place(Wishes(**wishes), self.environment)

    def refused(self, **wishes: Any) -> str:
        return str(self.assertRaises(ConfigurationError, self.place, **wishes))

    def credentials(self, **wishes: Any) -> tuple[str, str]:
        place = self.place(**wishes)
        self.assertNotIn("geheim", repr(place))
        return place.user, place.password

    def test_without_anything(self) -> None:
        place = self.place()
        self.assertEqual((DEFAULT_URL, "", ""), (place.url, place.user, place.password))

    def test_an_address(self) -> None:
        self.assertEqual("https://pacs/x/", self.place(url="https://pacs/x").url)
        self.assertIn("no address", self.refused(url="pacs"))
        self.assertIn("list of processes", self.refused(url="http://alice:geheim@pacs/"))

    def test_where_a_configuration_listens(self) -> None:
        for addresses, expected in (
            ([], "127.0.0.1"),
            (["127.0.0.2", "::1"], "127.0.0.2"),
            (["::1"], "[::1]"),
            (["0.0.0.0"], "127.0.0.1"),
            (["::"], "[::1]"),
        ):
            path = self.configuration(
                HttpPort=81, HttpBindAddresses=addresses, RemoteAccessAllowed=True
            )
            self.assertEqual(f"http://{expected}:81/", self.place(config=path).url)

    def test_a_configuration_that_is_wrong(self) -> None:
        self.assertIn("unknown key", self.refused(config=self.configuration(HtpPort=1)))
        self.assertIn("cannot be read", self.refused(config=str(self.folder / "absent")))

    def test_a_user_of_the_configuration_is_for_its_daemon_alone(self) -> None:
        path = self.configuration(
            AuthenticationEnabled=True, RegisteredUsers={"alice": "geheim", "bob": "x"}
        )
        self.assertEqual(("alice", "geheim"), self.credentials(config=path))
        self.assertEqual(("", ""), self.credentials(config=path, url="http://elsewhere/"))
        path = self.configuration(RegisteredUsers={"alice": "geheim"})
        self.assertEqual(("", ""), self.credentials(config=path))

    def test_the_environment_goes_before_the_configuration(self) -> None:
        path = self.configuration(AuthenticationEnabled=True, RegisteredUsers={"alice": "geheim"})
        self.environment = {"TXTRANSFERS_USER": "bob", "TXTRANSFERS_PASSWORD": "geheim2"}
        self.assertEqual(("bob", "geheim2"), self.credentials(config=path))

    def test_a_file_goes_before_the_environment(self) -> None:
        self.environment = {"TXTRANSFERS_USER": "bob", "TXTRANSFERS_PASSWORD": "geheim2"}
        path = self.file("credentials", "jürgen:geheim:3\n")
        self.assertEqual(("jürgen", "geheim:3"), self.credentials(credentials=path))

    def test_a_file_that_others_may_read(self) -> None:
        for mode in (0o640, 0o604, 0o620):
            path = self.file("credentials", "alice:geheim", mode)
            self.assertIn("chmod 600", self.refused(credentials=path))

    def test_a_file_of_another_form(self) -> None:
        for text in ("", "alice", ":geheim", "alice:geheim\nbob:x"):
            said = self.refused(credentials=self.file("credentials", text))
            self.assertIn("user:password", said)
            self.assertNotIn("geheim", said)
        self.assertIn("cannot be read", self.refused(credentials=str(self.folder / "absent")))

    def test_authorities(self) -> None:
        path = self.file("ca.pem", "hello")
        self.assertEqual(b"hello", self.place(authorities=path).authorities)
        self.assertIn("cannot be read", self.refused(authorities=str(self.folder / "absent")))


class WishTests(SynchronousTestCase):
    def test_later_ones_count_more(self) -> None:
        before = Wishes(url="http://a/", config="c", as_json=True)
        self.assertEqual(
            Wishes(url="http://b/", config="c", as_json=True), Wishes(url="http://b/").over(before)
        )
