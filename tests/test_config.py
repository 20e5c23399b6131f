"""The configuration: what is read, what is refused, and in which words."""

import configparser
import json
import os
import re
from base64 import b64encode
from pathlib import Path

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers import config
from txtransfers.config_access import Permission
from txtransfers.config_foreign import IGNORED, PEER_REFUSED, PLUGINS, REFUSED
from txtransfers.config_keys import KEYS, PEER_KEYS, STORE_KEYS, TRANSFERS_KEYS, Key
from txtransfers.config_limits import LIMITS_KEYS
from txtransfers.config_tls import HttpProxy
from txtransfers.errors import ConfigurationError

ROOT = Path(__file__).parent.parent
FOLDER = os.path.abspath(os.path.join(os.sep, "etc", "somewhere"))
SECRET = "hunter2"


class ConfigTestCase(SynchronousTestCase):
    def read(self, text: str, **environment: str) -> config.Settings:
        return config.parse(text, "c.json", environment, FOLDER)

    def value(self, **keys: object) -> config.Settings:
        return self.read(json.dumps(keys))

    def problems(self, text: str, **environment: str) -> list[str]:
        error = self.assertRaises(ConfigurationError, self.read, text, **environment)
        lines = str(error).split("\n")
        for line in lines:
            self.assertTrue(line.startswith("c.json: "), line)
        self.assertNotIn(SECRET, str(error))
        return [line.removeprefix("c.json: ") for line in lines]

    def refused(self, **keys: object) -> str:
        problems = self.problems(json.dumps(keys))
        self.assertEqual(1, len(problems), problems)
        return problems[0]

    def peer(self, form: object) -> config.PeerSettings:
        return self.value(OrthancPeers={"B": form}).peers["B"]

    def refused_peer(self, form: object) -> str:
        return self.refused(OrthancPeers={"B": form})


class DefaultTests(ConfigTestCase):
    def test_defaults(self) -> None:
        settings = config.default(FOLDER)
        self.assertEqual(
            config.Settings(
                name="txtransfers",
                http_port=8042,
                http_bind_addresses=(),
                storage_directory=os.path.join(FOLDER, "OrthancStorage"),
                remote_access_allowed=False,
                authentication_enabled=False,
                registered_users={},
                bearer_tokens={},
                permissions={},
                remote_access_without_users=False,
                allowed_origins=(),
                ssl_enabled=False,
                ssl_certificate=os.path.join(FOLDER, "certificate.pem"),
                ssl_minimum_protocol_version=4,
                ssl_ciphers_accepted=(),
                ssl_verify_peers=False,
                ssl_trusted_client_certificates=os.path.join(
                    FOLDER, "trustedClientCertificates.pem"
                ),
                https_verify_peers=True,
                https_ca_certificates="",
                http_proxy=None,
                audit_log="",
                audit_patient_names=False,
                http_timeout=60,
                keep_alive=True,
                concurrent_jobs=2,
                jobs_history_size=10,
                save_jobs=True,
                overwrite_instances=False,
                maximum_storage_size=0,
                peers={},
                limits=config.LimitsSettings(
                    connections=2000,
                    connections_per_address=1000,
                    requests_per_connection=0,
                    header_timeout=60,
                    minimum_body_rate=100,
                    header_size=32 * 2**10,
                    chunks_url_length=24576,
                    message_size=64 * 2**20,
                    uploads=512,
                    downloads=256,
                    instances=500_000,
                    buckets=500_000,
                    chunks=1_000_000,
                    inflated_size=0,
                    inflation_ratio=200,
                    staging_size=0,
                    free_disk=64 * 2**20,
                ),
                store=None,
                transfers=config.TransfersSettings(
                    threads=None,
                    max_threads=64,
                    bucket_size=None,
                    cache_size=128 * 2**20,
                    max_push_transactions=4,
                    max_http_retries=0,
                    peer_connectivity_timeout=2,
                    peer_commit_timeout=600,
                    commit_threads_count=4,
                    push_transaction_timeout=24 * 3600,
                    job_retry_delays=(),
                    congestion_control="auto",
                    delta=None,
                    bandwidth=config.BandwidthSettings(),
                    chunks_caching=None,
                    webhooks=(),
                ),
                notices=(),
                warnings=(),
            ),
            settings,
        )

    def test_an_empty_file_means_the_defaults(self) -> None:
        self.assertEqual(config.default(FOLDER), self.read("{}"))

    def test_frozen(self) -> None:
        settings = self.value(RegisteredUsers={"a": "b"}, OrthancPeers={"B": ["http://b"]})
        with self.assertRaises(attrs.exceptions.FrozenInstanceError):
            settings.http_port = 1  # type: ignore[misc]
        for mapping in (settings.registered_users, settings.peers, settings.peers["B"].headers):
            with self.assertRaises(TypeError):
                mapping["x"] = "y"  # type: ignore[index]

    def test_every_default_is_within_its_own_limits(self) -> None:
        for key in (*KEYS, *TRANSFERS_KEYS, *LIMITS_KEYS, *STORE_KEYS, *PEER_KEYS):
            if isinstance(key.default, int):
                self.assertTrue(key.minimum <= key.default <= key.maximum, key.name)

    def test_every_field_has_its_key(self) -> None:
        for cls, keys, more in (
            (config.Settings, KEYS, {"notices", "warnings"}),
            (config.TransfersSettings, TRANSFERS_KEYS, set()),
            (config.LimitsSettings, LIMITS_KEYS, set()),
            (config.PeerSettings, PEER_KEYS, {"extra"}),
            (config.OrthancSettings, STORE_KEYS[1:], set()),
        ):
            self.assertEqual(
                {field.name for field in attrs.fields(cls)}, {key.field for key in keys} | more
            )


class LoadTests(ConfigTestCase):
    def file(self, content: bytes) -> str:
        path = os.path.abspath(self.mktemp())
        Path(path).write_bytes(content)
        return path

    def test_relative_to_the_file(self) -> None:
        path = self.file(
            b'\xef\xbb\xbf{ "StorageDirectory" : "a/../store", "Name" : "${N}" } // bye'
        )
        settings = config.load(os.path.relpath(path), {"N": "north"})
        self.assertEqual(os.path.join(os.path.dirname(path), "store"), settings.storage_directory)
        self.assertEqual("north", settings.name)

    def test_absolute(self) -> None:
        path = os.path.join(FOLDER, "data")
        self.assertEqual(path, self.value(StorageDirectory=path).storage_directory)

    def test_missing_file(self) -> None:
        error = self.assertRaises(ConfigurationError, config.load, "/nowhere/c.json", {})
        self.assertIn("/nowhere/c.json: the configuration cannot be read: No such file", str(error))

    def test_a_folder(self) -> None:
        error = self.assertRaises(ConfigurationError, config.load, os.sep, {})
        self.assertIn("cannot be read", str(error))

    def test_not_utf8(self) -> None:
        path = self.file(b'{"Name": "\xe9"}')
        error = self.assertRaises(ConfigurationError, config.load, path, {})
        self.assertEqual(f"{path}: byte 10 is not UTF-8; save the file as UTF-8", str(error))


class TextTests(ConfigTestCase):
    def test_bad_json(self) -> None:
        text = '{ // a comment\n  "HttpPort" : 1 /* here */ 2\n}'
        self.assertEqual(
            ["line 2, column 29: not JSON: Expecting ',' delimiter"], self.problems(text)
        )

    def test_other_bad_texts(self) -> None:
        for text, expected in (
            ("", "line 1, column 1: not JSON"),
            ("{ /* never ends }", "line 1, column 3: not JSON"),
            ("[1, 2]", "expected an object { }"),
            ("null", "expected an object { }"),
            ("[" * 200_000, "is nested too deeply"),
            ('{"HttpTimeout": NaN}', "NaN is no JSON; write a number"),
            ('{"HttpTimeout": -Infinity}', "-Infinity is no JSON"),
            ('{"HttpPort": ' + "9" * 5000 + "}", "Exceeds the limit"),
            (
                '{"HttpPort": 1, "HttpPort": 2}',
                '"HttpPort" stands twice in the same object; remove one',
            ),
        ):
            [problem] = self.problems(text)
            self.assertIn(expected, problem)

    def test_variables(self) -> None:
        settings = self.read(
            '{"Name": "a ${X} ${Y:-why} ${Z:-}", "HttpPort": ${PORT:-80}, '
            '"KeepAlive": ${K}, "HttpTimeout": ${T:-7}}',
            X="ex",
            PORT="81",
            K="false",
        )
        self.assertEqual("a ex why ", settings.name)
        self.assertEqual(
            (81, False, 7), (settings.http_port, settings.keep_alive, settings.http_timeout)
        )

    def test_variables_are_replaced_before_parsing(self) -> None:
        settings = self.read(
            "{ ${ALL} }", ALL='"Name": "x", /* c */ "OrthancPeers": {"B": ["http://b"]},'
        )
        self.assertEqual(("x", ["B"]), (settings.name, list(settings.peers)))

    def test_a_value_is_not_replaced_again(self) -> None:
        self.assertEqual("${B}", self.read('{"Name": "${A}"}', A="${B}", B="no").name)

    def test_an_empty_variable_is_set(self) -> None:
        self.assertEqual("", self.read('{"Name": "${X:-default}"}', X="").name)

    def test_comments_need_no_variables(self) -> None:
        self.assertEqual("n", self.read('{"Name": "n" /* ${A} */ } // ${B}').name)

    def test_unset_variables(self) -> None:
        self.assertEqual(
            [
                "line 2, column 11: the environment variable 'A' is not set; "
                "set it, or give a default: ${A:-default}",
                "line 3, column 13: the environment variable 'B' is not set; "
                "set it, or give a default: ${B:-default}",
            ],
            self.problems('{\n "Name": "${A}",\n "HttpPort":${B}}'),
        )

    def test_errors_after_a_variable_keep_their_place(self) -> None:
        [problem] = self.problems('{"Name": "${A}", "HttpPort" 1}', A="long " * 20)
        self.assertEqual("line 1, column 29: not JSON: Expecting ':' delimiter", problem)

    def test_errors_within_a_variable(self) -> None:
        [problem] = self.problems('{"Name": "${PW}"}', PW=f'"{SECRET}')
        self.assertIn("line 1, column 11: not JSON", problem)
        self.assertIn("the value of ${PW} is put there as it is", problem)


class KeyTests(ConfigTestCase):
    def test_unknown_keys(self) -> None:
        for keys, expected in (
            ({"HtpPort": 1}, 'HtpPort: unknown key; did you mean "HttpPort"?'),
            ({"httpport": 1}, 'httpport: unknown key; did you mean "HttpPort"?'),
            ({"DicomAEt": 1}, 'DicomAEt: unknown key; did you mean "DicomAet"?'),
            ({"SslEnable": 1}, 'SslEnable: unknown key; did you mean "SslEnabled"?'),
            ({"Transfer": {}}, 'Transfer: unknown key; did you mean "Transfers"?'),
            (
                {"Transfers": {"Thread": 6}},
                'Transfers.Thread: unknown key; did you mean "Threads"?',
            ),
            ({"Transfers": {"HttpPort": 6}}, "Transfers.HttpPort: unknown key; remove it"),
            ({"zzz\n": 1}, '"zzz\\n": unknown key; remove it'),
        ):
            self.assertEqual(expected, self.refused(**keys))

    def test_wrong_types(self) -> None:
        for key, value, expected in (
            ("HttpPort", True, "expected a whole number, found true"),
            ("HttpPort", "8042", 'expected a whole number, found the text "8042"'),
            ("HttpPort", 8042.0, "expected a whole number, found the number 8042.0"),
            ("HttpPort", None, "expected a whole number, found null"),
            ("HttpTimeout", False, "expected a number of seconds, found false"),
            ("KeepAlive", 1, "expected true or false, found the number 1"),
            ("AuthenticationEnabled", None, "expected true or false, found null"),
            ("Name", ["x"], "expected a text, found an array"),
            ("Name", "x" * 99, None),
            ("SaveJobs", "x" * 99, f'expected true or false, found the text "{"x" * 40}"...'),
            (
                "HttpBindAddresses",
                "127.0.0.1",
                'expected an array of IP addresses, found the text "127.0.0.1"',
            ),
            (
                "HttpBindAddresses",
                [1],
                "expected an array of IP addresses, found the number 1 in it",
            ),
            ("HttpBindAddresses", ["localhost"], 'found the text "localhost" in it'),
            ("Transfers", [], "expected an object, found an array"),
            ("OrthancPeers", SECRET, "expected an object { name : peer }, found a text"),
            ("RegisteredUsers", [SECRET], "expected an object { user : password }, found an array"),
            (
                "OverwriteInstances",
                1,
                'expected true, false, "Always" or "Never", found the number 1',
            ),
        ):
            if expected is None:
                self.value(**{key: value})
                continue
            problem = self.refused(**{key: value})
            self.assertTrue(problem.startswith(f"{key}: "), problem)
            self.assertIn(expected, problem)

    def test_out_of_range(self) -> None:
        for key, values in {
            "HttpPort": (-1, 65536, 10**300),
            "ConcurrentJobs": (0, -2),
            "JobsHistorySize": (-1,),
            "HttpTimeout": (0, -1, 1e99, 10**400),
        }.items():
            for value in values:
                self.assertIn(f"{key}: expected from ", self.refused(**{key: value}))
        self.assertEqual(
            "HttpPort: expected from 0 to 65535, found the number 65536",
            self.refused(HttpPort=65536),
        )

    def test_transfers_out_of_range(self) -> None:
        for key in TRANSFERS_KEYS:
            for value in (-1, key.minimum - 1, 10**12):
                problem = self.refused(Transfers={key.name: value})
                self.assertTrue(problem.startswith(f"Transfers.{key.name}: expected "), problem)
        self.assertEqual(
            "Transfers.BucketSize: expected from 1 to 1048575 KB, found the number 0",
            self.refused(Transfers={"BucketSize": 0}),
        )

    def test_limits_out_of_range(self) -> None:
        for key in LIMITS_KEYS:
            for value in (-1, key.minimum - 1, key.maximum + 1, "1", True, None):
                problem = self.refused(Limits={key.name: value})
                self.assertTrue(problem.startswith(f"Limits.{key.name}: expected "), problem)
        self.assertEqual(
            'Limits.MaxUpload: unknown key; did you mean "MaxUploads"?',
            self.refused(Limits={"MaxUpload": 1}),
        )
        self.assertIn("Limits: expected an object of limits", self.refused(Limits=[]))

    def test_infinite(self) -> None:
        [problem] = self.problems('{"HttpTimeout": 1e999}')
        self.assertIn("HttpTimeout: expected from 0.1 to ", problem)

    def test_units(self) -> None:
        transfers = self.value(
            Transfers={"BucketSize": 1, "CacheSize": 2, "PeerCommitTimeout": 0.5}
        ).transfers
        self.assertEqual(
            (1024, 2 * 2**20, 0.5),
            (transfers.bucket_size, transfers.cache_size, transfers.peer_commit_timeout),
        )

    def test_any_free_port(self) -> None:
        self.assertEqual(0, self.value(HttpPort=0).http_port)

    def test_overwrite(self) -> None:
        for value, expected in ((True, True), (False, False), ("Always", True), ("Never", False)):
            self.assertIs(expected, self.value(OverwriteInstances=value).overwrite_instances)
        self.assertIn("not supported yet", self.refused(OverwriteInstances="IfChanged"))

    def test_control_characters(self) -> None:
        for text in ("a\nb", "\0", "\x7f", "\u2028", "\ud800"):
            self.assertIn("control character", self.refused(Name=text))

    def test_no_storage(self) -> None:
        self.assertIn("StorageDirectory: is empty", self.refused(StorageDirectory=""))

    def test_several_problems(self) -> None:
        problems = self.problems(
            '{"HttpPort": true, "Nam": 1, "ReadOnly": true,'
            '"Transfers": {"Threads": 0, "Cache": 1},'
            '"OrthancPeers": {"B": ["ftp://b"], "C": {"Timeout": "x"}},'
            '"RegisteredUsers": {"a": 1, "b": []}}'
        )
        self.assertEqual(
            [
                "Nam",
                "ReadOnly",
                "HttpPort",
                "RegisteredUsers.a",
                "RegisteredUsers.b",
                "OrthancPeers.B.Url",
                "OrthancPeers.C",
                "OrthancPeers.C.Timeout",
                "Transfers.Cache",
                "Transfers.Threads",
            ],
            [problem.partition(":")[0] for problem in problems],
        )

    @given(
        st.dictionaries(
            st.sampled_from([key.name for key in KEYS] + ["Plugins", "SslEnabled", "x"]),
            st.recursive(
                st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
                lambda x: st.lists(x) | st.dictionaries(st.text(), x),
                max_leaves=8,
            ),
        )
    )
    def test_anything_is_read_or_refused(self, keys: dict[str, object]) -> None:
        try:
            self.read(json.dumps(keys))
        except ConfigurationError as error:
            self.assertTrue(all(line.startswith("c.json: ") for line in str(error).split("\n")))


class AccessTests(ConfigTestCase):
    def test_authentication_follows_remote_access(self) -> None:
        users = {"alice": SECRET}
        for keys, expected in (
            ({}, False),
            ({"RemoteAccessAllowed": True}, True),
            ({"AuthenticationEnabled": True}, True),
        ):
            self.assertIs(
                expected, self.value(RegisteredUsers=users, **keys).authentication_enabled
            )

    def test_nobody_can_log_in(self) -> None:
        [notice] = self.value(RemoteAccessAllowed=True, SslEnabled=True).notices
        self.assertIn("nobody can log in", notice)

    def test_open_to_the_world(self) -> None:
        world = {"RemoteAccessAllowed": True, "AuthenticationEnabled": False}
        refused = self.refused(**world)
        self.assertIn("RemoteAccessAllowed: whoever reaches the port could", refused)
        self.assertIn('"RemoteAccessWithoutUsers" : true', refused)
        settings = self.value(RemoteAccessWithoutUsers=True, **world)
        self.assertFalse(settings.authentication_enabled)
        [warning] = settings.warnings
        self.assertIn("read and delete everything", warning)

    def test_a_certificate_is_a_user(self) -> None:
        world = {"RemoteAccessAllowed": True, "AuthenticationEnabled": False}
        settings = self.value(SslEnabled=True, SslVerifyPeers=True, **world)
        self.assertFalse(settings.authentication_enabled)
        for half in ({"SslEnabled": True}, {"SslVerifyPeers": True}):
            self.assertIn("RemoteAccessAllowed", self.refused(**half, **world))

    def test_passwords_that_travel_readable(self) -> None:
        users = {"RemoteAccessAllowed": True, "RegisteredUsers": {"a": SECRET}}
        self.assertIn("SslEnabled is false", " ".join(self.value(**users).warnings))
        self.assertEqual((), self.value(SslEnabled=True, **users).warnings)

    def test_hashes(self) -> None:
        good = "$scrypt$ln=15,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA$" + "A" * 43
        self.assertEqual({"a": good}, self.value(RegisteredUsers={"a": good}).registered_users)
        for bad, words in (
            (f"$scrypt${SECRET}", "is no hash"),
            (good.replace("ln=15", "ln=25"), "asks for more than 128 MB"),
            (good.replace("p=1", "p=99"), "passes"),
            (good.replace("ln=15", "ln=99"), "is no hash"),
            (good[:-40], "is no hash"),
            (good + "!", "is no hash"),
        ):
            problem = self.refused(RegisteredUsers={"a": bad})
            self.assertTrue(problem.startswith("RegisteredUsers.a: the password "), problem)
            self.assertIn(words, problem)

    def test_tokens(self) -> None:
        for token in ("x" * 32, "$sha256$" + "0a" * 32):
            settings = self.value(BearerTokens={"nightly": token})
            self.assertEqual({"nightly": token}, settings.bearer_tokens)
            self.assertNotIn(token, repr(settings))
        for bad, words in (
            (SECRET, "needs 32 characters"),
            (SECRET * 9 + " ", "needs 32 characters of ASCII"),
            (f"$sha256${SECRET}", "is no hash"),
            (12, "expected a token, found a number"),
        ):
            problem = self.refused(BearerTokens={"nightly": bad})
            self.assertTrue(problem.startswith("BearerTokens.nightly: "), problem)
            self.assertIn(words, problem)
        users = {"a": SECRET}
        problem = self.refused(BearerTokens={"a": "x" * 32}, RegisteredUsers=users)
        self.assertIn("BearerTokens.a: is a user, too", problem)

    def test_permissions(self) -> None:
        users = {"a": SECRET, "b": SECRET}
        table = {"a": ["read", "send"], "b": []}
        settings = self.value(RegisteredUsers=users, Permissions=table)
        self.assertEqual({Permission.READ, Permission.SEND}, settings.permissions["a"])
        self.assertEqual(frozenset(), settings.permissions["b"])
        for bad, words in (
            ({"a": ["write"], "b": []}, 'Permissions.a: the text "write" is no permission'),
            ({"a": "read", "b": []}, "Permissions.a: expected an array"),
            ({"a": []}, "Permissions: does not say what b may do"),
            ({"a": [], "b": [], "c": []}, "Permissions.c: is in neither"),
            ([], "Permissions: expected an object"),
        ):
            self.assertIn(words, self.refused(RegisteredUsers=users, Permissions=bad))

    def test_origins(self) -> None:
        origin = "https://pacs.example.org:8443"
        self.assertEqual((origin,), self.value(AllowedOrigins=[origin]).allowed_origins)
        for bad in ("*", "pacs.example.org", "https://a/", "ftp://a", "http://[", 1):
            self.assertIn("AllowedOrigins: expected", self.refused(AllowedOrigins=[bad]))

    def test_users(self) -> None:
        settings = self.value(RegisteredUsers={"alice": SECRET, "b b": ""})
        self.assertEqual({"alice": SECRET, "b b": ""}, settings.registered_users)
        self.assertNotIn(SECRET, repr(settings))

    def test_bad_users(self) -> None:
        for users, expected in (
            ({"alice": 1}, "RegisteredUsers.alice: expected the password, a text, found a number"),
            (
                {"alice": [SECRET]},
                "RegisteredUsers.alice: expected the password, a text, found an array",
            ),
            ({"a:b": SECRET}, 'RegisteredUsers."a:b": a user\'s name cannot'),
            ({"": SECRET}, "a user's name cannot be empty"),
            ({"a": SECRET + "\n"}, "RegisteredUsers.a: the password contains a control character"),
        ):
            self.assertIn(expected, self.refused(RegisteredUsers=users))

    def test_addresses(self) -> None:
        self.assertEqual(
            ("127.0.0.1", "::1"),
            self.value(HttpBindAddresses=["127.0.0.1", "::1"]).http_bind_addresses,
        )
        remote = self.value(HttpBindAddresses=["0.0.0.0"], RemoteAccessAllowed=True)
        self.assertEqual(("0.0.0.0",), remote.http_bind_addresses)

    def test_addresses_for_others_without_remote_access(self) -> None:
        problem = self.refused(HttpBindAddresses=["127.0.0.1", "0.0.0.0"])
        self.assertIn("HttpBindAddresses: 0.0.0.0 can be reached by other hosts", problem)
        self.assertIn("set it to true", problem)


class PeerTests(ConfigTestCase):
    def test_three_forms(self) -> None:
        bare = self.peer(["http://b:8042"])
        self.assertEqual(config.PeerSettings("http://b:8042/", "", "", {}, None, None, {}), bare)
        self.assertEqual(
            config.PeerSettings("http://b/x/", "alice", SECRET, {}, None, None, {}),
            self.peer(["http://b/x/", "alice", SECRET]),
        )
        self.assertEqual(
            config.PeerSettings(
                "http://[::1]:80/", "a", SECRET, {"X-T": "hello world"}, 4.5, "me", {"Note": [1]}
            ),
            self.peer(
                {
                    "Url": "http://[::1]:80",
                    "Username": "a",
                    "Password": SECRET,
                    "HttpHeaders": {"X-T": "hello world"},
                    "Timeout": 4.5,
                    "RemoteSelf": "me",
                    "Note": [1],
                }
            ),
        )

    def test_url_in_capitals(self) -> None:
        self.assertEqual(self.peer(["http://b"]), self.peer({"URL": "http://b"}))
        self.assertIn(
            'both "Url" and "URL"', self.refused_peer({"URL": "http://b", "Url": "http://b"})
        )

    def test_no_timeout_and_no_remote_self(self) -> None:
        peer = self.peer({"Url": "http://b", "Timeout": 0, "RemoteSelf": ""})
        self.assertEqual((None, None), (peer.timeout, peer.remote_self))

    def test_order_is_kept(self) -> None:
        names = ["z", "a", "Hôpital du Sud", "m/n", "."]
        self.assertEqual(
            names, list(self.value(OrthancPeers={name: ["http://b"] for name in names}).peers)
        )

    def test_secrets_are_not_shown(self) -> None:
        peer = {
            "Url": "http://b",
            "Username": "a",
            "Password": SECRET,
            "HttpHeaders": {"T": SECRET},
            "Key": SECRET,
        }
        shown = repr(self.value(OrthancPeers={"B": peer}))
        self.assertIn("http://b/", shown)
        self.assertNotIn(SECRET, shown)

    def test_bad_forms(self) -> None:
        forms = "OrthancPeers.B: expected [ url ], [ url, user, password ], or an object"
        for form, expected in (
            (
                [],
                f"{forms}, found an array of 0",
            ),
            (["http://b", "alice"], "found an array of 2"),
            (["http://b", "alice", SECRET, 1], "found an array of 4"),
            (
                SECRET,
                f"{forms}, found a text",
            ),
            (None, "found null"),
            ({}, 'OrthancPeers.B: has no "Url"'),
            (
                ["http://b", 1, SECRET],
                "OrthancPeers.B.Username: expected a text, found the number 1",
            ),
            (["http://b", "a", 12345], "OrthancPeers.B.Password: expected a text, found a number"),
            (
                ["http://b", "a:b", SECRET],
                "OrthancPeers.B.Username: a user's name cannot contain a colon",
            ),
            (["http://b", "", SECRET], "OrthancPeers.B.Password: is given without Username"),
            (
                ["http://b", "a", SECRET + "\r"],
                "OrthancPeers.B.Password: contains a control character",
            ),
            (
                {"Url": "http://b", "UserName": "a"},
                'OrthancPeers.B.UserName: unknown key; did you mean "Username"?',
            ),
            ({"Url": "http://b", "Timeout": -1}, "OrthancPeers.B.Timeout: expected from 0 to "),
            ({"Url": "http://b", "RemoteSelf": 1}, "OrthancPeers.B.RemoteSelf: expected a text"),
        ):
            self.assertIn(expected, self.refused_peer(form))

    def test_bad_addresses(self) -> None:
        for url, expected in (
            ("ftp://b", "expected an address such as http://host:8042/"),
            ("b:8042", "expected an address such as http://host:8042/"),
            (f"alice:{SECRET}@b:8042", "expected an address such as"),
            (f"http://alice:{SECRET}@b:8042", "credentials: move them to Username and Password"),
            (f"http://{SECRET}@b", "credentials: move them to Username and Password"),
            ("http://", "its host or port is none"),
            ("http:b", "its host or port is none"),
            ("http:///x", "its host or port is none"),
            ("http://:80/", "its host or port is none"),
            ("http://b:0", "its host or port is none"),
            ("http://b:99999", "its host or port is none"),
            ("http://b:x", "its host or port is none"),
            ("http://[::1", "its host or port is none"),
            ("http://b/?x=1", "without '?' and '#'"),
            ("http://b/#", "without '?' and '#'"),
            ("http://b /", "expected an address"),
            ("http://b\r\nX: y", "expected an address"),
            ("", "expected an address"),
            (1, "expected an address such as http://host:8042/, found the number 1"),
        ):
            problem = self.refused_peer([url])
            self.assertTrue(problem.startswith("OrthancPeers.B.Url: "), problem)
            self.assertIn(expected, problem)

    def test_bad_headers(self) -> None:
        for headers, expected in (
            ([], "HttpHeaders: expected an object { header : value }, found an array"),
            ({"X": 1}, "HttpHeaders.X: expected a text, found a number"),
            ({"X": SECRET + "\r\nY: z"}, "HttpHeaders.X: a header holds plain ASCII"),
            ({"X": SECRET + "\n"}, "line breaks: remove them"),
            ({"X": "é"}, "a header holds plain ASCII"),
            ({"X\r\nY": SECRET}, 'HttpHeaders."X\\r\\nY": not the name of a header'),
            ({"": SECRET}, "not the name of a header"),
            ({"a b": SECRET}, "not the name of a header"),
        ):
            problem = self.refused_peer({"Url": "http://b", "HttpHeaders": headers})
            self.assertTrue(problem.startswith("OrthancPeers.B.HttpHeaders"), problem)
            self.assertIn(expected, problem)

    def test_bad_names(self) -> None:
        for name in ("", "  ", "a\nb", "a\0"):
            problem = self.refused(OrthancPeers={name: ["http://b"]})
            self.assertTrue(problem.startswith(f"OrthancPeers.{json.dumps(name)}: "), problem)


class StoreTests(ConfigTestCase):
    URL = "http://localhost:9042"

    def store(self, **keys: object) -> config.OrthancSettings:
        found = self.value(Store={"Type": "Orthanc", "Url": self.URL} | keys).store
        assert found is not None
        return found

    def refused_store(self, **keys: object) -> str:
        return self.refused(Store={"Type": "Orthanc", "Url": self.URL} | keys)

    def test_our_own_is_the_default(self) -> None:
        for form in ({}, {"Type": "Embedded"}):
            self.assertIsNone(self.value(Store=form).store)
        self.assertIsNone(self.value().store)

    def test_an_orthanc(self) -> None:
        self.assertEqual(
            config.OrthancSettings(
                url="http://localhost:9042/",
                username="",
                password="",
                headers={},
                timeout=None,
                cache_size=2**30,
                proxy_timeout=3600,
                explorer_root="/ui/",
                https_verify=True,
                https_ca_certificates="",
                certificate_file="",
                certificate_key_file="",
                certificate_key_password="",
            ),
            self.store(),
        )
        found = self.store(
            Url="https://pacs.example.org/orthanc",
            Username="alice",
            Password=SECRET,
            HttpHeaders={"X-Token": SECRET},
            Timeout=5,
            CacheSize=3,
            HttpsCACertificates="ca.pem",
            CertificateFile="/etc/c.pem",
            CertificateKeyFile="k.pem",
            CertificateKeyPassword=SECRET,
        )
        self.assertEqual("https://pacs.example.org/orthanc/", found.url)
        self.assertEqual((SECRET, 5, 3 * 2**20), (found.password, found.timeout, found.cache_size))
        self.assertEqual(os.path.join(FOLDER, "ca.pem"), found.https_ca_certificates)
        self.assertEqual("/etc/c.pem", found.certificate_file)
        self.assertNotIn(SECRET, repr(found))

    def test_a_password_that_would_be_lent(self) -> None:
        """Who needs none with us would have what Orthanc gives for one."""
        for more, warned in (({}, True), ({"AuthenticationEnabled": True}, False)):
            store = {"Type": "Orthanc", "Url": self.URL, "Username": "a", "Password": SECRET}
            warnings = "".join(self.value(Store=store, **more).warnings)
            self.assertEqual(warned, "without its password" in warnings)

    def test_a_password_from_the_environment(self) -> None:
        text = '{"Store": {"Type": "Orthanc", "Url": "%s", "Username": "a", "Password": "${P}"}}'
        settings = self.read(text % self.URL, P=SECRET)
        assert settings.store is not None
        self.assertEqual(SECRET, settings.store.password)

    def test_what_is_wrong_is_named(self) -> None:
        for keys, words in (
            ({"Type": "Oracle"}, 'Store.Type: expected "Embedded" or "Orthanc", found'),
            ({"Url": "ftp://x"}, "Store.Url: expected an address such as"),
            ({"Url": f"http://a:{SECRET}@x"}, "Store.Url: holds credentials"),
            ({"Username": "a:b"}, "Store.Username: a user's name cannot contain a colon"),
            ({"Password": SECRET}, "Store.Password: is given without Username"),
            ({"CertificateFile": "c"}, "CertificateFile and CertificateKeyFile go together"),
            ({"CertificateFile": 1}, "Store.CertificateFile: expected the path of a file"),
            ({"CacheSize": 0}, "Store.CacheSize: expected from 1"),
            ({"url": "x"}, 'Store.url: unknown key; did you mean "Url"?'),
        ):
            self.assertIn(words, self.refused_store(**keys))
        self.assertIn('has no "Url"', self.refused(Store={"Type": "Orthanc"}))
        self.assertIn("Store: expected an object", self.refused(Store="Orthanc"))

    def test_an_address_without_its_type(self) -> None:
        self.assertIn("add that, or remove the key", self.refused(Store={"Url": self.URL}))

    def test_it_is_not_its_own_store(self) -> None:
        for url in ("http://localhost:8042/", "http://127.0.0.1:8042", "http://[::1]:8042/x"):
            problem = self.refused_store(Url=url)
            self.assertIn("Store.Url: is the address of this daemon itself", problem)
        for url in ("http://192.0.2.1:8042/", "http://localhost/"):
            self.store(Url=url)

    def test_notices(self) -> None:
        store = {"Type": "Orthanc", "Url": self.URL, "HttpsVerifyPeers": False}
        settings = self.value(MaximumStorageSize=1, Store=store)
        (size,), (verify,) = settings.notices, settings.warnings
        self.assertIn("MaximumStorageSize limits here what waits", size)
        self.assertIn("Store.HttpsVerifyPeers is false", verify)


class SurvivingTests(ConfigTestCase):
    """Keys of jobs and transfers that survive."""

    def test_delays(self) -> None:
        for value in ([], [0], [1, 2.5, 3600]):
            settings = self.value(Transfers={"JobRetryDelays": value})
            self.assertEqual(tuple(value), settings.transfers.job_retry_delays)
        for bad, words in (
            (60, "an array of numbers of seconds"),
            (["60"], 'found the text "60" in it'),
            ([True], "found true in it"),
            ([-1], "from 0"),
            ([1e12], "31536000 s"),
        ):
            problem = self.refused(Transfers={"JobRetryDelays": bad})
            self.assertTrue(problem.startswith("Transfers.JobRetryDelays: "), problem)
            self.assertIn(words, problem)

    def test_delta(self) -> None:
        for value in (True, False):
            self.assertIs(value, self.value(Transfers={"Delta": value}).transfers.delta)

    def test_bandwidth(self) -> None:
        form = {"Upload": {"Mon-Fri 08:00-18:00": "20M", "*": "0"}}
        bandwidth = self.value(Transfers={"Bandwidth": form}).transfers.bandwidth
        self.assertEqual(form["Upload"], bandwidth.upload.form)
        self.assertEqual((), bandwidth.download.entries)
        peer = self.peer({"Url": "http://b", "Bandwidth": "2.5MB"})
        self.assertEqual("2.5MB", peer.bandwidth.download.form)
        self.assertNotIn("Bandwidth", peer.extra)

    def test_a_bandwidth_that_is_none(self) -> None:
        problem = self.refused(Transfers={"Bandwidth": {"Upload": {"Mon 8-18": "20M"}}})
        self.assertTrue(problem.startswith('Transfers.Bandwidth.Upload."Mon 8-18": is no time'))
        problem = self.refused_peer({"Url": "http://b", "Bandwidth": "fast"})
        self.assertTrue(problem.startswith("OrthancPeers.B.Bandwidth: expected a figure"))

    def test_a_limit_of_the_storage(self) -> None:
        settings = self.value(MaximumStorageSize=3)
        self.assertEqual(3 * 2**20, settings.maximum_storage_size)
        self.assertIn("no patient is deleted", " ".join(settings.notices))
        settings = self.value(MaximumStorageSize=3, MaximumStorageMode="Reject")
        self.assertNotIn("MaximumStorageSize", " ".join(settings.notices))


class WebhookTests(ConfigTestCase):
    GOOD = b64encode(bytes(range(32))).decode()

    def hooks(self, *forms: object) -> tuple[config.WebhookSettings, ...]:
        return self.value(Transfers={"Webhooks": forms}).transfers.webhooks

    def refused_hooks(self, *forms: object) -> str:
        return self.refused(Transfers={"Webhooks": forms})

    def test_what_is_read(self) -> None:
        urls = ("https://ris.example.org/a?b=c", "http://[::1]:8080")
        first, second = self.hooks(
            {"Url": urls[0], "Secret": self.GOOD},
            {"Url": urls[1], "Secret": f"whsec_{self.GOOD}"},
        )
        self.assertEqual(urls, (first.url, second.url))
        self.assertEqual([bytes(range(32))] * 2, [first.secret, second.secret])
        self.assertNotIn("example", repr(first))

    def test_addresses(self) -> None:
        for url in (
            *("ftp://host/", "host/path", "https://", "https://host:0/", "https://host/ x"),
            *("https://host:x/", "https://host/#a", f"https://alice:{SECRET}@host/", 8, ""),
        ):
            said = self.refused_hooks({"Url": url, "Secret": self.GOOD})
            self.assertIn("Transfers.Webhooks[0].Url: ", said)
        self.assertIn(
            "signature tells who calls",
            self.refused_hooks({"Url": f"https://alice:{SECRET}@host/", "Secret": self.GOOD}),
        )

    def test_secrets(self) -> None:
        for secret in (SECRET, f"{SECRET}!" * 6, b64encode(bytes(23)).decode(), "A" * 92, 5, None):
            said = self.refused_hooks({"Url": "https://host/", "Secret": secret})
            self.assertIn("Transfers.Webhooks[0].Secret: ", said)
        self.assertIn("openssl rand", self.refused_hooks({"Url": "https://host/"}))

    def test_forms(self) -> None:
        good = {"Url": "https://host/", "Secret": self.GOOD}
        self.assertIn("expected an array", self.refused(Transfers={"Webhooks": good}))
        self.assertIn('Webhooks[1]: expected { "Url"', self.refused_hooks(good, "https://host/"))
        self.assertIn("earlier webhook", self.refused_hooks(good, good))
        said = self.refused_hooks(good | {"secret": "x"})
        self.assertEqual('Transfers.Webhooks[0].secret: unknown key; did you mean "Secret"?', said)


class RefusedTests(ConfigTestCase):
    def test_what_asks_for_nothing_is_accepted(self) -> None:
        for key in REFUSED:
            for value in key.harmless:
                self.assertEqual((), self.value(**{key.name: value}).notices)
        for key in PEER_REFUSED:
            for value in key.harmless:
                self.assertEqual({}, self.peer({"Url": "http://b", key.name: value}).extra)

    def test_the_rest_is_refused(self) -> None:
        for name, value, expected in (
            ("OrthancPeersInDatabase", True, "list them under OrthancPeers"),
            ("HttpServerEnabled", False, "HTTP server"),
            ("ReadOnly", True, "read-only"),
            ("StoreDicom", False, "always stored"),
            ("Authorization", {"WebService": "http://x"}, "authorization plugin"),
            ("Pkcs11", {"Pin": SECRET}, "keys in hardware"),
        ):
            problem = self.refused(**{name: value})
            self.assertTrue(problem.startswith(f"{name}: "), problem)
            self.assertIn(expected, problem)
            self.assertIn("remove the", problem)

    def test_types_matter(self) -> None:
        for name, value in (
            ("ReadOnly", 0),
            ("ReadOnly", None),
            ("SslEnabled", 0),
            ("HttpProxy", None),
        ):
            self.assertIn(name, self.refused(**{name: value}))

    def test_of_peers(self) -> None:
        problem = self.refused_peer({"Url": "http://b", "Pkcs11": True})
        self.assertIn("OrthancPeers.B.Pkcs11: keys in hardware (PKCS#11)", problem)


class TlsTests(ConfigTestCase):
    def test_of_the_server(self) -> None:
        settings = self.value(
            SslEnabled=True,
            SslCertificate="c.pem",
            SslMinimumProtocolVersion=5,
            SslCiphersAccepted=["TLS_AES_128_GCM_SHA256"],
        )
        self.assertEqual(os.path.join(FOLDER, "c.pem"), settings.ssl_certificate)
        self.assertEqual(("TLS_AES_128_GCM_SHA256",), settings.ssl_ciphers_accepted)
        for keys, words in (
            ({"SslMinimumProtocolVersion": 3}, "expected from 4 to 5, found the number 3"),
            ({"SslCiphersAccepted": "x"}, "expected an array of texts"),
            ({"SslCiphersAccepted": [1]}, "found the number 1 in it"),
        ):
            self.assertIn(words, self.refused(**keys))

    def test_of_peers(self) -> None:
        peer = self.peer(
            {
                "Url": "HTTPS://b",
                "CertificateFile": "c.crt",
                "CertificateKeyFile": "/k.key",
                "CertificateKeyPassword": SECRET,
            }
        )
        self.assertTrue(peer.is_secure)
        self.assertFalse(self.peer(["http://b"]).is_secure)
        self.assertEqual(os.path.join(FOLDER, "c.crt"), peer.certificate_file)
        self.assertEqual("/k.key", peer.certificate_key_file)
        self.assertNotIn(SECRET, repr(peer))
        problem = self.refused_peer({"Url": "https://b", "CertificateKeyFile": "k.key"})
        self.assertIn("OrthancPeers.B.CertificateKeyFile: is given without", problem)

    def test_peers_that_are_not_verified(self) -> None:
        [warning] = self.value(HttpsVerifyPeers=False).warnings
        self.assertIn("HttpsVerifyPeers is false", warning)

    def test_proxies(self) -> None:
        for text, expected in (
            ("proxy:3128", HttpProxy("proxy", 3128)),
            ("http://proxy:3128/", HttpProxy("proxy", 3128)),
            (f"alice:{SECRET}@192.0.2.1:8080", HttpProxy("192.0.2.1", 8080, "alice", SECRET)),
            ("alice:p@ss:word@[::1]:1", HttpProxy("::1", 1, "alice", "p@ss:word")),
            ("", None),
        ):
            settings = self.value(HttpProxy=text)
            self.assertEqual(expected, settings.http_proxy)
            self.assertNotIn(SECRET, repr(settings))
        for bad in (f"{SECRET}", f"{SECRET}@proxy", "https://proxy:1", "proxy:x", ":1", "p:1/x", 1):
            self.assertTrue(self.refused(HttpProxy=bad).startswith("HttpProxy: "))


class IgnoredTests(ConfigTestCase):
    def test_one_notice_lists_them(self) -> None:
        settings = self.value(
            IndexDirectory="x", DicomAet="ORTHANC", DicomWeb={"Enable": True}, LuaScripts=[]
        )
        self.assertEqual(
            (
                "These keys of Orthanc mean nothing here and are ignored: "
                "DicomAet, DicomWeb, IndexDirectory, LuaScripts.",
            ),
            settings.notices,
        )

    def test_plugins(self) -> None:
        [notice] = self.value(Plugins=["/usr/lib/x.so"]).notices
        self.assertIn("Plugins is ignored", notice)

    def test_each_key_stands_in_one_table(self) -> None:
        names = [key.name for key in (*KEYS, *REFUSED)] + [PLUGINS, *IGNORED]
        self.assertEqual(len(names), len({name.lower() for name in names}))


class SampleTests(SynchronousTestCase):
    def load(self, name: str) -> config.Settings:
        return config.load(str(ROOT / "etc" / name), {})

    def test_every_sample_loads(self) -> None:
        others = {"grafana-dashboard.json"}
        samples = sorted({path.name for path in (ROOT / "etc").glob("*.json")} - others)
        self.assertIn("txtransfers.json", samples)
        for name in samples:
            self.load(name)

    def test_our_sample_holds_every_key_and_the_defaults(self) -> None:
        settings = self.load("txtransfers.json")
        peers = settings.peers
        self.assertEqual({"nearby", "remote"}, set(peers))
        self.assertEqual(config.default(str(ROOT / "etc")), attrs.evolve(settings, peers={}))
        text = (ROOT / "etc" / "txtransfers.json").read_text(encoding="utf-8")
        for key in (*KEYS, *TRANSFERS_KEYS, *LIMITS_KEYS, *STORE_KEYS, *PEER_KEYS):
            self.assertIn(f'"{key.name}" : ', text)

    def test_the_sample_of_the_gateway(self) -> None:
        settings = self.load("gateway.json")
        assert settings.store is not None
        self.assertEqual((8043, "http://localhost:8042/"), (settings.http_port, settings.store.url))
        self.assertEqual(((), False), (settings.notices, settings.remote_access_allowed))
        text = (ROOT / "etc" / "gateway.json").read_text(encoding="utf-8")
        self.assertIn(text, (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8"))
        self.assertEqual(12, len(text.splitlines()))

    def test_the_sample_of_the_documentation(self) -> None:
        settings = self.load("orthanc-documentation.json")
        self.assertEqual(["remote", "peer", "B"], list(settings.peers))
        self.assertEqual((42, "A"), (settings.peers["B"].timeout, settings.peers["B"].remote_self))
        self.assertEqual(2, len(settings.notices))
        self.assertIn("DicomAet, DicomPort, IndexDirectory.", settings.notices[1])

    def test_the_unit(self) -> None:
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read(ROOT / "etc" / "txtransfers.service")
        service = unit["Service"]
        self.assertEqual(
            "/usr/bin/txtransfers -c /etc/txtransfers/txtransfers.json", service["ExecStart"]
        )
        self.assertEqual("notify", service["Type"])
        self.assertEqual("on-failure", service["Restart"])


class DocumentationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

    def row(self, key: Key) -> str:
        default = "" if key.default is None else f"`{json.dumps(key.default)}`"
        default = default.replace("[]", "[ ]").replace("{}", "{ }")
        return f"| `{key.name}` | {default} | {key.unit} | {key.meaning} |"

    def test_every_key_that_is_read(self) -> None:
        lines = self.text.split("\n")
        for key in (*KEYS, *TRANSFERS_KEYS, *LIMITS_KEYS, *STORE_KEYS, *PEER_KEYS):
            self.assertIn(self.row(key), lines)

    def test_every_key_that_is_refused(self) -> None:
        for key in (*REFUSED, *PEER_REFUSED):
            self.assertRegex(
                self.text, rf"(?mi)^\| `{key.name}` \| .* \| {re.escape(key.reason)}\. \|$"
            )

    def test_every_key_that_is_ignored(self) -> None:
        for name in (*IGNORED, PLUGINS):
            self.assertIn(f"`{name}`", self.text)
